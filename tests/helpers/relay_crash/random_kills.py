"""Scenario: kill and pause processes and the broker at random moments."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from pathlib import Path

from helpers.relay_crash import QUEUE, journal
from helpers.relay_crash.brokers import RedisBroker
from helpers.relay_crash.processes import MESSAGE_LEASE, ForkedProcess, run

PRODUCERS = ("producer-1", "producer-2")
RELAYS_WITH_OUTBOX = ("one", "two")
RELAYS = (*RELAYS_WITH_OUTBOX, "direct")
DEAD_LETTERS = f"{QUEUE}.dead"
MAX_RELAY_ROUNDS = 7  # starts of the relays until a queue must be empty


class RandomKills:
    """Producers and relays that are killed and started again."""

    def __init__(self, workspace, broker):
        self.workspace = workspace
        self.broker = broker
        self.running = {}  # name -> process

    def run(self, rounds, broker_kills):
        """Run the scenario; return the number of dead letters."""
        self.workspace.failing.touch()
        self.broker.create_queue()
        try:
            for name in (*PRODUCERS, *RELAYS):
                self._start(name)
            self._kill_at_random(rounds, broker_kills)
            self._finish()
        finally:
            for name in [*self.running]:
                self._kill(name)
        dead_letters = self.broker.remaining(DEAD_LETTERS)
        self._relay_dead_letters()
        if isinstance(self.broker, RedisBroker):
            self._check_removal_of_dead_relays()
        return dead_letters

    def _start(self, name):
        function = self.workspace.produce if name in PRODUCERS else self.workspace.relay
        self.running[name] = ForkedProcess(function, name)

    def _kill(self, name):
        process = self.running.pop(name)
        begin = time.monotonic()
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait(), f"{name} ended before it was killed"
        journal.record("killed", pid=process.pid, begin=begin)

    def _kill_at_random(self, rounds, broker_kills):
        broker_rounds = {(number + 1) * rounds // (broker_kills + 1) for number in range(broker_kills)}
        for number in range(rounds):
            if number in broker_rounds:
                self._kill_broker()
            elif number % 10 == 5:
                self._pause_broker()
            accepted = journal.count("accepted")
            journal.wait_until(
                lambda accepted=accepted: journal.count("accepted") > accepted, "another event is accepted"
            )
            time.sleep(random.uniform(0, 0.4))  # the random moment
            name = random.choice((*PRODUCERS, *RELAYS, *RELAYS, "worker"))
            if name == "worker":
                self._kill_newest_worker()
            elif number % 15 == 10:
                self._pause_relay(random.choice(RELAYS))
            else:
                self._kill(name)
                self._start(name)

    def _kill_broker(self):
        begin = time.monotonic()
        self.broker.server.kill()
        self.broker.server.start()
        journal.record("broker-killed", pid="-", begin=begin)

    def _pause_broker(self):
        self.broker.server.pause()
        time.sleep(0.5)
        self.broker.server.resume()

    def _kill_newest_worker(self):
        started = journal.read("worker-started")
        if not started:
            return
        pid = int(journal.Line.parse(started[-1]).pid)
        if self._is_worker(pid):
            begin = time.monotonic()
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                journal.wait_until(lambda: not self._is_worker(pid), "the worker is dead")
                journal.record("killed", pid=pid, begin=begin)

    def _is_worker(self, pid):
        """Return whether a process is a worker of this scenario. Another process may have the id by now."""
        try:
            return os.fsencode(self.workspace.directory) in Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False

    def _pause_relay(self, name):
        """Pause a relay until its lease has expired."""
        pid = self.running[name].pid
        journal.record("paused", pid=pid)
        os.kill(pid, signal.SIGSTOP)
        time.sleep(1.5 * MESSAGE_LEASE)
        journal.record("resumed", pid=pid)
        os.kill(pid, signal.SIGCONT)

    def _finish(self):
        """Stop the producers, and let the relays deliver everything."""
        for name in PRODUCERS:
            self._kill(name)
        self.workspace.failing.unlink()
        for name in PRODUCERS:
            run(self.workspace.empty_outbox, name)
        for number in range(MAX_RELAY_ROUNDS):
            self._wait_until_empty(QUEUE, number)
            for name in RELAYS:
                self.running[name].stop_relay()
            for name in RELAYS:
                assert not self.running.pop(name).wait()
            if not self.broker.remaining():
                break
            for name in RELAYS:
                self._start(name)
        else:
            raise AssertionError("the queue does not become empty")
        for name in RELAYS_WITH_OUTBOX:
            run(self.workspace.empty_outbox, name)

    def _wait_until_empty(self, queue, number):
        """Wait until a queue seems to be empty.

        RabbitMQ does not count the messages that a relay holds. If a relay is stopped too early, it requeues them. So
        each further wait is for a longer silence: messages that are requeued again and again are held for longer.
        """
        journal.wait_until(
            lambda: not self.broker.waiting(queue) and journal.is_silent(2.0**number), f"the queue {queue} is empty"
        )

    def _relay_dead_letters(self):
        """Deliver the messages that were dead-lettered because too many relays crashed with them."""
        number = 0
        while self.broker.remaining(DEAD_LETTERS):
            assert number < MAX_RELAY_ROUNDS, "the dead letters are not delivered"
            relay = ForkedProcess(self.workspace.relay, "direct", DEAD_LETTERS)
            self._wait_until_empty(DEAD_LETTERS, number)
            relay.stop_relay()
            assert not relay.wait()
            number += 1

    def _check_removal_of_dead_relays(self):
        relay = ForkedProcess(self.workspace.relay, "direct")
        journal.wait_until(lambda: len(self.broker.relays()) <= 1, "the relay has removed the dead ones")
        relay.stop_relay()
        assert not relay.wait()
        assert self.broker.pending() == 0
