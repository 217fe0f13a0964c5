"""Sockets for kombu each of whose waits ends with a clock, and kombu's way to RabbitMQ over them.

Its own clients bound a single wait, not the whole: a server that drips a byte now and then would hold us, and half a
frame of AMQP would without end. They do not verify certificates of themselves either.
"""

from __future__ import annotations

import os
import socket
import ssl
from contextlib import contextmanager

from amqp.transport import AMQP_PROTOCOL_HEADER, TCPTransport  # type: ignore[import-untyped]
from kombu.transport import pyamqp

from event import _clocked
from event._clocked import Clock, connected

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from typing import Any

# What kombu takes from a URL's query. Those that it has for redis-py alone are not among them.
_TLS_OPTIONS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname")


class Watch:
    """The clock that a connection goes by now. Each use of the connection brings its own.

    :param clock: of the first use, which connects
    :param host: whose certificate the other side is to have
    :param step: seconds for one wait, where no use has brought a clock
    """

    def __init__(self, clock: Clock, host: str, step: float) -> None:
        self.clock = clock
        self.host = host
        self.step = step
        self.sockets: list[socket.socket] = []

    def abandon(self) -> None:
        """Let go, in a forked process, of the sockets of its parent: their own close would end them for both."""
        for sock in self.sockets:
            if sock.fileno() >= 0:
                os.close(sock.detach())

    @contextmanager
    def by(self, clock: Clock) -> Generator[None]:
        """Go by a clock meanwhile; afterwards only each wait has an end, and no whole."""
        self.clock = clock
        try:
            yield
        finally:
            self.clock = Clock(float("inf"), self.step)


class Socket(_clocked.Socket):
    """A socket each of whose waits ends with the watch, and with the socket's own timeout if that comes first."""

    watch: Watch
    _own: float | None = None

    def settimeout(self, value: float | None) -> None:
        """Set the timeout that the user of the socket wants."""
        self._own = value
        super().settimeout(value)

    def gettimeout(self) -> float | None:
        """Return what was set."""
        return self._own

    @contextmanager
    def _limited(self) -> Generator[None]:
        left = self.watch.clock.left()
        super().settimeout(left if self._own is None else min(left, self._own))
        try:
            yield
        except (BlockingIOError, ssl.SSLWantReadError) as error:
            # A frame of contextlib's holds the error; with that frame in its traceback, the two would keep each other,
            # and all callers' frames with the message, until the garbage collector comes.
            error.__traceback__ = None
            # py-amqp would try again and again, without a wait.
            raise TimeoutError("timed out") from None


class TLSSocket(Socket, _clocked.TLSSocket):
    """The same over TLS."""


def open_socket(host: str, port: int, watch: Watch, options: Mapping[str, Any] | None) -> socket.socket:
    """Return a connected socket, over TLS where there are options for it.

    :param options: what `kombu.Connection` has as ``ssl``
    :raises OSError: no address of the host could be reached, or its certificate is not to be trusted
    :raises ValueError: an option is not known
    """
    context = _context(options, watch) if options else None
    sock = Socket(fileno=connected(host, port, watch.clock, None).detach())
    sock.watch = watch
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            # A kept connection whose other side is gone without a word is found out, and not after 15 minutes.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(watch.step * 1000))
        whole = context.wrap_socket(sock, server_hostname=watch.host) if context else sock
    except BaseException:
        sock.close()
        raise
    watch.sockets = [*(other for other in watch.sockets if other.fileno() >= 0), whole]
    return whole


def _context(options: Mapping[str, Any], watch: Watch) -> ssl.SSLContext:
    """Return what verifies certificates, unless the URL says otherwise."""
    if unknown := sorted(options.keys() - {*_TLS_OPTIONS}):
        raise ValueError(f"{unknown[0]} is none of {', '.join(_TLS_OPTIONS)}")
    context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
    required = options.get("ssl_cert_reqs", ssl.CERT_REQUIRED)
    context.check_hostname = required != ssl.CERT_NONE and options.get("ssl_check_hostname", True)
    context.verify_mode = required
    if "ssl_certfile" in options:
        context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
    # The handshake is made before anything could be told to the socket.
    context.sslsocket_class = type("_TLSSocket", (TLSSocket,), {"watch": watch})
    return context


class AMQPTransport(pyamqp.Transport):
    """kombu's way to RabbitMQ."""

    class Connection(pyamqp.Connection):
        """An AMQP connection.

        :ivar blocked: whether the broker has said that it takes no messages for now: it is short of memory or disk
        """

        blocked = False
        client: Any  # kombu sets it before it connects

        def connect(self, callback: Any = None) -> Any:
            """Connect; nothing stays open where that fails, also not where what answers speaks no AMQP."""
            try:
                return super().connect(callback)
            except BaseException:
                self.collect()
                raise

        def Transport(self, host: str, _timeout: Any, ssl: Any = False, *_args: Any, **_more: Any) -> Any:  # noqa: N802
            """Return the lower half, which is not connected yet."""
            return _Frames(host, self.client.watch, ssl)

        def _on_blocked(self) -> None:
            self.blocked = True

        def _on_unblocked(self) -> None:
            self.blocked = False


class _Frames(TCPTransport):  # type: ignore[misc]
    """The frames of AMQP over a socket, with TLS or without."""

    def __init__(self, host: str, watch: Watch, options: Mapping[str, Any] | None) -> None:
        super().__init__(host)
        self._watch = watch
        self._options = options

    def _connect(self, host: str, port: int, timeout: Any) -> None:  # noqa: ARG002  # the clock has another
        self.sock = open_socket(host, port, self._watch, self._options)

    def _init_socket(self, socket_settings: Any, read_timeout: Any, write_timeout: Any) -> None:  # noqa: ARG002
        self._setup_transport()
        self._write(AMQP_PROTOCOL_HEADER)
