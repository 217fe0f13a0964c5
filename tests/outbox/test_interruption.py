"""Sending through the outbox with interrupts, forks, threads, several processes and timeouts."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from event import Event, EventManager, _dispatch
from helpers.entries import POSIX, STATES, count_by_state
from helpers.waiting import SECONDS
from outbox.boards import Handler, entries, raising, run

FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="platform: Windows has no fork")

# Interrupts, forks and threads.


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)], ids=lambda error: type(error).__name__)
def test_interrupt_propagates_and_the_event_stays_pending(box, error):
    signal.signal(signal.SIGTERM, lambda number, frame: raising(error)(None))
    m = EventManager(outbox=box.path)
    interrupted = Handler(lambda e: signal.raise_signal(signal.SIGTERM), "2")
    m.handlers.update(a=Handler(config="1"), b=interrupted, c=Handler(config="3"))
    with pytest.raises(type(error)):
        m.send_event(Event("build"))
    ((state, _, entry),) = entries(box, *STATES[1:])
    assert (state, entry.pending) == ("waiting", {"b": "2", "c": "3"})


def test_handler_that_exits_stays_pending_and_others_deliver(box):
    m = EventManager(outbox=box.path)
    m.handlers.update(a=Handler(config="1"), b=Handler(raising(SystemExit(3)), "2"), c=Handler(config="3"))
    assert m.send_event(Event("build")) is False
    ((state, _, entry),) = entries(box, *STATES[1:])
    assert (state, entry.pending) == ("waiting", {"b": "2"})


FORKS = """
import os, sys, event
from event._outbox import Outbox

class Forks:
    def encode_config(self): return "config"
    def send_event(self, e):
        self.child = os.fork()
        if self.child:
            os.waitpid(self.child, 0)  # the child has returned from all functions
            entries = Outbox(sys.argv[1]).entries("claimed", "waiting")
            print(*(f"{candidate.state} {sorted(entry.pending)}" for candidate, entry in entries))
            return False
        return True

m = event.EventManager(outbox=sys.argv[1])
m.handlers["forks"] = forks = Forks()
is_sent = m.send_event(event.Event("build"))
if forks.child == 0:
    os._exit(0)
print(is_sent)
"""


@FORK
def test_child_forked_by_a_handler_does_not_change_the_entry(box):
    assert run(FORKS, box.path).stdout == "claimed ['forks']\nFalse\n"
    assert count_by_state(box) == {"waiting": 1}


def test_threads_share_one_outbox(manager, board, box):
    def send(number):
        assert manager.send_event(Event("build", uid=f"{number}"))

    threads = [threading.Thread(target=send, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(board.uids, key=int) == [str(number) for number in range(20)]
    assert len({sending_id for sending_id, _ in board.deliveries}) == 20
    assert count_by_state(box) == {}


EIGHT = """
import os, sys, event
from event import _registry
from event._outbox import Outbox

sys.path.insert(0, sys.argv[3])
from helpers.delivering import deliver

class Board:
    def __init__(self, path): self.path = path
    @classmethod
    def decode_config(cls, config_str): return {"path": config_str}
    def encode_config(self): return self.path
    def send_event(self, e):
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        for what in ("begin", "end"):
            os.write(fd, f"{what} {event.sending_id(e)} {e.uid} {os.getpid()}\\n".encode())
        os.close(fd)
        return int(e.uid[:2], 16) % 3 != 0

sys.modules["eight"] = sys.modules["__main__"]
_registry.BUILTINS = {"board": ("eight", "Board")}
m = event.EventManager(outbox=sys.argv[1])
m.handlers["board"] = Board(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
for number in range(25):
    m.send_event(event.Event("build"))
    deliver(Outbox(sys.argv[1]), everything=True)
"""


@POSIX
@pytest.mark.server
def test_eight_processes_never_deliver_an_entry_at_the_same_time(tmp_path, box):
    command = [sys.executable, "-c", EIGHT, box.path, str(tmp_path / "journal"), str(Path(__file__).parents[1])]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(8)
    ]
    try:
        for process in processes:
            assert process.stdout.read(5) == b"ready"
        for process in processes:
            process.stdin.write(b"go\n")
            process.stdin.flush()
        errors = [process.communicate()[1] for process in processes]
        assert errors == [b""] * 8
        assert [process.returncode for process in processes] == [0] * 8
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    lines = [line.split() for line in (tmp_path / "journal").read_text().splitlines()]
    process_of = {}
    for what, sending_id, _, pid in lines:
        if what == "begin":
            assert process_of.get(sending_id) is None, "two processes delivered the entry at the same time"
        process_of[sending_id] = pid if what == "begin" else None
    uids = {uid for _, _, uid, _ in lines}
    assert len(uids) == len(process_of) == 200
    failed = {uid for uid in uids if int(uid[:2], 16) % 3 == 0}
    assert {entry.event.uid for _, _, entry in entries(box, "waiting")} == failed
    assert set(count_by_state(box)) == {"waiting"}
    delivered = [uid for what, _, uid, _ in lines if what == "begin" and uid not in failed]
    assert len(delivered) == len(set(delivered)), "an event was delivered again"


# Timeouts.


def test_handler_that_times_out_stays_pending(box, monkeypatch):
    finish, called = threading.Event(), threading.Event()

    def monotonic():
        """Let the timeout pass as soon as the thread of the handler `quick` has ended."""
        is_running = any(thread.name == "event quick" for thread in threading.enumerate())
        return time.monotonic() + (2 * SECONDS if called.is_set() and not is_running else 0.0)

    clock = SimpleNamespace(monotonic=monotonic, perf_counter=time.perf_counter)
    monkeypatch.setattr(_dispatch, "time", clock)
    m = EventManager(outbox=box.path, timeout=SECONDS)
    m.handlers.update(
        hung=Handler(lambda e: finish.wait(2 * SECONDS), "1"), quick=Handler(lambda e: called.set() or True, "2")
    )
    try:
        assert m.send_event(Event("build")) is False
        ((_, _, entry),) = entries(box, "waiting")
        assert entry.pending == {"hung": "1"}
        assert entry.last_error == "not done within 60 s"
    finally:
        finish.set()


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
    assert count_by_state(box) == {"waiting": 1}


def test_mail_to_a_hung_server_stays_pending_after_the_timeout(box):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it accepts connections, and never answers
        m = EventManager(outbox=box.path, timeout=0.2)
        port = silent.getsockname()[1]
        m.add_handler("smtp", "s", "ci@example.com", "dev@example.com", [f"127.0.0.1:{port}"])
        assert m.send_event(Event("build")) is False
    ((state, _, entry),) = entries(box, "waiting", "claimed")
    assert (state, entry.last_error) == ("waiting", "not done within 0.2 s")


def test_send_without_outbox_and_timeout_imports_no_module_for_them():
    code = """
import sys
before = set(sys.modules)
import event
m = event.EventManager()
m.handlers["a"] = type("H", (), {"send_event": lambda self, e: True})()
m.send_event(event.Event("x"))
unneeded = {"threading", "event._outbox", "event._outbox.delivery", "event._dispatch", "event._outbox.entry"}
print(unneeded & set(sys.modules) - before)
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
