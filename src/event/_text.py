"""Text for display: on one line, and the closest known word for a misspelled one."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def on_one_line(text: str) -> str:
    """Replace white space and control characters by single spaces, and lone surrogates by question marks."""
    text = "".join(c if c.isprintable() else "?" if "\ud800" <= c <= "\udfff" else " " for c in text)
    return " ".join(text.split())


def closest(word: str, known: Iterable[str]) -> str:
    """Return ``did you mean 'NAME'?`` for the closest known word; empty if none is similar to the misspelled one."""
    from difflib import get_close_matches  # rarely needed

    close = get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}?" if close else ""
