"""The pool delivers many entries at once: lanes, batches, limits, timeouts and pauses. No entry delays another."""

from __future__ import annotations

import concurrent.futures
import errno
import threading
import time

import pytest

from event import Event, PermanentError, _registry
from event._outbox import Claim, NewEntry
from event._outbox import pool as pool_module
from event._outbox.lanes import Lane, Recipient, Work, send_works
from event._outbox.pool import DeliveryPool
from helpers.delivering import Reports, deliver
from helpers.entries import names_by_state, put_in_span
from helpers.waiting import SECONDS, wait_until

TIMEOUT = 30.0


@pytest.fixture
def register(monkeypatch):
    """Return a function that registers a handler. It returns the list of the uids that `send_event` has been uids."""
    classes = {}
    monkeypatch.setattr(_registry, "get_handler", lambda name: classes[_registry.kind(name)])

    def add(name, send=lambda e: True, **attributes):
        uids = []

        def send_event(self, e):
            uids.append(e.uid)
            return send(e)

        body = {
            "__init__": lambda self, **kwargs: None,
            "decode_config": classmethod(lambda cls, text: {}),
            "send_event": send_event,
        }
        classes[name] = type(name, (), {**body, **attributes})
        return uids

    return add


def fill(box, count, *handlers, prefix="u"):
    """Put due entries for handlers."""
    configs = dict.fromkeys(handlers, "")
    events = [Event("n", uid=f"{prefix}{number}") for number in range(count)]
    for claim in box.put_many([NewEntry(event, configs) for event in events]):
        claim.postpone(1)


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


def treat_as_overdue(monkeypatch, condition):
    """Let the calls that meet a condition exceed the pool's timeout at once, and no others."""
    overdue = Lane.overdue

    def overdue_calls(lane, timeout):
        if timeout != TIMEOUT:
            return overdue(lane, timeout)
        return [call for call in lane.running if call.current and condition(lane, call)]

    monkeypatch.setattr(Lane, "overdue", overdue_calls)


def deliver_in_one_batch(box, register, send_events, count):
    """Deliver entries in one call of `send_events`; return the reports of the pool."""
    called, fed = threading.Event(), threading.Event()

    def send(e):
        if e.uid == "second0":
            called.set()
            return fed.wait(SECONDS)
        return True

    register("batches", send, send_events=send_events)
    reports = Reports()
    pool = DeliveryPool(box, TIMEOUT, 1, reports)
    fill(box, 1, "batches", prefix="first")
    pool.feed(box.candidates())  # loads the handler
    assert pool.wait(SECONDS)
    fill(box, 1, "batches", prefix="second")
    pool.feed(box.candidates())
    assert called.wait(SECONDS)  # the only thread is busy, so the other entries wait together
    fill(box, count, "batches")
    pool.feed(box.candidates())
    fed.set()
    assert pool.wait(SECONDS)
    pool.close()
    return reports


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


def test_a_handler_with_send_events_gets_batches_of_at_most_a_hundred(box, register):
    sizes = []
    register("many", send_events=lambda self, events: sizes.append(len(events)) or [True] * len(events))
    fill(box, 250, "many")
    assert all(outcome for _, outcome in deliver(box))
    assert 1 < max(sizes) <= 100
    assert names_by_state(box) == {}


@pytest.mark.parametrize(("attributes", "pauses"), [({"pace": 7.0}, [7.0]), ({}, []), ({"pace": "invalid"}, [])])
def test_calls_of_a_handler_respect_its_pace(register, monkeypatch, attributes, pauses):
    register("paced", **attributes)
    recipient = Recipient("paced", "")
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    recipient.wait_turn()  # the pace is not known before the handler is loaded
    recipient.load()
    recipient.wait_turn()
    recipient.wait_turn()
    assert slept == pauses


@pytest.mark.parametrize(("computed", "blocked"), [(1.0, 3.0), (9.0, 0.0)], ids=["one processor", "several processors"])
def test_time_in_which_another_thread_computes_does_not_count_as_blocked(box, register, monkeypatch, computed, blocked):
    register("fine")
    work = Work(box.put(Event("n"), {"fine": ""}))
    monkeypatch.setattr(time, "perf_counter", iter([10.0, 14.0]).__next__)
    monkeypatch.setattr(time, "process_time", iter([5.0, 5.0 + computed]).__next__)
    assert send_works(Lane("fine", ""), [work])[2] == blocked


def test_each_event_of_a_batch_has_its_own_result(box, register):
    def send_events(self, events):
        results = {"u1": False, "u2": OSError("down"), "u3": PermanentError("never")}
        return [results.get(event.uid, True) for event in events]

    reports = deliver_in_one_batch(box, register, send_events, 6)
    failures = {entry.event.uid: str(reports.outcome(entry)) for entry, _ in reports.ended}
    assert {
        uid: text.partition(": not delivered: ")[2] for uid, text in failures.items() if "not delivered" in text
    } == {
        "u1": "the handler returned False",
        "u2": "down",
        "u3": "never",
    }
    assert {state: len(found) for state, found in names_by_state(box).items()} == {"waiting": 2, "failed": 1}


