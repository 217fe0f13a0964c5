"""Delivering the entries of the outbox: a retry of each pending handler."""

from __future__ import annotations

import json
import os
import threading
import time
import tracemalloc
from pathlib import Path

import pytest

from event import Event, EventManager, _lazy_handler, _registry
from event._outbox import lanes
from event._outbox.pool import DeliveryPool
from helpers.delivering import deliver
from helpers.entries import count_by_state, path_of
from helpers.waiting import SECONDS
from outbox.boards import Handler, entries


def test_handler_is_constructed_once_per_configuration(manager, board, box, monkeypatch):
    board.set("down")
    for _ in range(5):
        manager.send_event(Event("build"))
    board.set(None)
    made = []
    get_handler = _registry.get_handler
    monkeypatch.setattr(_registry, "get_handler", lambda name: made.append(1) or get_handler(name))
    assert [bool(outcome) for _, outcome in deliver(box, everything=True)] == [True] * 5
    assert len(made) == 1


@pytest.mark.parametrize(
    ("name", "config", "reason"),
    [
        pytest.param("nosuch", "", "no handler is named 'nosuch'", id="no such handler"),
        pytest.param("file", "", "log directory", id="an invalid configuration"),
        pytest.param("logging", "a,SHOUT", "expected logging=", id="a malformed configuration"),
    ],
)
def test_handler_that_cannot_be_constructed_fails_and_others_deliver(box, board, name, config, reason):
    claim = box.put(Event("build", uid="u"), {name: config, "board": str(board.path)})
    claim.release()
    ((_, outcome),) = deliver(box, everything=True)
    broken, good = outcome
    assert reason in broken.reason
    assert good
    assert board.uids == ["u"]
    assert count_by_state(box) == {"waiting": 1}


class PanicError(BaseException):
    """An exception that is not an `Exception`, such as the panics of extension modules in Rust."""


@pytest.mark.parametrize("error", [SystemExit(3), PanicError("no")])
def test_handler_that_raises_in_its_constructor_has_failed(box, monkeypatch, error):
    def fail(name):
        raise error

    monkeypatch.setattr(_registry, "get_handler", fail)
    box.put(Event("build"), {"acme": ""}).release()
    ((_, outcome),) = deliver(box, everything=True)
    assert str(outcome) == f"acme: not delivered: {type(error).__name__}: {error}"
    assert count_by_state(box) == {"waiting": 1}


def test_interrupt_while_a_handler_encodes_its_configuration_propagates(box):
    m = EventManager(outbox=box.path)
    m.handlers["a"] = Handler(config=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        m.send_event(Event("build"))


def test_interrupt_in_a_pool_thread_is_a_failure(box, monkeypatch):
    def interrupted(name):
        raise KeyboardInterrupt

    monkeypatch.setattr(_registry, "get_handler", interrupted)
    box.put(Event("build"), {"acme": ""}).release()
    ((_, outcome),) = deliver(box, everything=True)
    assert str(outcome) == "acme: not delivered: KeyboardInterrupt"
    assert count_by_state(box) == {"waiting": 1}


def test_relative_directory_of_the_file_handler_is_stored_as_absolute(box, tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    Path("events").touch()  # the handler can't create its directory
    m = EventManager(outbox=box.path)
    m.add_handler("file", "events")
    assert not m.send_event(Event("build"))
    Path("events").unlink()
    monkeypatch.chdir(tmp_path / "b")
    ((_, outcome),) = deliver(box, everything=True)
    assert outcome
    assert os.listdir(tmp_path / "b") == []
    assert len(list((tmp_path / "a" / "events").glob("*.json"))) == 1


def test_retry_of_the_file_handler_replaces_its_file(box, tmp_path, attached):
    """A kill between the delivery and its record makes such a retry."""
    m = EventManager(outbox=box.path)
    m.add_handler("file", str(tmp_path / "events"))
    claim = box.put(attached, {"file": str(tmp_path / "events")})
    assert m.handlers["file"].send_event(claim.event())
    claim.release()
    ((_, outcome),) = deliver(box, everything=True)
    assert outcome
    (path,) = (tmp_path / "events").glob("*.json")
    assert path.name == f"build-u-{claim.entry.id}.json"
    assert (tmp_path / "events" / "build-u" / "log").read_bytes() == b"compiled\n"


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_entry_with_a_damaged_attachment_moves_to_corrupt(manager, box, board, attached, damage, caplog):  # noqa: PLR0913  # fixtures
    board.set("down")
    manager.send_event(attached)
    ((_, damaged, _),) = entries(box, "waiting")
    manager.send_event(Event("build", uid="good"))
    copy = Path(path_of(box, damaged), "0")
    copy.unlink() if damage == "missing" else copy.write_bytes(b"other")
    board.set(None)
    assert [entry.event.uid for entry, _ in deliver(box, everything=True)] == ["good"]
    assert board.uids == ["good"]
    assert count_by_state(box) == {"corrupt": 1}
    assert f"outbox entry {damaged} is moved to corrupt/" in caplog.text


def test_permanent_failure_moves_to_failed_and_can_be_retried(manager, board, box):
    board.set("refuses")
    assert not manager.send_event(Event("build", uid="u"))
    assert count_by_state(box) == {"failed": 1}
    ((_, entry_id, entry),) = entries(box, "failed")
    assert entry.last_error == "no such recipient"
    assert deliver(box, everything=True) == []
    assert box.retry(*box.find(entry_id))
    ((_, outcome),) = deliver(box, everything=True)
    assert not outcome
    assert count_by_state(box) == {"failed": 1}
    board.set(None)
    assert box.retry(*box.find(entry_id))
    ((_, outcome),) = deliver(box)
    assert outcome
    assert board.deliveries == [[entry_id, "u"]]


def test_background_delivery_has_a_timeout(box, board, monkeypatch):
    finish = threading.Event()
    monkeypatch.setattr(_lazy_handler.LazyHandler, "load", lambda handler: Handler(lambda e: finish.wait(30)))
    box.put(Event("build"), {"board": str(board.path)}).release()
    try:
        ((_, outcome),) = deliver(box, everything=True, timeout=0.05)
        assert "not done within" in str(outcome)
    finally:
        finish.set()
    assert count_by_state(box) == {"waiting": 1}


class NoReports:
    """Ignore the reports of a pool."""

    def __getattr__(self, name):
        return lambda *args: None


def test_memory_does_not_grow_with_the_backlog(box, tmp_path, monkeypatch):
    """Delivering 500 entries needs as much memory as delivering 100. Both are more than a lane keeps in memory."""
    monkeypatch.setattr(lanes, "_MAX_QUEUED", 20)
    monkeypatch.setattr(os, "fsync", lambda fd: None)  # saves most of the time
    peaks = []
    for count in (100, 500):
        for _ in range(count):
            claim = box.put(Event("build", text="x" * 8000), {"file": str(tmp_path / "events")})
            claim.postpone(time.time() + 1000)
        tracemalloc.start()
        try:
            pool = DeliveryPool(box, 30.0, 1, NoReports())
            pool.feed(box.candidates(everything=True))
            assert pool.wait(SECONDS)
            pool.close()
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        assert count_by_state(box) == {}
    assert peaks[1] < peaks[0] + 500_000, peaks  # the other 400 entries would take 3 MB
    assert len(list((tmp_path / "events").glob("*.json"))) == 600
    assert json.loads(next((tmp_path / "events").glob("*.json")).read_bytes())["text"] == "x" * 8000
