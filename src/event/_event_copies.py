"""Copies of an event for a sending: an event belongs to its sender, and stays as it is."""

from __future__ import annotations

from event._event import Event, decode_event
from event.error import EventError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from typing_extensions import TypeVar

    E = TypeVar("E", bound=Event)

Attachments = dict[str, tuple[str, str]]  # the path and the SHA-1 of each, by name


def with_sending(event: E, sending: str, attachments: Attachments | None = None) -> E:
    """Return a copy of an event that has the id of a sending; see `event.sending_id`.

    :param attachments: the attachments of the copy; by default, those of the event
    """
    changes: dict[str, Any] = {"_sending": sending}
    if attachments is not None:
        changes["_attachments"] = attachments
    return _copy(event, **changes)


def with_attachments(event: E, attachments: Attachments) -> E:
    """Return a copy of an event that has other attachments."""
    return _copy(event, _attachments=attachments)


def with_delivered(event: E, keys: Iterable[str]) -> E:
    """Return a copy of an event for a handler that has finished some parts of its delivery."""
    return _copy(event, _delivered=frozenset(keys))


def as_own_event(event: Any) -> Event:
    """Return an event as an `Event`: one of e3-core, say, as what its public methods return.

    :raises EventError: its data is not a dict with a uid and a name
    """
    if isinstance(event, Event):
        return event
    attachments = {name: [path, digest] for name, (path, digest) in event.get_attachments().items()}
    try:
        return decode_event({"data": event.as_dict(), "attachments": attachments, "closed": True}, Event)
    except ValueError as error:
        raise EventError(f"the {type(event).__name__} is not an event: {error}") from error


def _copy(event: E, **changes: Any) -> E:
    """Return a copy of an event, with changes to what `Event.__getstate__` returns."""
    copy = type(event).__new__(type(event))
    Event.__setstate__(copy, {**Event.__getstate__(event), **changes})
    return copy
