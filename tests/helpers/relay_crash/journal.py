"""The journal: a file to which all processes append a line for each action.

A line is ``KIND SENDING EVENT PROCESS BEGIN END``: the sending's id, the event's uid, the process id, and the times in
seconds at which the action began and ended. A field that does not apply is ``-``.

=====================  ==============================================================================================
``accepted``           a producer's outbox has stored the event
``publishing``         a process begins to publish the message
``publish-failed``     the broker did not confirm it
``publish-recorded``   the producer's outbox has recorded that the broker confirmed it
``received``           a relay has received the message
``acknowledged``       the relay has acknowledged it, or has moved it to the end of its queue or to another queue
``worker-received``    the relay's worker has received it
``worker-reported``    the worker has reported what to do with it
``delivered``          the tally handler has the complete event
``delivery-recorded``  the outbox has recorded that
``shared``             the worker stores events of a batch in one file
``worker-started``     the worker of a relay has started; EVENT is the relay's process id
``connected``          a relay has connected to the broker
``connection-lost``    it has lost the connection
``paused``             the relay is paused for longer than its lease
``resumed``            it continues
``killed``             the process was killed
``broker-killed``      the broker was killed and restarted
=====================  ==============================================================================================
"""

from __future__ import annotations

import os
import time
from typing import NamedTuple

PROGRESS = ("accepted ", "connected ", "delivered ")  # the lines that show progress; messages can be requeued forever
WAIT_LIMIT = 120  # seconds without progress

_fd = -1
_path = ""


class Line(NamedTuple):
    """A line of the journal. If the machine is busy, an action may end long after it began."""

    kind: str
    sending: str
    uid: str
    pid: str
    begin: float
    end: float

    @classmethod
    def parse(cls, text):
        *words, begin, end = text.split()
        return cls(*words, float(begin), float(end))

    @property
    def span(self):
        return self.begin, self.end

    def __repr__(self):
        return f"{self.kind} {self.pid} {self.begin}"


def open_in(directory):
    """Open the journal in a directory. Forked processes inherit it."""
    global _fd, _path  # noqa: PLW0603  # one journal for each process
    _path = os.path.join(directory, "journal")
    _fd = os.open(_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def is_journal(fd):
    return fd == _fd


def record(kind, sending="-", uid="-", pid=None, begin=None):
    """Append a line with one system call, so that lines of different processes do not mix."""
    now = time.monotonic()
    os.write(_fd, f"{kind} {sending} {uid} {pid or os.getpid()} {begin or now:.6f} {now:.6f}\n".encode())


def size():
    return os.fstat(_fd).st_size


def read(kind="", offset=0):
    """Return the texts of the lines of a kind, by default of all, from an offset on."""
    with open(_path, encoding="ascii") as file:
        file.seek(offset)
        return [text for text in file.read().splitlines() if not kind or text.startswith(f"{kind} ")]


def count(kind):
    return len(read(kind))


def is_connected(pid, offset):
    """Return whether a process has connected to the broker since the journal had a size."""
    return any(Line.parse(text).pid == str(pid) for text in read("connected", offset))


def is_silent(seconds):
    """Return whether the last line was written at least so many seconds ago."""
    return time.monotonic() - Line.parse(read()[-1]).end > seconds


def wait_until(condition, description):
    """Wait until a condition holds. Fail only if there is no progress: a slow machine needs more time."""
    last_progress, deadline = -1, 0.0
    while not condition():
        progress = sum(line.startswith(PROGRESS) for line in read())
        if progress != last_progress:
            last_progress, deadline = progress, time.monotonic() + WAIT_LIMIT
        assert time.monotonic() < deadline, f"{WAIT_LIMIT} s without progress; waiting until {description}"
        time.sleep(0.02)
