"""The processes of a scenario: what they run, and how they start and end."""

from __future__ import annotations

import logging
import os
import random
import signal
import sys
import time
from pathlib import Path

import event
from event import _cli
from event._broker import redis, relay
from event._outbox import Outbox
from event._worker import spawning
from helpers.delivering import deliver
from helpers.relay_crash import CONTENT, QUEUE, TEXT, journal

MESSAGE_LEASE = 4.0  # seconds


def shorten_pauses():
    """Shorten the pauses of relays that would take a minute."""
    redis.MESSAGE_LEASE = MESSAGE_LEASE
    redis.CONSUMER_LIFETIME = 2 * MESSAGE_LEASE
    redis._CLAIM_PAUSE = 0.2
    relay._FIRST_DELAY = 0.02


class Workspace:
    """The directory of a scenario, with the outboxes and the files that the handlers write.

    :param handlers: the number of handlers of each relay, 1 or 3
    :ivar worker_step: the step before which the next worker is killed; 0 for never
    """

    def __init__(self, directory, handlers):
        self.directory = Path(directory)
        self.has_one_handler = handlers == 1
        self.attachment = self.directory / "attachment"
        self.attachment.write_bytes(CONTENT)
        self.failing = self.directory / "failing"  # see `TallyHandler`
        self.worker_step = 0
        (self.directory / "temporary").mkdir()
        journal.open_in(directory)

    def outbox(self, name):
        return Outbox(str(self.directory / f"outbox-{name}"))

    def _handler_options(self):
        """Return the options for the relays' handlers. With one handler, small events of a batch share a file."""
        handlers = [f"file:a={self.directory}/a", f"tally={self.directory}", f"file:b={self.directory}/b"]
        chosen = handlers[1:2] if self.has_one_handler else handlers
        return [f"--handler={handler}" for handler in chosen]

    def relay(self, name, queue=QUEUE):
        """Run a relay until SIGTERM. The one named "direct" has no outbox."""
        log = os.open(self.directory / f"relay-{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 2)
        os.environ["TMPDIR"] = str(self.directory / "temporary")
        outbox = [] if name == "direct" else ["--outbox", self.outbox(name).path]
        spawning._worker_command = self._worker_command  # no public way to start a worker that records
        options = ["--queue", queue, "--timeout", "30", *outbox, *self._handler_options()]
        status = _cli.main(["relay", "env:BROKER", *options])
        assert status == 0, status

    def _worker_command(self, jobs, reports):
        """Return the command of a worker that records, and that is killed at `worker_step` if it is the first one."""
        step, self.worker_step = self.worker_step, 0
        arguments = [self.directory, jobs, reports, os.getpid(), step]
        return [sys.executable, "-m", "helpers.relay_crash.worker", *map(str, arguments)]

    def manager(self, name, queue=QUEUE):
        """Return the event manager of a producer."""
        manager = event.EventManager(outbox=self.outbox(name).path)
        manager.add_handler("broker", "env:BROKER", queue, timeout=10.0)
        return manager

    def send(self, manager, *, attachments):
        """Send an event with two attachments or none."""
        with event.Event("build", text=TEXT, attached=2 * attachments) as e:
            for name in ("log", "b/../log")[: e.attached]:
                e.attach_file(self.attachment, name)
        return manager.send_event(e)

    def produce(self, name):
        """Deliver the entries of a killed producer, then send events without end."""
        self.deliver(name)
        manager = self.manager(name)
        while True:
            self.send(manager, attachments=random.random() < 0.3)
            time.sleep(random.uniform(0, 0.03))  # so that the relays keep up

    def deliver(self, name):
        deliver(self.outbox(name), everything=True)

    def empty_outbox(self, name):
        """Deliver until an outbox has no entries."""
        for _ in range(20):
            self.deliver(name)
            if not any(self.outbox(name).entries("waiting", "claimed")):
                return
        raise AssertionError(f"the outbox of {name} does not become empty")


class ForkedProcess:
    """A forked process that calls a function."""

    def __init__(self, function, *args, **kwargs):
        self.journal_size = journal.size()  # a process with the same id may have written earlier lines
        self.pid = os.fork()
        if self.pid:
            return
        try:
            random.seed()
            function(*args, **kwargs)
        except BaseException:
            logging.getLogger("relay_crash").exception("failed")
            os._exit(1)
        os._exit(0)

    def wait(self):
        """Wait until it ends; return whether it was killed. It must not fail."""
        status = os.waitpid(self.pid, 0)[1]
        assert status in {0, signal.SIGKILL}, f"status {status}"
        return status == signal.SIGKILL

    def stop_relay(self):
        """Send SIGTERM to a relay after it has connected."""
        journal.wait_until(lambda: journal.is_connected(self.pid, self.journal_size), "the relay has connected")
        os.kill(self.pid, signal.SIGTERM)


def run(function, *args):
    """Call a function in a process of its own, which must succeed."""
    assert not ForkedProcess(function, *args).wait(), "the process was killed"
