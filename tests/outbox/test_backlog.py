"""What waits for handlers that have just taken an event."""

from __future__ import annotations

import os
import time

import pytest

from event import Delivery, Event
from event._outbox import backlog
from event._outbox.backlog import Backlog

CONFIGS = {"good": "1"}
FAR = 600.0


class Good:
    def __init__(self, *, ok=True):
        self.got = []
        self.ok = ok

    def send_event(self, event):
        self.got.append(event.name)
        return self.ok


def put(box, name="a", handlers=CONFIGS):
    """Put an event that waits, and is due."""
    claim = box.put(Event(name), handlers)
    claim.postpone(0.0)
    return claim.entry.id


def deliver(box, handlers, configs=CONFIGS, *, pace=0.0, seconds=FAR):
    made = Backlog(box, handlers, configs, pace)
    made.deliver(time.monotonic() + seconds)
    return made.delivered


def waiting(box):
    return [candidate.id for candidate, _ in box.entries("waiting")]


def test_each_entry_that_is_due_is_delivered_and_removed(box):
    put(box, "a")
    put(box, "b")
    good = Good()
    assert deliver(box, {"good": good}) == {"good": 2}
    assert (sorted(good.got), waiting(box)) == (["a", "b"], [])


def test_another_configuration_is_another_handler(box):
    put(box, handlers={"good": "2"})
    assert deliver(box, {"good": Good()}) == {}
    assert len(waiting(box)) == 1


def test_entry_for_two_handlers_stays_pending_for_the_other(box):
    entry_id = put(box, handlers={**CONFIGS, "other": ""})
    assert deliver(box, {"good": Good()}) == {"good": 1}
    (entry,) = [entry for _, entry in box.entries("waiting")]
    assert (entry.id, [*entry.pending]) == (entry_id, ["other"])


def test_failed_delivery_ends_the_backlog_of_its_handler(box):
    put(box, "a")
    put(box, "b")
    bad = Good(ok=False)
    assert deliver(box, {"good": bad}) == {}
    assert (len(bad.got), len(waiting(box))) == (1, 2)


def test_no_delivery_starts_without_enough_time_left(box):
    put(box)
    good = Good()
    assert deliver(box, {"good": good}, pace=FAR + 1) == {}
    assert good.got == []


def test_slow_delivery_leaves_the_rest_for_later(box, monkeypatch):
    put(box, "a")
    put(box, "b")
    monkeypatch.setattr(
        backlog._dispatch, "deliveries", lambda handlers, event, timeout: [Delivery("good", True, None, FAR + 1)]
    )
    assert deliver(box, {"good": Good()}) == {"good": 1}
    assert len(waiting(box)) == 1


def test_search_for_entries_of_a_handler_is_bounded(box, monkeypatch):
    monkeypatch.setattr(backlog, "_SEARCH_LIMIT", -1.0)
    monkeypatch.setattr(backlog, "_MIN_SEARCHED", 2)
    for _ in range(3):
        put(box, handlers={"other": ""})
    read, seen = type(box).read, []
    monkeypatch.setattr(type(box), "read", lambda self, candidate: (seen.append(candidate), read(self, candidate))[1])
    assert deliver(box, {"good": Good()}) == {}
    assert len(seen) == 2


def test_short_backlog_is_delivered_on_a_slow_machine_too(box, monkeypatch):
    put(box)
    monkeypatch.setattr(backlog, "_SEARCH_LIMIT", -1.0)
    assert deliver(box, {"good": Good()}) == {"good": 1}


def test_unknown_handler_has_no_backlog(box):
    put(box)
    assert deliver(box, {"good": Good()}, {}) == {}


def test_backlog_skips_damaged_entries(box):
    entry_id = put(box)
    (candidate,) = box.find(entry_id)
    with open(os.path.join(box.path, candidate.name), "w") as file:
        file.write("{")
    assert deliver(box, {"good": Good()}) == {}


def test_backlog_skips_entries_claimed_by_another_process(box, monkeypatch):
    put(box)
    monkeypatch.setattr(box, "claim", lambda candidate: None)
    good = Good()
    assert deliver(box, {"good": good}) == {}
    assert good.got == []


def test_an_outbox_that_cannot_be_read_is_an_error(box):
    put(box)
    os.chmod(box.path, 0o777)
    if os.name == "nt":
        pytest.skip("platform: Windows has no such mode")
    with pytest.raises(OSError, match="can be changed by other users"):
        deliver(box, {"good": Good()})


def put_failed(box, attempts):
    """Put an event whose attempts have failed just now, so that it is not due."""
    claim = box.put(Event("a"), CONFIGS)
    for attempt in range(attempts):
        if attempt:
            claim.begin()
        claim.record(Delivery("good", ok=False, error=OSError("down"), seconds=0.0))
    claim.release()
    assert list(box.candidates()) == []


def test_the_first_retry_need_not_be_due(box):
    put_failed(box, 1)
    assert deliver(box, {"good": Good()}) == {"good": 1}
    assert waiting(box) == []


def test_a_later_retry_waits_until_it_is_due(box):
    put_failed(box, 2)
    assert deliver(box, {"good": Good()}) == {}
    assert len(waiting(box)) == 1
