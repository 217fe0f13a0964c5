"""Batches: the pool gives several events to one call of `send_events`."""

from __future__ import annotations

import concurrent.futures
import threading

import pytest

from event import Event, PermanentError, _trace_context
from event._outbox.lanes import Recipient
from event._outbox.pool import DeliveryPool
from helpers.delivering import Reports, deliver
from helpers.entries import names_by_state, put_in_span
from helpers.waiting import SECONDS
from outbox.pools import TIMEOUT, fill, treat_as_overdue


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


def test_a_handler_with_send_events_gets_batches_of_at_most_a_hundred(box, register):
    sizes = []
    register("many", send_events=lambda self, events: sizes.append(len(events)) or [True] * len(events))
    fill(box, 250, "many")
    assert all(outcome for _, outcome in deliver(box))
    assert 1 < max(sizes) <= 100
    assert names_by_state(box) == {}


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
