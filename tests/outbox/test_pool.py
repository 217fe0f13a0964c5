"""The pool delivers many entries at once: its threads, limits, timeouts and pauses. No entry delays another."""

from __future__ import annotations

import errno
import threading
import time

import pytest

from event import Event
from event._outbox import Claim
from event._outbox import pool as pool_module
from event._outbox.lanes import Lane
from event._outbox.pool import DeliveryPool
from helpers.delivering import Reports, deliver
from helpers.entries import names_by_state
from helpers.waiting import SECONDS, wait_until
from outbox.pools import TIMEOUT, fill, treat_as_overdue


class ConcurrentCalls:
    """The function of a handler. It counts the calls that run at the same time.

    :param expected: each call waits until so many calls have run at the same time
    :ivar most: the largest number of calls that have run at the same time
    """

    def __init__(self, expected):
        self.most = self._now = 0
        self._expected = expected
        self._reached = threading.Event()
        self._lock = threading.Lock()

    def __call__(self, _event):
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
            if self.most >= self._expected:
                self._reached.set()
        self._reached.wait(SECONDS)
        time.sleep(0.01)  # so that too many calls would meet
        with self._lock:
            self._now -= 1
        return True


# Concurrent calls.


def test_slow_handler_gets_one_event_per_job_at_the_same_time(box, register):
    calls = ConcurrentCalls(4)
    register("slow", calls)
    fill(box, 30, "slow")
    assert len(deliver(box, jobs=4)) == 30
    assert calls.most == 4
    assert names_by_state(box) == {}


def test_one_job_delivers_one_event_at_a_time(box, register):
    calls = ConcurrentCalls(1)
    register("slow", calls)
    fill(box, 10, "slow")
    deliver(box, jobs=1)
    assert calls.most == 1


@pytest.mark.parametrize("limit", [1, 2])
def test_handler_can_limit_its_concurrent_deliveries(box, register, limit):
    calls = ConcurrentCalls(limit)
    register("limited", calls, max_concurrency=limit)
    fill(box, 20, "limited")
    deliver(box)
    assert calls.most == limit


# Slow and hung handlers.


def test_hung_handler_is_paused_after_two_timeouts_and_others_deliver(box, register, monkeypatch):
    treat_as_overdue(monkeypatch, lambda lane, call: lane.name == "hung")
    finish = threading.Event()
    register("hung", lambda e: finish.wait(SECONDS))
    delivered = register("fine")
    fill(box, 50, "hung", "fine")
    reports = Reports()
    pool = DeliveryPool(box, TIMEOUT, 2, reports)
    try:
        pool.feed(box.candidates())
        assert pool.wait(SECONDS)
        assert len(delivered) == 50
        assert 2 <= pool.hung <= 4
        assert len(names_by_state(box).get("waiting", ())) == 50
        assert any("hung timed out twice in a row" in text for text in reports.logged)
    finally:
        finish.set()
        pool.close()


def test_hung_handler_does_not_delay_another_handler_of_its_event(box, register):
    delivered = threading.Event()
    register("hung", lambda e: delivered.wait(SECONDS))
    register("fine", lambda e: delivered.set() or True)
    pool = DeliveryPool(box, 2 * SECONDS, 4, Reports())  # its only thread becomes idle while the entry is put
    fill(box, 1, "hung", "fine")
    pool.feed(box.candidates())
    assert pool.wait(2 * SECONDS)
    pool.close()
    assert names_by_state(box) == {}


def test_slow_event_does_not_delay_the_next(box, register):
    finish = threading.Event()
    uids = register("some_slow", lambda e: e.uid != "u0" or finish.wait(SECONDS))
    fill(box, 40, "some_slow")
    pool = DeliveryPool(box, TIMEOUT, 4, Reports())
    pool.feed(box.candidates())
    wait_until(lambda: len(uids) == 40)
    finish.set()
    assert pool.wait(SECONDS)
    pool.close()


def test_slow_destination_with_a_large_backlog_does_not_delay_others(box, register, monkeypatch):
    finish = threading.Event()
    register("slow", lambda e: finish.wait(SECONDS))
    uids = register("fine")
    fill(box, 500, "slow")
    fill(box, 5, "fine")
    pool = DeliveryPool(box, TIMEOUT, 2, Reports())
    pool.feed(box.candidates())
    wait_until(lambda: len(uids) == 5)
    finish.set()
    assert pool.wait(SECONDS)
    pool.close()
    assert names_by_state(box) == {}


