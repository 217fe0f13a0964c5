"""Outboxes for the tests of the command line: events that wait, since a file stands where their directory should be."""

from __future__ import annotations

import pathlib
import shutil

import event

GOLDEN = pathlib.Path(__file__).parents[1] / "data" / "outbox"
GOLDEN_ID = "8f14e45f-ceea-467f-a0e6-000000000001"
TRACED_ID = "8f14e45f-ceea-467f-a0e6-000000000002"  # put within a span


def block(name="events"):
    """Have the file handler fail for this directory."""
    pathlib.Path(name).write_text("in the way", "utf-8")


def free(name="events"):
    """Have it work again."""
    pathlib.Path(name).unlink()


def wait_for(*names, handlers=(("file", "events"),), outbox="ob"):
    """Put events that wait until `free`; return their ids."""
    before = set(ids(outbox))
    block(handlers[0][1])
    manager = event.EventManager(outbox=outbox)
    for name, config in handlers:
        manager.add_handler(name, config)
    for name in names:
        assert not manager.send_event(event.Event(name, uid=f"u-{name}"))
    return [entry_id for entry_id in ids(outbox) if entry_id not in before]


def ids(outbox="ob", state="new"):
    """Return the ids in a state."""
    place = pathlib.Path(outbox, state)
    found = [path.name for path in place.iterdir()] if place.exists() else []
    return [name.partition(".")[2] if state == "new" else name.partition(".")[0] for name in found]


def path_of(entry_id, outbox="ob"):
    """Return where an entry stands."""
    (path,) = pathlib.Path(outbox).glob(f"*/*{entry_id}*")
    return path


def golden_path(entry_id=GOLDEN_ID):
    """Return where a golden entry stands."""
    (path,) = (GOLDEN / "new").glob(f"*.{entry_id}")
    return path


def golden(outbox="ob", entry_id=GOLDEN_ID):
    """Copy a golden entry into an outbox."""
    for state in ("tmp", "claimed", "new", "failed", "corrupt"):
        pathlib.Path(outbox, state).mkdir(parents=True, mode=0o700)
    source = golden_path(entry_id)
    target = pathlib.Path(outbox, "new", source.name)
    shutil.copytree(source, target)
    return target
