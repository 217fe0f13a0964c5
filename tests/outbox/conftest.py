"""Fixtures of the outbox's tests: an outbox, an event with attachments, the synced files, and a handler."""

from __future__ import annotations

import os

import pytest

from event import Event, EventManager, _files, _registry
from event._outbox import Outbox
from helpers.plugins import Site
from outbox.boards import BOARD, Board


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
    """Return a list that gets the inode of each file and directory that is synced."""
    inodes = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (inodes.append(os.fstat(fd).st_ino), fsync(fd)))
    return inodes


@pytest.fixture
def board(tmp_path, monkeypatch):
    """Install the handler `board`; return its file."""
    Site(tmp_path / "site", monkeypatch).plugin("board", BOARD)
    return Board(tmp_path / "board")


@pytest.fixture
def manager(box, board):
    """Return a manager with the handler `board` and an outbox."""
    made = EventManager(outbox=box.path)
    made.add_handler("board", str(board.path))
    return made


@pytest.fixture
def fail_sync(monkeypatch):
    """Return a function that lets the sync of the directories with a name fail."""

    def set_name(name):
        def sync_or_fail(path, sync=_files.sync_directory):
            if os.path.basename(path) == name:
                raise OSError(5, "Input/output error")
            sync(path)

        monkeypatch.setattr(_files, "sync_directory", sync_or_fail)

    return set_name


@pytest.fixture
def register(monkeypatch):
    """Return a function that registers a handler. It returns the list of the uids that `send_event` has been uids."""
    classes = {}
    monkeypatch.setattr(_registry, "get_handler", lambda name: classes[_registry.kind(name)])

    def add(name, send=lambda e: True, **attributes):
        uids = []

        def send_event(self, e):
            uids.append(e.uid)
            return send(e)

        body = {
            "__init__": lambda self, **kwargs: None,
            "decode_config": classmethod(lambda cls, text: {}),
            "send_event": send_event,
        }
        classes[name] = type(name, (), {**body, **attributes})
        return uids

    return add
