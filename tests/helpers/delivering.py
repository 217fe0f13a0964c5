"""Deliver from an outbox in this process, with the pool of the worker."""

from __future__ import annotations

import threading

from event import Outcome
from event._outbox.pool import DeliveryPool

SECONDS = 60  # in which what is waited for happens, on a machine that has other work


class Reports:
    """What a pool has reported."""

    def __init__(self):
        self.begun = []  # (handler, ids) of each call
        self.results = {}  # id -> deliveries
        self.ended = []  # (entry, where)
        self.logged = []
        self._lock = threading.Lock()

    def begin(self, lane, claims):
        self.begun.append((lane.name, [claim.entry.id for claim in claims]))

    def result(self, claim, delivery):
        with self._lock:
            self.results.setdefault(claim.entry.id, []).append(delivery)

    def end(self, claim, where):
        self.ended.append((claim.entry, where))

    def log(self, text):
        self.logged.append(text)

    def outcome(self, entry):
        """Return what the handlers did with an entry, in the order of its handlers."""
        deliveries = {delivery.handler: delivery for delivery in self.results.get(entry.id, ())}
        return Outcome(tuple(deliveries[name] for name in entry.handlers if name in deliveries))


def deliver(outbox, timeout=30.0, *, everything=False, jobs=8):
    """Deliver what is due; return each entry and what the handlers did with it."""
    reports = Reports()
    pool = DeliveryPool(outbox, timeout, jobs, reports)
    try:
        pool.feed(outbox.candidates(everything=everything))
        assert pool.wait(SECONDS)
    finally:
        pool.stop()
        pool.close()
    return [(entry, reports.outcome(entry)) for entry, _ in reports.ended]
