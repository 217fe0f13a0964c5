"""What the services of Apprise send follows the rules of our own HTTP client."""

from __future__ import annotations

import gzip
import http.server
import importlib
import pkgutil
import sys
import threading
import types

import pytest

from event import Event, EventError
from event._net import guarded_requests
from event._net.guarded_requests import guard
from servers.raw import raw_server

apprise = pytest.importorskip("apprise")
from event.handler.apprise import AppriseHandler  # noqa: E402  # it needs the extra

pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")


class Site(http.server.BaseHTTPRequestHandler):
    answer = (200, {}, b"")

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.server.requests.append((self.command, self.path, self.headers))
        status, headers, body = self.server.answer
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_POST  # noqa: N815  # the library's names

    def log_message(self, *_args):
        pass


@pytest.fixture
def site(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        server.requests = []
        server.answer = (200, {}, b"")
        server.url = f"localhost:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_netrc_password_is_not_sent_to_a_service(site, tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("default login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    assert AppriseHandler(f"json://{site.url}").send_event(Event("e"))
    assert site.requests[0][2]["Authorization"] is None


def test_a_redirect_is_a_failure(site):
    site.answer = (301, {"Location": "/elsewhere"}, b"")
    assert not AppriseHandler(f"json://{site.url}").send_event(Event("e"))
    assert [method for method, _, _ in site.requests] == ["POST"]


def test_proxies_follow_the_same_rules_as_other_handlers(site, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://{site.url}")
    assert AppriseHandler("json://192.0.2.1/a").send_event(Event("e"))
    assert site.requests[0][1] == "http://192.0.2.1/a"
    monkeypatch.setenv("http_proxy", "http://localhost:1")
    monkeypatch.setenv("no_proxy", site.url)
    assert AppriseHandler(f"json://{site.url}").send_event(Event("e"))


@pytest.fixture
def requests():
    import requests

    module = sys.modules["guarded"] = types.ModuleType("guarded")
    module.requests = requests
    guard("guarded")
    yield module.requests
    guard("guarded")  # a second time changes nothing
    assert module.requests is not requests
    del sys.modules["guarded"]


@pytest.mark.parametrize("compressed", [False, True])
def test_response_is_read_up_to_a_limit(site, requests, compressed):
    body = bytes(3 << 20)
    site.answer = (200, {"Content-Encoding": "gzip"}, gzip.compress(body)) if compressed else (200, {}, body)
    answer = requests.get(f"http://{site.url}", {"a": "b"})
    assert len(answer.content) == 1 << 20
    assert site.requests[0][1] == "/?a=b"


def stalling(status, *, drips):
    """Answer with a body that never ends."""

    def serve(connection, stopped):
        connection.recv(1 << 16)
        connection.sendall(b"HTTP/1.1 %d X\r\nContent-Length: 99999\r\n\r\nok" % status)
        while not stopped.wait(0.02):
            if drips:
                connection.sendall(b".")

    return raw_server(serve)


@pytest.mark.parametrize("drips", [False, True])
def test_stalled_answer_of_a_service_that_has_the_message_is_no_failure(requests, monkeypatch, drips):
    monkeypatch.setattr(guarded_requests, "LINGER", 0.2)
    with stalling(200, drips=drips) as port:
        answer = requests.post(f"http://127.0.0.1:{port}", b"x", timeout=300)
    assert answer.content.startswith(b"ok")


def test_stalled_answer_of_a_service_that_refuses_is_a_failure(requests):
    with stalling(500, drips=False) as port, pytest.raises(Exception, match="timed out"):
        requests.post(f"http://127.0.0.1:{port}", b"x", timeout=0.2)


def test_response_can_be_closed_early(site, requests):
    answer = requests.get(f"http://{site.url}")
    answer.raw.close()
    assert answer.status_code == 200


def test_other_names_and_arguments_are_those_of_requests(site, requests):
    assert requests.codes.ok == 200
    assert requests.put(f"http://{site.url}", b"x", verify=False).status_code == 200


@pytest.mark.parametrize("text", ["json://a,json://b", "json://a;json://b", "json://a , json://b"])
def test_a_comma_or_a_semicolon_separates_urls(text):
    assert AppriseHandler(text).urls == ["json://a", "json://b"]


def test_url_instead_of_the_title_is_an_error():
    with pytest.raises(EventError, match="the title looks like a URL"):
        AppriseHandler.decode_config("json://a,json://b")


def test_every_service_that_sends_with_requests_can_be_guarded():
    """It calls the module's functions, and makes no session of its own."""
    plugins = importlib.import_module("apprise.plugins")
    found = 0
    for module in pkgutil.walk_packages(plugins.__path__, "apprise.plugins."):
        namespace = vars(importlib.import_module(module.name))
        found += getattr(namespace.get("requests"), "__name__", "") == "requests"
    assert found > 50


def test_exception_of_apprise_is_the_reason(monkeypatch):
    def fail(*_args, **_kwargs):
        raise DeprecationWarning("old")

    monkeypatch.setattr(apprise.Apprise, "instantiate", fail)
    with pytest.raises(EventError, match="DeprecationWarning: old"):
        AppriseHandler("json://localhost")
