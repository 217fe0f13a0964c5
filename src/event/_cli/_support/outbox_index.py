"""Which outbox a command line means, and the words for what is in it."""

from __future__ import annotations

import os
import time

from event._outbox import BOUND, Outbox

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

# The word for each state, in the order in which they are listed.
WORDS = {"claimed": "in delivery", "waiting": "waiting", "failed": "failed", "corrupt": "corrupt"}


def outbox_from_args(path: str | None, args: argparse.Namespace) -> Outbox:
    """Return the outbox that an argument, or else E3_EVENT_OUTBOX, names."""
    if path == "":
        args.parser.error("expected the outbox's directory, not an empty argument")
    chosen = path or os.environ.get("E3_EVENT_OUTBOX") or ""
    if not chosen:
        args.parser.error("which outbox? give its directory, or set E3_EVENT_OUTBOX")
    return Outbox(chosen)


def count_by_state(outbox: Outbox) -> str | None:
    """Return how many entries there are in each state; None if there is no outbox yet.

    :raises OSError: no event could be kept there
    """
    outbox.require_writable()
    if not outbox.exists():
        return None
    counts = outbox.summary().counts
    return ", ".join(f"{number(counts[state])} {word}" for state, word in WORDS.items())


def number(count: int) -> str:
    """Return a number of entries, which are not counted any further than `BOUND`."""
    return str(count) if count < BOUND else f"{BOUND} or more"


def utc(seconds: float) -> str:
    """Return a point in time as ``YYYY-MM-DDTHH:MM:SSZ`` (RFC 3339); ``?`` if it is beyond this system's calendar."""
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
    except (ValueError, OverflowError, OSError):
        return "?"
