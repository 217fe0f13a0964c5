"""Many entries at once: lanes, batches, limits, timeouts, rests; none holds up another."""

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
from helpers.delivering import SECONDS, Reports, deliver
from helpers.entries import names_by_state, put_in_span

TIMEOUT = 30.0


@pytest.fixture
def kinds(monkeypatch):
    """Register handlers: name -> function of the event, with attributes; each remembers what it was given."""
    known = {}
    monkeypatch.setattr(_registry, "get_handler", lambda name: known[_registry.kind(name)])

    def register(name, act=lambda e: True, **attributes):
        given = []

        def send_event(self, e):
            given.append(e.uid)
            return act(e)

        body = {
            "__init__": lambda self, **kwargs: None,
            "decode_config": classmethod(lambda cls, text: {}),
            "send_event": send_event,
        }
        known[name] = type(name, (), {**body, **attributes})
        return given

    return register


def fill(box, count, *handlers, prefix="u"):
    """Put events that are due, for handlers."""
    configs = dict.fromkeys(handlers, "")
    events = [Event("n", uid=f"{prefix}{number}") for number in range(count)]
    for claim in box.put_many([NewEntry(event, configs) for event in events]):
        claim.postpone(1)


class Gauge:
    """Counts how many are in a handler at once."""

    def __init__(self, seconds=0.02):
        self.most = self._now = 0
        self._seconds = seconds
        self._lock = threading.Lock()

    def __call__(self, _event):
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        time.sleep(self._seconds)
        with self._lock:
            self._now -= 1
        return True


def test_slow_handler_gets_one_event_per_job_at_the_same_time(box, kinds):
    gauge = Gauge()
    kinds("slow", gauge)
    fill(box, 30, "slow")
    assert len(deliver(box, jobs=4)) == 30
    assert gauge.most == 4
    assert names_by_state(box) == {}


def test_one_job_delivers_one_event_at_a_time(box, kinds):
    gauge = Gauge()
    kinds("slow", gauge)
    fill(box, 10, "slow")
    deliver(box, jobs=1)
    assert gauge.most == 1


@pytest.mark.parametrize("limit", [1, 2])
def test_handler_can_limit_its_concurrent_deliveries(box, kinds, limit):
    gauge = Gauge()
    kinds("shy", gauge, max_concurrency=limit)
    fill(box, 20, "shy")
    deliver(box)
    assert gauge.most == limit


def test_a_handler_with_send_events_gets_batches_of_at_most_a_hundred(box, kinds):
    sizes = []
    kinds("many", send_events=lambda self, events: sizes.append(len(events)) or [True] * len(events))
    fill(box, 250, "many")
    assert all(outcome for _, outcome in deliver(box))
    assert 1 < max(sizes) <= 100
    assert names_by_state(box) == {}


@pytest.mark.parametrize(("pace", "wait"), [(7.0, 7.0), (None, None), ("odd", None)])
def test_handler_calls_respect_its_rate_limit(kinds, monkeypatch, pace, wait):
    kinds("paced", **({} if pace is None else {"pace": pace}))
    recipient = Recipient("paced", "")
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    recipient.wait_turn()
    recipient.load()
    recipient.wait_turn()
    recipient.wait_turn()
    assert pauses == [] if wait is None else [pytest.approx(wait, abs=1.0)]


@pytest.mark.parametrize(("computed", "blocked"), [(1.0, 3.0), (9.0, 0.0)], ids=["one-thread", "several-processors"])
def test_time_in_which_another_thread_computes_does_not_count_as_blocked(box, kinds, monkeypatch, computed, blocked):
    kinds("fine")
    work = Work(box.put(Event("n"), {"fine": ""}))
    monkeypatch.setattr(time, "perf_counter", iter([10.0, 14.0]).__next__)
    monkeypatch.setattr(time, "process_time", iter([5.0, 5.0 + computed]).__next__)
    assert send_works(Lane("fine", ""), [work])[2] == blocked


