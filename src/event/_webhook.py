"""A POST to a web server: whom, signed how, and how long it may take (RFC 9110; Standard Webhooks 1.0).

urllib3 speaks the protocol, and keeps the connections. What it lacks stands here: a limit on the whole, so that a
server which drips a byte now and then does not hold us; the proxies of the environment; and silence about URLs, which
hold tokens.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import logging
import ssl
import threading
import time
from urllib.parse import unquote
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, InvalidHeader
from urllib3.util import Retry, Url, parse_url

from event._clocked import Clock, TLSSocket, connected
from event.error import EventError, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping
    from typing import Any

_GOODBYE = 2.0  # seconds for the answer's body, which changes nothing
_BODY = 1 << 16  # bytes of an answer's body that are read, so that the connection can serve again
_POOL = 10  # connections kept to one server

# Where a later attempt at the same URL may succeed. The redirects are those that say "for now".
_LATER = frozenset({302, 303, 307, 408, 425, 429})

# What this thread sends: the clock. The sockets outlive a sending, and ask for the one of now.
_sending = threading.local()


class Target:
    """A URL, taken apart.

    :ivar url: without its user and password
    :ivar shown: the scheme and the host alone
    :ivar authorization: the header that the user and the password make; empty without
    :raises EventError: it is no http or https URL; the message does not hold it
    """

    def __init__(self, url: str) -> None:
        parsed = _parsed(url)
        port = f":{parsed.port}" if parsed.port else ""
        self.shown = f"{parsed.scheme}://{parsed.host}{port}"
        self.url = Url(parsed.scheme, None, *parsed[2:6]).url
        self.authorization = _basic(parsed.auth) if parsed.auth else ""
        self.secure = parsed.scheme == "https"
        self.host = parsed.host or ""
        self.has_secret = bool(parsed.auth or parsed.query)


class Answer:
    """What a server answered.

    :ivar status: the status code
    :ivar retry_after: seconds that it asks us to wait; None where it does not
    """

    def __init__(self, status: int, retry_after: float | None = None) -> None:
        self.status = status
        self.retry_after = retry_after

    @property
    def taken(self) -> bool:
        """Whether it took what we sent."""
        return 200 <= self.status < 300

    @property
    def later(self) -> bool:
        """Whether another attempt may succeed."""
        return self.status in _LATER or self.status >= 500

    def __str__(self) -> str:
        """Return the status in the words of RFC 9110: a server's own words may repeat the URL."""
        from http.client import responses

        return f"{self.status} {responses.get(self.status, '')}".rstrip()


def post(client: urllib3.PoolManager, target: Target, body: bytes, headers: Mapping[str, str], clock: Clock) -> Answer:
    """Send a request; return the answer. No redirect is followed.

    :raises OSError: no answer came, in time or at all
    :raises HTTPError: nor is there a cause that the operating system knows
    """
    # A clock of its own: the goodbye shortens it.
    _sending.clock = Clock(clock.left(), clock.step)
    _hush()
    try:
        response = client.urlopen(
            "POST", target.url, body=body, headers=headers, redirect=False, retries=False, timeout=clock.left(),
            preload_content=False, decode_content=False,
        )  # fmt: skip
        answer = Answer(response.status, _retry_after(response.headers.get("Retry-After")))
        _sending.clock.shorten(_GOODBYE)
        try:
            response.read(_BODY)
        except (HTTPError, OSError):
            pass  # the answer is known
        finally:
            if not response.closed:
                response.close()
            response.release_conn()
        return answer
    finally:
        del _sending.clock


def new_client(proxy: str | None) -> urllib3.PoolManager:
    """Return what keeps the connections.

    :param proxy: the URL of a proxy
    """
    context = ssl.create_default_context()
    context.sslsocket_class = _TLS
    manager: Any  # pyright takes its pool classes for others than they are
    if proxy is None:
        manager = urllib3.PoolManager(maxsize=_POOL, ssl_context=context)
    else:
        parsed = parse_url(proxy if "://" in proxy else f"http://{proxy}")
        headers = {"Proxy-Authorization": _basic(parsed.auth)} if parsed.auth else None
        plain = Url(parsed.scheme, None, parsed.host, parsed.port).url
        manager = urllib3.ProxyManager(
            plain, maxsize=_POOL, proxy_headers=headers, ssl_context=context, proxy_ssl_context=context
        )
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}
    return manager  # type: ignore[no-any-return]  # see above


