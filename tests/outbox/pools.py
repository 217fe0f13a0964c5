"""Fill an outbox for a pool, and let calls of handlers exceed the pool's timeout."""

from __future__ import annotations

from event import Event
from event._outbox import NewEntry
from event._outbox.lanes import Lane

TIMEOUT = 30.0  # seconds; of the pools in the tests


def fill(box, count, *handlers, prefix="u"):
    """Put due entries for handlers."""
    configs = dict.fromkeys(handlers, "")
    events = [Event("n", uid=f"{prefix}{number}") for number in range(count)]
    for claim in box.put_many([NewEntry(event, configs) for event in events]):
        claim.postpone(1)


def treat_as_overdue(monkeypatch, condition):
    """Let the calls that meet a condition exceed the pool's timeout at once, and no others."""
    overdue = Lane.overdue

    def overdue_calls(lane, timeout):
        if timeout != TIMEOUT:
            return overdue(lane, timeout)
        return [call for call in lane.running if call.current and condition(lane, call)]

    monkeypatch.setattr(Lane, "overdue", overdue_calls)
