"""Deadlines, and sockets that respect them.

A socket's own timeout limits a single operation, so a server that sends a byte now and then could block the caller
without limit. The timeout of these sockets is the time that is left until the deadline.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401  # otherwise the first host name lookup imports it
import socket
import ssl
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SEND_CHUNK = 1 << 16  # bytes sent in one operation
_CONNECT = 3.0  # seconds for an address that is not the last one; two lost SYNs are repeated within that time


class Deadline:
    """The time that an exchange over the network may take.

    :param total: seconds, from now
    :param per_operation: seconds for one wait; without it, only `total` counts
    """

    __slots__ = ("at", "per_operation")

    def __init__(self, total: float, per_operation: float | None = None) -> None:
        self.at = time.monotonic() + total
        self.per_operation = total if per_operation is None else per_operation

    def left(self) -> float:
        """Return the seconds that the next wait may take.

        :raises TimeoutError: the deadline has passed
        """
        left = min(self.per_operation, self.at - time.monotonic())
        if left <= 0:
            raise TimeoutError("the total timeout has expired")
        return left

    def allows(self, seconds: float) -> bool:
        """Return whether a pause ends before the deadline."""
        return time.monotonic() + seconds < self.at

    def shortened(self, seconds: float) -> Deadline:
        """Return this deadline, or one that is `seconds` from now if that is earlier."""
        return Deadline(min(seconds, self.at - time.monotonic()), self.per_operation)


class Socket(socket.socket):
    """A socket whose operations raise TimeoutError at a deadline."""

    deadline: Deadline

    def connect(self, addr: Any) -> None:
        """Connect before the deadline."""
        self.settimeout(self.deadline.left())
        super().connect(addr)

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
        """Receive before the deadline."""
        self.settimeout(self.deadline.left())
        return super().recv_into(buffer, nbytes or len(buffer), flags)

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send all before the deadline."""
        # In chunks: one timeout for 40 MiB would be too short on a slow line or too long on a dead one.
        view = memoryview(data)
        while view:
            self.settimeout(self.deadline.left())
            view = view[self.send(view[:_SEND_CHUNK], flags) :]


class TLSSocket(Socket, ssl.SSLSocket):
    """A `Socket` over TLS."""

    def do_handshake(self, block: bool = False) -> None:
        """Complete the TLS handshake before the deadline."""
        self.settimeout(self.deadline.left())
        super().do_handshake(block)


def connect(host: str, port: int, deadline: Deadline) -> Socket:
    """Return a connected socket. If the host has several addresses, each gets a share of the time.

    :raises OSError: no address of the host could be reached
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    error: OSError | None = None
    for number, (family, kind, protocol, _, address) in enumerate(found, 1):
        others = len(found) - number
        share = deadline.shortened(min(_CONNECT, deadline.left() / (others + 1))) if others else deadline
        sock = Socket(family, kind, protocol)
        sock.deadline = share
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a dialogue of short lines waits for each
            sock.connect(address)
        except BaseException as raised:
            sock.close()
            if not isinstance(raised, OSError):
                raise
            error = raised
        else:
            sock.deadline = deadline
            return sock
    raise error or OSError(f"{host} has no address")


def start_tls(sock: Socket, context: ssl.SSLContext, host: str) -> TLSSocket:
    """Start TLS on a socket, and return the TLS socket. The socket's deadline applies to the handshake.

    :param context: its `sslsocket_class` becomes `TLSSocket`
    :raises OSError: the handshake failed, or the certificate is not trusted; the socket is closed
    """
    context.sslsocket_class = TLSSocket
    deadline = sock.deadline
    # The class needs the deadline before the handshake, which would otherwise happen within wrap_socket. A trailing dot
    # is not part of the name that a certificate is for (RFC 6066, 3).
    secured: Any = sock
    try:
        secured = context.wrap_socket(sock, server_hostname=host.rstrip("."), do_handshake_on_connect=False)
        secured.deadline = deadline
        secured.do_handshake()
    except BaseException:
        secured.close()
        raise
    return secured  # type: ignore[no-any-return]  # see sslsocket_class