def test_each_event_of_a_batch_has_its_own_result(box, kinds):
    def send_events(self, events):
        answers = {"u1": False, "u2": OSError("down"), "u3": PermanentError("never")}
        return [answers.get(event.uid, True) for event in events]

    kinds("many", send_events=send_events)
    fill(box, 6, "many")
    alone = {entry.event.uid: str(outcome) for entry, outcome in deliver(box) if not outcome}
    assert {uid: text.partition(": not delivered: ")[2] for uid, text in alone.items()} == {
        "u1": "the handler returned False",
        "u2": "down",
        "u3": "never",
    } or set(alone) < {"u1", "u2", "u3"}  # the first of all is sent alone, before it is known that batches are taken
    assert len(names_by_state(box).get("waiting", ())) + len(names_by_state(box).get("failed", ())) == len(alone)


class NoTruth:
    def __bool__(self):
        raise ValueError("neither")


def test_result_of_a_batch_that_is_unfinished_work_is_a_failure(kinds):
    future = concurrent.futures.Future()
    odd = [future, (x for x in ()), NotImplemented, NoTruth(), OSError("down"), 1, None]
    kinds("many", send_events=lambda self, events: odd)
    results = Recipient("many", "").send_events([Event("n")] * len(odd))
    assert [str(result) for result in results] == [
        "send_events returned a future; it must deliver the event before it returns, so wait for the future's result",
        "send_events returned a generator; it must deliver the event before it returns, so do not use yield",
        "send_events returned NotImplemented; it must return True if it delivered the event",
        "neither",
        "down",
        "True",
        "False",
    ]


def test_send_events_that_is_async_has_delivered_nothing(kinds):
    async def send_events(self, events):
        return [True]

    kinds("many", send_events=send_events)
    with pytest.raises(TypeError, match="send_events returned an awaitable"):
        Recipient("many", "").send_events([Event("n")])


def test_send_events_can_be_a_generator(kinds):
    sent = []

    def send_events(self, events):
        for e in events:
            sent.append(e.uid)
            yield True

    kinds("many", send_events=send_events)
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
def test_each_event_of_a_failed_batch_is_tried_alone(box, kinds, answer):
    def act(e):
        if e.uid == "u7":
            raise OSError("it is to blame")
        return True

    given = kinds("many", act, send_events=lambda self, events: answer(events))
    fill(box, 20, "many")
    outcomes = {entry.event.uid: bool(outcome) for entry, outcome in deliver(box)}
    assert [uid for uid, ok in outcomes.items() if not ok] == ["u7"]
    assert sorted(given) == sorted(outcomes)


def test_a_batch_holds_events_of_one_span(box, kinds):
    from event import _trace_context

    seen = []
    kinds(
        "many", send_events=lambda self, es: seen.append((_trace_context.current_span(), len(es))) or [True] * len(es)
    )
    spans = [_trace_context.new_span(None), _trace_context.new_span(None)]
    fill(box, 1, "many")
    for span in spans * 2:
        put_in_span(box, Event("n"), {"many": ""}, span).postpone(1)
    assert len(deliver(box)) == 5
    assert {span and span.traceparent for span, _ in seen} <= {None, *(span.traceparent for span in spans)}


def test_hung_handler_is_paused_after_two_timeouts_and_others_deliver(box, kinds):
    hold = threading.Event()
    kinds("hung", lambda e: hold.wait(SECONDS))
    given = kinds("fine")
    fill(box, 50, "hung", "fine")
    reports = Reports()
    pool = DeliveryPool(box, 0.2, 2, reports)
    try:
        pool.feed(box.candidates())
        assert pool.wait(SECONDS)
        assert len(given) == 50
        assert 2 <= pool.hung <= 4
        assert len(names_by_state(box).get("waiting", ())) == 50
        assert any("hung timed out twice in a row" in text for text in reports.logged)
    finally:
        hold.set()
        pool.close()


def test_hung_handler_does_not_delay_another_handler_of_its_event(box, kinds):
    delivered = threading.Event()
    kinds("hung", lambda e: delivered.wait(SECONDS))
    kinds("fine", lambda e: delivered.set() or True)
    pool = DeliveryPool(box, 2 * SECONDS, 4, Reports())
    while not pool._idle:  # so that one idle thread is there for both
        time.sleep(0.001)
    fill(box, 1, "hung", "fine")
    pool.feed(box.candidates())
    assert pool.wait(2 * SECONDS)
    pool.close()
    assert names_by_state(box) == {}


