"""Connections each of whose waits ends with a clock: a server that drips a byte now and then does not hold us.

A socket's own timeout bounds a single wait. The timeout of these shrinks towards the deadline of the whole.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401  # else loaded by the first look-up of a host
import socket
import ssl
import time
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Any

_CHUNK = 1 << 16  # bytes given to the network in one step


class Clock:
    """The time that a talk over the network may take.

    :param whole: seconds, from now
    :param step: seconds for one wait of it
    """

    def __init__(self, whole: float, step: float) -> None:
        self.deadline = time.monotonic() + whole
        self.step = step

    def left(self) -> float:
        """Return the seconds that the next wait may take.

        :raises TimeoutError: none are left
        """
        left = min(self.step, self.deadline - time.monotonic())
        if left <= 0:
            raise TimeoutError("the time for the whole sending is over")
        return left

    def shorten(self, seconds: float) -> None:
        """End no later than some seconds from now."""
        self.deadline = min(self.deadline, time.monotonic() + seconds)


class Socket(socket.socket):
    """A socket each of whose waits ends with the clock."""

    clock: Clock

    def connect(self, addr: Any) -> None:
        """Connect, as long as the clock lets it."""
        with self._limited():
            super().connect(addr)

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """Receive, as long as the clock lets it."""
        with self._limited():
            return super().recv(buflen, flags)

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
        """Receive, as long as the clock lets it."""
        with self._limited():
            return super().recv_into(buffer, nbytes or len(buffer), flags)

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send all, as long as the clock lets it."""
        # In pieces: one timeout for 40 MiB would be too short on a slow line or too long on a dead one.
        view = memoryview(data)
        while view:
            with self._limited():
                sent = self.send(view[:_CHUNK], flags)
            view = view[sent:]

    @contextmanager
    def _limited(self) -> Generator[None]:
        """Have a wait within the block end with the clock."""
        self.settimeout(self.clock.left())
        yield


class TLSSocket(Socket, ssl.SSLSocket):
    """The same over TLS."""

    def do_handshake(self, block: bool = False) -> None:
        """Agree on the keys, as long as the clock lets it."""
        with self._limited():
            super().do_handshake(block)


def connected(host: str, port: int, clock: Clock, context: ssl.SSLContext | None) -> socket.socket:
    """Return a connected socket, after the TLS handshake where there is a context.

    :raises OSError: no address of the host could be reached, or its certificate is not to be trusted
    """
    error: OSError | None = None
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        sock = Socket(family, kind, protocol)
        sock.clock = clock
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a talk of short lines waits for each of them
            sock.connect(address)
            return context.wrap_socket(sock, server_hostname=host) if context else sock
        except OSError as raised:
            sock.close()
            error = raised
            if isinstance(raised, ssl.SSLError):
                break  # the host is there; another of its addresses has no better certificate
        except BaseException:
            sock.close()
            raise
    raise error or OSError(f"{host} has no address")
