"""One HTTP connection: send requests and read the responses (RFC 9110, 9112).

The standard library's `http.client` does this, but with the sockets of `event._net.deadline` and limits on the size of
a response.
"""

from __future__ import annotations

import http.client
import select
import time
from dataclasses import dataclass, field

from event._mask import without_credentials
from event._net.deadline import Deadline, Socket, connect, start_tls
from event._net.url import Target  # noqa: TC001  # a field of a dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping
    from email.message import Message
    from typing import Any

BODY = 1 << 16  # bytes of a response's body that are read
_BODY_TIMEOUT = 2.0  # seconds

# The exceptions of a failed request, other than mistakes of the caller.
FAILURES = (OSError, ValueError, http.client.HTTPException)

_PUBLIC_HEADERS = frozenset({"content-type", "content-encoding", "user-agent"})  # these contain no secret
# Another attempt at the same URL may succeed. The redirects are those that are temporary.
_TEMPORARY = frozenset({302, 303, 307, 407, 408, 421, 425, 429})


@dataclass(slots=True)
class Response:
    """The response of a server.

    :ivar body: at most `BODY` bytes; empty if the body is compressed, or did not arrive completely and in time
    :ivar complete: whether the whole body was read
    :ivar credentials: what the request contained and may be secret
    """

    status: int
    headers: Message = field(repr=False)
    body: bytes = field(default=b"", repr=False)
    complete: bool = True
    credentials: list[str] = field(default_factory=list, repr=False)

    def masked(self, text: str) -> str:
        """Return a text of the server without the credentials of the request, which the server may echo."""
        return without_credentials(text, self.credentials)

    @property
    def taken(self) -> bool:
        """Whether the server accepted the request."""
        return 200 <= self.status < 300

    @property
    def temporary(self) -> bool:
        """Whether another attempt may succeed."""
        return self.status in _TEMPORARY or self.status >= 500

    @property
    def retry_after(self) -> float | None:
        """The seconds that the header Retry-After (RFC 9110, 10.2.3) asks for; None if it is missing or malformed."""
        text = self.headers.get("Retry-After", "").strip()
        if text.isascii() and text.isdecimal():
            return float(text)
        from email.utils import parsedate_to_datetime

        try:
            return max(parsedate_to_datetime(text).timestamp() - time.time(), 0)
        except (TypeError, ValueError, OverflowError):
            return None

    def __str__(self) -> str:
        """Return the status with the reason phrase of RFC 9110. The server's own phrase might contain the URL."""
        return status_text(self.status)


@dataclass(frozen=True, slots=True)
class Route:
    """A server, and the proxy through which to reach it."""

    scheme: str
    host: str
    port: int
    proxy: Target | None

    @property
    def is_tunnel(self) -> bool:
        return self.proxy is not None and self.scheme == "https"


class _Response(http.client.HTTPResponse):
    """A final response: provisional ones (RFC 9110, 15.2) are skipped."""

    def begin(self) -> None:
        super().begin()
        while 100 <= self.status < 200:
            self.headers = self.msg = None  # type: ignore[assignment]  # as before the first one
            super().begin()


class Connection(http.client.HTTPConnection):
    """A connection to a server, directly or through a proxy. Each wait ends at a deadline."""

    response_class = _Response

    def __init__(self, route: Route, context: ssl.SSLContext | None) -> None:
        super().__init__(route.host, route.port)
        self.sock: Any = None
        self.route = route
        self._tls: Any = context  # used only if the server or the proxy uses TLS
        self._deadline = Deadline(0)

    def connect(self) -> None:
        """Connect, through the proxy if there is one, and with TLS if the URL is ``https``."""
        proxy = self.route.proxy
        if proxy and proxy.scheme == "https" and self.route.is_tunnel:
            raise OSError("an https:// proxy cannot be used for https:// URLs; expected http://HOST:PORT")
        near = proxy or self.route
        sock: Socket = connect(near.host, near.port, self._deadline)
        try:
            if proxy and proxy.scheme == "https":
                sock = start_tls(sock, self._tls, proxy.host)
            if self.route.is_tunnel:
                self._open_tunnel(sock)
            if self.route.scheme == "https":
                sock = start_tls(sock, self._tls, self.route.host)
        except BaseException:
            sock.close()
            raise
        self.sock = sock

    def exchange(self, target: Target, body: bytes, headers: Mapping[str, str], deadline: Deadline) -> Response:
        """Post, and return the response. If the connection cannot be used again, `sock` is None afterwards."""
        self._deadline = deadline
        if self.sock is not None:
            self.sock.deadline = deadline
        proxy, path = self.route.proxy, target.path
        more = {"Host": target.netloc}
        if proxy and not self.route.is_tunnel:
            path = target.shown + path
            more["Proxy-Authorization"] = proxy.authorization
        if target.authorization:
            more["Authorization"] = target.authorization
        self.request("POST", path, body, {name: value for name, value in {**more, **headers}.items() if value})
        credentials = [value for name, value in headers.items() if name.lower() not in _PUBLIC_HEADERS]
        credentials += [*target.credentials, proxy.authorization if proxy else ""]
        sock: Any = self.sock  # getresponse() sets it to None if the server wants to close the connection
        with self.getresponse() as response:
            answer = Response(response.status, response.headers, credentials=credentials)
            sock.deadline = deadline.shortened(_BODY_TIMEOUT)
            _read_body(response, answer)
        if not answer.complete:
            self.close()
        return answer

    def is_readable(self) -> bool:
        """Return whether the server has closed the connection or sent data since the last response."""
        if not hasattr(select, "poll"):  # pragma: no cover  # platform: Windows
            return bool(select.select([self.sock], [], [], 0)[0])
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return bool(poll.poll(0))

    def _open_tunnel(self, sock: Socket) -> None:
        """Open a tunnel to the server through the proxy (RFC 9110, 9.3.6)."""
        proxy = self.route.proxy
        place = f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
        lines = [f"CONNECT {place} HTTP/1.1", f"Host: {place}"]
        if proxy and proxy.authorization:
            lines.append(f"Proxy-Authorization: {proxy.authorization}")
        sock.sendall("".join(f"{line}\r\n" for line in [*lines, ""]).encode("ascii"))
        with _Response(sock, method="CONNECT") as response:
            response.begin()
            if not 200 <= response.status < 300:
                raise OSError(f"the proxy refuses the connection: {status_text(response.status)}")


def _read_body(response: http.client.HTTPResponse, answer: Response) -> None:
    """Read at most `BODY` bytes of a response's body. If the body breaks off or takes too long, it is not complete."""
    try:
        body = response.read(BODY)
    except FAILURES:
        answer.complete = False
        return
    answer.complete = response.isclosed() and not response.length
    if (answer.complete or len(body) == BODY) and not response.headers.get("Content-Encoding"):
        answer.body = body


def status_text(status: int) -> str:
    """Return a status with its phrase in RFC 9110, such as ``404 Not Found``."""
    return f"{status} {http.client.responses.get(status, '')}".rstrip()
