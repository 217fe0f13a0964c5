"""Every handler that uses a proxy, through one that is not ours."""

from __future__ import annotations

import pytest

from event import Event
from event.handler.apprise import AppriseHandler
from event.handler.http import HTTPHandler
from servers.http import http_server
from servers.proxy import USER, proxy_server

pytestmark = [pytest.mark.server, pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")]


@pytest.fixture(scope="module")
def port():
    with proxy_server() as running:
        yield running


@pytest.fixture
def receiver():
    with http_server() as running:
        yield running


HANDLERS = [
    pytest.param(lambda port: HTTPHandler(f"http://127.0.0.1:{port}/x"), id="http"),
    pytest.param(lambda port: AppriseHandler(f"json://127.0.0.1:{port}/x"), id="apprise"),
]


@pytest.mark.parametrize("handler", HANDLERS)
def test_an_event_goes_through_the_proxy(port, receiver, monkeypatch, handler):
    monkeypatch.setenv("http_proxy", f"http://{USER}@127.0.0.1:{port}")
    assert handler(receiver.port).send_event(Event("compile"))
    (request,) = receiver.requests
    assert "proxy.py" in request.headers["via"]


@pytest.mark.parametrize("handler", HANDLERS)
def test_proxy_that_requires_a_password_is_a_temporary_failure(port, receiver, monkeypatch, caplog, handler):
    """407 is not the receiver's refusal: a later attempt may have the password."""
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
    assert handler(receiver.port).send_event(Event("compile")) is False
    assert "407" in caplog.text
    assert receiver.requests == []


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("entry", ["127.0.0.0/8", "127.0.0.1:{port}", "*"])
def test_receiver_in_no_proxy_is_reached_directly(receiver, monkeypatch, handler, entry):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", entry.format(port=receiver.port))
    assert handler(receiver.port).send_event(Event("compile"))
    assert "via" not in receiver.requests[0].headers
