"""Sending through the outbox: kept first, tried at once, delivered later, never in the build's way."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path

import pytest

import event
from event import Event, EventManager, PermanentError, _lazy_handler, _registry, _trace_context
from event._outbox import Outbox, lanes
from event._outbox.pool import DeliveryPool
from helpers.delivering import SECONDS, deliver
from helpers.entries import POSIX, ROOT, STATES, journal_of, names, path_of, put_in_span
from helpers.plugins import Site

FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="platform: Windows has no fork")

# A handler that appends what it gets to a file, and fails as a file beside it says.
BOARD = """
import os, event

class Handler:
    def __init__(self, where):
        self.where = where

    def send_event(self, e):
        if os.path.exists(self.where + ".down"):
            event.logger.warning("%s is down", "the board")
            return False
        if os.path.exists(self.where + ".refuses"):
            raise event.PermanentError("nobody of that name")
        with open(self.where, "a") as file:
            file.write(event.sending_id(e) + " " + e.uid + "\\n")
        return True

    @classmethod
    def decode_config(cls, config_str):
        return {"where": config_str}

    def encode_config(self):
        return self.where
"""


class Board:
    """The board of a test: what it has, and how it is."""

    def __init__(self, path):
        self.path = path

    @property
    def lines(self):
        return [line.split() for line in self.path.read_text().splitlines()] if self.path.exists() else []

    @property
    def uids(self):
        return [uid for _, uid in self.lines]

    def is_(self, how=None):
        for name in ("down", "refuses"):
            path = Path(f"{self.path}.{name}")
            if name == how:
                path.touch()
            else:
                path.unlink(missing_ok=True)


@pytest.fixture
def board(tmp_path, monkeypatch):
    Site(tmp_path / "site", monkeypatch).plugin("board", BOARD)
    return Board(tmp_path / "board")


@pytest.fixture
def manager(box, board):
    made = EventManager(outbox=box.path)
    made.add_handler("board", str(board.path))
    return made


def there(box):
    """Return how many entries each state holds, of those that hold some."""
    return {state: len(found) for state in STATES if (found := names(box, state))}


def entries(box, *states):
    """Return the state, the id and the content of each entry."""
    return [(candidate.state, candidate.id, entry) for candidate, entry in box.entries(*states)]


def all_of(box, **kwargs):
    return deliver(box, everything=True, **kwargs)


class Handler:
    """Does what it is told to, and can be kept."""

    def __init__(self, act=lambda e: True, config=""):
        self.act = act
        self.config = config

    def send_event(self, e):
        return self.act(e)

    def encode_config(self):
        if isinstance(self.config, BaseException):
            raise self.config
        return self.config


def raises(error):
    def act(e):
        raise error

    return act


def run(code, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done


# Sending.


def test_event_delivered_by_every_handler_leaves_no_entry(manager, board, box, attached):
    assert manager.send_event(attached) is True
    assert board.uids == ["u"]
    assert there(box) == {}


def test_event_is_stored_before_the_first_handler_runs(box, attached):
    seen = []

    def look(e):
        ((state, entry_id, entry),) = entries(box, "waiting", "claimed")
        seen.append((state, entry_id, entry.pending, event.sending_id(e)))
        return True

    m = EventManager(outbox=box.path)
    m.handlers.update(a=Handler(look, "1"), b=Handler(look, "2"))
    assert m.send_event(attached)
    (first, second) = seen
    assert first == ("claimed", first[1], {"a": "1", "b": "2"}, first[1])
    assert second == ("claimed", first[1], {"b": "2"}, first[1])


def test_undelivered_event_is_retried_with_the_same_id(manager, board, box, attached, tmp_path):
    ids = []
    manager.handlers["sees"] = Handler(lambda e: ids.append(event.sending_id(e)) or True, config=ValueError("never"))
    board.is_("down")
    assert manager.send_event(attached) is False
    assert there(box) == {"waiting": 1}
    ((_, _, entry),) = entries(box, "waiting")
    assert entry.pending == {"board": str(board.path)}
    assert entry.last_error == "the board is down"
    (tmp_path / "build.log").unlink()
    assert list(deliver(box)) == []
    ((_, outcome),) = all_of(box)
    assert not outcome
    assert there(box) == {"waiting": 1}
    board.is_()
    ((entry, outcome),) = all_of(box)
    assert outcome
    assert (entry.id, entry.attempts) == (ids[0], 3)
    assert board.lines == [[ids[0], "u"]]
    assert there(box) == {}


def test_retry_skips_handlers_that_already_delivered(board, box, tmp_path):
    m = EventManager(outbox=box.path)
    m.add_handler("board:first", str(board.path))
    m.add_handler("board:second", str(tmp_path / "second"))
    (tmp_path / "second.down").touch()
    assert not m.send_event(Event("build", uid="u"))
    (tmp_path / "second.down").unlink()
    ((_, outcome),) = all_of(box)
    assert [d.handler for d in outcome] == ["board:second"]
    assert len(board.lines) == len(Board(tmp_path / "second").lines) == 1
    assert board.lines == Board(tmp_path / "second").lines


def test_event_without_handlers_is_not_stored(box):
    assert EventManager(outbox=box.path).send_event(Event("build")) is True
    assert not os.path.exists(box.path)


def test_environment_variable_sets_the_outbox(monkeypatch, box, board):
    monkeypatch.setenv("E3_EVENT_OUTBOX", box.path)
    m = EventManager()
    m.add_handler("board", str(board.path))
    board.is_("down")
    assert not m.send_event(Event("build"))
    assert there(box) == {"waiting": 1}
    monkeypatch.setenv("E3_EVENT_OUTBOX", "")
    assert EventManager().outbox is None


def test_handler_gets_a_copy_equal_to_the_event(box, attached):
    class Build(Event):
        """An event of one's own."""

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
    assert there(box) == {"waiting": 1}
    Site(tmp_path / "site", monkeypatch).plugin("board", BOARD)
    ((_, outcome),) = all_of(box)
    assert outcome
    assert Board(tmp_path / "board").uids == ["u"]