def proxy_for(target: Target) -> str | None:
    """Return the proxy that the environment (or the system's settings) has for a URL."""
    if proxy_bypass(target.host):
        return None
    proxies = getproxies()
    return proxies.get("https" if target.secure else "http") or proxies.get("all")


def signed(secret: str, sending: str, body: bytes) -> dict[str, str]:
    """Return the headers of Standard Webhooks.

    :param secret: ``whsec_`` and the key in base64; several, apart by white space, make a signature each; empty: none
    :param sending: the id of the sending, the same at each attempt
    :raises EventError: the secret is no such; the message does not hold it
    """
    stamp = str(int(time.time()))
    headers = {"webhook-id": sending, "webhook-timestamp": stamp}
    content = b".".join([sending.encode(), stamp.encode(), body])
    signatures = [base64.b64encode(hmac.digest(key, content, "sha256")).decode() for key in keys(secret)]
    if signatures:
        headers["webhook-signature"] = " ".join(f"v1,{signature}" for signature in signatures)
    return headers


def keys(secret: str) -> list[bytes]:
    """Return the keys that a secret holds.

    :raises EventError: it holds something else; the message does not repeat it
    """
    found = []
    for part in secret.split():
        text = part.removeprefix("whsec_")
        try:
            key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if not key:
            raise EventError(
                "http: the signing secret is not whsec_ and base64, as Standard Webhooks has it, nor a reference"
            )
        found.append(key)
    return found


def reason(error: Exception) -> str:
    """Return on one line why no answer came. urllib3's own words may hold the URL, the system's do not."""
    cause: Any = error
    while cause is not None:
        if isinstance(cause, OSError) and not isinstance(cause, HTTPError):
            hint = isinstance(cause, ssl.SSLCertVerificationError)
            return one_line(cause) + (
                "; SSL_CERT_FILE may name the certificates of a private authority" if hint else ""
            )
        inner = [arg for arg in getattr(cause, "args", ()) if isinstance(arg, Exception)]
        cause = inner[0] if inner else cause.__cause__ or cause.__context__
    return type(error).__name__


class _Now:
    """The clock of what this thread sends now."""

    @staticmethod
    def left() -> float:
        clock: Clock = _sending.clock
        return clock.left()


class _TLS(TLSSocket):
    clock: Any = _Now


class _Connection(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        return _connected(self)


class _TLSConnection(HTTPSConnection):
    def _new_conn(self) -> socket.socket:
        return _connected(self)


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls: Any = _Connection


class _TLSPool(urllib3.HTTPSConnectionPool):
    ConnectionCls: Any = _TLSConnection


def _connected(connection: HTTPConnection) -> socket.socket:
    clock: Any = _Now
    sock = connected(connection.host.strip("[]"), connection.port, clock, None)
    for option in connection.socket_options or ():
        sock.setsockopt(*option)
    return sock


def _parsed(url: str) -> Url:
    text = url if url.isprintable() and " " not in url else ""
    try:
        parsed = parse_url(text)
    except (HTTPError, ValueError):
        parsed = Url()
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        # No cause either: its text holds the URL.
        raise EventError("http: the URL is none of http:// or https://; expected https://HOST/PATH")
    return parsed


def _basic(auth: str) -> str:
    user, _, password = auth.partition(":")
    return "Basic " + base64.b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()


def _retry_after(value: str | None) -> float | None:
    """Return the seconds that the header Retry-After (RFC 9110, 10.2.3) asks for; None for none that can be read."""
    try:
        return None if value is None else Retry().parse_retry_after(value)
    except (InvalidHeader, ValueError, OverflowError):
        return None


def _hush() -> None:
    """Keep urllib3 from logging, at DEBUG, the path of what we send; it may hold a token."""
    logger = logging.getLogger("urllib3.connectionpool")
    if _is_others not in logger.filters:
        logger.addFilter(_is_others)


def _is_others(_record: logging.LogRecord) -> bool:
    return not hasattr(_sending, "clock")
