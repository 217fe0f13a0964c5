"""Responses of the receiver, and receivers that fail."""

from __future__ import annotations

import base64
import logging
import re
import socket
import threading

import pytest

import event
from event.handler.otel import OTelHandler
from helpers.events import closed_event
from helpers.spans import TOKEN
from servers.otlp import partial_success
from servers.raw import raw_server

# Responses


def test_busy_receiver_is_retried(receiver, caplog):
    receiver.answers = [(503, {"Retry-After": "0"}, b"")]
    assert OTelHandler(receiver.endpoint).send_event(closed_event())
    assert len(receiver.requests) == 2
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        pytest.param(500, "500 Internal Server Error", id="500"),
        pytest.param((503, {"Retry-After": "3600"}, b""), "503 Service Unavailable", id="503-for-an-hour"),
        pytest.param(408, "408 Request Timeout", id="408"),
        pytest.param(
            (500, {"Content-Type": "text/plain"}, b"out\n of\x00disk"),
            "500 Internal Server Error: out of disk",
            id="text",
        ),
        pytest.param(
            (500, {}, b"\x08\x0d\x12\x04full"),  # google.rpc.Status: code 13, message "full"
            "500 Internal Server Error: full",
            id="status-message",
        ),
        pytest.param((500, {}, b"\xff\xff"), "500 Internal Server Error", id="malformed-message"),
        pytest.param((302, {"Location": "/elsewhere"}, b""), "302 Found", id="redirect"),
    ],
)
def test_temporary_failure_returns_false_and_logs_one_warning(receiver, caplog, answer, reason):
    receiver.answers = [answer]
    made = closed_event()
    assert not OTelHandler(receiver.endpoint).send_event(made)
    ((name, level, text),) = caplog.record_tuples
    assert (name, level) == ("event", logging.WARNING)
    assert text == f"otel: {receiver.endpoint}: {reason}; {made!r} is not delivered"
    assert len(receiver.requests) == 1


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        pytest.param(400, "400 Bad Request", id="400"),
        pytest.param((401, {"Content-Type": "text/plain"}, b"no"), "401 Unauthorized: no", id="401"),
        pytest.param(partial_success(1, "too old"), "the receiver rejected the span: too old", id="rejected"),
    ],
)
def test_permanent_refusal_is_a_permanent_error(receiver, caplog, answer, reason):
    receiver.answers = [answer]
    with pytest.raises(event.PermanentError, match=re.escape(f"otel: {receiver.endpoint}: {reason}") + "$"):
        OTelHandler(receiver.endpoint).send_event(closed_event())
    assert len(receiver.requests) == 1
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("answer", "messages"),
    [
        pytest.param(partial_success(0, "slow\ndown"), ["otel: the receiver warns: slow down"], id="warning"),
        pytest.param(partial_success(0, ""), [], id="empty"),
        pytest.param((200, {}, b"\xff"), [], id="malformed-message"),
        pytest.param((200, {"Content-Type": "application/json"}, b"{}"), [], id="json"),
        pytest.param(202, [], id="202"),
    ],
)
def test_success_status_is_success_with_any_body(receiver, caplog, answer, messages):
    receiver.answers = [answer]
    assert OTelHandler(receiver.endpoint).send_event(closed_event())
    assert [record.getMessage() for record in caplog.records] == messages


# Secrets


def test_token_that_the_receiver_echoes_is_masked(receiver, monkeypatch, caplog):
    monkeypatch.setenv("HEADERS", f"authorization=Bearer {TOKEN}")
    receiver.answers = [(500, {"Content-Type": "text/plain"}, f"no such token {TOKEN}".encode())]
    assert not OTelHandler(receiver.endpoint, headers="env:HEADERS").send_event(closed_event())
    assert "no such token ***" in caplog.text
    assert TOKEN not in caplog.text


def test_credentials_that_the_receiver_echoes_are_masked(receiver, monkeypatch, caplog):
    monkeypatch.setenv("WHERE", f"http://u:{TOKEN}1@x.localhost/v1/traces?key={TOKEN}2")
    monkeypatch.setenv("HEADERS", f"cookie=id={TOKEN}3;authorization=none")
    monkeypatch.setenv("HTTP_PROXY", receiver.endpoint.replace("://", f"://p:{TOKEN}4@"))
    receiver.echo = True
    with pytest.raises(event.PermanentError) as caught:
        OTelHandler("env:WHERE", headers="env:HEADERS").send_event(closed_event())
    _, sent = receiver.requests[0]
    account, proxy = (sent[name].split()[1] for name in ("Authorization", "Proxy-Authorization"))
    assert [base64.b64decode(text).decode() for text in (account, proxy)] == [f"u:{TOKEN}1", f"p:{TOKEN}4"]
    assert "Host: x.localhost" in str(caught.value)
    assert not [secret for secret in (account[4:], proxy[4:], TOKEN) if secret in f"{caught.value} {caplog.text}"]


