"""Kill the current process just before one of its system calls.

Only calls that change something on disk or at the broker count; tests/outbox/killing.py counts the others too. Of
several receiving calls in a row, the first one counts: a kill before it loses the data of all of them.
"""

from __future__ import annotations

import os
import signal
import socket

from helpers.relay_crash import journal

DISK_CALLS = ("write", "sendfile", "replace", "rename", "mkdir", "rmdir", "unlink")
SEND_CALLS = ("send", "sendall")
RECEIVE_CALLS = ("recv", "recv_into")


class KillPoint:
    """The place where the process is killed.

    :ivar step: the number of the system call; 0 for none
    :ivar counts_network: whether calls of sockets count; connecting to the broker changes nothing there
    :ivar records_kill: whether the process must record its own death, because the test does not know its process id
    """

    def __init__(self):
        self.step = 0
        self.counts_network = False
        self.records_kill = False
        self._count = 0
        self._last_call = ""

    def arm(self, step):
        """Begin to count calls; the process has connected to the broker."""
        self.step = step
        self.counts_network = True

    def before(self, name, write_half):
        """Count a call. If it is the chosen one, write half of its data and kill the process."""
        if name in SEND_CALLS + RECEIVE_CALLS and not self.counts_network:
            return
        if self.step and not (name in RECEIVE_CALLS and self._last_call in RECEIVE_CALLS):
            self._count += 1
            if self._count == self.step:
                write_half()
                if self.records_kill:
                    journal.record("killed")
                os.kill(os.getpid(), signal.SIGKILL)
        self._last_call = name


kill_point = KillPoint()


def install():
    """Count the system calls of this process from now on."""
    for name in DISK_CALLS:
        setattr(os, name, _counted_disk_call(name, getattr(os, name)))
    for name in SEND_CALLS + RECEIVE_CALLS:
        setattr(socket.socket, name, _counted_socket_call(name, getattr(socket.socket, name)))


def _counted_disk_call(name, call):
    def counted(*args, **kwargs):
        def write_half():
            if name == "write" and not journal.is_journal(args[0]):
                call(args[0], args[1][: len(args[1]) // 2])

        kill_point.before(name, write_half)
        return call(*args, **kwargs)

    return counted


def _counted_socket_call(name, call):
    def counted(self, *args, **kwargs):
        def send_half():
            if name in SEND_CALLS:
                call(self, memoryview(args[0])[: len(args[0]) // 2])

        kill_point.before(name, send_half)
        return call(self, *args, **kwargs)

    return counted
