"""Fixtures of the outbox's tests."""

from __future__ import annotations

import os

import pytest

from event import Event
from event._outbox import Outbox


@pytest.fixture
def box(tmp_path):
    return Outbox(tmp_path / "outbox")


@pytest.fixture
def attached(tmp_path):
    """Return an event with two attachments."""
    log = tmp_path / "build.log"
    log.write_bytes(b"compiled\n")
    e = Event("build", uid="u")
    e.attach_file(log, "log")
    e.attach_file(log, "../log")
    return e


@pytest.fixture
def synced(monkeypatch):
    """Return the inodes of what is synced, in order."""
    found = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (found.append(os.fstat(fd).st_ino), fsync(fd)))
    return found
