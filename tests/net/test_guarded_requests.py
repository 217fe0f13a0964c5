"""The rules of our HTTP client for the requests of Apprise's services."""

from __future__ import annotations

import gzip
import importlib
import pkgutil
import sys
import types

import pytest

from event import Event, EventError
from event._net import guarded_requests
from event._net.guarded_requests import guard
from servers.http import Answer, http_server
from servers.raw import raw_server

apprise = pytest.importorskip("apprise")
from event.handler.apprise import AppriseHandler  # noqa: E402  # it needs the extra

pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")


@pytest.fixture
def server():
    with http_server() as server:
        yield server


@pytest.fixture
def address(server):
    return f"127.0.0.1:{server.port}"


def test_netrc_password_is_not_sent_to_a_service(server, address, tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("default login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    assert AppriseHandler(f"json://{address}").send_event(Event("e"))
    assert "authorization" not in server.requests[0].headers


def test_redirect_is_a_failure_and_not_followed(server, address):
    server.set_answers(Answer(301, {"Location": "/elsewhere"}))
    assert not AppriseHandler(f"json://{address}").send_event(Event("e"))
    assert [request.method for request in server.requests] == ["POST"]


def test_proxies_follow_the_same_rules_as_other_handlers(server, address, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://{address}")
    assert AppriseHandler("json://192.0.2.1/a").send_event(Event("e"))
    assert server.requests[0].path == "http://192.0.2.1/a"
    monkeypatch.setenv("http_proxy", "http://localhost:1")
    monkeypatch.setenv("no_proxy", address)
    assert AppriseHandler(f"json://{address}").send_event(Event("e"))


@pytest.fixture
def requests():
    """Return the guarded replacement of `requests`."""
    import requests

    module = sys.modules["guarded"] = types.ModuleType("guarded")
    module.requests = requests
    guard("guarded")
    yield module.requests
    guard("guarded")  # the second call changes nothing
    assert module.requests is not requests
    del sys.modules["guarded"]


@pytest.mark.parametrize("compressed", [False, True])
def test_response_is_read_up_to_a_limit(server, address, requests, compressed):
    body = bytes(3 << 20)
    gzipped = Answer(200, {"Content-Encoding": "gzip"}, gzip.compress(body))
    server.set_answers(gzipped if compressed else Answer(200, {}, body))
    response = requests.get(f"http://{address}", {"a": "b"})
    assert len(response.content) == 1 << 20
    assert server.requests[0].path == "/?a=b"


def stalling_server(status, *, drips):
    """Run a server that sends the start of a body, and then nothing, or a byte now and then."""

    def serve(connection, stopped):
        connection.recv(1 << 16)
        connection.sendall(b"HTTP/1.1 %d X\r\nContent-Length: 99999\r\n\r\nok" % status)
        while not stopped.wait(0.02):
            if drips:
                connection.sendall(b".")

    return raw_server(serve)


@pytest.mark.parametrize("drips", [False, True])
def test_stalled_response_of_a_service_that_has_the_message_is_a_success(requests, monkeypatch, drips):
    monkeypatch.setattr(guarded_requests, "LINGER", 0.2)
    with stalling_server(200, drips=drips) as port:
        response = requests.post(f"http://127.0.0.1:{port}", b"x", timeout=300)
    assert response.content.startswith(b"ok")


def test_stalled_response_of_a_service_that_refuses_is_a_failure(requests):
    with stalling_server(500, drips=False) as port, pytest.raises(Exception, match="timed out"):
        requests.post(f"http://127.0.0.1:{port}", b"x", timeout=0.2)


def test_response_can_be_closed(address, requests):
    response = requests.get(f"http://{address}")
    response.raw.close()
    assert response.status_code == 200


def test_other_names_and_arguments_are_those_of_requests(address, requests):
    assert requests.codes.ok == 200
    assert requests.put(f"http://{address}", b"x", verify=False).status_code == 200


@pytest.mark.parametrize("text", ["json://a,json://b", "json://a;json://b", "json://a , json://b"])
def test_a_comma_or_a_semicolon_separates_urls(text):
    assert AppriseHandler(text).urls == ["json://a", "json://b"]


def test_second_url_in_the_place_of_the_title_is_an_error():
    with pytest.raises(EventError, match="the title looks like a URL"):
        AppriseHandler.decode_config("json://a,json://b")


def test_services_of_apprise_import_the_module_that_is_guarded():
    plugins = importlib.import_module("apprise.plugins")
    names = [module.name for module in pkgutil.walk_packages(plugins.__path__, "apprise.plugins.")]
    namespaces = [vars(importlib.import_module(name)) for name in names]
    assert sum(getattr(namespace.get("requests"), "__name__", "") == "requests" for namespace in namespaces) > 50


def test_exception_of_apprise_is_the_reason(monkeypatch):
    def fail(*_args, **_kwargs):
        raise DeprecationWarning("old")

    monkeypatch.setattr(apprise.Apprise, "instantiate", fail)
    with pytest.raises(EventError, match="DeprecationWarning: old"):
        AppriseHandler("json://localhost")
