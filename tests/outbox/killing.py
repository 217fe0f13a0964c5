"""Kill processes that send through an outbox or deliver from it, and write a history of what each process did.

Usage: killing.py DIRECTORY KIND ROUNDS. The kinds are:

random           kill two senders and two deliverers at random moments, ROUNDS times
send             kill a sender before its first system call, then another one before its second, and so on
deliver          the same with deliverers
send-record      the same with senders, but count only the system calls of the handler's thread after the delivery
deliver-record   the same with deliverers

All processes are forked from this one, since starting interpreters would take most of the time. They append to the
history, a line with each os.write:

accepted - UID PROCESS      `put` has returned
called ID UID PROCESS       the handler `history` has been called
delivered ID UID PROCESS    it has delivered the complete event
journaled ID UID PROCESS    the delivery is in the entry's journal, or the entry has been removed
killed - - PROCESS          the process was killed
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
import random
import signal
import sys
import threading
import time

import event
from event import _registry
from event._outbox import Claim, Outbox

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from helpers.delivering import deliver  # next to this script's directory

CONTENT = b"0123456789abcdef" * 4096
SYSTEM_CALLS = (
    *("open", "write", "sendfile", "close", "utime", "chmod", "replace", "rename", "mkdir", "rmdir", "unlink", "fsync"),
    *("lstat", "stat", "scandir", "read", "fstat"),
)


class History:
    """The file that all processes append to.

    :cvar round: part of a process's name, since the system may use a process id again in a later round
    """

    fd = -1
    round = 0


def note(what, sending_id, uid, pid=None):
    line = f"{what} {sending_id} {uid} {pid or os.getpid()}.{History.round}".ljust(127)
    os.write(History.fd, f"{line}\n".encode())  # no line crosses a page boundary, where a kill may tear it


class HistoryHandler:
    """Write each call and each delivery to the history.

    :cvar failure_rate: the share of the deliveries that fail
    :cvar delivered: whether this thread has delivered an event
    """

    failure_rate = 0.0
    delivered = threading.local()

    def __init__(self, directory):
        self.directory = directory

    @classmethod
    def decode_config(cls, config_str):
        return {"directory": config_str}

    def encode_config(self):
        return self.directory

    def send_event(self, e):
        note("called", event.sending_id(e), e.uid)
        for path, digest in e.get_attachments().values():
            with open(path, "rb") as file:
                assert hashlib.sha1(file.read()).hexdigest() == digest
        if random.random() < self.failure_rate:
            return False
        note("delivered", event.sending_id(e), e.uid)
        self.delivered.value = True
        return True


def note_outbox_calls():
    """Write to the history when `put` and `record` have returned."""
    put, record, release = Outbox.put, Claim.record, Claim.release

    def put_and_note(self, e, handlers):
        claim = put(self, e, handlers)
        note("accepted", "-", e.uid)
        return claim

    def record_and_note(self, delivery):
        record(self, delivery)
        # The last delivery of an entry is not journaled, because the entry is removed.
        if "history" in self.entry.delivered and self.entry.pending:
            note("journaled", self.entry.id, self.entry.event.uid)

    def release_and_note(self):
        where = release(self)
        if where == "delivered":
            note("journaled", self.entry.id, self.entry.event.uid)
        return where

    Outbox.put, Claim.record, Claim.release = put_and_note, record_and_note, release_and_note


class Workspace:
    """A directory with an outbox, an attachment, the history and the output of the handlers."""

    def __init__(self, directory):
        self.directory = directory
        self.outbox = os.path.join(directory, "outbox")
        self.attachment = os.path.join(directory, "attachment")
        os.makedirs(directory, exist_ok=True)
        with open(self.attachment, "wb") as file:
            file.write(CONTENT)
        History.fd = os.open(os.path.join(directory, "history"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def send(self):
        manager = event.EventManager(outbox=self.outbox)
        manager.add_handler("file:a", os.path.join(self.directory, "a"))
        manager.add_handler("history", self.directory)
        manager.add_handler("file:b", os.path.join(self.directory, "b"))
        with event.Event("build", text="x" * 5000) as e:
            e.attach_file(self.attachment, "log")
            e.attach_file(self.attachment, "b/../log")
        return manager.send_event(e)

    def deliver(self):
        deliver(Outbox(self.outbox), everything=True)

    def count_accepted(self):
        with open(os.path.join(self.directory, "history"), "rb") as file:
            return file.read().count(b"accepted - ")

    def empty_outbox(self):
        """Deliver until the outbox is empty. No delivery fails."""
        HistoryHandler.failure_rate = 0.0
        for _ in range(20):
            self.deliver()
            if not any(os.listdir(os.path.join(self.outbox, state)) for state in ("tmp", "waiting", "claimed")):
                return
        raise AssertionError("the outbox does not become empty")


def fork(function, *, forever=False):
    """Call a function in a child process, once or until it is killed; return the process id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        random.seed()
        function()
        while forever:
            function()
    except BaseException:
        logging.getLogger("killing").exception("failed")
        os._exit(1)
    os._exit(0)


