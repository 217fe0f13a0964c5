"""Frames between a command and its worker.

======================  ===========================================
4 bytes, big-endian     length of the message
4 bytes, big-endian     length of the blob
the message             a dict, written by `marshal`
the blob                bytes, such as a message of a broker
======================  ===========================================

`marshal` requires that both sides run the same interpreter, which they do. It is built in, whereas importing `json`
takes longer than sending an event.

If a handler writes to the pipe by mistake, the reader raises `ProtocolError`: the length is too large, or the message
is not a dict. This does not protect against an attacker, but a plugin runs with the command's rights anyway.
"""

from __future__ import annotations

from marshal import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

LONGEST_REPORT = 1 << 20  # bytes of a message from a worker
LONGEST_JOB = 1 << 28  # bytes of a message to a worker; an event's data may be large
LONGEST_BLOB = (1 << 32) - 1  # bytes; the largest length that four bytes can hold

_HEADER = 8


class ProtocolError(Exception):
    """The received bytes are not a valid frame."""


def encode_frame(message: Mapping[str, Any], blob: bytes = b"") -> bytes:
    """Return a message and a blob as a frame.

    :param message: may contain dict, list, tuple, str, bytes, numbers, booleans and None
    :raises ValueError: the message or the blob is too long, or the message contains another type
    """
    data = dumps(dict(message))
    if len(data) > LONGEST_JOB or len(blob) > LONGEST_BLOB:
        raise ValueError(f"a frame of {len(data)} and {len(blob)} bytes is too long for the worker")
    return b"".join((len(data).to_bytes(4, "big"), len(blob).to_bytes(4, "big"), data, blob))


class FrameReader:
    """Split received bytes into frames.

    :param longest_message: maximum length of a message, in bytes
    :param longest_blob: maximum length of a blob, in bytes
    """

    def __init__(self, longest_message: int, longest_blob: int = 0) -> None:
        self._longest_message = longest_message
        self._longest_blob = longest_blob
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Add received bytes."""
        self._buffer += data

    def frames(self) -> Iterator[tuple[dict[str, Any], bytes]]:
        """Yield the message and the blob of each complete frame.

        :raises ProtocolError: the received bytes are not a valid frame
        """
        while len(self._buffer) >= _HEADER:
            message, blob = self._lengths()
            end = _HEADER + message + blob
            if len(self._buffer) < end:
                return
            frame = bytes(self._buffer[_HEADER:end])
            del self._buffer[:end]
            yield _decode(frame[:message]), frame[message:]

    def _lengths(self) -> tuple[int, int]:
        message, blob = (int.from_bytes(self._buffer[start : start + 4], "big") for start in (0, 4))
        if message > self._longest_message or blob > self._longest_blob:
            raise ProtocolError(f"a frame of {message} and {blob} bytes")
        return message, blob


def _decode(data: bytes) -> dict[str, Any]:
    try:
        message = loads(data)  # noqa: S302  # both sides have the same rights, see the module's docstring
    except (EOFError, ValueError, TypeError, MemoryError) as error:
        raise ProtocolError("a message that marshal cannot read") from error
    if not isinstance(message, dict):
        raise ProtocolError("a message that is not a dict")
    return message
