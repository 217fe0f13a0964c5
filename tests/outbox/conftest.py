"""Fixtures of the outbox's tests: an outbox, an event with attachments, the synced files, and a handler."""

from __future__ import annotations

import os

import pytest

from event import Event, EventManager
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
