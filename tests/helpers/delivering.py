"""Deliver from an outbox in this process, with the pool that workers use."""

from __future__ import annotations

import threading

from event import Outcome
from event._outbox.pool import DeliveryPool
from helpers.waiting import SECONDS


class Reports:
    """The reports of a pool.

    :ivar begun: (handler, ids of the entries) of each call
    :ivar results: id of an entry -> deliveries
    :ivar ended: (entry, its state) of each finished entry
    :ivar logged: log messages
    """

    def __init__(self):
        self.begun = []
        self.results = {}
        self.ended = []
        self.logged = []
        self._lock = threading.Lock()

    def begin(self, lane, claims):
        self.begun.append((lane.name, [claim.entry.id for claim in claims]))

    def result(self, claim, delivery):
        with self._lock:
            self.results.setdefault(claim.entry.id, []).append(delivery)

    def end(self, claim, state):
        self.ended.append((claim.entry, state))

    def log(self, text):
        self.logged.append(text)

    def outcome(self, entry):
        """Return the outcome of an entry. Its deliveries are in the order of the entry's handlers."""
        deliveries = {delivery.handler: delivery for delivery in self.results.get(entry.id, ())}
        return Outcome(tuple(deliveries[name] for name in entry.handlers if name in deliveries))


def deliver(outbox, timeout=30.0, *, everything=False, jobs=8):
    """Deliver the due entries; return each entry and its outcome.

    :param everything: whether to deliver the other entries too
    """
    reports = Reports()
    pool = DeliveryPool(outbox, timeout, jobs, reports)
    try:
        pool.feed(outbox.candidates(everything=everything))
        assert pool.wait(SECONDS)
    finally:
        pool.stop()
        pool.close()
    return [(entry, reports.outcome(entry)) for entry, _ in reports.ended]
