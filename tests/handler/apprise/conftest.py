"""A receiver of messages, and handlers that send to it."""

from __future__ import annotations

import pytest

from event.handler.apprise import AppriseHandler
from helpers.apprise_messages import TOKEN
from servers.http import http_server


@pytest.fixture
def receiver():
    with http_server() as server:
        yield server


@pytest.fixture
def secret(monkeypatch):
    """Return a function that stores URLs in the variable BUILD_URLS and returns a reference to it."""

    def store(*urls):
        monkeypatch.setenv("BUILD_URLS", "\n".join(urls))
        return "env:BUILD_URLS"

    return store


@pytest.fixture
def handler(receiver, secret):
    return AppriseHandler(secret(f"json://127.0.0.1:{receiver.port}/{TOKEN}"))
