"""The server for the tests of the http handler."""

from __future__ import annotations

import pytest

from servers.http import http_server


@pytest.fixture
def server():
    with http_server() as server:
        yield server
