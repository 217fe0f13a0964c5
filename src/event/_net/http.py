"""One HTTP client for all handlers: POST over persistent connections.

It follows no redirect, reads no .netrc, and logs nothing, because URLs contain tokens.
"""

from __future__ import annotations

import http.client
import os
import ssl
import time
from collections import deque
from functools import lru_cache

from event._backoff import backoff
from event._net import proxies
from event._net.connection import BODY, FAILURES, Connection, Response, Route, status_text
from event._net.url import Target
from event.error import EventError, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping
    from typing import Any

    from event._net.deadline import Deadline

__all__ = ["BODY", "FAILURES", "Client", "Response", "Target", "http_reason", "repeated", "status_text"]

_MAX_IDLE = 10  # connections kept to one server
_FIRST_POST_PAUSE = 0.1  # seconds; the minimum pause before the first repetition, doubled for each further one
_UNASKED_PAUSE = 1.0  # the same, if the server does not ask for a pause
_LONGEST_PAUSE = 60.0  # seconds


class Client:
    """Posts to servers over persistent connections.

    Threads may share a client. A forked process opens its own connections: two processes that write to one connection
    would corrupt each other's requests. A copied or unpickled client starts without connections.

    :param ca_file: a file with the certificates to trust; empty for those of ``SSL_CERT_FILE`` or of the system
    :param certificate: the files with the client's certificate and its key; empty for none
    :ivar trust: these two arguments
    """

    def __init__(self, ca_file: str = "", certificate: tuple[str, str] = ("", "")) -> None:
        self.trust = (ca_file, certificate)
        self._context: ssl.SSLContext | None = None
        self._pid = os.getpid()
        self._idle: dict[Route, deque[Connection]] = {}

    def __del__(self) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return Client, self.trust

    def close(self) -> None:
        """Close the idle connections."""
        for connections in self._idle.values():
            while connections:
                connections.pop().close()

    def post(self, target: Target, body: bytes, headers: Mapping[str, str], deadline: Deadline) -> Response:
        """Send a request; return the response.

        If the server has closed a persistent connection without a response, the request is repeated once on a new one.
        Once the status has arrived, the server has the request, so a broken body is not an error.

        :raises OSError: the server cannot be reached, or does not respond in time
        :raises HTTPException: the response is not valid HTTP
        :raises ValueError: a header cannot be sent
        """
        route = _route(target.scheme, target.host, target.port, proxies.proxy_variables())
        connection = self._kept(route)
        if connection is not None:
            try:
                return self._exchange(connection, target, body, headers, deadline)
            except (ConnectionError, ssl.SSLEOFError):
                pass
        connection = Connection(route, self._tls(route))
        return self._exchange(connection, target, body, headers, deadline)

    def _exchange(
        self, connection: Connection, target: Target, body: bytes, headers: Mapping[str, str], deadline: Deadline
    ) -> Response:
        try:
            answer = connection.exchange(target, body, headers, deadline)
        except BaseException:
            connection.close()
            raise
        self._keep(connection)
        return answer

    def _kept(self, route: Route) -> Connection | None:
        if self._pid != os.getpid():  # pragma: no cover  # in a forked child; a test sends in one
            self.close()  # only this process's copies of the descriptors
            self._pid = os.getpid()
        connections = self._idle.get(route, ())
        while connections:
            try:
                connection = connections.pop()
            except IndexError:  # pragma: no cover  # another thread was faster
                break
            if not connection.is_readable():
                return connection
            connection.close()  # the server has closed it, or has sent data without a request
        return None

    def _keep(self, connection: Connection) -> None:
        connections = self._idle.setdefault(connection.route, deque())
        if connection.sock is None or len(connections) >= _MAX_IDLE:
            connection.close()
        else:
            connections.append(connection)

    def _tls(self, route: Route) -> ssl.SSLContext | None:
        """Return the TLS context for a route. It is cached, because creating it takes longer than a request."""
        if self._context is None and (route.scheme == "https" or (route.proxy and route.proxy.scheme == "https")):
            ca_file, (certificate, key) = self.trust
            try:
                context = ssl.create_default_context(cafile=ca_file or None)
                if certificate:
                    context.load_cert_chain(certificate, key or None)
            except OSError as error:
                files = ", ".join(filter(None, [ca_file, certificate, key]))
                raise OSError(f"the certificates cannot be loaded ({files}): {one_line(error)}") from error
            self._context = context
        return self._context


def repeated(post: Callable[[], Response], deadline: Deadline, unasked: Container[int] = ()) -> Response:
    """Post until the server accepts or refuses the request, or another attempt would miss the deadline.

    The request is repeated if the server asks for a pause, or if the status is one of `unasked`.

    :param post: sends the request
    :param unasked: the statuses after which to repeat the request even if the server does not ask for a pause
    """
    failures = 0
    while True:
        answer = post()
        pause = answer.retry_after
        if pause is None and answer.status in unasked:
            pause = backoff(failures, _UNASKED_PAUSE, _LONGEST_PAUSE)
        if answer.taken or not answer.temporary or pause is None:
            return answer
        pause = max(pause, backoff(failures, _FIRST_POST_PAUSE, _LONGEST_PAUSE))
        if not deadline.allows(pause):
            return answer
        time.sleep(pause)
        failures += 1


def http_reason(error: BaseException) -> str:
    """Return the reason why a request failed, on one line, without text from the server."""
    if isinstance(error, http.client.BadStatusLine) and _is_http_2(str(error.args[0])):
        return "the port speaks HTTP/2, as gRPC does; expected HTTP/1.1"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{one_line(error)}; SSL_CERT_FILE may name the certificates of a private authority"
    if isinstance(error, (EventError, OSError)):
        return one_line(error)
    if isinstance(error, http.client.HTTPException):
        return "the server's answer is not valid HTTP"
    return type(error).__name__


def _is_http_2(line: str) -> bool:
    """Return whether a response begins with a SETTINGS frame, as every HTTP/2 connection does (RFC 9113, 3.4)."""
    return line.startswith("\0\0") and line[3:4] == "\4"


@lru_cache(32)
def _route(scheme: str, host: str, port: int, _proxy_variables: tuple[str | None, ...]) -> Route:
    """Return the route to a server. It is cached, because finding the proxy is too slow to repeat for each event.

    :param _proxy_variables: the variables on which the proxy depends, as a cache key
    :raises OSError: the proxy's URL is malformed
    """
    proxy = proxies.proxy_for(scheme, host, port)
    return Route(scheme, host, port, _parse_proxy(proxy) if proxy else None)


def _parse_proxy(url: str) -> Target:
    try:
        return Target.parse(url if "://" in url else f"http://{url}", "the proxy", guarded=False)
    except EventError as error:
        raise OSError(one_line(error)) from None
