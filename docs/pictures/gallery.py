"""The pictures of the documentation."""

from __future__ import annotations

import tempfile
from pathlib import Path

import mail
import terminal
import waterfall

PICTURES = {"trace": waterfall.make, "mail": mail.make, "check": terminal.make}


def write(name: str, directory: Path) -> Path:
    """Draw a picture from a real run, and write it to a file; return the file's path."""
    with tempfile.TemporaryDirectory() as working_directory:
        content = PICTURES[name](Path(working_directory))
    path = directory / f"{name}.svg"
    path.write_text(content, encoding="utf-8", newline="\n")
    return path
