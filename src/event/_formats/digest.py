"""Combine many events into one notice, so that a destination is not flooded."""

from __future__ import annotations

from event._formats.notice import Notice, end_of, known_outcome, short, title_of, with_ci

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

DIGEST_OVER = 5  # if more events wait for one handler, they become one notice

# The words for the outcomes, in the order in which the notice lists the events.
_COUNTED = {"failure": "failed", "cancel": "cancelled", "": "without an outcome", "success": "succeeded"}


def digest_of(events: Sequence[Mapping[str, Any]], limit: int | None = None) -> Notice:
    """Return one notice with a line for each event, failures first.

    :param events: the data of each event, as `event._formats.notice.plain_data` returns it
    :param limit: the maximum length of all lines, in characters; None for no limit
    """
    outcomes = [known_outcome(data) for data in events]
    counts = [f"{outcomes.count(outcome)} {word}" for outcome, word in _COUNTED.items() if outcome in outcomes]
    order = [*_COUNTED]
    ranked = sorted(events, key=lambda data: order.index(known_outcome(data)))
    return Notice(
        title=f"{len(events)} events: {', '.join(counts)}",
        outcome=next(outcome for outcome in order if outcome in outcomes),
        body=_within([_line(data) for data in ranked], limit),
    )


def _line(data: Mapping[str, Any]) -> str:
    found = with_ci(data)
    when = end_of(found)
    return short(f"{title_of(found)}{', ' * bool(when)}{when}")


def _within(lines: Sequence[str], limit: int | None) -> str:
    if limit is None or sum(map(len, lines)) + len(lines) <= limit:
        return "\n".join(lines)
    kept, room = 0, limit - len(f"... and {len(lines)} more")
    while kept < len(lines) and len(lines[kept]) + 1 <= room:
        room -= len(lines[kept]) + 1
        kept += 1
    return "\n".join([*lines[:kept], f"... and {len(lines) - kept} more"])
