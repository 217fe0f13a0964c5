"""Sending through the outbox: the event is stored, then the handlers are called, then the entry is removed."""

from __future__ import annotations

import json
import logging
import os
import threading

import pytest

import event
from event import Event, EventManager, PermanentError, _registry
from helpers.delivering import deliver
from helpers.entries import POSIX, ROOT, count_by_state
from helpers.plugins import Site
from outbox.boards import BOARD, Board, Handler, entries, raising, run

# Sending.


def test_event_delivered_by_every_handler_leaves_no_entry(manager, board, box, attached):
    assert manager.send_event(attached) is True
    assert board.uids == ["u"]
    assert count_by_state(box) == {}


def test_event_is_stored_before_the_first_handler_runs(box, attached):
    seen = []

    def record(e):
        ((state, entry_id, entry),) = entries(box, "waiting", "claimed")
        seen.append((state, entry_id, entry.pending, event.sending_id(e)))
        return True

    m = EventManager(outbox=box.path)
    m.handlers.update(a=Handler(record, "1"), b=Handler(record, "2"))
    assert m.send_event(attached)
    (first, second) = seen
    assert first == ("claimed", first[1], {"a": "1", "b": "2"}, first[1])
    assert second == ("claimed", first[1], {"b": "2"}, first[1])


def test_undelivered_event_is_retried_with_the_same_id(manager, board, box, attached, tmp_path):
    ids = []
    manager.handlers["not stored"] = Handler(
        lambda e: ids.append(event.sending_id(e)) or True, config=ValueError("never")
    )
    board.set("down")
    assert manager.send_event(attached) is False
    assert count_by_state(box) == {"waiting": 1}
    ((_, _, entry),) = entries(box, "waiting")
    assert entry.pending == {"board": str(board.path)}
    assert entry.last_error == "the board is down"
    (tmp_path / "build.log").unlink()
    assert list(deliver(box)) == []
    ((_, outcome),) = deliver(box, everything=True)
    assert not outcome
    assert count_by_state(box) == {"waiting": 1}
    board.set(None)
    ((entry, outcome),) = deliver(box, everything=True)
    assert outcome
    assert (entry.id, entry.attempts) == (ids[0], 3)
    assert board.deliveries == [[ids[0], "u"]]
    assert count_by_state(box) == {}


def test_retry_skips_handlers_that_already_delivered(board, box, tmp_path):
    m = EventManager(outbox=box.path)
    m.add_handler("board:first", str(board.path))
    m.add_handler("board:second", str(tmp_path / "second"))
    (tmp_path / "second.down").touch()
    assert not m.send_event(Event("build", uid="u"))
    (tmp_path / "second.down").unlink()
    ((_, outcome),) = deliver(box, everything=True)
    assert [d.handler for d in outcome] == ["board:second"]
    assert len(board.deliveries) == len(Board(tmp_path / "second").deliveries) == 1
    assert board.deliveries == Board(tmp_path / "second").deliveries


def test_event_without_handlers_is_not_stored(box):
    assert EventManager(outbox=box.path).send_event(Event("build")) is True
    assert not os.path.exists(box.path)


def test_environment_variable_sets_the_outbox(monkeypatch, box, board):
    monkeypatch.setenv("E3_EVENT_OUTBOX", box.path)
    m = EventManager()
    m.add_handler("board", str(board.path))
    board.set("down")
    assert not m.send_event(Event("build"))
    assert count_by_state(box) == {"waiting": 1}
    monkeypatch.setenv("E3_EVENT_OUTBOX", "")
    assert EventManager().outbox is None


def test_handler_gets_a_copy_equal_to_the_event(box, attached):
    class Build(Event):
        """A subclass of `Event`."""

    seen = []
    m = EventManager(outbox=box.path)
    m.handlers["a"] = Handler(lambda e: seen.append(e) or True)
    sent = Build("build", uid="v")
    assert m.send_event(sent)
    assert type(seen[0]) is Build
    assert seen[0].as_dict() == sent.as_dict()
    assert event.sending_id(sent) != event.sending_id(sent)


def test_handler_that_could_not_be_loaded_gets_the_event_later(box, tmp_path, monkeypatch):
    monkeypatch.setenv("E3_EVENT_HANDLERS", f"board={tmp_path}/board")
    m = EventManager(outbox=box.path)
    with pytest.raises(event.EventError):
        m.load_handlers_from_env()
    assert m.send_event(Event("build", uid="u")) is True
    assert count_by_state(box) == {"waiting": 1}
    Site(tmp_path / "site", monkeypatch).plugin("board", BOARD)
    ((_, outcome),) = deliver(box, everything=True)
    assert outcome
    assert Board(tmp_path / "board").uids == ["u"]


def test_added_handler_replaces_one_that_could_not_be_loaded(box, tmp_path, monkeypatch):
    m = EventManager(outbox=box.path)
    monkeypatch.setenv("E3_EVENT_HANDLERS", "board=from the environment")
    with pytest.raises(event.EventError):
        m.load_handlers_from_env()
    m.handlers["board"] = Handler(lambda e: False, config="by hand")
    m.send_event(Event("build"))
    ((_, _, entry),) = entries(box, "waiting")
    assert entry.pending == {"board": "by hand"}


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        pytest.param(ValueError("an error"), "ValueError: an error", id="an error"),
        pytest.param(SystemExit(3), "SystemExit: 3", id="SystemExit"),
        pytest.param(None, "TypeError: encode_config returned NoneType, not str", id="not a string"),
    ],
)
def test_handler_without_encodable_configuration_is_tried(box, board, caplog, config, reason):
    tried = []
    m = EventManager(outbox=box.path)
    m.handlers["not stored"] = Handler(lambda e: tried.append(e), config=config)
    m.add_handler("board", str(board.path))
    assert m.send_event(Event("build")) is False
    assert len(tried) == len(board.deliveries) == 1
    assert f"handler not stored is not kept in the outbox: {reason}" in caplog.text
    assert count_by_state(box) == {}


