"""Sockets that go by a clock, with a timeout of their own."""

from __future__ import annotations

import os
import socket
import ssl
import time
from contextlib import contextmanager

import pytest

from event import _wire
from event._clocked import Clock
from servers.smtp import Authority, raw_server


@pytest.fixture
def pair():
    """Give two connected sockets, the first one with a clock."""
    listener = socket.create_server(("127.0.0.1", 0))
    with listener:
        watch = _wire.Watch(Clock(5, 5), "127.0.0.1", 5.0)
        ours = _wire.open_socket("127.0.0.1", listener.getsockname()[1], watch, None)
        theirs, _ = listener.accept()
    with ours, theirs:
        yield ours, theirs


@contextmanager
def over(seconds):
    """Hold that something is given up, and when."""
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        yield
    assert seconds <= time.monotonic() - start < seconds + 1


RECEIVE = [
    pytest.param(lambda sock: sock.recv(10), id="recv"),
    pytest.param(lambda sock: sock.recv_into(bytearray(10)), id="recv_into"),
]


@pytest.mark.parametrize("receive", RECEIVE)
@pytest.mark.parametrize(
    ("whole", "step", "own", "expected"),
    [
        pytest.param(0.1, 5, None, 0.1, id="the-whole"),
        pytest.param(5, 0.1, None, 0.1, id="a-step"),
        pytest.param(5, 5, 0.1, 0.1, id="its-own"),
        pytest.param(0.1, 5, 3, 0.1, id="the-whole-before-its-own"),
        pytest.param(5, 5, 0, 0, id="no-wait"),
        pytest.param(0, 5, None, 0, id="no-time-at-all"),
    ],
)
def test_a_wait_ends_with_what_ends_first(pair, receive, whole, step, own, expected):  # noqa: PLR0913  # a table
    ours, _ = pair
    ours.settimeout(own)
    ours.watch.clock = Clock(whole, step)
    with over(expected):
        receive(ours)
    assert ours.gettimeout() == own


@pytest.mark.parametrize("receive", RECEIVE)
def test_what_drips_does_not_make_the_whole_longer(pair, receive):
    ours, theirs = pair
    ours.watch.clock = Clock(0.3, 5)
    with over(0.3):
        while True:
            theirs.sendall(b"x")
            receive(ours)
            time.sleep(0.01)


def test_what_came_is_received_without_a_wait_too(pair):
    ours, theirs = pair
    theirs.sendall(b"abcd")
    assert ours.recv(1) == b"a"
    ours.settimeout(0)
    buffer = bytearray(5)
    assert (ours.recv_into(buffer, 1), buffer) == (1, b"b\0\0\0\0")
    assert (ours.recv_into(buffer), buffer) == (2, b"cd\0\0\0")


def test_sending_ends_with_the_clock_however_much_it_is(pair):
    ours, _ = pair
    ours.watch.clock = Clock(0.3, 5)
    with over(0.3):
        ours.sendall(bytes(64 << 20))


def test_between_two_uses_only_each_wait_has_an_end():
    watch = _wire.Watch(Clock(0, 0), "h", 3.0)
    with watch.by(Clock(5, 5)):
        assert watch.clock.left() > 3
    assert watch.clock.left() == 3
    with pytest.raises(ValueError, match="x"), watch.by(Clock(5, 5)):
        raise ValueError("x")
    assert watch.clock.left() == 3


def test_a_fork_lets_go_of_what_is_open_and_ends_nothing_for_its_parent(pair):
    ours, theirs = pair
    closed = socket.socket()
    closed.close()
    ours.watch.sockets = [closed, ours]
    with socket.socket(fileno=os.dup(ours.fileno())) as parents:
        ours.watch.abandon()
        assert ours.fileno() == -1
        with pytest.raises(OSError, match="Bad file descriptor"):
            ours.shutdown(socket.SHUT_RDWR)
        theirs.sendall(b"x")
        assert parents.recv(1) == b"x"


def test_a_system_that_cannot_tell_a_dead_connection_sooner_has_one_too(monkeypatch):
    monkeypatch.delattr(socket, "TCP_USER_TIMEOUT", raising=False)
    watch = _wire.Watch(Clock(5, 5), "h", 5.0)
    with (
        raw_server(lambda connection, stopped: connection.sendall(b"x")) as port,
        _wire.open_socket("127.0.0.1", port, watch, None) as sock,
    ):
        assert sock.recv(1) == b"x"


@pytest.mark.parametrize(
    ("host", "error"),
    [
        pytest.param("127.0.0.1", ssl.SSLCertVerificationError, id="not-trusted"),
        pytest.param("", ValueError, id="nobody-to-trust"),
    ],
)
def test_nothing_stays_open_where_tls_fails(tmp_path, monkeypatch, host, error):
    made = []
    create = _wire.connected
    monkeypatch.setattr(_wire, "connected", lambda *arguments: made.append(create(*arguments)) or made[0])
    monkeypatch.setattr(_wire.Socket, "close", lambda self: (made.append(self), socket.socket.close(self))[1])
    context = Authority(tmp_path).context("127.0.0.1")

    def serve(connection, stopped):
        with context.wrap_socket(connection, server_side=True):
            pass

    with raw_server(serve) as port, pytest.raises(error):
        _wire.open_socket("127.0.0.1", port, _wire.Watch(Clock(5, 5), host, 5.0), {"ssl_check_hostname": True})
    assert len(made) > 1
    assert [sock.fileno() for sock in made] == [-1] * len(made)


def test_a_file_that_the_url_names_and_that_is_missing_is_told_before_anything_is_connected():
    with pytest.raises(FileNotFoundError):
        _wire.open_socket("no-such-host.invalid", 1, _wire.Watch(Clock(5, 5), "h", 5.0), {"ssl_ca_certs": "/missing"})
