"""The content of a dumped event: one object with ``data``, ``attachments`` and ``closed``."""

from __future__ import annotations

from event._event import Event, raw_data

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from event._event import E


def encode_event(event: Event, attachments: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return what is dumped of an event, which may be one of e3-core.

    :param attachments: name -> path and SHA-1 of each attachment, as the dump's reader finds it
    """
    # An event of e3-core has the attribute too.
    return {"data": event.as_dict(), "attachments": attachments, "closed": getattr(event, "_closed", True)}


def raw_content(event: Event) -> dict[str, Any]:
    """Return a dump's content that keeps dates as numbers, for another process of this package."""
    closed = Event.__getstate__(event)["_closed"]
    return {"data": raw_data(event).copy(), "attachments": event.get_attachments().copy(), "closed": closed}


def decode_event(content: Any, kind: type[E]) -> E:
    """Return the event that a dump's content describes.

    :param kind: the event's class
    :raises ValueError: it is not a dump's content; the message says why
    """
    if not isinstance(content, dict):
        raise ValueError("it holds no JSON object")
    data, attachments, closed = (content.get(key) for key in ("data", "attachments", "closed"))
    if not isinstance(data, dict) or "uid" not in data or "name" not in data:
        raise ValueError("'data' must be an object with a 'uid' and a 'name'")
    if not isinstance(attachments, dict) or not all(map(_is_attachment, attachments.items())):
        raise ValueError("'attachments' must be an object of name: [path, SHA-1], all non-empty strings without NUL")
    if not isinstance(closed, bool):
        raise ValueError("'closed' must be true or false")
    event = kind.__new__(kind)
    Event.__setstate__(
        event,
        {
            "_data": data,
            "_attachments": {name: (path, digest) for name, (path, digest) in attachments.items()},
            "_closed": closed,
            "_sending": None,
            "_redact": None,
            "_delivered": frozenset(),
            "_formatters": None,
        },
    )
    return event


def _is_attachment(item: tuple[str, Any]) -> bool:
    name, value = item
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(isinstance(text, str) and text and "\0" not in text for text in (name, *value))
    )
