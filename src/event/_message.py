"""An event as a message of a broker, both ways. Pure functions: the disk and the broker stay outside.

A message's body is one JSON object, in UTF-8::

    {"version": 1, "id": "…", "created": 1780000000.0,
     "trace": {"traceparent": "00-…", …},
     "event": {"data": {…}, "attachments": {"log": ["0", "<sha1>"], "core": ["1", "<sha1>"]}, "closed": true},
     "files": {"0": {"size": 12, "base64": "…"}, "1": {"size": 8589934592, "s3": "s3://bucket/prefix/ID/1"}}}

``event`` is what a dump holds, with the name of a file in each attachment's place; ``files`` tells where its content
is: in the message (RFC 4648, section 4), or in S3. ``trace`` is the span around the sending, in the form of an event's
data, and is missing where there was none. A reader ignores keys that it does not know.
"""

from __future__ import annotations

import binascii
import hashlib
import re
from base64 import b64decode, b64encode

from event import _json, _trace
from event._event import Event, decode_event, encode_event

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from event._trace import Span

VERSION = 1
CONTENT_TYPE = "application/vnd.e3-event+json"

QUEUE = "e3-event"
QUEUE_MAX = 240  # bytes; AMQP has 255 for a queue's name, and there is a QUEUE.aside too

_ID = re.compile(r"[0-9A-Za-z-]{1,64}")  # it becomes a part of file names
_FILE = re.compile(r"[0-9]{1,9}")
_END_OF_TIME = 1e11  # seconds since 1970 UTC


class Reference:
    """A file's content that is elsewhere.

    :ivar url: where, ``s3://bucket/key``
    :ivar size: its bytes
    """

    __slots__ = ("size", "url")

    def __init__(self, url: str, size: int) -> None:
        self.url = url
        self.size = size


class Parcel:
    """What a message holds.

    :ivar id: the id of the sending, the same at each attempt
    :ivar created: when it was sent, in seconds since 1970 UTC
    :ivar event: the event; its own attachments do not count
    :ivar attachments: name -> (the name of one of the files, SHA-1 in hex)
    :ivar files: by name, the content, or where it is
    :ivar span: the span around the sending; None where there was none
    """

    __slots__ = ("attachments", "created", "event", "files", "id", "span")

    def __init__(  # noqa: PLR0913  # what a message holds
        self,
        id: str,  # noqa: A002  # the name in the message
        created: float,
        event: Event,
        attachments: dict[str, tuple[str, str]],
        files: Mapping[str, bytes | Reference],
        span: Span | None = None,
    ) -> None:
        self.id = id
        self.created = created
        self.event = event
        self.attachments = attachments
        self.files = files
        self.span = span


def is_queue(name: str) -> bool:
    """Tell whether a queue can have a name."""
    return bool(name) and name.isprintable() and len(name.encode()) <= QUEUE_MAX


def encode(parcel: Parcel) -> bytes:
    """Return a message's body.

    :raises EventError: the event's data holds itself
    """
    content: dict[str, Any] = {"version": VERSION, "id": parcel.id, "created": parcel.created}
    if parcel.span:
        content["trace"] = _trace.as_data(parcel.span)
    content["event"] = encode_event(parcel.event, parcel.attachments)
    content["files"] = {name: _encoded(file) for name, file in parcel.files.items()}
    return _json.dumps(content).encode("ascii")


def decode(body: bytes) -> Parcel:
    """Return what a message's body says.

    :raises ValueError: it is no message of ours, or a newer release's; the message says why
    """
    content = _json.loads(str(body, "utf-8"))  # from bytes, it would take UTF-16 too
    if not isinstance(content, dict) or type(version := content.get("version")) is not int or version < 1:
        raise ValueError("it is no object with a version")
    if version > VERSION:
        raise ValueError(f"its version is {version}; this release reads {VERSION}")
    id_ = content.get("id")
    created: Any = content.get("created")
    if not isinstance(id_, str) or not _ID.fullmatch(id_):
        raise ValueError("'id' must be letters, digits and hyphens, 64 at most")
    if type(created) not in {int, float} or not 0 <= created < _END_OF_TIME:  # True is an int too
        raise ValueError("'created' must be a time")
    event = decode_event(content.get("event"), Event)
    files = _files(content.get("files"))
    attachments = event.get_attachments()
    for name, (file, digest) in attachments.items():
        _check(name, files.get(file), digest)
    return Parcel(id_, float(created), event, attachments, files, _span(content.get("trace")))


def _encoded(file: bytes | Reference) -> dict[str, Any]:
    if isinstance(file, Reference):
        return {"size": file.size, "s3": file.url}
    return {"size": len(file), "base64": b64encode(file).decode("ascii")}


def _files(content: Any) -> dict[str, bytes | Reference]:
    if not isinstance(content, dict) or not all(isinstance(file, dict) for file in content.values()):
        raise ValueError("'files' must be an object of objects")
    return {name: _decoded(name, file) for name, file in content.items()}


def _decoded(name: str, file: dict[str, Any]) -> bytes | Reference:
    size, url, text = file.get("size"), file.get("s3"), file.get("base64")
    if not _FILE.fullmatch(name) or type(size) is not int or size < 0:
        raise ValueError(f"file {name!r}: its name must be a number, and its size be given")
    if url is not None:
        if not isinstance(url, str) or not url.startswith("s3://"):
            raise ValueError(f"file {name!r}: 's3' must be s3://BUCKET/KEY")
        return Reference(url, size)
    try:
        data = b64decode(text, validate=True)  # type: ignore[arg-type]  # what it does not take is the error
    except (TypeError, ValueError, binascii.Error) as error:
        raise ValueError(f"file {name!r} must have 'base64' or 's3'") from error
    if len(data) != size:
        raise ValueError(f"file {name!r} has {len(data)} bytes, not {size}")
    return data


def _check(name: str, file: bytes | Reference | None, digest: str) -> None:
    if file is None:
        raise ValueError(f"attachment {name!r} is none of the files")
    if isinstance(file, bytes) and hashlib.sha1(file, usedforsecurity=False).hexdigest() != digest:
        raise ValueError(f"attachment {name!r} is not what its SHA-1 says")


def _span(content: Any) -> Span | None:
    """Return the span that was around the sending; what is none of ours is ignored, as the standard wants it."""
    return _trace.of_data(content) if isinstance(content, dict) else None
