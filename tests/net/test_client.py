"""The HTTP client: persistent connections, proxies, TLS, and servers that misbehave."""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
import threading
from contextlib import contextmanager
from functools import partial

import pytest

from event import EventError
from event._backoff import backoff
from event._net import http
from event._net.deadline import Deadline
from event._net.http import Client, Target
from servers.http import Answer, http_server
from servers.raw import raw_server
from servers.tls import Authority

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture
def client():
    client = Client()
    yield client
    client.close()


def target(url):
    return Target.parse(url, "the URL")


def post(client, url, body=b"{}", headers=None):
    return client.post(target(url), body, headers or {}, Deadline(30))


def read_request(connection):
    """Return the next request on a connection; empty if the client has closed it."""
    received = b""
    while b"\r\n\r\n" not in received:
        chunk = connection.recv(65536)
        if not chunk:
            return b""
        received += chunk
    head, _, body = received.partition(b"\r\n\r\n")
    length = int(re.search(rb"content-length: (\d+)", head, re.IGNORECASE)[1])
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


# URLs


@pytest.mark.parametrize(
    ("url", "shown", "path"),
    [
        pytest.param("http://h", "http://h", "/", id="bare"),
        pytest.param("HTTPS://H.test:443/a", "https://h.test", "/a", id="default-port"),
        pytest.param("http://h:8080/a?b=c#d", "http://h:8080", "/a?b=c", id="query-and-fragment"),
        pytest.param("http://[::1]:8080/", "http://[::1]:8080", "/", id="ipv6"),
        pytest.param("http://h/ä%20|?q=é", "http://h", "/%C3%A4%20%7C?q=%C3%A9", id="quoted"),
        pytest.param("http://bücher.example/", "http://xn--bcher-kva.example", "/", id="idn"),
        pytest.param("http://straße.example/", "http://xn--strae-oqa.example", "/", id="idna-2008"),
        pytest.param("http://BÜCHER.example/", "http://xn--bcher-kva.example", "/", id="idn-in-upper-case"),
    ],
)
def test_url_is_parsed(url, shown, path):
    assert (target(url).shown, target(url).path) == (shown, path)


@pytest.mark.parametrize(
    "url", ["http://xn--a\u0308.example/", "http://\u200d.example/", "ftp://h", "http://h\ud800/", "http://h:99999/"]
)
def test_invalid_url_is_an_error_without_the_url(url):
    with pytest.raises(
        EventError, match=r"^the URL is not a valid http:// or https:// URL; expected https://HOST/PATH$"
    ):
        target(url)


@pytest.mark.parametrize("host", ["h.test", "10.0.0.1", "[2001:db8::1]", "localhost.test"])
def test_password_for_another_machine_requires_tls(host):
    with pytest.raises(EventError, match=r"^the URL has a user or a password but no TLS") as error:
        target(f"http://ci:passw0rd@{host}/")
    assert "passw0rd" not in str(error.value)
    assert target(f"https://ci:passw0rd@{host}/").authorization
    assert target(f"http://{host}/").authorization == ""


@pytest.mark.parametrize("host", ["localhost", "ci.localhost", "127.0.0.1", "127.1.2.3", "[::1]"])
def test_password_for_this_machine_does_not_require_tls(host):
    assert target(f"http://ci:passw0rd@{host}/").authorization


def test_repr_of_a_target_contains_no_secret():
    shown = repr(target("https://ci:passw0rd@h/t0ken?s3cret"))
    assert not re.search(r"passw0rd|t0ken|s3cret|Basic", shown)


# Responses


@pytest.mark.parametrize("status", [100, 102, 103])
def test_informational_response_is_skipped(client, status):
    def serve(connection, stopped):
        read_request(connection)
        connection.sendall(b"HTTP/1.1 %d Wait\r\nLink: </a>\r\n\r\n" % status * 2 + OK)

    with raw_server(serve) as port:
        response = post(client, f"http://127.0.0.1:{port}")
    assert (response.status, response.body) == (200, b"ok")