def test_slow_event_does_not_delay_the_next(box, kinds):
    hold = threading.Event()
    given = kinds("fussy", lambda e: e.uid != "u0" or hold.wait(SECONDS))
    fill(box, 40, "fussy")
    pool = DeliveryPool(box, TIMEOUT, 4, Reports())
    pool.feed(box.candidates())
    end = time.monotonic() + SECONDS
    while len(given) < 40:
        assert time.monotonic() < end
        time.sleep(0.01)
    hold.set()
    assert pool.wait(SECONDS)
    pool.close()


def test_slow_destination_with_a_large_backlog_does_not_delay_others(box, kinds, monkeypatch):
    hold = threading.Event()
    kinds("slow", lambda e: hold.wait(SECONDS))
    given = kinds("fine")
    fill(box, 500, "slow")
    fill(box, 5, "fine")
    pool = DeliveryPool(box, TIMEOUT, 2, Reports())
    pool.feed(box.candidates())
    end = time.monotonic() + SECONDS
    while len(given) < 5:
        assert time.monotonic() < end
        time.sleep(0.01)
    hold.set()
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


def test_full_pool_takes_no_more_entries(box, kinds, monkeypatch):
    monkeypatch.setattr(pool_module, "_MAX_PARKED", 10)
    kinds("slow", lambda e: time.sleep(0.001) or True)
    fill(box, 300, "slow")
    assert len(deliver(box, jobs=8)) == 300


def test_stopped_pool_takes_no_entries(box, kinds):
    given = kinds("good")
    fill(box, 1, "good")
    pool = DeliveryPool(box, TIMEOUT, 1, Reports())
    pool.stop()
    pool.feed(box.candidates())
    pool.close()
    assert given == []
    assert list(names_by_state(box)) == ["waiting"]


def test_stopped_pool_releases_entries_that_were_not_started(box, kinds):
    hold, begun = threading.Event(), threading.Event()
    given = kinds("slow", lambda e: begun.set() or hold.wait(SECONDS))
    fill(box, 300, "slow")
    pool = DeliveryPool(box, TIMEOUT, 1, Reports())
    pool.feed(box.candidates())
    assert begun.wait(SECONDS)
    pool.stop()
    hold.set()
    assert pool.wait(SECONDS)
    pool.close()
    assert len(names_by_state(box).get("waiting", ())) == 300 - len(given)
    assert all(entry.attempts == 1 for _, entry in box.entries("waiting"))


def test_held_lane_is_served_after_its_release(box, kinds):
    given = kinds("suspect")
    fine = kinds("fine")
    fill(box, 3, "suspect", "fine")
    key = Lane("suspect", "").key
    pool = DeliveryPool(box, TIMEOUT, 2, Reports(), held=[key])
    pool.feed(box.candidates())
    assert not pool.wait(0.3)
    assert (len(given), len(fine)) == (0, 3)
    pool.release(key)
    assert pool.wait(SECONDS)
    pool.close()
    assert len(given) == 3


def test_resting_lane_releases_its_entries(box, kinds):
    given = kinds("suspect")
    fill(box, 3, "suspect")
    pool = DeliveryPool(box, TIMEOUT, 2, Reports())
    pool.pause(Lane("suspect", "").key)
    pool.feed(box.candidates())
    assert pool.wait(SECONDS)
    pool.close()
    assert given == []
    assert len(names_by_state(box).get("waiting", ())) == 3
    assert deliver(box) == []  # they are not due


def test_held_lane_that_starts_to_rest_releases_its_entries(box, kinds):
    given = kinds("suspect")
    fill(box, 3, "suspect")
    key = Lane("suspect", "").key
    pool = DeliveryPool(box, TIMEOUT, 2, Reports(), held=[key])
    pool.feed(box.candidates())
    pool.pause(key)
    assert pool.wait(SECONDS)
    pool.close()
    assert (given, len(names_by_state(box)["waiting"])) == ([], 3)


