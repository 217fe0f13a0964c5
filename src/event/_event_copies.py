"""Copy events for sending, so that the caller's event is not changed."""

from __future__ import annotations

from event._event import Event, decode_event, raw_data
from event.error import EventError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any


def with_sending(event: Event, sending: str) -> Event:
    """Return a copy of an event with the id of a sending; see `event.sending_id`."""
    return _copy(event, _sending=sending)


def with_attachments(event: Event, attachments: dict[str, tuple[str, str]]) -> Event:
    """Return a copy of an event with other attachments."""
    return _copy(event, _attachments=attachments)


def without_attachments(event: Event, names: Iterable[str]) -> Event:
    """Return a copy of an event without some attachments; its data list their names as ``not_attached``."""
    names = [*names]
    attachments = {name: value for name, value in event.get_attachments().items() if name not in names}
    listed = raw_data(event).get("not_attached")
    noted = [*(listed if isinstance(listed, list) else ()), *names]
    return _copy(event, _attachments=attachments, _data={**raw_data(event), "not_attached": noted})


def with_delivered(event: Event, keys: Iterable[str]) -> Event:
    """Return a copy of an event with the parts that a handler has already delivered; see `event.already_delivered`."""
    return _copy(event, _delivered=frozenset(keys))


def as_own_event(event: Any) -> Event:
    """Convert an event of another package, such as e3-core, to an `Event`, using its public methods.

    :raises EventError: the event's data is not a dict with a uid and a name
    """
    if isinstance(event, Event):
        return event
    attachments = {name: [path, digest] for name, (path, digest) in event.get_attachments().items()}
    try:
        return decode_event({"data": event.as_dict(), "attachments": attachments, "closed": True}, Event)
    except ValueError as error:
        raise EventError(f"the {type(event).__name__} is not an event: {error}") from error


def _copy(event: Event, **changes: Any) -> Event:
    copy = type(event).__new__(type(event))
    Event.__setstate__(copy, {**Event.__getstate__(event), **changes})
    return copy
