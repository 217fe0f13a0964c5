"""Hooks of PyInstaller, which finds this package by the entry point group ``pyinstaller40``."""

from __future__ import annotations

import os


def hook_directories() -> list[str]:
    """Return the directories of the hooks."""
    return [os.path.dirname(__file__)]
