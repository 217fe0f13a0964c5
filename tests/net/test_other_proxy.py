"""The handlers http and apprise with an independent proxy, proxy.py."""

from __future__ import annotations

import pytest

from event import Event
from event.handler.apprise import AppriseHandler
from event.handler.http import HTTPHandler
from servers.http import http_server
from servers.proxy import USER, proxy_server

pytestmark = [pytest.mark.server, pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")]


@pytest.fixture(scope="module")
def proxy_port():
    with proxy_server() as port:
        yield port


@pytest.fixture
def receiver():
    with http_server() as server:
        yield server


MAKE_HANDLER = [
    pytest.param(lambda port: HTTPHandler(f"http://127.0.0.1:{port}/x"), id="http"),
    pytest.param(lambda port: AppriseHandler(f"json://127.0.0.1:{port}/x"), id="apprise"),
]


@pytest.mark.parametrize("make_handler", MAKE_HANDLER)
def test_event_is_sent_through_the_proxy(proxy_port, receiver, monkeypatch, make_handler):
    monkeypatch.setenv("http_proxy", f"http://{USER}@127.0.0.1:{proxy_port}")
    assert make_handler(receiver.port).send_event(Event("compile"))
    (request,) = receiver.requests
    assert "proxy.py" in request.headers["via"]


@pytest.mark.parametrize("make_handler", MAKE_HANDLER)
def test_proxy_that_requires_a_password_is_a_temporary_failure(proxy_port, receiver, monkeypatch, caplog, make_handler):
    """A later attempt may have the password."""
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy_port}")
    assert make_handler(receiver.port).send_event(Event("compile")) is False
    assert "407" in caplog.text
    assert receiver.requests == []


@pytest.mark.parametrize("make_handler", MAKE_HANDLER)
@pytest.mark.parametrize("entry", ["127.0.0.0/8", "127.0.0.1:{port}", "*"])
def test_receiver_in_no_proxy_is_reached_directly(receiver, monkeypatch, make_handler, entry):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", entry.format(port=receiver.port))
    assert make_handler(receiver.port).send_event(Event("compile"))
    assert "via" not in receiver.requests[0].headers
