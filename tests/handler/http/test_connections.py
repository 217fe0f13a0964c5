"""Connections: servers that fail, reuse, threads, forks, TLS and proxies."""

from __future__ import annotations

import base64
import copy
import itertools
import json
import os
import pickle
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

import event
from event.handler.http import HTTPHandler
from helpers.webhooks import SECRET, TOKEN
from servers.http import http_server
from servers.raw import raw_server
from servers.tls import Authority

# Servers that fail


def drip(connection, stopped):
    connection.recv(65536)
    for byte in itertools.chain(b"HTTP/1.1 200 OK\r\n", itertools.cycle(b"x-drip: 1\r\n")):
        connection.sendall(bytes([byte]))
        if stopped.wait(0.02):
            return


def stay_silent(connection, stopped):
    stopped.wait()


def disconnect(connection, stopped):
    connection.recv(65536)
    connection.close()


def answer_without_http(connection, stopped):
    connection.recv(65536)
    connection.sendall(TOKEN.encode() + b"\r\n\r\n")
    connection.close()


@pytest.mark.parametrize(
    ("serve", "reason"),
    [
        pytest.param(drip, "timed out|total timeout has expired", id="dripping"),
        pytest.param(stay_silent, "timed out|total timeout has expired", id="silent"),
        pytest.param(disconnect, "Remote end closed connection|connection reset by peer", id="disconnecting"),
        pytest.param(answer_without_http, "the server's answer is not valid HTTP$", id="not-http"),
    ],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_misbehaving_server_is_a_failure(caplog, serve, reason, scheme):
    with raw_server(serve) as port:
        handler = HTTPHandler(f"{scheme}://127.0.0.1:{port}", timeout=0.3 if serve in (drip, stay_silent) else 30)
        assert not handler.send_event(event.Event("compile"))
    assert len(caplog.records) == 1
    message, _, event_text = caplog.records[0].message.partition("; ")
    assert re.fullmatch("<Event 'compile' .*> is not delivered", event_text)
    assert f"http: {scheme}://127.0.0.1:{port}: " in message
    assert TOKEN not in message
    if scheme == "http":
        assert re.search(reason, message)


def test_dripping_tls_server_is_a_failure_at_the_timeout(tmp_path, monkeypatch, caplog):
    authority = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", authority.path)
    context = authority.context("127.0.0.1")

    def serve(connection, stopped):
        with context.wrap_socket(connection, server_side=True) as secured:
            drip(secured, stopped)

    with raw_server(serve) as port:
        assert not HTTPHandler(f"https://127.0.0.1:{port}", timeout=0.5).send_event(event.Event("compile"))
    assert re.search("timed out|total timeout has expired", caplog.text)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        pytest.param("http://127.0.0.1:{port}", ": connection refused; ", id="unused-port"),
        pytest.param("http://no-such-host.invalid", ": name or service not known; ", id="unknown-host"),
        pytest.param(
            "http://" + "a" * 64 + ".invalid", "(LocationParseError|Unicode\\w*Error|gaierror)", id="invalid-host"
        ),
    ],
)
def test_refused_connection_is_a_failure_with_its_reason(caplog, url, reason):
    with http_server() as server:
        port = server.port
    assert not HTTPHandler(url.format(port=port)).send_event(event.Event("compile"))
    assert re.search(reason, caplog.text)


# Reuse, threads and forks


def test_one_connection_serves_many_events(server):
    handler = HTTPHandler(server.url)
    assert all(handler.send_event(event.Event("compile")) for _ in range(5))
    assert {request.connection for request in server.requests} == {1}


