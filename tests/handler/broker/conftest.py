"""Servers, queues and handlers for the tests of the broker handler."""

from __future__ import annotations

import os

import pytest

from event.handler.broker import BrokerHandler
from servers.process import free_port


@pytest.fixture(params=["rabbitmq", "redis"])
def server(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def s3(moto, monkeypatch):
    moto.reset("builds")
    for name, value in moto.environment.items():
        monkeypatch.setenv(name, value)
    return moto


@pytest.fixture(scope="module")
def unused_port():
    """Return a port on which nothing listens."""
    holder, port = free_port()
    with holder:
        yield port


@pytest.fixture
def queue():
    """Return a queue name that no other test uses."""
    return f"test-{os.urandom(6).hex()}"


@pytest.fixture
def as_reference(monkeypatch):
    """Return a function that stores a URL in an environment variable and returns a reference to it."""

    def store(url, name="BROKER"):
        monkeypatch.setenv(name, url)
        return f"env:{name}"

    return store


@pytest.fixture
def handler(server, queue, as_reference):
    return BrokerHandler(as_reference(server.url), queue)


@pytest.fixture
def files(tmp_path):
    """Return a function that writes a file."""

    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


@pytest.fixture
def make_handler(redis, queue, as_reference):
    """Return a function that makes a handler with options. The size limit of Redis is too high to matter."""
    return lambda **options: BrokerHandler(as_reference(redis.url), queue, **options)