class NoTruth:
    def __bool__(self):
        raise ValueError("no truth value")


def test_unfinished_result_in_a_batch_is_a_failure(register):
    future = concurrent.futures.Future()
    values = [future, (x for x in ()), NotImplemented, NoTruth(), OSError("down"), 1, None]
    register("many", send_events=lambda self, events: values)
    results = Recipient("many", "").send_events([Event("n")] * len(values))
    assert [str(result) for result in results] == [
        "send_events returned a future; it must deliver the event before it returns, so wait for the future's result",
        "send_events returned a generator; it must deliver the event before it returns, so do not use yield",
        "send_events returned NotImplemented; it must return True if it delivered the event",
        "no truth value",
        "down",
        "True",
        "False",
    ]


def test_async_send_events_is_an_error(register):
    async def send_events(self, events):
        return [True]

    register("many", send_events=send_events)
    with pytest.raises(TypeError, match="send_events returned an awaitable"):
        Recipient("many", "").send_events([Event("n")])


def test_send_events_can_be_a_generator(register):
    sent = []

    def send_events(self, events):
        for e in events:
            sent.append(e.uid)
            yield True

    register("many", send_events=send_events)
    assert Recipient("many", "").send_events([Event("n", uid="a"), Event("n", uid="b")]) == [True, True]
    assert sent == ["a", "b"]


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda events: [True], id="too few results"),
        pytest.param(lambda events: 1 / 0, id="an error"),
        pytest.param(lambda events: (_ for _ in ()).throw(SystemExit(3)), id="an exit"),
    ],
)
def test_each_event_of_a_failed_batch_is_tried_alone(box, register, answer):
    def send(e):
        if e.uid == "u7":
            raise OSError("down")
        return True

    uids = register("many", send, send_events=lambda self, events: answer(events))
    fill(box, 20, "many")
    outcomes = {entry.event.uid: bool(outcome) for entry, outcome in deliver(box)}
    assert [uid for uid, ok in outcomes.items() if not ok] == ["u7"]
    assert sorted(uids) == sorted(outcomes)


def test_a_batch_holds_events_of_one_span(box, register):
    from event import _trace_context

    seen = []

    def send_events(self, events):
        seen.append(_trace_context.current_span())
        return [True] * len(events)

    register("many", send_events=send_events)
    spans = [_trace_context.new_span(None), _trace_context.new_span(None)]
    fill(box, 1, "many")
    for span in spans * 2:
        put_in_span(box, Event("n"), {"many": ""}, span).postpone(1)
    assert len(deliver(box)) == 5
    assert {span and span.traceparent for span in seen} <= {None, *(span.traceparent for span in spans)}


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


def test_pool_does_not_wait_for_a_handler_loaded_by_another_thread(monkeypatch):
    loading, go_on = threading.Event(), threading.Event()

    class Slow:
        def __init__(self):
            loading.set()
            go_on.wait(SECONDS)

        decode_config = classmethod(lambda cls, text: {})

    monkeypatch.setattr(_registry, "get_handler", lambda name: Slow)
    lane = Lane("slow", "")
    thread = threading.Thread(target=lane.handler.load)
    thread.start()
    assert loading.wait(SECONDS)
    with pytest.raises(TimeoutError, match="still being loaded"):
        lane.handler.load()
    go_on.set()
    thread.join(SECONDS)
    assert isinstance(lane.handler.load(), Slow)


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


def test_events_of_a_hung_batch_are_tried_alone(box, register, monkeypatch):
    sizes, finish = [], threading.Event()

    def send_events(self, events):
        sizes.append(len(events))
        finish.wait(SECONDS)
        return [True] * len(events)

    treat_as_overdue(monkeypatch, lambda lane, call: call.batch)
    deliver_in_one_batch(box, register, send_events, 3)
    finish.set()
    assert sizes == [3]
    assert names_by_state(box) == {}


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


def test_single_slow_call_does_not_end_taking_several_events_at_once(box, register):
    register("fine")
    lane = Lane("fine", "")
    sizes = []
    for seconds in (0.0001, 0.0001, 5.0, 5.0):
        lane.record_call(seconds, 0.0)
        lane.put_back(Work(box.put(Event("n"), {"fine": ""})) for _ in range(3))
        sizes.append(len(lane.next_sending().remaining))
        lane.empty()
    assert sizes == [3, 3, 3, 1]


def test_single_waiting_call_does_not_add_threads(register):
    register("fine")
    lane = Lane("fine", "")
    lane.handler.load()
    limits = []
    for seconds in (0.0001, 5.0, 5.0):
        lane.record_call(seconds, seconds)
        limits.append(lane.limit(4))
    assert limits == [1, 1, 4]


def test_pool_has_room_only_after_the_urgent_entries_are_delivered(box, register):
    gate = threading.Event()
    register("fine", lambda e: gate.wait(SECONDS))
    pool = DeliveryPool(box, TIMEOUT, 2, Reports())
    pool.add(box.put(Event("n"), {"fine": ""}), begun=True, urgent=True)
    threading.Timer(0.05, gate.set).start()
    assert pool.has_room_for(1, SECONDS)
    assert names_by_state(box) == {}
    pool.close()