def test_full_pool_takes_no_more_entries(box, register, monkeypatch):
    monkeypatch.setattr(pool_module, "_MAX_PARKED", 10)
    register("slow", lambda e: time.sleep(0.001) or True)
    fill(box, 300, "slow")
    assert len(deliver(box, jobs=8)) == 300


def test_stopped_pool_takes_no_entries(box, register):
    uids = register("good")
    fill(box, 1, "good")
    pool = DeliveryPool(box, TIMEOUT, 1, Reports())
    pool.stop()
    pool.feed(box.candidates())
    pool.close()
    assert uids == []
    assert list(names_by_state(box)) == ["waiting"]


def test_stopped_pool_releases_entries_that_were_not_started(box, register):
    finish, called = threading.Event(), threading.Event()
    uids = register("slow", lambda e: called.set() or finish.wait(SECONDS))
    fill(box, 300, "slow")
    pool = DeliveryPool(box, TIMEOUT, 1, Reports())
    pool.feed(box.candidates())
    assert called.wait(SECONDS)
    pool.stop()
    finish.set()
    assert pool.wait(SECONDS)
    pool.close()
    assert len(names_by_state(box).get("waiting", ())) == 300 - len(uids)
    assert all(entry.attempts == 1 for _, entry in box.entries("waiting"))


def test_held_lane_is_served_after_its_release(box, register):
    held = register("held")
    fine = register("fine")
    fill(box, 3, "held", "fine")
    key = Lane("held", "").key
    pool = DeliveryPool(box, TIMEOUT, 2, Reports(), held=[key])
    pool.feed(box.candidates())
    wait_until(lambda: len(fine) == 3)
    assert not pool.wait(0.05)
    assert held == []
    pool.release(key)
    assert pool.wait(SECONDS)
    pool.close()
    assert len(held) == 3


def test_paused_lane_releases_its_entries(box, register):
    uids = register("paused")
    fill(box, 3, "paused")
    pool = DeliveryPool(box, TIMEOUT, 2, Reports())
    pool.pause(Lane("paused", "").key)
    pool.feed(box.candidates())
    assert pool.wait(SECONDS)
    pool.close()
    assert uids == []
    assert len(names_by_state(box).get("waiting", ())) == 3
    assert deliver(box) == []  # they are not due


def test_held_lane_that_is_paused_releases_its_entries(box, register):
    uids = register("paused")
    fill(box, 3, "paused")
    key = Lane("paused", "").key
    pool = DeliveryPool(box, TIMEOUT, 2, Reports(), held=[key])
    pool.feed(box.candidates())
    pool.pause(key)
    assert pool.wait(SECONDS)
    pool.close()
    assert (uids, len(names_by_state(box)["waiting"])) == ([], 3)


def test_entry_that_cannot_be_released_stays_claimed(box, register, monkeypatch):
    def fail(self, due):
        raise OSError(errno.ENOSPC, "no space")

    register("paused")
    fill(box, 1, "paused")
    reports = Reports()
    pool = DeliveryPool(box, TIMEOUT, 2, reports)
    pool.pause(Lane("paused", "").key)
    monkeypatch.setattr(Claim, "postpone", fail)
    pool.feed(box.candidates())
    assert pool.wait(SECONDS)
    pool.close()
    assert [where for _, where in reports.ended] == ["claimed"]


def test_unused_lanes_are_removed(box, register, monkeypatch):
    monkeypatch.setattr(pool_module, "_MAX_LANES", 1)
    pool = DeliveryPool(box, TIMEOUT, 2, Reports())
    for name in ("a", "b", "c"):
        register(name)
        fill(box, 1, name, prefix=name)
        pool.feed(box.candidates())
        assert pool.wait(SECONDS)
    pool.close()
    assert names_by_state(box) == {}


def test_thread_with_an_empty_lane_continues_with_another(box, register, monkeypatch):
    monkeypatch.setattr(pool_module, "_MAX_LANE_THREADS", 1)
    finish, called = threading.Event(), threading.Event()
    register("slow", lambda e: called.set() or finish.wait(SECONDS))
    uids = register("other")
    pool = DeliveryPool(box, TIMEOUT, 1, Reports())
    fill(box, 1, "slow")
    pool.feed(box.candidates())
    assert called.wait(SECONDS)
    fill(box, 1, "other", prefix="o")
    pool.feed(box.candidates())
    pool.pause(Lane("other", "").key)  # the lane has requested a thread, and is empty when it gets one
    finish.set()
    assert pool.wait(SECONDS)
    register("third")
    fill(box, 1, "third", prefix="t")
    pool.feed(box.candidates())
    assert pool.wait(SECONDS)
    pool.close()
    assert (uids, len(names_by_state(box)["waiting"])) == ([], 1)


