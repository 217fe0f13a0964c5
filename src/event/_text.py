"""Text for display, without line breaks and control characters."""

from __future__ import annotations


def on_one_line(text: str) -> str:
    """Replace white space and control characters by single spaces, and lone surrogates by question marks."""
    text = "".join(c if c.isprintable() else "?" if "\ud800" <= c <= "\udfff" else " " for c in text)
    return " ".join(text.split())