def test_many_threads_share_a_handler(server):
    handler = HTTPHandler(server.url, "json")
    sent = [event.Event("compile", number=number) for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(handler.send_event, sent))
    assert sorted(json.loads(request.body)["number"] for request in server.requests) == [*range(40)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="platform: has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_forked_process_uses_its_own_connection(server):
    handler = HTTPHandler(server.url)
    assert handler.send_event(event.Event("compile"))
    child = os.fork()
    if child == 0:
        os._exit(0 if handler.send_event(event.Event("compile")) else 1)  # pragma: no cover  # in the child
    assert os.waitpid(child, 0)[1] == 0
    assert handler.send_event(event.Event("compile"))
    assert [request.connection for request in server.requests] == [1, 2, 1]


@pytest.mark.parametrize(
    ("copied", "connections"),
    [
        pytest.param(copy.copy, [1, 1], id="copy"),
        pytest.param(copy.deepcopy, [1, 2], id="deepcopy"),
        pytest.param(lambda handler: pickle.loads(pickle.dumps(handler)), [1, 2], id="pickle"),
    ],
)
def test_copied_handler_sends(server, copied, connections):
    handler = HTTPHandler(server.url, "json", SECRET, timeout=7)
    assert handler.send_event(event.Event("compile"))
    copy_of_handler = copied(handler)
    assert copy_of_handler.send_event(event.Event("compile"))
    assert copy_of_handler.encode_config() == handler.encode_config()
    assert [request.connection for request in server.requests] == connections


# TLS


def test_private_certificate_authority_is_trusted_if_configured(tmp_path, monkeypatch):
    authority = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", authority.path)
    with http_server(tls=authority.context("127.0.0.1")) as server:
        handler = HTTPHandler(server.url, "json", SECRET)
        assert handler.send_event(event.Event("compile"))
        assert handler.send_event(event.Event("compile"))
    assert [request.connection for request in server.requests] == [1, 1]


@pytest.mark.parametrize(
    ("names", "trusted", "reason"),
    [
        pytest.param(["127.0.0.1"], False, "SSL_CERT_FILE may name", id="unknown-authority"),
        pytest.param(["elsewhere.example"], True, "certificate verify failed", id="other-host"),
    ],
)
def test_nothing_is_sent_to_an_untrusted_server(tmp_path, monkeypatch, caplog, names, trusted, reason):  # noqa: PLR0913
    authority = Authority(tmp_path)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", authority.path)
    with http_server(tls=authority.context(*names)) as server:
        assert not HTTPHandler(server.url).send_event(event.Event("compile"))
    assert reason in caplog.text
    assert server.requests == []


# Proxies


@pytest.mark.parametrize(
    ("variable", "bare"), [("http_proxy", False), ("http_proxy", True), ("all_proxy", False)], ids=str
)
def test_proxy_in_the_environment_is_used(server, monkeypatch, variable, bare):
    proxy = server.url.replace("//", f"//ci:{TOKEN}@")
    monkeypatch.setenv(variable, proxy.partition("//")[2] if bare else proxy)
    handler = HTTPHandler("http://hooks.invalid/a?b")
    assert handler.send_event(event.Event("compile"))
    (request,) = server.requests
    assert request.path == "http://hooks.invalid/a?b"
    assert request.headers["proxy-authorization"] == "Basic " + base64.b64encode(f"ci:{TOKEN}".encode()).decode()
    monkeypatch.setenv("no_proxy", "hooks.invalid")
    assert not handler.send_event(event.Event("compile"))
    assert len(server.requests) == 1


def test_proxy_without_a_user_gets_no_credentials(server, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url)
    assert HTTPHandler("http://hooks.invalid/").send_event(event.Event("compile"))
    assert "proxy-authorization" not in server.requests[0].headers


@pytest.mark.parametrize("proxy", ["socks5://ci:passw0rd@127.0.0.1:1", "http://[ci:passw0rd@"])
def test_invalid_proxy_is_a_failure(monkeypatch, caplog, proxy):
    monkeypatch.setenv("https_proxy", proxy)
    assert not HTTPHandler("https://hooks.invalid/").send_event(event.Event("compile"))
    assert "http: https://hooks.invalid: " in caplog.text
    assert "passw0rd" not in caplog.text