def test_handler_that_is_not_stored_fails_no_entry_permanently(box, board):
    m = EventManager(outbox=box.path)
    m.handlers["not stored"] = Handler(raising(PermanentError("no")), config=None)
    m.add_handler("board", str(board.path))
    assert m.send_event(Event("build")) is False
    assert count_by_state(box) == {}


# Events that cannot be stored.


def test_event_is_sent_directly_if_the_outbox_is_not_writable(tmp_path, board, caplog):
    (tmp_path / "file").touch()
    m = EventManager(outbox=tmp_path / "file")
    m.add_handler("board", str(board.path))
    assert m.send_event(Event("build", uid="u")) is True
    assert board.uids == ["u"]
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "cannot be kept in the outbox" in record.getMessage()


@ROOT
def test_event_is_sent_directly_if_another_user_owns_the_outbox(manager, board, box, caplog):
    assert manager.send_event(Event("build"))
    os.chown(os.path.join(box.path, "claimed"), 12345, -1)
    assert manager.send_event(Event("build")) is True
    assert len(board.deliveries) == 2
    assert "belongs to another user" in caplog.text


def add_failing_formatter(e):
    e.set_formatter("name", lambda key, value: 1 / 0)


def add_cycle(e):
    e.cycle = {}
    e.cycle["self"] = e.cycle


@pytest.mark.parametrize("change", [add_failing_formatter, add_cycle])
def test_event_that_cannot_be_stored_is_sent_directly(manager, box, board, attached, change, caplog):  # noqa: PLR0913  # fixtures
    change(attached)
    assert manager.send_event(attached) is True
    assert board.uids == ["u"]
    assert "cannot be kept in the outbox" in caplog.text
    assert count_by_state(box) == {}


def test_event_is_stored_without_a_missing_attachment(manager, attached, box, board, tmp_path, caplog):  # noqa: PLR0913  # fixtures
    board.set("down")
    (tmp_path / "build.log").unlink()
    assert manager.send_event(attached) is False
    assert "cannot be read, and is left out" in caplog.text
    board.set(None)
    assert [bool(outcome) for _, outcome in deliver(box, everything=True)] == [True]


def test_first_attempt_is_made_without_an_unreadable_attachment(box, tmp_path, attached):
    (tmp_path / "build.log").unlink()
    manager = EventManager(outbox=box.path)
    manager.add_handler("file", tmp_path / "events")
    assert manager.send_event(attached) is True
    (path,) = (tmp_path / "events").glob("*.json")
    assert json.loads(path.read_text("utf-8"))["not_attached"] == ["log", "../log"]
    assert count_by_state(box) == {}


def test_handler_that_cannot_be_constructed_is_tried_once_per_pass(box, monkeypatch):
    names = []
    monkeypatch.setattr(_registry, "get_handler", lambda name: names.append(name) or 1 / 0)
    for _ in range(2):
        box.put(Event("build"), {"acme": ""}).release()
    assert [str(outcome) for _, outcome in deliver(box, everything=True)] == [
        "acme: not delivered: ZeroDivisionError: division by zero"
    ] * 2
    assert len(names) == 1


def test_handler_that_hangs_in_its_constructor_has_failed(box, board, monkeypatch):
    finish = threading.Event()
    monkeypatch.setattr(_registry, "get_handler", lambda name: finish.wait(30))
    box.put(Event("build"), {"board": str(board.path)}).release()
    try:
        ((_, outcome),) = deliver(box, everything=True, timeout=0.05)
    finally:
        finish.set()
    assert "not done within" in str(outcome)


FULL = """
import os, resource, sys, event
box, target, log = sys.argv[1:]
m = event.EventManager(outbox=box)
m.handlers["a"] = type("H", (), {"encode_config": lambda s: "", "send_event": lambda s, e: print(e.uid) or True})()
e = event.Event("build", uid="u")
e.attach_file(log)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
print(m.send_event(e))
print(sum(len(os.listdir(os.path.join(box, state))) for state in os.listdir(box)))
"""


@POSIX
def test_event_is_sent_directly_if_the_disk_is_full(tmp_path):
    (tmp_path / "log").write_bytes(b"x" * 100_000)
    done = run(FULL, tmp_path / "outbox", tmp_path / "target", tmp_path / "log")
    assert done.stdout == "u\nTrue\n0\n"
    assert "cannot be kept in the outbox" in done.stderr


FULL_JOURNAL = """
import os, resource, sys, event
class H:
    def encode_config(self): return ""
    def send_event(self, e):
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        return sys.argv[2] == "delivers"
m = event.EventManager(outbox=sys.argv[1])
m.handlers["a"] = H()
print(m.send_event(event.Event("build")))
"""


@POSIX
@pytest.mark.parametrize(("result", "entries_left"), [("delivers", {}), ("fails", {"waiting": 1})])
def test_delivery_succeeds_if_the_disk_is_full_for_the_journal(box, result, entries_left):
    done = run(FULL_JOURNAL, box.path, result)
    assert done.stdout == f"{result == 'delivers'}\n"
    # A delivered entry is removed, and needs no journal.
    assert ("its journal cannot be written" in done.stderr) == (result == "fails")
    assert count_by_state(box) == entries_left
