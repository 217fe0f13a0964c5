"""Scenario: kill one process before each of its system calls."""

from __future__ import annotations

import os
import signal

from helpers.relay_crash import journal, kill_point
from helpers.relay_crash.processes import ForkedProcess, run
from helpers.relay_crash.recording import RecordingConsumer
from helpers.waiting import has_ended, wait_until

# The process that is killed -> the name of its outbox; a direct relay has none
TARGETS = {
    "producer": "producer-1",
    "relay": "one",
    "relay-worker": "one",
    "direct-relay": "direct",
    "direct-relay-worker": "direct",
}
PUBLISHED_AT_ONCE = 20


class StepKills:
    """Kill a process before each of its steps. Each run has its own queue with one message.

    :param target: one of `TARGETS`
    """

    def __init__(self, workspace, broker, target):
        self.workspace = workspace
        self.broker = broker
        self.target = target
        self.name = TARGETS[target]

    def run(self):
        """Run the scenario; return the number of the first step that the process does not reach."""
        step = 1
        while self._kill_at(step):
            step += 1
        relay = self.name
        if self.target == "producer":
            run(self.workspace.empty_outbox, self.name)
            relay = "two"
        run(self._deliver_remaining, relay, step)
        if relay != "direct":
            run(self.workspace.empty_outbox, relay)
        return step

    def _queue(self, step):
        return f"{self.target}-{step}"

    def _kill_at(self, step):
        """Start a process that is killed before a step; return whether it was."""
        if self.target == "producer":
            process = ForkedProcess(self._send, step)
        else:
            if step % PUBLISHED_AT_ONCE == 1:
                run(self._publish, range(step, step + PUBLISHED_AT_ONCE))
            if self.target.endswith("worker"):
                return self._kill_worker_at(step)
            process = ForkedProcess(self._relay, step)
        if not process.wait():
            return False
        journal.record("killed", pid=process.pid)
        return True

    def _kill_worker_at(self, step):
        """Run a relay whose first worker is killed before a step; return whether it was."""
        start = journal.size()
        self.workspace.worker_step = step
        run(self._relay_one_message, self.name, step)
        for line in map(journal.Line.parse, journal.read("worker-started", start)):  # one may outlive its relay
            wait_until(lambda pid=line.pid: has_ended(pid), "the worker has ended")
        return bool(journal.read("killed", start))

    def _publish(self, steps):
        manager = self.workspace.manager("producer-2")
        for step in steps:
            manager.handlers["broker"].queue = self._queue(step)
            assert self.workspace.send(manager, attachments=True)

    def _send(self, step):
        kill_point.install()
        manager = self.workspace.manager(self.name, self._queue(step))
        kill_point.kill_point.step = step
        self.workspace.send(manager, attachments=True)

    def _relay(self, step):
        kill_point.install()
        RecordingConsumer.on_connect = staticmethod(lambda: kill_point.kill_point.arm(step))
        self._relay_one_message(self.name, step)

    def _relay_one_message(self, name, step):
        """Relay until a message was acknowledged or dead-lettered."""
        RecordingConsumer.on_finished = staticmethod(lambda: os.kill(os.getpid(), signal.SIGTERM))
        self.workspace.relay(name, self._queue(step))

    def _deliver_remaining(self, name, last_step):
        """Relay the messages of the killed processes."""
        published = -(-last_step // PUBLISHED_AT_ONCE) * PUBLISHED_AT_ONCE
        for step in range(1, published + 1):
            self.broker.expire_leases(self._queue(step))
            attempts = 0
            while self.broker.remaining(self._queue(step)):
                attempts += 1
                assert attempts < 10, f"the queue {self._queue(step)} does not become empty"
                self._relay_one_message(name, step)
