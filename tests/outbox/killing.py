"""Kills senders and deliverers of an outbox, and writes down what each one did. A script: DIRECTORY KIND ROUNDS.

It forks from one warm process: an interpreter for each round would take most of the time. The journal that all
processes append to, one os.write a line, holds

    A - UID PID       put has returned: the event is accepted
    B ID UID PID      the tally handler begins with a sending
    D ID UID PID      it has the event, whole
    R ID UID PID      and that is in the entry's journal, or the entry is gone
    K - - PID         the process was killed
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import signal
import sys
import time

import event
from event import _registry
from event._outbox import Claim, Outbox

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from helpers.delivering import deliver  # next to this script's directory

CONTENT = b"0123456789abcdef" * 4096
STEPS = (
    *("open", "write", "sendfile", "close", "utime", "chmod", "replace", "rename", "mkdir", "rmdir", "unlink", "fsync"),
    *("lstat", "stat", "scandir", "read", "fstat"),
)


class Tally:
    """Appends the id of each sending to the journal; some deliveries fail while there are kills."""

    journal = -1
    fails = 0.0
    round = 0  # a process number may come again in a later one

    def __init__(self, directory):
        self.directory = directory

    @classmethod
    def decode_config(cls, config_str):
        return {"directory": config_str}

    def encode_config(self):
        return self.directory

    def send_event(self, e):
        note("B", event.sending_id(e), e.uid)
        for path, digest in e.get_attachments().values():
            with open(path, "rb") as file:
                assert hashlib.sha1(file.read()).hexdigest() == digest
        if random.random() < self.fails:
            return False
        note("D", event.sending_id(e), e.uid)
        return True


def note(what, sending, uid, pid=None):
    line = f"{what} {sending} {uid} {pid or os.getpid()}.{Tally.round}".ljust(127)
    os.write(Tally.journal, f"{line}\n".encode())  # none crosses a page, where a kill may tear it


def watch():
    """Have put and record tell the journal when they return."""
    put, record, release = Outbox.put, Claim.record, Claim.release

    def told_put(self, e, handlers):
        claim = put(self, e, handlers)
        note("A", "-", e.uid)
        return claim

    def told_record(self, delivery):
        record(self, delivery)
        if "tally" in self.entry.delivered and self.entry.pending:  # else it is not written, and the entry goes
            note("R", self.entry.id, self.entry.event.uid)

    def told_release(self):
        if release(self) == "delivered":
            note("R", self.entry.id, self.entry.event.uid)

    Outbox.put, Claim.record, Claim.release = told_put, told_record, told_release


class Place:
    """A directory with an outbox, an attachment, and what the handlers make."""

    def __init__(self, directory):
        self.directory = directory
        self.outbox = os.path.join(directory, "outbox")
        self.attachment = os.path.join(directory, "attachment")
        os.makedirs(directory, exist_ok=True)
        with open(self.attachment, "wb") as file:
            file.write(CONTENT)
        Tally.journal = os.open(os.path.join(directory, "journal"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def send(self):
        manager = event.EventManager(outbox=self.outbox)
        manager.add_handler("file:a", os.path.join(self.directory, "a"))
        manager.add_handler("tally", self.directory)
        manager.add_handler("file:b", os.path.join(self.directory, "b"))
        with event.Event("build", text="x" * 5000) as e:
            e.attach_file(self.attachment, "log")
            e.attach_file(self.attachment, "b/../log")
        return manager.send_event(e)

    def deliver(self):
        for _ in deliver(Outbox(self.outbox), everything=True):
            pass


def forked(act, *, forever=False):
    pid = os.fork()
    if pid:
        return pid
    try:
        random.seed()
        act()
        while forever:
            act()
    except BaseException:
        logging.getLogger("killing").exception("failed")
        os._exit(1)
    os._exit(0)


def at_random(directory, rounds):
    """Kill two senders and two deliverers at once, each at a moment of its own."""
    place = Place(directory)
    Tally.fails = 0.2
    longest = 0.012  # seconds; it follows the machine, so that a round accepts about an event
    for number in range(1, rounds + 1):
        Tally.round = number
        started = [forked(act, forever=True) for act in (place.send, place.deliver, place.send, place.deliver)]
        random.shuffle(started)
        for pid in started:
            time.sleep(random.uniform(0, longest))  # the random moment itself
            os.kill(pid, signal.SIGKILL)
        for pid in started:
            assert os.WIFSIGNALED(os.waitpid(pid, 0)[1]), "it ended before it was killed"
            note("K", "-", "-", pid)
        longest = max(0.004, longest * 0.95) if accepted(place) > number else min(1.0, longest * 1.2)
    Tally.round += 1
    finish(place)


def accepted(place):
    with open(os.path.join(place.directory, "journal"), "rb") as file:
        return file.read().count(b"A - ")


def finish(place):
    Tally.fails = 0.0
    for _ in range(20):
        place.deliver()
        if not any(os.listdir(os.path.join(place.outbox, state)) for state in ("tmp", "waiting", "claimed")):
            return
    raise AssertionError("the outbox does not become empty")


def die_at(step):
    """Have this process kill itself before its system call of that number, in the middle of a write."""
    count = 0

    def wrap(name, call):
        def wrapped(*args, **kwargs):
            nonlocal count
            count += 1
            if count == step:
                if name == "write" and args[0] != Tally.journal:
                    call(args[0], args[1][: len(args[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return wrapped

    for name in STEPS:
        if hasattr(os, name):
            setattr(os, name, wrap(name, getattr(os, name)))


def at_each_step(directory, kind):
    step = 0
    while True:
        step += 1
        place = Place(os.path.join(directory, str(step)))
        act = place.send
        if kind == "deliver":
            Tally.fails = 1.0
            assert not place.send()
            act = place.deliver
        Tally.fails = 0.0
        pid = forked(lambda step=step, act=act: (die_at(step), act()))
        status = os.waitpid(pid, 0)[1]
        if os.WIFSIGNALED(status):
            note("K", "-", "-", pid)
        else:
            assert status == 0
        if os.path.exists(os.path.join(place.outbox, "waiting")):
            finish(place)
        os.close(Tally.journal)
        if status == 0:
            print(json.dumps(step))
            return


if __name__ == "__main__":
    where, how, number = sys.argv[1:]
    sys.modules["killing"] = sys.modules["__main__"]
    _registry.BUILTINS = {**_registry.BUILTINS, "tally": ("killing", "Tally")}
    logging.getLogger("event").addHandler(logging.NullHandler())
    logging.getLogger("event").propagate = False
    watch()
    if how == "random":
        at_random(where, int(number))
    else:
        at_each_step(where, how)