def test_entry_that_cannot_be_released_stays_claimed(box, kinds, monkeypatch):
    def full(self, due):
        raise OSError(errno.ENOSPC, "no space")

    kinds("suspect")
    fill(box, 1, "suspect")
    reports = Reports()
    pool = DeliveryPool(box, TIMEOUT, 2, reports)
    pool.pause(Lane("suspect", "").key)
    monkeypatch.setattr(Claim, "postpone", full)
    pool.feed(box.candidates())
    assert pool.wait(SECONDS)
    pool.close()
    assert [where for _, where in reports.ended] == ["claimed"]


def test_unused_lanes_are_removed(box, kinds, monkeypatch):
    monkeypatch.setattr(pool_module, "_MAX_LANES", 1)
    pool = DeliveryPool(box, TIMEOUT, 2, Reports())
    for name in ("a", "b", "c"):
        kinds(name)
        fill(box, 1, name, prefix=name)
        pool.feed(box.candidates())
        assert pool.wait(SECONDS)
    pool.close()
    assert names_by_state(box) == {}


def test_thread_with_an_empty_lane_continues_with_another(box, kinds, monkeypatch):
    monkeypatch.setattr(pool_module, "_MAX_LANE_THREADS", 1)
    hold, begun = threading.Event(), threading.Event()
    kinds("slow", lambda e: begun.set() or hold.wait(SECONDS))
    given = kinds("other")
    pool = DeliveryPool(box, TIMEOUT, 1, Reports())
    fill(box, 1, "slow")
    pool.feed(box.candidates())
    assert begun.wait(SECONDS)
    fill(box, 1, "other", prefix="o")
    pool.feed(box.candidates())
    pool.pause(Lane("other", "").key)  # the lane wants a thread, and is empty when it gets it
    hold.set()
    assert pool.wait(SECONDS)
    kinds("third")
    fill(box, 1, "third", prefix="t")
    pool.feed(box.candidates())
    assert pool.wait(SECONDS)
    pool.close()
    assert (given, len(names_by_state(box)["waiting"])) == ([], 1)


def test_a_pool_has_a_limited_number_of_threads(box, kinds, monkeypatch):
    monkeypatch.setattr(pool_module, "_MAX_LANE_THREADS", 1)
    gauge = Gauge(0.001)
    kinds("slow", gauge)
    fill(box, 30, "slow")
    assert len(deliver(box)) == 30
    assert gauge.most == 1


def test_entry_dropped_while_parked_is_skipped(box, kinds, monkeypatch):
    hold = threading.Event()
    given = kinds("slow", lambda e: hold.wait(SECONDS))
    fill(box, 300, "slow")
    monkeypatch.setattr(box, "adopt", lambda name: None)
    pool = DeliveryPool(box, TIMEOUT, 1, Reports())
    pool.feed(box.candidates())
    hold.set()
    assert pool.wait(SECONDS)
    pool.close()
    assert 0 < len(given) < 300


def test_events_of_a_hung_batch_are_tried_alone(box, kinds):
    def send_events(self, events):
        if len(events) > 1:
            hold.wait(SECONDS)
        return [True] * len(events)

    hold, alone, fed = threading.Event(), threading.Event(), threading.Event()
    fed.set()
    kinds("batches", lambda e: alone.set() or fed.wait(SECONDS), send_events=send_events)
    fill(box, 5, "batches")
    first, second, *others = box.candidates()
    pool = DeliveryPool(box, 2.0, 1, Reports())
    pool.feed([first])  # a handler takes batches once it is loaded
    assert pool.wait(SECONDS)
    alone.clear()
    fed.clear()
    pool.feed([second])
    assert alone.wait(SECONDS)  # the only thread is busy: the others wait together
    pool.feed(others)
    fed.set()
    assert pool.wait(SECONDS)
    pool.close()
    hold.set()
    assert names_by_state(box) == {}


def test_urgent_entry_is_delivered_before_queued_entries(box, kinds):
    hold, begun = threading.Event(), threading.Event()
    given = kinds("slow", lambda e: begun.set() or hold.wait(SECONDS))
    fill(box, 5, "slow")
    pool = DeliveryPool(box, TIMEOUT, 1, Reports())
    pool.feed(box.candidates())
    assert begun.wait(SECONDS)
    pool.add(box.put(Event("n", uid="urgent"), {"slow": ""}), begun=True, urgent=True)
    hold.set()
    assert pool.wait(SECONDS)
    pool.close()
    assert given[1] == "urgent"