def test_netrc_password_is_not_sent_to_the_receiver(receiver, home):
    netrc = home / ".netrc"
    netrc.write_text("default login ci password passw0rd\n")
    netrc.chmod(0o600)
    assert OTelHandler(receiver.endpoint).send_event(closed_event())
    assert "Authorization" not in receiver.requests[0][1]


def test_logs_do_not_contain_the_url(receiver, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("COLLECTOR", f"{receiver.endpoint}/{TOKEN}?k={TOKEN}")
    assert OTelHandler("env:COLLECTOR").send_event(closed_event())
    assert TOKEN not in caplog.text


# Connections


def test_missing_receiver_is_tried_once_without_a_pause(monkeypatch, caplog):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("COLLECTOR", f"http://u:{TOKEN}@127.0.0.1:{port}/{TOKEN}?k={TOKEN}")
    waits = []
    monkeypatch.setattr(threading.Event, "wait", lambda self, timeout=None: waits.append(timeout))
    assert not OTelHandler("env:COLLECTOR").send_event(closed_event())
    (record,) = caplog.records
    assert ": connection refused; " in record.getMessage()
    assert TOKEN not in caplog.text
    assert waits == []


def test_dropped_connection_is_a_failure(caplog):
    with raw_server(lambda connection, stopped: connection.close()) as port:
        assert not OTelHandler(f"http://127.0.0.1:{port}").send_event(closed_event())
    assert re.search(r": (Remote end closed|connection reset|broken pipe).*may speak OTLP", caplog.text)


def test_malformed_http_response_is_a_failure(caplog):
    def serve(connection, stopped):
        connection.recv(1 << 16)
        connection.sendall(b"220 mail.test ESMTP\r\n\r\n")
        connection.close()

    with raw_server(serve) as port:
        assert not OTelHandler(f"http://127.0.0.1:{port}").send_event(closed_event())
    assert ": the server's answer is not valid HTTP; " in caplog.text


def dripping_server(start=b""):
    """Run a server that sends `start`, and then endlessly a byte now and then."""

    def serve(connection, stopped):
        connection.sendall(start)
        while not stopped.wait(0.02):
            connection.sendall(b"x")

    return raw_server(serve)


def test_stalled_response_body_does_not_change_the_result(monkeypatch, caplog):
    monkeypatch.setattr("event._net.connection._BODY_TIMEOUT", 0.05)
    with dripping_server(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n") as port:
        assert OTelHandler(f"http://127.0.0.1:{port}").send_event(closed_event())
    assert caplog.text == ""


def test_dripping_receiver_does_not_block_the_send(caplog):
    handler = OTelHandler()
    handler.timeout = 0.3
    with dripping_server() as port:
        handler.endpoint = f"http://127.0.0.1:{port}"
        assert not handler.send_event(closed_event())
    assert re.search(r": .*(the total timeout has expired|timed out)", caplog.text)


def test_long_response_is_a_success(receiver):
    receiver.answers = [(200, {"Content-Type": "text/plain"}, b"x" * (1 << 20))]
    assert OTelHandler(receiver.endpoint).send_event(closed_event())


@pytest.mark.parametrize("timeout", [pytest.param("0", id="zero"), pytest.param("-1", id="negative")])
def test_timeout_without_time_left_is_a_failure(receiver, monkeypatch, caplog, timeout):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", timeout)
    assert not OTelHandler(receiver.endpoint).send_event(closed_event())
    assert ": the total timeout has expired" in caplog.text


# gRPC


def test_grpc_port_is_a_failure(caplog):
    def serve(connection, stopped):
        connection.sendall(bytes.fromhex("000006040000000000000500004000"))
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1 << 16):  # closing with unread data would reset the connection
            pass
        connection.close()

    with raw_server(serve) as port:
        assert not OTelHandler(f"http://127.0.0.1:{port}").send_event(closed_event())
    assert ": the port speaks HTTP/2, as gRPC does; expected HTTP/1.1" in caplog.text


def test_failure_at_the_grpc_port_is_explained(monkeypatch, caplog):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setattr("event._net.otlp._GRPC_PORT", port)
    assert not OTelHandler(f"http://127.0.0.1:{port}").send_event(closed_event())
    assert "this port may speak OTLP over gRPC, the one for HTTP is usually 4318" in caplog.text
