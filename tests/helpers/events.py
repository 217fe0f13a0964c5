"""Events for tests of handlers."""

from __future__ import annotations

from event import Event


def closed_event(name="compile", **data):
    with Event(name, **data) as event:
        pass
    return event