def test_a_pool_has_a_limited_number_of_threads(box, register, monkeypatch):
    monkeypatch.setattr(pool_module, "_MAX_LANE_THREADS", 1)
    calls = ConcurrentCalls(1)
    register("slow", calls)
    fill(box, 30, "slow")
    assert len(deliver(box)) == 30
    assert calls.most == 1


def test_entry_dropped_while_parked_is_skipped(box, register, monkeypatch):
    finish = threading.Event()
    uids = register("slow", lambda e: finish.wait(SECONDS))
    fill(box, 300, "slow")
    monkeypatch.setattr(box, "adopt", lambda name: None)
    pool = DeliveryPool(box, TIMEOUT, 1, Reports())
    pool.feed(box.candidates())
    finish.set()
    assert pool.wait(SECONDS)
    pool.close()
    assert 0 < len(uids) < 300


def test_urgent_entry_is_delivered_before_queued_entries(box, register):
    finish, called = threading.Event(), threading.Event()
    uids = register("slow", lambda e: called.set() or finish.wait(SECONDS))
    fill(box, 5, "slow")
    pool = DeliveryPool(box, TIMEOUT, 1, Reports())
    pool.feed(box.candidates())
    assert called.wait(SECONDS)
    pool.add(box.put(Event("n", uid="urgent"), {"slow": ""}), begun=True, urgent=True)
    finish.set()
    assert pool.wait(SECONDS)
    pool.close()
    assert uids[1] == "urgent"


def test_existing_threads_deliver_if_no_thread_can_be_started(box, register, monkeypatch):
    uids = register("slow", lambda e: time.sleep(0.01) or True)
    fill(box, 20, "slow")
    pool = DeliveryPool(box, TIMEOUT, 8, Reports())

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    pool.feed(box.candidates())
    assert pool.wait(SECONDS)
    pool.close()
    assert len(uids) == 20


def test_unexpected_error_with_one_entry_does_not_affect_others(box, register):
    class FailingReports(Reports):
        def begin(self, lane, claims):
            if any(claim.entry.id == postponed for claim in claims):
                raise TypeError("a name that is a number")
            super().begin(lane, claims)

    uids = register("fine")
    fill(box, 1, "fine", prefix="postponed")
    (postponed,) = (candidate.id for candidate in box.candidates())
    reports = FailingReports()
    pool = DeliveryPool(box, TIMEOUT, 1, reports)
    pool.feed(box.candidates())
    assert pool.wait(SECONDS)
    fill(box, 3, "fine")
    pool.feed(box.candidates())
    assert pool.wait(SECONDS)
    pool.close()
    assert sorted(uids) == ["u0", "u1", "u2"]
    assert names_by_state(box) == {"waiting": [postponed]}
    assert reports.logged == ["fine: not delivered for now: TypeError: a name that is a number"]


def test_unexpected_error_in_the_pool_makes_it_exhausted(box, register, monkeypatch):
    class FailingReports(Reports):
        def begin(self, lane, claims):
            raise MemoryError

    register("fine")
    fill(box, 1, "fine")
    reports = FailingReports()
    pool = DeliveryPool(box, TIMEOUT, 1, reports)
    pool.feed(box.candidates())
    assert not pool.wait(SECONDS)
    assert pool.is_exhausted
    pool.close()
    assert reports.logged == ["delivery stops: MemoryError"]


def test_pool_has_room_again_after_deliveries(box, register, monkeypatch):
    monkeypatch.setattr(pool_module, "MAX_URGENT", 2)
    gate = threading.Event()
    register("slow", lambda e: gate.wait(SECONDS))
    pool = DeliveryPool(box, TIMEOUT, 2, Reports())
    for _ in range(2):
        pool.add(box.put(Event("n"), {"slow": ""}), begun=True, urgent=True)
    assert not pool.has_room_for(1, 0.0)
    gate.set()
    assert pool.has_room_for(2, SECONDS)
    pool.close()


def test_pool_has_room_only_after_the_urgent_entries_are_delivered(box, register):
    gate = threading.Event()
    register("fine", lambda e: gate.wait(SECONDS))
    pool = DeliveryPool(box, TIMEOUT, 2, Reports())
    pool.add(box.put(Event("n"), {"fine": ""}), begun=True, urgent=True)
    threading.Timer(0.05, gate.set).start()
    assert pool.has_room_for(1, SECONDS)
    assert names_by_state(box) == {}
    pool.close()
