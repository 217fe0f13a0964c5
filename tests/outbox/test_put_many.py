"""`put_many` stores several events at once."""

from __future__ import annotations

import os
import threading

import pytest

from event import Event, EventError, _trace_context
from event._outbox import NewEntry, Outbox
from helpers.entries import names, names_by_state, path_in, put


def test_several_events_are_put_with_one_sync_of_the_directory(box, attached, synced):
    put(box).discard()
    synced.clear()
    new = [NewEntry(Event("build", number=n), {"file": "d"}, sending=f"id-{n}") for n in range(20)]
    claims = box.put_many([*new, NewEntry(attached, {"file": "d"})])
    assert [claim.entry.id for claim in claims[:-1]] == [f"id-{n}" for n in range(20)]
    assert [claim.entry.event.number for claim in claims[:-1]] == [*range(20)]
    assert sorted(claim.name for claim in claims) == names(box, "claimed")
    if os.name == "posix":
        assert synced.count(os.stat(path_in(box, "claimed")).st_ino) == 1
        assert synced[-1] == os.stat(path_in(box, "claimed")).st_ino
        assert {os.stat(claim.path).st_ino for claim in claims} <= {*synced}


def test_failed_event_does_not_stop_the_other_puts(box, monkeypatch):
    monkeypatch.setattr("event._outbox.entry.MAX_ENTRY_SIZE", 5000)
    good, bad = NewEntry(Event("build"), {"file": "d"}), NewEntry(Event("build", text="x" * 6000), {"file": "d"})
    first, second, third = box.put_many([good, bad, good])
    assert isinstance(second, EventError)
    assert sorted([first.name, third.name]) == names(box, "claimed")


def test_events_are_put_in_the_caller_s_span(box, monkeypatch):
    given = _trace_context.Span("4bf92f3577b34da6a3ce929d0e0e4736", "b7ad6b7169203331")
    token = _trace_context.active_span.set(given)
    try:
        claims = box.put_many([NewEntry(Event("build"), {"file": "d"}) for _ in range(5)])
    finally:
        _trace_context.active_span.reset(token)
    assert [claim.entry.span for claim in claims] == [given] * 5


def test_put_of_no_events_is_no_error(box):
    assert box.put_many([]) == []


def test_no_event_of_several_is_stored_if_their_sync_fails(box, fail_sync):
    put(box).discard()
    fail_sync("claimed")
    errors = box.put_many([NewEntry(Event("build"), {"file": "d"}), NewEntry(Event("b"), {"file": "d"}, sending="..")])
    assert [type(error) for error in errors] == [OSError, EventError]
    assert names_by_state(box) == {}


def test_each_of_several_events_has_an_error_if_the_outbox_is_unusable(tmp_path):
    (tmp_path / "file").touch()
    errors = Outbox(tmp_path / "file").put_many([NewEntry(Event("build"), {"file": "d"})] * 2)
    assert [type(error) for error in errors] == [NotADirectoryError] * 2


def test_events_are_put_even_if_no_thread_can_be_started(box, monkeypatch):
    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert len(box.put_many([NewEntry(Event("build"), {"file": "d"}) for _ in range(20)])) == 20
    assert len(names(box, "claimed")) == 20


@pytest.mark.parametrize("together", [False, True])
def test_several_events_are_put_without_an_unreadable_attachment(box, attached, tmp_path, together):
    (tmp_path / "build.log").unlink()
    claims = box.put_many([NewEntry(attached, {"file": "d"}), NewEntry(Event("n"), {"file": "d"})], together=together)
    assert claims[0].event().not_attached == ["log", "../log"]
    assert "not_attached" not in claims[1].event().as_dict()
