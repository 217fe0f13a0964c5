"""Servers that do not respond in time, close the connection, or do not speak SMTP."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import threading
import time

import pytest

from event._net import deadline, smtp
from helpers.mails import MIB, closed_event, event_with_files, handler_for, logged_warnings, silent
from servers.raw import raw_server
from servers.smtp import smtp_server

# Timeouts


def dripping(connection, stopped):
    """Send an endless greeting, byte by byte."""
    connection.sendall(b"220")
    while not stopped.wait(0.05):
        connection.sendall(b"-")


def dripping_lines(connection, stopped):
    connection.sendall(b"220-hi\r\n")
    while not stopped.wait(0.05):
        connection.sendall(b"220-hi\r\n")


def with_tls(tls, serve):
    def secured(connection, stopped):
        with tls.wrap_socket(connection, server_side=True) as wrapped:
            serve(wrapped, stopped)

    return secured


@pytest.mark.parametrize("serve", [silent, dripping, dripping_lines])
@pytest.mark.parametrize("tls", [pytest.param(True, id="TLS"), pytest.param(False, id="plain")])
def test_server_with_endless_replies_does_not_block(tls_context, monkeypatch, tmp_path, caplog, serve, tls):  # noqa: PLR0913
    if not tls:
        monkeypatch.setenv("E3_ENABLE_FEATURE", "smtp_nossl")
    threads = threading.active_count()
    sent = event_with_files(tmp_path, {"log": ("f", b"x")})
    with raw_server(with_tls(tls_context, serve) if tls else serve) as port:
        handler = handler_for(f"127.0.0.1:{port}", timeout=1.0)
        assert not handler.send_event(sent)  # without a timeout, it would not return
        assert threading.active_count() == threads + 1  # the server's

    assert "smtp: 127.0.0.1:" in logged_warnings(caplog)


def dripping_handshake(connection, stopped):
    """Begin a TLS record of 16 KiB (RFC 8446, section 5.1), and continue it byte by byte."""
    connection.sendall(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc")
    while not stopped.wait(0.05):
        connection.sendall(b"\x00")


@pytest.mark.parametrize("tls", [pytest.param(True, id="TLS"), pytest.param(False, id="plain")])
def test_server_that_reads_slowly_does_not_block(tls_context, monkeypatch, tmp_path, caplog, tls):
    if not tls:
        monkeypatch.setenv("E3_ENABLE_FEATURE", "smtp_nossl")
    received = []

    def serve(connection, stopped):
        for line in (b"220 hi\r\n", b"250 hi\r\n", b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n"):
            connection.sendall(line)
            if line[:3] != b"354":
                connection.recv(1000)
        while not stopped.wait(0.05):
            received.append(len(connection.recv(1 << 16)))

    with raw_server(with_tls(tls_context, serve) if tls else serve) as port:
        sent = event_with_files(tmp_path, {"big": ("big", bytes(14 * MIB))})
        assert not handler_for(f"127.0.0.1:{port}", timeout=1.0).send_event(sent)

    assert sum(received) < 14 * MIB  # the handler gave up before the end
    assert "smtp: 127.0.0.1:" in logged_warnings(caplog)


@pytest.mark.parametrize("serve", [silent, dripping_handshake])
def test_slow_tls_handshake_does_not_block(tls_context, caplog, serve):
    with raw_server(serve) as port:
        assert not handler_for(f"127.0.0.1:{port}", timeout=0.5).send_event(closed_event())

    assert re.search(f"127.0.0.1:{port}: .*(timed out|timeout has expired)", logged_warnings(caplog))


def test_dripping_server_leaves_time_for_the_next(tls_server, tls_context):
    with raw_server(with_tls(tls_context, dripping)) as port:
        handler = handler_for(f"127.0.0.1:{port}", tls_server, timeout=4.0)
        assert handler.send_event(closed_event())


def test_timeout_without_time_left_is_a_failure(tls_server, caplog):
    handler = handler_for(tls_server)
    handler.timeout = 0.0

    assert not handler.send_event(closed_event())

    assert "the total timeout has expired" in logged_warnings(caplog)


# The end of a session


def test_mail_counts_as_accepted_if_the_server_hangs_up_afterwards(monkeypatch, caplog):
    monkeypatch.setenv("E3_ENABLE_FEATURE", "smtp_nossl")
    received = []

    def serve(connection, _stopped):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection, connection.makefile("rb") as file:
            for line in (b"220 hi\r\n", b"250 hi\r\n", b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n"):
                for byte in line:
                    connection.sendall(bytes([byte]))  # a slow server is not an error
                file.readline() if line[:3] != b"354" else None
            while file.readline() != b".\r\n":
                pass
            received.append(True)
            connection.sendall(b"250 ok\r\n")

    with raw_server(serve) as port:
        assert handler_for(f"127.0.0.1:{port}").send_event(closed_event())

    assert received == [True]
    assert not caplog.records


def test_mail_counts_as_accepted_if_the_server_is_silent_at_quit(monkeypatch, tls_context):
    monkeypatch.setattr(smtp, "GOODBYE_TIMEOUT", 0.2)

    async def no_answer(*_args):
        await asyncio.Event().wait()

    with smtp_server(tls_context) as server:
        server.handle_QUIT = no_answer
        started = time.monotonic()
        assert handler_for(server, timeout=600.0).send_event(closed_event())

    assert time.monotonic() - started < 200  # without the limit, a single wait takes longer


def test_silence_at_quit_does_not_use_up_a_short_timeout():
    assert smtp.GOODBYE_TIMEOUT <= 5.0 / 4  # a quarter of --timeout in the recipes for GitHub and GitLab


# Invalid replies


def endless_lines(connection, stopped):
    connection.recv(1000)
    while not stopped.is_set():
        connection.sendall(b"250-X\r\n" * 10_000)


def endless_line(connection, stopped):
    connection.recv(1000)
    while not stopped.is_set():
        connection.sendall(b"250-" + b"x" * 100_000)


@pytest.mark.parametrize("serve", [endless_lines, endless_line])
def test_endless_reply_is_read_only_up_to_the_limit(monkeypatch, caplog, serve):
    monkeypatch.setenv("E3_ENABLE_FEATURE", "smtp_nossl")
    received = []
    real = deadline.Socket.recv_into

    def recv_and_count(self, *args):
        received.append(real(self, *args))
        return received[-1]

    monkeypatch.setattr(deadline.Socket, "recv_into", recv_and_count)

    def greeting(connection, stopped):
        connection.sendall(b"220 hi\r\n")
        serve(connection, stopped)

    with raw_server(greeting) as port:
        assert not handler_for(f"127.0.0.1:{port}").send_event(closed_event())

    assert sum(received) < 3 * smtp.MAX_REPLY
    assert re.search("an answer is longer than 65536 bytes|a line of an answer is too long", logged_warnings(caplog))


@pytest.mark.parametrize("greeting", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"1\r\n", b"\r\n"])
def test_server_of_another_protocol_is_reported(caplog, greeting):
    with raw_server(lambda connection, stopped: connection.sendall(greeting)) as port:
        assert not handler_for(f"smtp://127.0.0.1:{port}").send_event(closed_event())
    assert "the server does not answer as SMTP does; is this its port?" in logged_warnings(caplog)


def test_reply_with_an_overlong_line_is_a_temporary_failure(caplog):
    def serve(connection, stopped):
        connection.sendall(b"220 hi\r\n")
        connection.recv(1 << 16)
        connection.sendall(b"250 hi\r\n")
        connection.recv(1 << 16)
        connection.sendall(b"250 " + b"x" * 10_000 + b"\r\n")

    with raw_server(serve) as port:
        assert not handler_for(f"smtp://127.0.0.1:{port}").send_event(closed_event())
    assert "a line of an answer is too long" in logged_warnings(caplog)


def test_interrupt_while_connecting_propagates_and_closes_the_socket(monkeypatch):
    def interrupted(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(ssl.SSLContext, "wrap_socket", interrupted)
    with raw_server(silent) as port, pytest.raises(KeyboardInterrupt):
        handler_for(f"127.0.0.1:{port}").send_event(closed_event())
