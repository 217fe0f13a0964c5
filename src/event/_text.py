"""Text for people: without line breaks and control characters."""

from __future__ import annotations


def on_one_line(text: str) -> str:
    """Return text with single spaces instead of white space and control characters, and ? for lone surrogates."""
    text = "".join(c if c.isprintable() else "?" if "\ud800" <= c <= "\udfff" else " " for c in text)
    return " ".join(text.split())
