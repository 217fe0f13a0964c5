"""Deadlines: every wait ends."""

from __future__ import annotations

import socket
import time

import pytest

from event._net import deadline as deadlines
from event._net.deadline import Deadline, connect


def test_wait_ends_at_the_operation_or_total_timeout():
    assert Deadline(100, 5).left() <= 5
    assert 5 < Deadline(100).left() <= 100
    assert Deadline(3, 5).left() <= 3


def test_passed_deadline_leaves_no_time():
    with pytest.raises(TimeoutError, match="the total timeout has expired"):
        Deadline(0).left()


def test_a_shortened_deadline_is_never_later():
    assert Deadline(100).shortened(5).left() <= 5
    assert Deadline(3).shortened(5).left() <= 3


def test_a_pause_is_allowed_if_it_ends_in_time():
    assert Deadline(100).allows(1)
    assert not Deadline(100).allows(101)


def full_listener():
    """Return a listener whose backlog is full, so that it swallows a SYN, and what fills it."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    fill = []
    for _ in range(4):
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(listener.getsockname())
        fill.append(sock)
    return listener, fill


@pytest.mark.skipif("sys.platform != 'linux'", reason="platform: others refuse a connection that has no room")
def test_unresponsive_address_leaves_time_for_the_next(monkeypatch):
    listener, fill = full_listener()
    with socket.create_server(("127.0.0.1", 0)) as server:
        addresses = [listener.getsockname(), server.getsockname()]
        found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", address) for address in addresses]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: found)
        monkeypatch.setattr(deadlines, "_CONNECT", 0.1)
        begin = time.monotonic()
        with connect("two.test", 80, Deadline(60)) as sock:
            assert sock.getpeername() == server.getsockname()
        assert time.monotonic() - begin < 50
    for sock in [listener, *fill]:
        sock.close()


def test_error_of_the_last_address_is_raised(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        gone = server.getsockname()
    found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", gone)] * 2
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: found)
    with pytest.raises(ConnectionRefusedError):
        connect("two.test", 80, Deadline(30))


def test_a_host_without_an_address_is_an_error(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: [])
    with pytest.raises(OSError, match=r"none\.test has no address"):
        connect("none.test", 80, Deadline(30))


def test_an_interrupt_closes_the_socket(monkeypatch):
    def interrupted(self, address):
        raise KeyboardInterrupt

    monkeypatch.setattr(deadlines.Socket, "connect", interrupted)
    with pytest.raises(KeyboardInterrupt):  # an open socket would be a ResourceWarning, hence an error here
        connect("127.0.0.1", 1, Deadline(30))


def test_bytes_are_sent_and_received_before_the_deadline():
    with socket.create_server(("127.0.0.1", 0)) as server, connect(*server.getsockname(), Deadline(30)) as near:
        far, _ = server.accept()
        with far:
            far.sendall(b"hello")
            assert near.recv_into(received := bytearray(5)) == 5
            assert received == b"hello"
            near.deadline = Deadline(0)
            for use in (lambda: near.recv_into(bytearray(1)), lambda: near.sendall(b"x")):
                with pytest.raises(TimeoutError):
                    use()
