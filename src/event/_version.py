"""The version, in the one place where it is written: pyproject.toml reads it here."""

from __future__ import annotations

VERSION = "1.0.0"