def test_added_handler_replaces_one_that_could_not_be_loaded(box, tmp_path, monkeypatch):
    m = EventManager(outbox=box.path)
    monkeypatch.setenv("E3_EVENT_HANDLERS", "board=from the variable")
    with pytest.raises(event.EventError):
        m.load_handlers_from_env()
    m.handlers["board"] = Handler(lambda e: False, config="by hand")
    m.send_event(Event("build"))
    ((_, _, entry),) = entries(box, "waiting")
    assert entry.pending == {"board": "by hand"}


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        pytest.param(ValueError("a bar"), "ValueError: a bar", id="an error"),
        pytest.param(SystemExit(3), "SystemExit: 3", id="an exit"),
        pytest.param(None, "TypeError: encode_config returned NoneType, not str", id="no text"),
    ],
)
def test_handler_without_encodable_configuration_is_tried(box, board, caplog, config, reason):
    tried = []
    m = EventManager(outbox=box.path)
    m.handlers["odd"] = Handler(lambda e: tried.append(e), config=config)
    m.add_handler("board", str(board.path))
    assert m.send_event(Event("build")) is False
    assert len(tried) == len(board.lines) == 1
    assert f"handler odd is not kept in the outbox: {reason}" in caplog.text
    assert there(box) == {}


def test_handler_that_is_not_stored_fails_no_entry_permanently(box, board):
    m = EventManager(outbox=box.path)
    m.handlers["odd"] = Handler(raises(PermanentError("no")), config=None)
    m.add_handler("board", str(board.path))
    assert m.send_event(Event("build")) is False
    assert there(box) == {}


# What cannot be kept.


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
    assert len(board.lines) == 2
    assert "belongs to another user" in caplog.text


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda e, log: e.set_formatter("name", lambda key, value: 1 / 0), id="a formatter that fails"),
        pytest.param(lambda e, log: (e._data["end_time"] and None) or e._data.update(x=e._data), id="a cycle"),
    ],
)
def test_event_that_cannot_be_stored_is_sent_directly(manager, board, attached, tmp_path, spoil, caplog):  # noqa: PLR0913  # fixtures
    spoil(attached, tmp_path / "build.log")
    assert manager.send_event(attached) is True
    assert board.uids == ["u"]
    assert "cannot be kept in the outbox" in caplog.text
    assert there(Outbox(manager.outbox)) == {}


