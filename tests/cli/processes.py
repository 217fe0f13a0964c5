"""Commands that run in the background, and other processes."""

from __future__ import annotations

import os
import pathlib
import queue
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

from helpers.commands import patched
from helpers.waiting import SECONDS


def children_of(pid):
    """Return the ids of a process's children, on Linux."""
    threads = pathlib.Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for thread in threads for child in (thread / "children").read_text("utf-8").split()]


class BackgroundCommand:
    """A running command.

    :ivar lines: the lines of its stderr that were read so far
    """

    def __init__(self, popen):
        self.popen = popen
        self.lines = []
        self._unread = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read_stderr)
        self._reader.start()

    def line(self, part):
        """Wait for a line that contains a text; return the first one."""
        deadline = time.monotonic() + SECONDS
        while not (found := [line for line in self.lines if part in line]):
            try:
                line = self._unread.get(timeout=max(deadline - time.monotonic(), 0.001))
            except queue.Empty:
                line = None
            assert line is not None, f"no line with {part!r}, but {self.lines}"
            self.lines.append(line)
        return found[0]

    def signal(self, number):
        self.popen.send_signal(number)

    def end(self, number=None):
        """Send a signal, if one is given, and wait for the exit; return the status."""
        if number is not None:
            self.signal(number)
        status = self.popen.wait(SECONDS)
        self._reader.join(SECONDS)
        assert not self._reader.is_alive(), "a process that the command has started still has its stderr"
        while not self._unread.empty():
            if (line := self._unread.get()) is not None:
                self.lines.append(line)
        return status

    @property
    def text(self):
        return "\n".join(self.lines)

    def _read_stderr(self):
        if self.popen.stderr:
            with self.popen.stderr as stream:
                for line in stream:
                    self._unread.put(line.rstrip("\n"))
        self._unread.put(None)  # there will be no more


@contextmanager
def started(*args, patch="", **kwargs):
    """Run ``python -m event`` in the background; yield its `BackgroundCommand`, and kill it at the end.

    :param patch: code that patches the package first; see `patched`
    """
    env = {**os.environ, "PYTHONUTF8": "1", **kwargs.pop("env", {})}
    command = patched(patch, *args) if patch else [sys.executable, "-m", "event", *args]
    kwargs = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, **kwargs}
    background = BackgroundCommand(subprocess.Popen(command, env=env, encoding="utf-8", **kwargs))
    try:
        yield background
    finally:
        background.popen.kill()
        background.end()