def test_redirect_is_a_final_response(client):
    with http_server(Answer(307, {"Location": "/elsewhere"})) as server:
        assert post(client, server.url).status == 307
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        pytest.param(Answer(200, {}, b"x" * 100), b"x" * 100, id="short"),
        pytest.param(Answer(200, {}, b"x" * (http.BODY + 1)), b"x" * http.BODY, id="too-long"),
        pytest.param(Answer(200, {"Content-Encoding": "gzip"}, b"bomb"), b"", id="compressed"),
    ],
)
def test_response_body_is_limited(client, answer, body):
    with http_server(answer) as server:
        assert post(client, server.url).body == body
        assert post(client, server.url).body == body
        assert len({request.connection for request in server.requests}) == (2 if len(body) == http.BODY else 1)


def test_chunked_response_keeps_the_connection_open(client):
    def serve(connection, stopped):
        for _ in range(2):
            read_request(connection)
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n1\r\n!\r\n0\r\n\r\n")

    with raw_server(serve) as port:
        url = f"http://127.0.0.1:{port}"
        assert [post(client, url).body, post(client, url).body] == [b"ok!", b"ok!"]


def test_truncated_response_has_no_body(client):
    def serve(connection, stopped):
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok")
        connection.close()

    with raw_server(serve) as port:
        response = post(client, f"http://127.0.0.1:{port}")
        assert (response.status, response.body, response.complete) == (200, b"", False)


def test_endless_header_is_an_error(client):
    def serve(connection, stopped):
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        while not stopped.is_set():
            connection.sendall(b"X: " + b"x" * 65536)

    with raw_server(serve) as port, pytest.raises(http.FAILURES) as error:
        post(client, f"http://127.0.0.1:{port}")
    assert http.http_reason(error.value) == "the server's answer is not valid HTTP"


def test_grpc_port_is_an_error_with_the_reason(client):
    def serve(connection, stopped):
        connection.sendall(bytes.fromhex("000006040000000000000500004000"))
        read_request(connection)
        connection.close()

    with raw_server(serve) as port, pytest.raises(http.FAILURES) as error:
        post(client, f"http://127.0.0.1:{port}")
    assert http.http_reason(error.value) == "the port speaks HTTP/2, as gRPC does; expected HTTP/1.1"


# Persistent connections


def test_connection_closed_by_the_server_is_not_reused(client):
    is_closed = threading.Event()

    def serve(connection, stopped):
        read_request(connection)
        connection.sendall(OK)
        connection.shutdown(socket.SHUT_RDWR)
        connection.close()
        is_closed.set()

    with raw_server(serve) as port:
        assert post(client, f"http://127.0.0.1:{port}").taken
        assert is_closed.wait(30)
        assert post(client, f"http://127.0.0.1:{port}").taken


