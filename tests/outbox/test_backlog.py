"""The backlog: after a handler has delivered an event, it also gets earlier events from the outbox."""

from __future__ import annotations

import os
import time

import pytest

from event import Delivery, Event, _dispatch
from event._outbox import backlog
from event._outbox.backlog import Backlog
from helpers.entries import POSIX

CONFIGS = {"good": "1"}
FAR = 600.0  # seconds


class Handler:
    def __init__(self, *, ok=True):
        self.names = []
        self.ok = ok

    def send_event(self, event):
        self.names.append(event.name)
        return self.ok


def put(box, name="a", handlers=CONFIGS):
    """Put an entry that is due."""
    claim = box.put(Event(name), handlers)
    claim.postpone(0.0)
    return claim.entry.id


def deliver(box, handlers, configs=CONFIGS, *, pace=0.0, seconds=FAR):
    """Deliver the backlog; return the number of delivered events for each handler."""
    backlog = Backlog(box, handlers, configs, pace)
    backlog.deliver(time.monotonic() + seconds)
    return backlog.delivered


def waiting(box):
    return [candidate.id for candidate, _ in box.entries("waiting")]


def test_each_entry_that_is_due_is_delivered_and_removed(box):
    put(box, "a")
    put(box, "b")
    good = Handler()
    assert deliver(box, {"good": good}) == {"good": 2}
    assert (sorted(good.names), waiting(box)) == (["a", "b"], [])


def test_handler_does_not_get_entries_for_another_configuration(box):
    put(box, handlers={"good": "2"})
    assert deliver(box, {"good": Handler()}) == {}
    assert len(waiting(box)) == 1


def test_entry_for_two_handlers_stays_pending_for_the_other(box):
    entry_id = put(box, handlers={**CONFIGS, "other": ""})
    assert deliver(box, {"good": Handler()}) == {"good": 1}
    (entry,) = [entry for _, entry in box.entries("waiting")]
    assert (entry.id, [*entry.pending]) == (entry_id, ["other"])


def test_failed_delivery_ends_the_backlog_of_its_handler(box):
    put(box, "a")
    put(box, "b")
    bad = Handler(ok=False)
    assert deliver(box, {"good": bad}) == {}
    assert (len(bad.names), len(waiting(box))) == (1, 2)


def test_no_delivery_starts_without_enough_time_left(box):
    put(box)
    good = Handler()
    assert deliver(box, {"good": good}, pace=FAR + 1) == {}
    assert good.names == []


def test_slow_delivery_leaves_the_rest_for_later(box, monkeypatch):
    put(box, "a")
    put(box, "b")
    slow = Delivery("good", ok=True, error=None, seconds=FAR + 1)
    monkeypatch.setattr(_dispatch, "deliveries", lambda handlers, event, timeout: [slow])
    assert deliver(box, {"good": Handler()}) == {"good": 1}
    assert len(waiting(box)) == 1


def test_search_for_entries_of_a_handler_is_bounded(box, monkeypatch):
    monkeypatch.setattr(backlog, "_SEARCH_LIMIT", -1.0)
    monkeypatch.setattr(backlog, "_MIN_SEARCHED", 2)
    for _ in range(3):
        put(box, handlers={"other": ""})
    read, seen = type(box).read, []
    monkeypatch.setattr(type(box), "read", lambda self, candidate: (seen.append(candidate), read(self, candidate))[1])
    assert deliver(box, {"good": Handler()}) == {}
    assert len(seen) == 2


def test_first_entries_are_searched_even_on_a_slow_machine(box, monkeypatch):
    put(box)
    monkeypatch.setattr(backlog, "_SEARCH_LIMIT", -1.0)
    assert deliver(box, {"good": Handler()}) == {"good": 1}


def test_unknown_handler_has_no_backlog(box):
    put(box)
    assert deliver(box, {"good": Handler()}, {}) == {}


def test_backlog_skips_damaged_entries(box):
    entry_id = put(box)
    (candidate,) = box.find(entry_id)
    with open(os.path.join(box.path, candidate.name), "w") as file:
        file.write("{")
    assert deliver(box, {"good": Handler()}) == {}


def test_backlog_skips_entries_claimed_by_another_process(box, monkeypatch):
    put(box)
    monkeypatch.setattr(box, "claim", lambda candidate: None)
    good = Handler()
    assert deliver(box, {"good": good}) == {}
    assert good.names == []


@POSIX
def test_an_outbox_that_cannot_be_read_is_an_error(box):
    put(box)
    os.chmod(box.path, 0o777)
    with pytest.raises(OSError, match="can be changed by other users"):
        deliver(box, {"good": Handler()})


def put_failed(box, attempts):
    """Put an event whose attempts have just failed, so that it is not due."""
    claim = box.put(Event("a"), CONFIGS)
    for attempt in range(attempts):
        if attempt:
            claim.begin()
        claim.record(Delivery("good", ok=False, error=OSError("down"), seconds=0.0))
    claim.release()
    assert list(box.candidates()) == []


def test_the_first_retry_need_not_be_due(box):
    put_failed(box, 1)
    assert deliver(box, {"good": Handler()}) == {"good": 1}
    assert waiting(box) == []


def test_a_later_retry_waits_until_it_is_due(box):
    put_failed(box, 2)
    assert deliver(box, {"good": Handler()}) == {}
    assert len(waiting(box)) == 1