def test_event_is_stored_without_a_missing_attachment(manager, attached, box, board, tmp_path, caplog):  # noqa: PLR0913  # fixtures
    board.is_("down")
    (tmp_path / "build.log").unlink()
    assert manager.send_event(attached) is False
    assert "cannot be read, and is left out" in caplog.text
    board.is_()
    assert [bool(outcome) for _, outcome in all_of(box)] == [True]


def test_first_attempt_is_made_without_an_unreadable_attachment(box, tmp_path, attached):
    (tmp_path / "build.log").unlink()
    manager = EventManager(outbox=box.path)
    manager.add_handler("file", tmp_path / "events")
    assert manager.send_event(attached) is True
    (path,) = (tmp_path / "events").glob("*.json")
    assert json.loads(path.read_text("utf-8"))["not_attached"] == ["log", "../log"]
    assert there(box) == {}


def test_handler_that_cannot_be_constructed_is_tried_once_per_pass(box, monkeypatch):
    asked = []
    monkeypatch.setattr(_registry, "get_handler", lambda name: asked.append(name) or 1 / 0)
    for _ in range(2):
        box.put(Event("build"), {"acme": ""}).release()
    assert [str(outcome) for _, outcome in all_of(box)] == [
        "acme: not delivered: ZeroDivisionError: division by zero"
    ] * 2
    assert len(asked) == 1


def test_handler_that_hangs_in_its_constructor_has_failed(box, board, monkeypatch):
    hold = threading.Event()
    monkeypatch.setattr(_registry, "get_handler", lambda name: hold.wait(30))
    box.put(Event("build"), {"board": str(board.path)}).release()
    try:
        ((_, outcome),) = all_of(box, timeout=0.05)
    finally:
        hold.set()
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
        return sys.argv[2] == "takes"
m = event.EventManager(outbox=sys.argv[1])
m.handlers["a"] = H()
print(m.send_event(event.Event("build")))
"""


@POSIX
@pytest.mark.parametrize(("how", "left"), [("takes", {}), ("fails", {"waiting": 1})])
def test_delivery_succeeds_if_the_disk_is_full_for_the_journal(box, how, left):
    done = run(FULL_JOURNAL, box.path, how)
    assert done.stdout == f"{how == 'takes'}\n"
    assert ("its journal cannot be written" in done.stderr) == (how == "fails")  # else the entry is gone at once
    assert there(box) == left


# Interrupts, forks, threads.


def test_interrupt_propagates_and_the_event_stays_pending(box):
    m = EventManager(outbox=box.path)
    m.handlers.update(a=Handler(config="1"), b=Handler(raises(KeyboardInterrupt()), "2"), c=Handler(config="3"))
    with pytest.raises(KeyboardInterrupt):
        m.send_event(Event("build"))
    ((state, _, entry),) = entries(box, *STATES[1:])
    assert (state, entry.pending) == ("waiting", {"b": "2", "c": "3"})


FORKS = """
import os, sys, event
from event._outbox import Outbox

class Forks:
    def encode_config(self): return "config"
    def send_event(self, e):
        self.child = os.fork()
        if self.child:
            os.waitpid(self.child, 0)  # the child has been through all of our frames
            there = Outbox(sys.argv[1]).entries("claimed", "waiting")
            print(*(f"{candidate.state} {sorted(entry.pending)}" for candidate, entry in there))
            return False
        return True

m = event.EventManager(outbox=sys.argv[1])
m.handlers["forks"] = forks = Forks()
taken = m.send_event(event.Event("build"))
if forks.child == 0:
    os._exit(0)
print(taken)
"""


@FORK
def test_child_forked_by_a_handler_does_not_change_the_entry(box):
    assert run(FORKS, box.path).stdout == "claimed ['forks']\nFalse\n"
    assert there(box) == {"waiting": 1}


def test_threads_share_one_outbox(manager, board, box):
    def send(number):
        assert manager.send_event(Event("build", uid=f"{number}"))

    threads = [threading.Thread(target=send, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(board.uids, key=int) == [str(number) for number in range(20)]
    assert len({sending for sending, _ in board.lines}) == 20
    assert there(box) == {}


MANY = """
import os, sys, event
from event import _registry
from event._outbox import Outbox

