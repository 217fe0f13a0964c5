"""The SMTP servers for the tests of the smtp handler."""

from __future__ import annotations

import pytest

from servers.smtp import smtp_server
from servers.tls import Authority


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def tls_context(authority, monkeypatch):
    """Let the handler trust the authority; return the TLS context of a server on this machine."""
    monkeypatch.setenv("SSL_CERT_FILE", authority.path)
    return authority.context("127.0.0.1", "localhost")


@pytest.fixture
def tls_server(tls_context):
    """Run a server with TLS."""
    with smtp_server(tls_context) as server:
        yield server


@pytest.fixture
def plain_server(monkeypatch):
    """Run a server without TLS, and allow it in the environment."""
    monkeypatch.setenv("E3_ENABLE_FEATURE", "smtp_nossl")
    with smtp_server() as server:
        yield server


@pytest.fixture
def login_server(tls_context):
    """Run a server with TLS that requires a login."""
    with smtp_server(tls_context, auth_required=True) as server:
        yield server
