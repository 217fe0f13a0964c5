"""Fixtures for the tests of S3."""

from __future__ import annotations

import pytest

from event._net.s3 import Store


@pytest.fixture
def server(moto, monkeypatch):
    """Return the S3 server with only an empty bucket "events". The environment has its address."""
    for name, value in moto.environment.items():
        monkeypatch.setenv(name, value)
    moto.reset("events")
    return moto


@pytest.fixture
def store():
    return Store()


@pytest.fixture
def directory(tmp_path):
    """Return an empty directory for downloads."""
    path = tmp_path / "directory"
    path.mkdir()
    return path
