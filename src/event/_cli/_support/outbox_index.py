"""Find the outbox of a command; the words and numbers that describe its contents."""

from __future__ import annotations

import time

from event._cli._support import terminal
from event._cli._support.settings import Settings
from event._outbox import BOUND

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

# The word for each state, in the order in which they are listed.
WORDS = {"claimed": "in delivery", "waiting": "waiting", "failed": "failed", "corrupt": "corrupt"}


def settings_from_args(words: Sequence[str], args: argparse.Namespace, *, finds_file: bool = True) -> Settings:
    """Return the settings of a command that uses an outbox. Print a line if there is no outbox.

    :param words: the positional arguments: the outbox, if ``--outbox`` does not name it
    :param finds_file: see `Settings`
    """
    if len(words) > 1:
        args.parser.error(f"unrecognized argument {words[1]!r}; expected one OUTBOX")
    if words and args.outbox is not None:
        args.parser.error(f"the outbox is given twice: {words[0]!r} and --outbox {args.outbox}")
    if words:
        args.outbox = words[0]
    settings = Settings(args, finds_file=finds_file, uses_handlers=False)
    if settings.outbox is None:
        terminal.print_err(f"{args.parser.prog}: no outbox is configured; give its directory with --outbox")
    return settings


def number(count: int) -> str:
    """Return a number of entries as text. Entries are counted only up to `BOUND`."""
    return str(count) if count < BOUND else f"{BOUND} or more"


def utc(seconds: float) -> str:
    """Return a point in time as ``YYYY-MM-DDTHH:MM:SSZ`` (RFC 3339); ``?`` if it is beyond this system's calendar."""
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
    except (ValueError, OverflowError, OSError):
        return "?"
