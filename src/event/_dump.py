"""Validate the content of a dumped event: an object with ``data``, ``attachments`` and ``closed``."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def read_content(content: Any) -> tuple[dict[str, Any], dict[str, tuple[str, str]], bool]:
    """Validate the content of a dump; return the data, the attachments and whether the event is closed.

    :raises ValueError: the content is invalid; the message explains why
    """
    if not isinstance(content, dict):
        raise ValueError("it is not a JSON object")
    data, attachments, closed = content.get("data"), content.get("attachments"), content.get("closed")
    if not isinstance(data, dict) or "uid" not in data or "name" not in data:
        raise ValueError("'data' must be an object with a 'uid' and a 'name'")
    if not isinstance(attachments, dict) or not all(map(_is_attachment, attachments.items())):
        raise ValueError("'attachments' must be an object of name: [path, SHA-1], all non-empty strings without NUL")
    if not isinstance(closed, bool):
        raise ValueError("'closed' must be true or false")
    return data, {name: (path, digest) for name, (path, digest) in attachments.items()}, closed


def _is_attachment(item: tuple[str, Any]) -> bool:
    name, value = item
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(isinstance(text, str) and text and "\0" not in text for text in (name, *value))
    )
