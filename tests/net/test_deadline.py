"""Deadlines, and sockets whose waits end at a deadline."""

from __future__ import annotations

import socket

import pytest

from event._net import deadline as deadlines
from event._net.deadline import Deadline, connect


def test_next_wait_is_limited_by_both_timeouts():
    assert Deadline(100, 5).left() <= 5
    assert 5 < Deadline(100).left() <= 100
    assert Deadline(3, 5).left() <= 3


def test_passed_deadline_leaves_no_time():
    with pytest.raises(TimeoutError, match="the total timeout has expired"):
        Deadline(0).left()


def test_shortened_deadline_is_never_later():
    assert Deadline(100).shortened(5).left() <= 5
    assert Deadline(3).shortened(5).left() <= 3


def test_pause_is_allowed_if_it_ends_before_the_deadline():
    assert Deadline(100).allows(1)
    assert not Deadline(100).allows(101)


def resolve_to(addresses, monkeypatch):
    """Let every host name have these addresses."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", address) for address in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_options: found)


def full_listener():
    """Return a listener that ignores connections because its backlog is full, and the sockets that fill it."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    clients = []
    for _ in range(4):
        client = socket.socket()
        client.setblocking(False)
        client.connect_ex(listener.getsockname())
        clients.append(client)
    return listener, clients


@pytest.mark.skipif("sys.platform != 'linux'", reason="platform: others refuse a connection if the backlog is full")
def test_unresponsive_address_leaves_time_for_the_next(monkeypatch):
    listener, clients = full_listener()
    with socket.create_server(("127.0.0.1", 0)) as server:
        addresses = [listener.getsockname(), server.getsockname()]
        resolve_to(addresses, monkeypatch)
        monkeypatch.setattr(deadlines, "_CONNECT", 0.1)
        with connect("two.test", 80, Deadline(60)) as sock:
            assert sock.getpeername() == server.getsockname()
    for sock in [listener, *clients]:
        sock.close()


def test_error_of_the_last_address_is_raised(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = server.getsockname()
    resolve_to([closed] * 2, monkeypatch)
    with pytest.raises(ConnectionRefusedError):
        connect("two.test", 80, Deadline(30))


def test_host_without_an_address_is_an_error(monkeypatch):
    resolve_to([], monkeypatch)
    with pytest.raises(OSError, match=r"none\.test has no address"):
        connect("none.test", 80, Deadline(30))


def test_interrupted_connect_closes_the_socket(monkeypatch):
    def interrupted(self, address):
        raise KeyboardInterrupt

    monkeypatch.setattr(deadlines.Socket, "connect", interrupted)
    with pytest.raises(KeyboardInterrupt):  # an open socket would be a ResourceWarning, which is an error here
        connect("127.0.0.1", 1, Deadline(30))


def test_bytes_are_sent_and_received_before_the_deadline():
    with socket.create_server(("127.0.0.1", 0)) as server, connect(*server.getsockname(), Deadline(30)) as client:
        connection, _ = server.accept()
        with connection:
            connection.sendall(b"hello")
            assert client.recv_into(received := bytearray(5)) == 5
            assert received == b"hello"
            client.sendall(b"bye")
            assert connection.recv(3) == b"bye"
            client.deadline = Deadline(0)
            for use in (lambda: client.recv_into(bytearray(1)), lambda: client.sendall(b"x")):
                with pytest.raises(TimeoutError):
                    use()