def test_unsolicited_data_is_not_used_as_a_response(client):
    first_is_done, data_is_sent = threading.Event(), threading.Event()
    connections = []

    def serve(connection, stopped):
        read_request(connection)
        connection.sendall(OK)
        connections.append(connection)
        if len(connections) == 1 and first_is_done.wait(30):
            connection.sendall(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
            data_is_sent.set()

    with raw_server(serve) as port:
        url = f"http://127.0.0.1:{port}"
        assert post(client, url).taken
        first_is_done.set()
        assert data_is_sent.wait(30)
        assert post(client, url).taken
    assert len(connections) == 2


def test_request_on_a_stale_connection_is_repeated_once(client):
    requests = []

    def serve(connection, stopped):
        requests.append(read_request(connection))
        connection.sendall(OK)
        if len(requests) == 1:
            requests.append(read_request(connection))
        connection.close()  # the second request on the first connection gets no response

    with raw_server(serve) as port:
        url = f"http://127.0.0.1:{port}"
        assert post(client, url, b"1", {"webhook-id": "a"}).taken
        assert post(client, url, b"2", {"webhook-id": "b"}).taken
    assert [request[-1:] for request in requests] == [b"1", b"2", b"2"]
    assert requests[1] == requests[2]


def test_request_without_a_response_on_a_new_connection_is_an_error(client):
    requests = []

    def serve(connection, stopped):
        requests.append(read_request(connection))
        connection.close()

    with raw_server(serve) as port, pytest.raises(ConnectionError):
        post(client, f"http://127.0.0.1:{port}")
    assert len(requests) == 1


def test_request_with_a_truncated_response_is_not_repeated(client):
    requests = []

    def serve(connection, stopped):
        requests.append(read_request(connection))
        connection.sendall(OK)
        requests.append(read_request(connection))
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok")
        connection.close()

    with raw_server(serve) as port:
        assert post(client, f"http://127.0.0.1:{port}").taken
        assert not post(client, f"http://127.0.0.1:{port}").complete
    assert len(requests) == 2


def test_connection_close_header_leads_to_a_new_connection(client):
    with http_server(Answer(200, {"Connection": "close"}, b"ok")) as server:
        assert post(client, server.url).body == b"ok"
        assert post(client, server.url).body == b"ok"
        assert [request.connection for request in server.requests] == [1, 2]


def test_number_of_pooled_connections_is_limited(client, monkeypatch):
    monkeypatch.setattr(http, "_MAX_IDLE", 1)
    both_requests = threading.Barrier(2)

    def answer_both(request):
        both_requests.wait(30)
        return answer(request)

    with http_server() as server:
        answer, server.answer = server.answer, answer_both
        for _ in range(2):
            threads = [threading.Thread(target=post, args=(client, server.url)) for _ in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert len({request.connection for request in server.requests}) == 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="platform: has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_forked_process_opens_its_own_connection(client):
    with http_server() as server:
        assert post(client, server.url).taken
        child = os.fork()
        if child == 0:
            os._exit(0 if post(client, server.url).taken else 1)  # pragma: no cover  # in the child
        assert os.waitpid(child, 0)[1] == 0
        assert post(client, server.url).taken
        assert [request.connection for request in server.requests] == [1, 2, 1]


# Headers


def test_netrc_is_not_read(client, home):
    netrc = home / ".netrc"
    netrc.write_text("default login ci password passw0rd\nmachine 127.0.0.1 login ci password passw0rd\n")
    netrc.chmod(0o600)
    with http_server() as server:
        post(client, server.url)
        post(client, server.url, headers={"Authorization": "Bearer mine"})
    assert [request.headers.get("authorization") for request in server.requests] == [None, "Bearer mine"]


def test_authorization_header_overrides_the_password_of_the_url(client):
    with http_server() as server:
        post(client, server.url.replace("//", "//ci:passw0rd@"), headers={"Authorization": "Bearer mine"})
        assert server.requests[0].headers["authorization"] == "Bearer mine"


@pytest.mark.parametrize("value", ["a\r\nX: y", "a\nb"])
def test_header_with_a_line_break_is_not_sent(client, value):
    with http_server() as server, pytest.raises(ValueError, match="Invalid header value"):
        post(client, server.url, headers={"X-Mine": value})


# Proxies and TLS


@contextmanager
def tunnel_proxy(status=200):
    """Run a proxy that opens tunnels; yield its port, and a list of the heads of the requests."""
    heads = []

    def pump(source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def serve(connection, stopped):
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(65536)
        heads.append(head.decode())
        connection.sendall(f"HTTP/1.1 {status} Reason\r\n\r\n".encode())
        if status != 200:
            connection.close()
            return
        host, port = head.split()[1].decode().rsplit(":", 1)
        with socket.create_connection((host, int(port))) as server:
            responses = threading.Thread(target=pump, args=(server, connection))
            responses.start()
            pump(connection, server)
            responses.join()
        connection.close()

    with raw_server(serve) as port:
        yield port, heads


def test_https_request_uses_a_tunnel_of_the_proxy(client, tmp_path, monkeypatch):
    authority = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", authority.path)
    with http_server(tls=authority.context("127.0.0.1")) as server, tunnel_proxy() as (port, heads):
        monkeypatch.setenv("https_proxy", f"http://ci:passw0rd@127.0.0.1:{port}")
        assert post(client, f"{server.url}/a").taken
        assert post(client, f"{server.url}/b").taken
        client.close()
    assert [request.path for request in server.requests] == ["/a", "/b"]
    assert "proxy-authorization" not in server.requests[0].headers
    (head,) = heads
    assert head.startswith(f"CONNECT 127.0.0.1:{server.port} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n")
    assert "Proxy-Authorization: Basic Y2k6cGFzc3cwcmQ=\r\n" in head


@pytest.mark.parametrize("status", [407, 502])
def test_proxy_that_refuses_the_tunnel_is_an_error(client, monkeypatch, status):
    with tunnel_proxy(status) as (port, heads):
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{port}")
        with pytest.raises(OSError, match=f"the proxy refuses the connection: {status} "):
            post(client, "https://[::1]/")
    assert heads[0].startswith("CONNECT [::1]:443 HTTP/1.1\r\n")


def test_proxy_can_use_tls(client, tmp_path, monkeypatch):
    authority = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", authority.path)
    with http_server(tls=authority.context("127.0.0.1")) as server:
        monkeypatch.setenv("http_proxy", server.url)
        assert post(client, "http://hooks.invalid/a").taken
        assert [request.path for request in server.requests] == ["http://hooks.invalid/a"]


def test_tls_through_a_tls_proxy_is_an_error(client, monkeypatch):
    monkeypatch.setenv("https_proxy", "https://127.0.0.1:1")
    with pytest.raises(OSError, match="an https:// proxy cannot be used for https:// URLs"):
        post(client, "https://hooks.invalid/a")


def test_client_certificate_is_presented(tmp_path):
    authority = Authority(tmp_path)
    certificate = authority.authority.issue_cert("client.test")
    key, chain = str(tmp_path / "key.pem"), str(tmp_path / "chain.pem")
    certificate.private_key_pem.write_to_path(key)
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(chain, append=True)
    context = authority.context("127.0.0.1")
    context.load_verify_locations(authority.path)
    context.verify_mode = ssl.CERT_REQUIRED
    with http_server(tls=context) as server:
        assert post(Client(authority.path, (chain, key)), server.url).taken
        with pytest.raises(OSError, match=r"certificate|alert|reset|EOF"):
            post(Client(authority.path), server.url)


def test_missing_certificate_file_is_an_error_with_its_path(tmp_path):
    with pytest.raises(OSError, match=r"the certificates cannot be loaded \(/not/there\): no such file or directory"):
        post(Client("/not/there"), "https://127.0.0.1:1")


def test_interrupted_tls_handshake_closes_the_socket(client, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("event._net.connection.start_tls", interrupted)
    with http_server() as server, pytest.raises(KeyboardInterrupt):
        post(client, server.url.replace("http:", "https:"))


def test_port_without_tls_is_an_error_with_the_reason(client):
    with http_server() as server, pytest.raises(http.FAILURES) as error:
        post(client, server.url.replace("http:", "https:"))
    assert http.http_reason(error.value).startswith(("TLS: ", "connection reset by peer"))


# Retries


def test_pause_doubles_with_each_retry(monkeypatch):
    pauses = []
    monkeypatch.setattr(http.time, "sleep", pauses.append)
    monkeypatch.setattr(http, "backoff", partial(backoff, chance=0.5))
    statuses = iter([503, 503, 503, 200])

    def post():
        return http.Response(next(statuses), {})

    assert http.repeated(post, Deadline(100), {503}).taken
    assert pauses == [1.0, 2.0, 4.0]


def test_no_retry_if_its_pause_exceeds_the_deadline():
    assert http.repeated(lambda: http.Response(503, {}), Deadline(0.5), {503}).status == 503
    assert http.repeated(lambda: http.Response(503, {"Retry-After": "1"}), Deadline(0.5)).status == 503


def test_body_is_sent_unchanged(client):
    with http_server() as server:
        post(client, server.url, json.dumps({"a": "ä"}).encode())
        assert server.requests[0].body == b'{"a": "\\u00e4"}'