def test_existing_threads_deliver_if_no_thread_can_be_started(box, kinds, monkeypatch):
    given = kinds("slow", lambda e: time.sleep(0.01) or True)
    fill(box, 20, "slow")
    pool = DeliveryPool(box, TIMEOUT, 8, Reports())

    def no(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no)
    pool.feed(box.candidates())
    assert pool.wait(SECONDS)
    pool.close()
    assert len(given) == 20


def test_unexpected_error_with_one_entry_does_not_affect_others(box, kinds):
    class Broken(Reports):
        def begin(self, lane, claims):
            if any(claim.entry.id == postponed for claim in claims):
                raise TypeError("a name that is a number")
            super().begin(lane, claims)

    given = kinds("fine")
    fill(box, 1, "fine", prefix="postponed")
    (postponed,) = (candidate.id for candidate in box.candidates())
    reports = Broken()
    pool = DeliveryPool(box, TIMEOUT, 1, reports)
    pool.feed(box.candidates())
    assert pool.wait(SECONDS)
    fill(box, 3, "fine")
    pool.feed(box.candidates())
    assert pool.wait(SECONDS)
    pool.close()
    assert sorted(given) == ["u0", "u1", "u2"]
    assert names_by_state(box) == {"waiting": [postponed]}
    assert reports.logged == ["fine: not delivered for now: TypeError: a name that is a number"]


def test_unexpected_error_in_the_pool_makes_it_exhausted(box, kinds, monkeypatch):
    class Broken(Reports):
        def begin(self, lane, claims):
            raise MemoryError

    kinds("fine")
    fill(box, 1, "fine")
    reports = Broken()
    pool = DeliveryPool(box, TIMEOUT, 1, reports)
    pool.feed(box.candidates())
    assert not pool.wait(SECONDS)
    assert pool.is_exhausted
    pool.close()
    assert reports.logged == ["delivery stops: MemoryError"]


def test_pool_has_room_again_after_deliveries(box, kinds, monkeypatch):
    monkeypatch.setattr(pool_module, "MAX_URGENT", 2)
    gate = threading.Event()
    kinds("slow", lambda e: gate.wait(SECONDS))
    pool = DeliveryPool(box, TIMEOUT, 2, Reports())
    for _ in range(2):
        pool.add(box.put(Event("n"), {"slow": ""}), begun=True, urgent=True)
    assert not pool.has_room_for(1, 0.0)
    gate.set()
    assert pool.has_room_for(2, SECONDS)
    pool.close()


def test_single_slow_call_is_no_reason_to_take_one_event_at_a_time(box, kinds):
    kinds("fine")
    lane = Lane("fine", "")
    sizes = []
    for seconds in (0.0001, 0.0001, 5.0, 5.0):
        lane.record_call(seconds, 0.0)
        lane.put_back(Work(box.put(Event("n"), {"fine": ""})) for _ in range(3))
        sizes.append(len(lane.next_sending().remaining))
        lane.empty()
    assert sizes == [3, 3, 3, 1]


def test_single_call_that_waits_is_no_reason_for_more_threads(kinds):
    kinds("fine")
    lane = Lane("fine", "")
    lane.handler.load()
    limits = []
    for seconds in (0.0001, 5.0, 5.0):
        lane.record_call(seconds, seconds)
        limits.append(lane.limit(4))
    assert limits == [1, 1, 4]


def test_caller_that_asks_for_room_waits_until_the_urgent_entries_are_delivered(box, kinds):
    gate = threading.Event()
    kinds("fine", lambda e: gate.wait(SECONDS))
    pool = DeliveryPool(box, TIMEOUT, 2, Reports())
    pool.add(box.put(Event("n"), {"fine": ""}), begun=True, urgent=True)
    threading.Timer(0.05, gate.set).start()
    assert pool.has_room_for(1, SECONDS)
    assert names_by_state(box) == {}
    pool.close()
