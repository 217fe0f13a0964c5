"""Outboxes for the tests of the command line. Their events wait because a file blocks the file handler's directory."""

from __future__ import annotations

import pathlib
import shutil
from contextlib import suppress

import event
from event._outbox import Outbox
from helpers.commands import handler_source

GOLDEN = pathlib.Path(__file__).parents[1] / "data" / "outbox"
GOLDEN_ID = "8f14e45f-ceea-467f-a0e6-000000000001"
TRACED_ID = "8f14e45f-ceea-467f-a0e6-000000000002"  # of the entry that was put within a span


def block(name="events"):
    """Make the file handler fail: put a file in the place of its directory."""
    pathlib.Path(name).write_text("in the way", "utf-8")


def unblock(name="events"):
    """Remove the file that `block` has put there."""
    pathlib.Path(name).unlink()


def put_waiting(*names, handlers=(("file", "events"),), outbox="ob"):
    """Put events whose first attempt fails, because their directory is blocked; return the ids of their entries."""
    before = set(ids(outbox))
    block(handlers[0][1])
    manager = event.EventManager(outbox=outbox)
    for name, config in handlers:
        manager.add_handler(name, config)
    for name in names:
        assert not manager.send_event(event.Event(name, uid=f"u-{name}"))
    return [entry_id for entry_id in ids(outbox) if entry_id not in before]


def put_failed(command, plugin):
    """Put an event that a handler rejects permanently; return the id of its entry."""
    plugin("strict", handler_source("import event as e; raise e.PermanentError('no such board')"))
    assert command("send", "n", "--outbox", "ob", "--handler", "strict")[0] == 0
    (entry_id,) = ids(state="failed")
    return entry_id


def make_due(*entry_ids, outbox="ob"):
    """Make entries due now."""
    bucket = pathlib.Path(outbox, "waiting/30")
    for entry_id in entry_ids:
        is_moved = False
        while not is_moved:
            bucket.mkdir(exist_ok=True)
            with suppress(FileNotFoundError):  # a running `deliver` has removed the empty bucket
                is_moved = bool(path_of(entry_id, outbox).rename(bucket / entry_id))


def ids(outbox="ob", state="waiting"):
    """Return the ids of the entries in a state."""
    return [candidate.id for candidate, _ in Outbox(outbox).entries(state)]


def undelivered(outbox="outbox"):
    """Return the entries of an outbox that are waiting or claimed."""
    return [entry for _, entry in Outbox(outbox).entries("waiting", "claimed")]


def path_of(entry_id, outbox="ob"):
    """Return the path of an entry."""
    (candidate,) = Outbox(outbox).find(entry_id)
    return pathlib.Path(outbox, candidate.name)


def text_of(path):
    """Return the file that holds an entry's text."""
    return path / "entry" if path.is_dir() else path


def golden_path(entry_id=GOLDEN_ID):
    """Return the path of a golden entry in the test data."""
    (path,) = (GOLDEN / "waiting").glob(f"*/{entry_id}")
    return path


def copy_golden(outbox="ob", entry_id=GOLDEN_ID):
    """Copy a golden entry into an outbox; return the path of the copy."""
    for state in ("", "tmp", "claimed", "waiting", "failed", "corrupt"):
        pathlib.Path(outbox, state).mkdir(mode=0o700, parents=True, exist_ok=True)
    source = golden_path(entry_id)
    bucket = pathlib.Path(outbox, "waiting", source.parent.name)
    bucket.mkdir(mode=0o700, exist_ok=True)
    copy = shutil.copytree if source.is_dir() else shutil.copyfile
    return pathlib.Path(copy(source, bucket / source.name))
