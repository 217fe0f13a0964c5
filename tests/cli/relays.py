"""Relays as real processes, and the queues that they take from."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pika
import redis

import event

SECONDS = 60  # in which what is waited for happens, on a machine that has other work


def eventually(condition, what):
    """Return what a condition returns, once that is true; fail if it does not become so."""
    end = time.monotonic() + SECONDS
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {SECONDS} s: {what}"
        time.sleep(0.02)
    return value


def ended(pid):
    """Tell whether a process has ended, waited for or not."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in {b"Z", b"X"}
    except FileNotFoundError:
        return True


class Queue:
    """A queue of its own, at a broker."""

    def __init__(self, url):
        self.url = url
        self.name = f"q-{os.urandom(4).hex()}"

    def send(self, *names, attachment=None):
        """Publish events, each with the uid ``u-NAME``."""
        manager = event.EventManager()
        manager.add_handler("broker", self.url, self.name)
        for name in names:
            with event.Event(name, f"u-{name}") as e:
                if attachment:
                    e.attach_file(attachment, "log")
            assert manager.send_event(e)

    def put(self, body, queue=None):
        """Publish a message that e3-event has not written."""
        if self.url.startswith("redis"):
            self._redis().xadd(queue or self.name, {"body": body})
            return
        with pika.BlockingConnection(pika.URLParameters(f"{self.url}%2F")) as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            channel.basic_publish("", queue or self.name, body.encode(), mandatory=True)

    def waiting(self, suffix=""):
        """Return how many messages wait; of Redis, also those that are delivered and not acknowledged."""
        if self.url.startswith("redis"):
            return self._redis().xlen(self.name + suffix)
        with pika.BlockingConnection(pika.URLParameters(f"{self.url}%2F")) as connection:
            try:
                return connection.channel().queue_declare(self.name + suffix, passive=True).method.message_count
            except pika.exceptions.ChannelClosedByBroker:
                return 0

    def _redis(self):
        return redis.Redis.from_url(self.url)


class Process:
    """A command that runs, and the lines that it has written to stderr so far."""

    def __init__(self, popen):
        self.popen = popen
        self.lines = []
        self._coming = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def line(self, part, after=0):
        """Wait for a line that has a part, behind the first ones; return it."""
        end = time.monotonic() + SECONDS
        while not (found := [line for line in self.lines[after:] if part in line]):
            self._take(end - time.monotonic(), part)
        return found[0]

    def signal(self, number):
        self.popen.send_signal(number)

    def end(self, number=None):
        """Send it a signal, if one is given; return its status when it has ended."""
        if number is not None:
            self.signal(number)
        status = self.popen.wait(SECONDS)
        self._reader.join(SECONDS)
        assert not self._reader.is_alive(), "a process that it has started is still there"
        while not self._coming.empty():
            self.lines.append(self._coming.get())
        return status

    @property
    def text(self):
        return "\n".join(self.lines)

    def _take(self, seconds, part):
        try:
            line = self._coming.get(timeout=max(seconds, 0.001))
        except queue.Empty:
            line = None
        assert line is not None, f"no line with {part!r}, but {self.lines}"
        self.lines.append(line)

    def _read(self):
        if self.popen.stderr:
            with self.popen.stderr as stream:
                for line in stream:
                    self._coming.put(line.rstrip("\n"))
        self._coming.put("(it has ended)")


@contextmanager
def started(*args, code=None, **kwargs):
    """Run ``python -m event``, or some code; give its Process, and kill it in the end."""
    env = {**os.environ, "PYTHONUTF8": "1", **kwargs.pop("env", {})}
    command = [sys.executable, *(["-c", code] if code else ["-m", "event"]), *args]
    kwargs = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, **kwargs}
    process = Process(subprocess.Popen(command, env=env, encoding="utf-8", **kwargs))
    try:
        yield process
    finally:
        process.popen.kill()
        process.end()
