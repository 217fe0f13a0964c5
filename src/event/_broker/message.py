"""Encode and decode an event as the body of a message. These functions use neither the disk nor a broker.

The body is one JSON object in UTF-8::

    {"version": 1, "id": "…", "created": 1780000000.0,
     "trace": {"traceparent": "00-…", …},
     "event": {"data": {…}, "attachments": {"log": ["0", "<sha1>"], "core": ["1", "<sha1>"]}, "closed": true},
     "files": {"0": {"size": 12, "base64": "…"}, "1": {"size": 8589934592, "s3": "s3://bucket/prefix/ID/1"}}}

``event`` is the content of a dump, except that each attachment has the name of a file instead of its path. ``files``
contains the content of each file (RFC 4648, section 4) or its location in S3. ``trace`` is the span in which the event
was sent; it is missing if there was none. Readers ignore unknown keys.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64decode, b64encode
from dataclasses import dataclass, field

from event import _json, _trace_context
from event._event import Event, decode_event, encode_event
from event.error import PermanentError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any, TypeAlias

    from event._trace_context import Span

MESSAGE_VERSION = 1
_MESSAGE_ID = re.compile(r"[0-9A-Za-z-]{1,64}")  # safe as a part of file names
_FILE = re.compile(r"[0-9]{1,9}")
_DECODE_CHUNK = 1 << 20  # characters of base64 decoded at once; a multiple of 4

# Senders refuse events beyond these limits. Relays dead-letter such messages before they process them.
MAX_BODY = 128 << 20  # bytes
MAX_ATTACHMENTS = 1000
MAX_ATTACHED = 64 << 30  # bytes of all attachments, including those in S3
MAX_NESTING = 200  # levels of nested objects and arrays


@dataclass(frozen=True, slots=True)
class InlineFile:
    """The content of a file in a message, in base64.

    :ivar size: the size of the decoded content in bytes, according to the message
    """

    size: int
    base64: str = field(repr=False)

    @classmethod
    def of(cls, content: bytes) -> InlineFile:
        """Encode the content of a file."""
        return cls(len(content), b64encode(content).decode("ascii"))

    def chunks(self, sha1: str) -> Iterator[bytes]:
        """Yield the decoded content in chunks of less than 1 MiB; then check the size and the SHA-1.

        :param sha1: the expected SHA-1, in hex
        :raises ValueError: the content is not base64, or its size or SHA-1 is wrong
        """
        digest = hashlib.sha1(usedforsecurity=False)
        size = 0
        for start in range(0, len(self.base64), _DECODE_CHUNK):
            try:
                chunk = b64decode(self.base64[start : start + _DECODE_CHUNK], validate=True)
            except ValueError as error:
                raise ValueError("its content is not base64") from error
            size += len(chunk)
            digest.update(chunk)
            yield chunk
        if size != self.size:
            raise ValueError(f"it has {size} bytes, not {self.size}")
        if digest.hexdigest() != sha1:
            raise ValueError(f"its SHA-1 is {digest.hexdigest()}, not {sha1}")


@dataclass(frozen=True, slots=True)
class S3Reference:
    """The location of a file in S3.

    :ivar size: the size of the file in bytes, according to the message
    :ivar url: ``s3://bucket/key``
    """

    size: int
    url: str


if TYPE_CHECKING:
    File: TypeAlias = InlineFile | S3Reference


@dataclass(slots=True)
class EventMessage:
    """The content of a message.

    :ivar id: the id of the sending, the same for all attempts
    :ivar created: when the event was sent, in seconds since 1970 UTC
    :ivar event: the event; the paths of its attachments are not used
    :ivar attachments: name -> (name of a file in `files`, SHA-1 in hex)
    :ivar files: the content or the location of each file, by its name
    :ivar span: the span in which the event was sent; None if there was none
    """

    id: str
    created: float
    event: Event
    attachments: dict[str, tuple[str, str]]
    files: Mapping[str, File]
    span: Span | None = None


def encode_message(message: EventMessage) -> bytes:
    """Encode the body of a message.

    :raises EventError: the event's data contains itself
    :raises PermanentError: a relay would dead-letter the message, for example because it exceeds a limit
    """
    try:
        _require_few(message.attachments, message.files)
        body = _encode(message)
        _require_small(body)
    except ValueError as error:
        raise PermanentError(f"no relay accepts the event: {error}") from error
    return body


def _encode(message: EventMessage) -> bytes:
    """Encode the body; raise ValueError if the event has no uid or no name."""
    content: dict[str, Any] = {"version": MESSAGE_VERSION, "id": message.id, "created": message.created}
    if message.span:
        content["trace"] = _trace_context.to_data(message.span)
    content["event"] = encode_event(message.event, message.attachments)
    if not content["event"]["data"].keys() >= {"uid", "name"}:  # a formatter may have removed them
        raise ValueError("its data must have a 'uid' and a 'name'")
    content["files"] = {name: _encode_file(file) for name, file in message.files.items()}
    return _json.dumps(content, i_json=True).encode("ascii")


def decode_message(body: bytes) -> EventMessage:
    """Decode the body of a message. `InlineFile.chunks` checks the content of files later.

    :raises ValueError: the body is not a message of this library, has a newer version, or exceeds a limit
    """
    _require_small(body)
    content = _json.loads(str(body, "utf-8"))  # from bytes, json would accept UTF-16 too
    if not isinstance(content, dict) or type(version := content.get("version")) is not int or version < 1:
        raise ValueError("it is not an object with a version")
    if version > MESSAGE_VERSION:
        raise ValueError(f"its version is {version}; this release reads {MESSAGE_VERSION}")
    id_ = content.get("id")
    created: Any = content.get("created")
    if not isinstance(id_, str) or not _MESSAGE_ID.fullmatch(id_):
        raise ValueError("'id' must be letters, digits and hyphens, 64 at most")
    if not _json.is_time(created):
        raise ValueError("'created' must be a time")
    event = decode_event(content.get("event"), Event, id_)
    files = _decode_files(content.get("files"))
    attachments = event.get_attachments()
    _check_attachments(attachments, files)
    return EventMessage(id_, float(created), event, attachments, files, _decode_span(content.get("trace")))


def _require_small(body: bytes) -> None:
    if len(body) > MAX_BODY:
        raise ValueError(f"it has {len(body)} bytes; the limit is {MAX_BODY}")
    # A text can't be nested more deeply than its number of opening brackets, which is faster to count.
    if body.count(b"[") + body.count(b"{") > MAX_NESTING and _depth(body) > MAX_NESTING:
        raise ValueError(f"it is nested more than {MAX_NESTING} levels deep")


def _depth(body: bytes) -> int:
    """Return the depth of nested objects and arrays. Ignore brackets in strings."""
    depth = deepest = 0
    for match in _BRACKETS.finditer(body):
        bracket = match[1]
        if bracket:
            depth += 1 if bracket in b"[{" else -1
            deepest = max(deepest, depth)
    return deepest


# A string matches in one step, even if it has no end, so that the search takes linear time.
_BRACKETS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|([\[\]{}])', re.DOTALL)


def _require_few(attachments: Mapping[str, Any], files: Mapping[str, File]) -> None:
    _require_count("attachments", attachments)
    if (total := sum(file.size for file in files.values())) > MAX_ATTACHED:
        raise ValueError(f"its files have {total} bytes; the limit is {MAX_ATTACHED}")


def _require_count(what: str, items: Mapping[str, Any]) -> None:
    if len(items) > MAX_ATTACHMENTS:
        raise ValueError(f"it has {len(items)} {what}; the limit is {MAX_ATTACHMENTS}")


def _encode_file(file: File) -> dict[str, Any]:
    if isinstance(file, S3Reference):
        return {"size": file.size, "s3": file.url}
    return {"size": file.size, "base64": file.base64}


def _decode_files(content: Any) -> dict[str, File]:
    if not isinstance(content, dict) or not all(isinstance(file, dict) for file in content.values()):
        raise ValueError("'files' must be an object of objects")
    _require_count("files", content)
    return {name: _decoded(name, file) for name, file in content.items()}


def _decoded(name: str, file: dict[str, Any]) -> File:
    size, url, text = file.get("size"), file.get("s3"), file.get("base64")
    if not _FILE.fullmatch(name) or type(size) is not int or size < 0:
        raise ValueError(f"file {name[:20]!r}: its name must be a number, and 'size' is required")
    if url is not None:
        if not isinstance(url, str) or not url.startswith("s3://"):
            raise ValueError(f"file {name!r}: 's3' must be s3://BUCKET/KEY")
        return S3Reference(size, url)
    if not isinstance(text, str) or len(text) != (size + 2) // 3 * 4:
        raise ValueError(f"file {name!r} must have 's3', or 'base64' of {size} bytes")
    return InlineFile(size, text)


def _check_attachments(attachments: dict[str, tuple[str, str]], files: dict[str, File]) -> None:
    _require_few(attachments, files)
    used = [file for file, _ in attachments.values()]
    if missing := [name for name, (file, _) in attachments.items() if file not in files]:
        raise ValueError(f"attachment {missing[0]!r} is not among the files")
    if len({*used}) < len(used):
        raise ValueError("several attachments are one file")  # otherwise, a small message could fill the disk


def _decode_span(content: Any) -> Span | None:
    """Return the span in which the event was sent; None if it is malformed, as the W3C standard requires."""
    return _trace_context.from_data(content) if isinstance(content, dict) else None
