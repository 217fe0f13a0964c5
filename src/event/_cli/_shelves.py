"""What stands in an outbox, told from names alone: 100 000 entries are counted in the time that one takes to read."""

from __future__ import annotations

import os
import time

from event._disk import names, require_own
from event._outbox import Outbox, _id, _is_due

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

# The word for each state, in the order in which they are listed.
WORDS = {"claimed": "in delivery", "new": "waiting", "failed": "failed", "corrupt": "corrupt"}
_NEVER = float("inf")


def named(path: str | None, args: argparse.Namespace) -> Outbox:
    """Return the outbox that an argument, or else the variable, names."""
    if path == "":
        args.parser.error("expected the outbox's directory, and not an empty word")
    chosen = path or os.environ.get("E3_EVENT_OUTBOX") or ""
    if not chosen:
        args.parser.error("which outbox? give its directory, or set E3_EVENT_OUTBOX")
    return Outbox(chosen)


def exists(outbox: Outbox) -> bool:
    """Tell whether there is an outbox.

    :raises OSError: what is there is none, or another user's
    """
    try:
        os.stat(outbox.path)
        require_own(outbox._place("new"))
    except FileNotFoundError:
        return False
    return True


def counts(path: str) -> dict[str, int] | None:
    """Return how many entries there are, by the word for their state; None where there is no outbox yet.

    :raises OSError: no event could be kept there
    """
    outbox = Outbox(path)
    if not exists(outbox):
        _require_writable(_nearest(outbox.path))
        return None
    places = {word: outbox._place(state) for state, word in WORDS.items()}
    for place in (*places.values(), outbox._place("tmp")):
        if os.path.lexists(place):
            require_own(place)
            _require_writable(place)
    return {word: sum(1 for _ in names(place)) for word, place in places.items()}


def agenda(outbox: Outbox, since: float) -> tuple[int, int, float]:
    """Return how many entries are due, how many fall due later, and when the next one does.

    :param since: what has fallen due since then counts as the next one too, in seconds since 1970 UTC
    :return: the time in seconds since 1970 UTC; infinity where nothing waits
    """
    due = later = 0
    next_due = _NEVER
    for name in names(outbox._place("new")):
        text = name.partition(".")[0]
        if not text.isdecimal():
            continue
        if _is_due(text):
            due += 1
        else:
            later += 1
        if int(text) >= since:
            next_due = min(next_due, int(text))
    return due, later, next_due


def find(outbox: Outbox, start: str) -> list[tuple[str, str, str]]:
    """Return the state, the name on disk and the id of each entry whose id begins so."""
    found = []
    for state in WORDS:
        found += [
            (state, name, entry_id)
            for name in names(outbox._place(state))
            if (entry_id := _id(state, name)).startswith(start)
        ]
    return found


def utc(seconds: float) -> str:
    """Return a point in time as ``YYYY-MM-DDTHH:MM:SSZ`` (RFC 3339)."""
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
    except (ValueError, OverflowError, OSError):
        return "?"  # beyond this system's calendar: the name or the entry is not ours


def _nearest(path: str) -> str:
    """Return the directory in which path would be made."""
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    return path


def _require_writable(path: str) -> None:
    if not os.path.isdir(path):
        raise NotADirectoryError(f"{path} is no directory")
    if not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(f"{path} is not writable")
