"""Responses, and the retries that they lead to."""

from __future__ import annotations

import json

import pytest
from standardwebhooks import Webhook

import event
from event._outbox import Outbox
from event.handler.http import HTTPHandler
from helpers.delivering import deliver
from helpers.webhooks import SECRET
from servers.http import Answer, http_server
from servers.raw import raw_server

# Status


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_status_2xx_is_success(status):
    with http_server(Answer(status, {}, b"")) as server:
        assert HTTPHandler(server.url).send_event(event.Event("compile"))


@pytest.mark.parametrize("status", [302, 303, 307, 407, 408, 421, 425, 429, 500, 501, 502, 503, 504, 599])
def test_temporary_error_status_is_retried_later(caplog, status):
    with http_server(status) as server:
        assert not HTTPHandler(server.url).send_event(event.Event("compile"))
        assert len(server.requests) == 1
    assert f"http: {server.url}: {status}" in caplog.text


@pytest.mark.parametrize("status", [300, 301, 304, 308, 400, 401, 403, 404, 405, 410, 413, 422])
def test_permanent_error_status_is_a_permanent_failure(status):
    with (
        http_server(Answer(status, {"Location": "/elsewhere", "Retry-After": "0"}, b"")) as server,
        pytest.raises(event.PermanentError, match=rf"^http: {server.url}: {status} "),
    ):
        HTTPHandler(server.url).send_event(event.Event("compile"))
    assert [request.path for request in server.requests] == ["/"]


# Retry-After


def test_retry_after_within_the_timeout_is_respected():
    busy = [Answer(503, {"Retry-After": "0"}), Answer(429, {"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"})]
    with http_server(*busy, 200) as server:
        assert HTTPHandler(server.url, "json", SECRET).send_event(event.Event("compile"))
    assert len({request.headers["webhook-id"] for request in server.requests}) == 1
    assert len({request.body for request in server.requests}) == 1
    assert len(server.requests) == 3
    for request in server.requests:
        Webhook(SECRET).verify(request.body, request.headers)


@pytest.mark.parametrize(
    "pause",
    [
        pytest.param("3600", id="too-long"),
        pytest.param("9" * 400, id="huge-number"),
        pytest.param("Fri, 31 Dec 9999 23:59:59 GMT", id="date"),
        pytest.param("Fri, 99 Foo 9999 23:59:59 GMT", id="invalid-date"),
        pytest.param("soon", id="words"),
    ],
)
def test_event_is_not_retried_if_retry_after_exceeds_the_timeout(caplog, pause):
    with http_server(Answer(503, {"Retry-After": pause}), 200) as server:
        assert not HTTPHandler(server.url).send_event(event.Event("compile"))
        assert len(server.requests) == 1
    assert "503 Service Unavailable" in caplog.text


def test_retry_after_of_zero_seconds_does_not_flood_the_server():
    with http_server(Answer(503, {"Retry-After": "0"})) as server:
        assert not HTTPHandler(server.url, timeout=1).send_event(event.Event("compile"))
    assert len(server.requests) <= 4  # after 0, 0.1, 0.3 and 0.7 seconds


# Bodies


def test_endless_response_body_does_not_change_the_result():
    def serve(connection, stopped):
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while not stopped.is_set():
            connection.sendall(b"x" * 65536)

    with raw_server(serve) as port:
        assert HTTPHandler(f"http://127.0.0.1:{port}").send_event(event.Event("compile"))


def test_truncated_response_body_does_not_change_the_result():
    def serve(connection, stopped):
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx")
        connection.close()

    with raw_server(serve) as port:
        assert HTTPHandler(f"http://127.0.0.1:{port}").send_event(event.Event("compile"))


def test_missing_response_body_does_not_change_the_result(monkeypatch):
    monkeypatch.setattr("event._net.connection._BODY_TIMEOUT", 0.05)

    def serve(connection, stopped):
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
        stopped.wait()

    with raw_server(serve) as port:
        assert HTTPHandler(f"http://127.0.0.1:{port}").send_event(event.Event("compile"))


# The outbox


def test_retry_after_status_503_has_the_same_id(tmp_path):
    with http_server(503, 200) as server:
        manager = event.EventManager(outbox=tmp_path / "outbox")
        manager.add_handler("http", server.url, secret=SECRET)
        with event.Event("compile", uid="42") as made:
            made.target = "arm"
        assert not manager.send_event(made)
        outbox = Outbox(manager.outbox)
        ((_, outcome),) = deliver(outbox, everything=True)
        assert outcome
        assert [*deliver(outbox, everything=True)] == []
    first, second = server.requests
    assert first.body == second.body
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == json.loads(first.body)["id"]
    Webhook(SECRET).verify(second.body, second.headers)


def test_permanently_refused_event_moves_to_failed(tmp_path):
    with http_server(404) as server:
        manager = event.EventManager(outbox=tmp_path / "outbox")
        manager.add_handler("http", server.url)
        (delivery,) = manager.dispatch(event.Event("compile"))
        assert delivery.permanent
        assert [*deliver(Outbox(manager.outbox), everything=True)] == []
    assert len(server.requests) == 1