def kill_at_random(directory, rounds):
    workspace = Workspace(directory)
    HistoryHandler.failure_rate = 0.2
    longest_delay = 0.012  # seconds; adapted to the machine, so that about one event is accepted in each round
    for number in range(1, rounds + 1):
        History.round = number
        functions = (workspace.send, workspace.deliver, workspace.send, workspace.deliver)
        pids = [fork(function, forever=True) for function in functions]
        random.shuffle(pids)
        for pid in pids:
            time.sleep(random.uniform(0, longest_delay))
            os.kill(pid, signal.SIGKILL)
        for pid in pids:
            assert os.WIFSIGNALED(os.waitpid(pid, 0)[1]), "it ended before it was killed"
            note("killed", "-", "-", pid)
        is_fast = workspace.count_accepted() > number
        longest_delay = max(0.004, longest_delay * 0.95) if is_fast else min(1.0, longest_delay * 1.2)
    History.round += 1
    workspace.empty_outbox()


def die_before(number, counts):
    """Make this process kill itself before a system call, or in the middle of it if it writes to a file.

    :param number: of the system call; the first one has the number 1
    :param counts: returns whether a system call of the current thread counts
    """
    numbers = itertools.count(1)  # unlike `+=`, `next` is atomic

    def wrap(name, call):
        def wrapped(*args, **kwargs):
            if counts() and next(numbers) == number:
                if name == "write" and args[0] != History.fd:
                    call(args[0], args[1][: len(args[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return wrapped

    for name in SYSTEM_CALLS:
        if hasattr(os, name):
            setattr(os, name, wrap(name, getattr(os, name)))


def has_delivered():
    """Return whether this thread has delivered an event to the handler `history`."""
    return hasattr(HistoryHandler.delivered, "value")


def kill_at_each_system_call(directory, kind):
    """Kill one process after another, each one system call later, until one finishes; print how many there were."""
    for number in itertools.count(1):
        workspace = Workspace(os.path.join(directory, str(number)))
        function = workspace.send
        if kind.startswith("deliver"):
            HistoryHandler.failure_rate = 1.0
            assert not workspace.send()
            function = workspace.deliver
        HistoryHandler.failure_rate = 0.0
        counts = has_delivered if kind.endswith("-record") else lambda: True
        pid = fork(lambda number=number, counts=counts, function=function: (die_before(number, counts), function()))
        status = os.waitpid(pid, 0)[1]
        if os.WIFSIGNALED(status):
            note("killed", "-", "-", pid)
        else:
            assert status == 0
        if os.path.exists(os.path.join(workspace.outbox, "waiting")):
            workspace.empty_outbox()
        os.close(History.fd)
        if status == 0:
            print(json.dumps(number))
            return


if __name__ == "__main__":
    directory, kind, rounds = sys.argv[1:]
    sys.modules["killing"] = sys.modules["__main__"]
    _registry.BUILTINS = {**_registry.BUILTINS, "history": ("killing", "HistoryHandler")}
    logging.getLogger("event").addHandler(logging.NullHandler())
    logging.getLogger("event").propagate = False
    note_outbox_calls()
    if kind == "random":
        kill_at_random(directory, int(rounds))
    else:
        kill_at_each_system_call(directory, kind)
