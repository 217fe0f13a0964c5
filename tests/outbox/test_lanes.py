"""Lanes: the pace of a handler, how its calls are measured, and how its handler is loaded."""

from __future__ import annotations

import threading
import time

import pytest

from event import Event, _registry
from event._outbox.lanes import Lane, Recipient, Work, send_works
from helpers.waiting import SECONDS


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