sys.path.insert(0, sys.argv[4])
from helpers.delivering import deliver

class Board:
    def __init__(self, path): self.path = path
    @classmethod
    def decode_config(cls, config_str): return {"path": config_str}
    def encode_config(self): return self.path
    def send_event(self, e):
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        for what in "BE":
            os.write(fd, f"{what} {event.sending_id(e)} {e.uid} {os.getpid()}\\n".encode())
        os.close(fd)
        return int(e.uid[:2], 16) % 3 != 0 or sys.argv[3] == "all"

sys.modules["many"] = sys.modules["__main__"]
_registry.BUILTINS = {"board": ("many", "Board")}
m = event.EventManager(outbox=sys.argv[1])
m.handlers["board"] = Board(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
for number in range(25):
    m.send_event(event.Event("build"))
    for _ in deliver(Outbox(sys.argv[1]), everything=True): pass
"""


@POSIX
@pytest.mark.server
def test_eight_processes_never_deliver_an_entry_at_the_same_time(tmp_path, box):
    command = [sys.executable, "-c", MANY, box.path, str(tmp_path / "journal"), "some", str(Path(__file__).parents[1])]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(8)
    ]
    try:
        for process in started:
            assert process.stdout.read(5) == b"ready"
        errors = []
        for process in started:
            process.stdin.write(b"go\n")
            process.stdin.flush()
        errors = [process.communicate()[1] for process in started]
        assert errors == [b""] * 8
        assert [process.returncode for process in started] == [0] * 8
    finally:
        for process in started:
            process.kill()
            process.communicate()
    lines = [line.split() for line in (tmp_path / "journal").read_text().splitlines()]
    holder = {}
    for what, sending, _, pid in lines:
        if what == "B":
            assert holder.get(sending) is None, "two have it at once"
        holder[sending] = pid if what == "B" else None
    uids = {uid for _, _, uid, _ in lines}
    assert len(uids) == len(holder) == 200
    refused = {uid for uid in uids if int(uid[:2], 16) % 3 == 0}
    assert {entry.event.uid for _, _, entry in entries(box, "waiting")} == refused
    assert set(there(box)) == {"waiting"}
    taken = [uid for what, _, uid, _ in lines if what == "B" and uid not in refused]
    assert len(taken) == len(set(taken)), "one that was taken was delivered again"


# A deadline.


def test_handler_that_times_out_stays_pending(box):
    hold = threading.Event()
    m = EventManager(outbox=box.path, timeout=0.05)
    m.handlers.update(hung=Handler(lambda e: hold.wait(30), "1"), quick=Handler(config="2"))
    try:
        assert m.send_event(Event("build")) is False
        ((_, _, entry),) = entries(box, "waiting")
        assert entry.pending == {"hung": "1"}
        assert entry.last_error == "not done within 0.05 s"
    finally:
        hold.set()


HUNG = """
import sys, threading, event
m = event.EventManager(outbox=sys.argv[1], timeout=0.05)
class Hung:
    def encode_config(self): return ""
    def send_event(self, e): threading.Event().wait()
m.handlers["hung"] = Hung()
print(m.send_event(event.Event("build")))
"""


def test_hung_handler_neither_blocks_exit_nor_loses_the_event(box):
    assert run(HUNG, box.path).stdout == "False\n"
    assert there(box) == {"waiting": 1}


def test_mail_to_a_hung_server_stays_pending_after_the_timeout(box):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:  # it accepts, and never says a word
        m = EventManager(outbox=box.path, timeout=0.2)
        port = silent.getsockname()[1]
        m.add_handler("smtp", "s", "ci@example.com", "dev@example.com", [f"127.0.0.1:{port}"])
        assert m.send_event(Event("build")) is False
    ((state, _, entry),) = entries(box, "waiting", "claimed")
    assert (state, entry.last_error) == ("waiting", "not done within 0.2 s")


def test_send_without_outbox_and_timeout_imports_neither():
    code = """
import sys
before = set(sys.modules)
import event
m = event.EventManager()
m.handlers["a"] = type("H", (), {"send_event": lambda self, e: True})()
m.send_event(event.Event("x"))
heavy = {"threading", "event._outbox", "event._delivery", "event._dispatch", "event._entry"}
print(heavy & set(sys.modules) - before)
"""
    assert run(code).stdout == "set()\n"


def test_send_with_an_outbox_starts_no_thread(box):
    code = """
import sys
before = set(sys.modules)
import event
m = event.EventManager(outbox=sys.argv[1])
m.handlers["a"] = type("H", (), {"encode_config": lambda self: "", "send_event": lambda self, e: True})()
print(m.send_event(event.Event("x")))
print({"threading", "queue", "logging", "importlib.metadata"} & set(sys.modules) - before)
"""
    assert run(code, box.path).stdout == "True\nset()\n"


# Delivering.


def test_handler_is_constructed_once_per_configuration(manager, board, box, monkeypatch):
    board.is_("down")
    for _ in range(5):
        manager.send_event(Event("build"))
    board.is_()
    made = []
    get_handler = _registry.get_handler
    monkeypatch.setattr(_registry, "get_handler", lambda name: made.append(1) or get_handler(name))
    assert [bool(outcome) for _, outcome in all_of(box)] == [True] * 5
    assert len(made) == 1


@pytest.mark.parametrize(
    ("name", "config", "reason"),
    [
        pytest.param("nosuch", "", "no handler is named 'nosuch'", id="no such handler"),
        pytest.param("file", "", "log directory", id="a configuration that it refuses"),
        pytest.param("logging", "a,SHOUT", "expected logging=", id="a configuration that it cannot read"),
    ],
)
def test_handler_that_cannot_be_constructed_fails_and_others_deliver(box, board, name, config, reason):
    claim = box.put(Event("build", uid="u"), {name: config, "board": str(board.path)})
    claim.release()
    ((_, outcome),) = all_of(box)
    broken, good = outcome
    assert reason in broken.reason
    assert good
    assert board.uids == ["u"]
    assert there(box) == {"waiting": 1}


class Panic(BaseException):
    """As some extension modules raise."""


@pytest.mark.parametrize("error", [SystemExit(3), Panic("no")])
def test_handler_that_raises_in_its_constructor_has_failed(box, monkeypatch, error):
    def give_up(name):
        raise error

    monkeypatch.setattr(_registry, "get_handler", give_up)
    box.put(Event("build"), {"acme": ""}).release()
    ((_, outcome),) = all_of(box)
    assert str(outcome) == f"acme: not delivered: {type(error).__name__}: {error}"
    assert there(box) == {"waiting": 1}


def test_interrupt_while_a_handler_encodes_its_configuration_propagates(box):
    def interrupted(*args):
        raise KeyboardInterrupt

    handler = Handler()
    handler.encode_config = interrupted
    m = EventManager(outbox=box.path)
    m.handlers["a"] = handler
    with pytest.raises(KeyboardInterrupt):
        m.send_event(Event("build"))


def test_interrupt_in_a_pool_thread_is_a_failure(box, monkeypatch):
    def interrupted(name):
        raise KeyboardInterrupt

    monkeypatch.setattr(_registry, "get_handler", interrupted)
    box.put(Event("build"), {"acme": ""}).release()
    ((_, outcome),) = all_of(box)
    assert str(outcome) == "acme: not delivered: KeyboardInterrupt"
    assert there(box) == {"waiting": 1}


def test_relative_directory_of_the_file_handler_is_stored_as_absolute(box, tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    Path("events").touch()  # in the directory's way
    m = EventManager(outbox=box.path)
    m.add_handler("file", "events")
    assert not m.send_event(Event("build"))
    Path("events").unlink()
    monkeypatch.chdir(tmp_path / "b")
    ((_, outcome),) = all_of(box)
    assert outcome
    assert os.listdir(tmp_path / "b") == []
    assert len(list((tmp_path / "a" / "events").glob("*.json"))) == 1


def test_retry_of_the_file_handler_replaces_its_file(box, tmp_path, attached):
    """As after a kill between the delivery and its record."""
    m = EventManager(outbox=box.path)
    m.add_handler("file", str(tmp_path / "events"))
    claim = box.put(attached, {"file": str(tmp_path / "events")})
    assert m.handlers["file"].send_event(claim.event())
    claim.release()
    ((_, outcome),) = all_of(box)
    assert outcome
    (path,) = (tmp_path / "events").glob("*.json")
    assert path.name == f"build-u-{claim.entry.id}.json"
    assert (tmp_path / "events" / "build-u" / "log").read_bytes() == b"compiled\n"


@pytest.mark.parametrize("how", ["changed", "missing"])
def test_entry_with_a_damaged_attachment_moves_to_corrupt(manager, board, attached, how, caplog):
    box = Outbox(manager.outbox)
    board.is_("down")
    manager.send_event(attached)
    ((_, spoiled, _),) = entries(box, "waiting")
    manager.send_event(Event("build", uid="good"))
    copy = Path(path_of(box, spoiled), "0")
    copy.unlink() if how == "missing" else copy.write_bytes(b"other")
    board.is_()
    assert [entry.event.uid for entry, _ in all_of(box)] == ["good"]
    assert board.uids == ["good"]
    assert there(box) == {"corrupt": 1}
    assert f"outbox entry {spoiled} is moved to corrupt/" in caplog.text


def test_permanent_failure_moves_to_failed_and_can_be_retried(manager, board, box):
    board.is_("refuses")
    assert not manager.send_event(Event("build", uid="u"))
    assert there(box) == {"failed": 1}
    ((_, entry_id, entry),) = entries(box, "failed")
    assert entry.last_error == "nobody of that name"
    assert all_of(box) == []
    assert box.retry(*box.find(entry_id))
    ((_, outcome),) = all_of(box)
    assert not outcome
    assert there(box) == {"failed": 1}
    board.is_()
    assert box.retry(*box.find(entry_id))
    ((_, outcome),) = deliver(box)
    assert outcome
    assert board.lines == [[entry_id, "u"]]


def test_background_delivery_has_a_timeout(box, board, monkeypatch):
    hold = threading.Event()
    monkeypatch.setattr(_lazy_handler.LazyHandler, "load", lambda handler: Handler(lambda e: hold.wait(30)))
    box.put(Event("build"), {"board": str(board.path)}).release()
    try:
        ((_, outcome),) = all_of(box, timeout=0.05)
        assert "not done within" in str(outcome)
    finally:
        hold.set()
    assert there(box) == {"waiting": 1}


# The place in a trace.

TRACE, SPAN, ELSEWHERE = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", f"00-{'1' * 32}-{'2' * 16}-01"

# A handler that writes down which span it is in, and which one what it starts would be in.
WITNESS = """
import os, event
from event import _trace_context

class Handler(event.EventHandler):
    def send_event(self, e):
        span, child = _trace_context.current_span(), event.child_environment()
        words = span and span.traceparent, span and span.state, child.get("TRACEPARENT"), child.get("TRACESTATE")
        with open("seen", "a") as file:
            print(*words, file=file)
        return os.path.exists("up")
"""


@pytest.fixture
def seen(tmp_path, monkeypatch, box):
    """Return what the witness has written down; it has an event only once there is a file ``up``."""
    Site(tmp_path / "site", monkeypatch).plugin("witness", WITNESS)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.chdir(tmp_path)
    return lambda: [line.split() for line in Path("seen").read_text().splitlines()]


def put_in_a_process_of_its_own(box, traceparent, tracestate=""):
    code = """
import sys, event
m = event.EventManager(outbox=sys.argv[1])
m.add_handler("witness")
assert not m.send_event(event.Event("build"))
"""
    trace = {"TRACEPARENT": traceparent, "TRACESTATE": tracestate} if traceparent else {}
    subprocess.run([sys.executable, "-c", code, box.path], env={**os.environ, **trace}, check=True)


OTHERS = pytest.mark.parametrize("other", [pytest.param("", id="in none"), pytest.param(ELSEWHERE, id="in another")])


@OTHERS
def test_delivery_by_another_process_runs_in_the_span_of_the_sender(box, seen, monkeypatch, other):
    put_in_a_process_of_its_own(box, f"00-{TRACE}-{SPAN}-01", "v=1")
    if other:
        monkeypatch.setenv("TRACEPARENT", other)
        monkeypatch.setenv("TRACESTATE", "w=2")
    (outcome,) = (outcome for _, outcome in all_of(box))
    assert not outcome
    assert seen() == [[f"00-{TRACE}-{SPAN}-01", "v=1"] * 2] * 2


@OTHERS
def test_event_sent_without_a_span_is_delivered_without_one(box, seen, monkeypatch, other):
    put_in_a_process_of_its_own(box, "")
    if other:
        monkeypatch.setenv("TRACEPARENT", other)
        monkeypatch.setenv("TRACESTATE", "w=2")
    with event.track("delivering"):
        all_of(box)
    assert seen() == [["None"] * 4] * 2


def test_event_sent_in_a_track_is_delivered_in_its_span(box, seen, monkeypatch):
    monkeypatch.setenv("TRACEPARENT", f"00-{TRACE}-{SPAN}-01")
    m = EventManager(outbox=box.path)
    m.add_handler("witness")
    with event.track("build") as around:
        m.send_event(Event("compile"))
    with event.track("delivering"):
        all_of(box)
    assert around.traceparent.startswith(f"00-{TRACE}-")
    assert [words[0] for words in seen()] == [around.traceparent] * 2


def test_each_entry_is_delivered_in_its_own_span(box, seen):
    spans = [_trace_context.new_span(None) for _ in range(3)]
    for span in (*spans, _trace_context.NO_SPAN):
        put_in_span(box, Event("build"), {"witness": ""}, span).release()
    all_of(box)
    assert sorted(words[0] for words in seen()) == sorted([*(span.traceparent for span in spans), "None"])


def test_deliverer_keeps_its_own_span(box):
    for _ in range(2):
        put_in_span(box, Event("build"), {"file": "events"}, _trace_context.new_span(None)).release()
    with event.track("delivering") as around:
        assert len(all_of(box)) == 2
        assert event.child_environment()["TRACEPARENT"] == around.traceparent


def test_entry_with_a_malformed_span_is_delivered_without_one(box, seen, monkeypatch):
    monkeypatch.setenv("TRACEPARENT", ELSEWHERE)
    claim = put_in_span(box, Event("build"), {"witness": ""}, _trace_context.new_span(None))
    claim.postpone(time.time() + 1000)
    path = journal_of(path_of(box, claim.entry.id))
    content, *journal = path.read_text().split("\n")
    content = json.dumps({**json.loads(content), "trace": {"traceparent": "damaged"}})
    path.write_text("\n".join([content, *journal]))
    Path("up").touch()
    ((_, outcome),) = all_of(box)
    assert outcome
    assert seen() == [["None"] * 4]
    assert there(box) == {}


class Silent:
    """Keeps no report."""

    def __getattr__(self, name):
        return lambda *args: None


def test_memory_does_not_grow_with_the_backlog(box, tmp_path, monkeypatch):
    """A delivery of 500 entries holds at its peak what it holds for 100: both are more than a lane holds."""
    monkeypatch.setattr(lanes, "_MAX_QUEUED", 20)
    monkeypatch.setattr(os, "fsync", lambda fd: None)  # it would take most of the time, and is not asked about
    peaks = []
    for count in (100, 500):
        for _ in range(count):
            claim = box.put(Event("build", text="x" * 8000), {"file": str(tmp_path / "events")})
            claim.postpone(time.time() + 1000)
        tracemalloc.start()
        try:
            pool = DeliveryPool(box, 30.0, 1, Silent())
            pool.feed(box.candidates(everything=True))
            assert pool.wait(SECONDS)
            pool.close()
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        assert there(box) == {}
    assert peaks[1] < peaks[0] + 500_000, peaks  # 400 entries held would be 3 MB
    assert len(list((tmp_path / "events").glob("*.json"))) == 600
    assert json.loads(next((tmp_path / "events").glob("*.json")).read_bytes())["text"] == "x" * 8000
