"""A message as it was taken, and the envelope that it has in a list of Redis. Pure functions: the broker stays outside.

kombu's virtual transports, of which Redis is one, keep a message as JSON::

    {"body": "…", "headers": {…}, "content-type": "…", "content-encoding": "utf-8",
     "properties": {"body_encoding": "base64", …}}

Whatever else an item is, it is a message too, for a person to look at: nothing here raises.
"""

from __future__ import annotations

import json
from base64 import b64decode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Taken:
    """A message that is taken.

    :ivar body: its content
    :ivar headers: what stands beside it
    :ivar again: whether it was taken before, by one that has not acknowledged it
    :ivar handle: what the broker knows it by
    """

    __slots__ = ("again", "body", "handle", "headers")

    def __init__(self, body: Any, headers: Any, again: bool, handle: Any) -> None:
        self.body = _bytes(body)
        self.headers: dict[Any, Any] = headers if isinstance(headers, dict) else {}
        self.again = again
        self.handle = handle


def of_envelope(raw: bytes) -> Taken:
    """Return the message in an item of a list."""
    try:
        envelope = json.loads(raw)
        body = envelope["body"]
        if envelope["properties"].get("body_encoding") == "base64":
            body = b64decode(body)
        headers = envelope.get("headers")
        again = isinstance(headers, dict) and bool(headers.get("redelivered"))
        return Taken(body, headers, again, raw)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return Taken(raw, {}, False, raw)  # what it is not, the reader of the body tells


def marked(raw: bytes) -> bytes:
    """Return an item that tells that it has been taken before; what has no headers stays as it is."""
    try:
        envelope = json.loads(raw)
        envelope["headers"]["redelivered"] = True
    except (ValueError, LookupError, TypeError, RecursionError):
        return raw
    return json.dumps(envelope).encode("ascii")


def _bytes(body: Any) -> bytes:
    if isinstance(body, str):
        return body.encode("utf-8", "surrogatepass")
    # Not bytes(body) of whatever it is: of a number, it would be as many zeros.
    return bytes(body) if isinstance(body, (bytes, bytearray, memoryview)) else b""
