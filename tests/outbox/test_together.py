"""Entries that are put together are hard links to one file. An entry gets its own file when it is journaled."""

from __future__ import annotations

import os
import time
from pathlib import Path

from event import Event, EventError, _files
from event._outbox import NewEntry
from helpers.entries import (
    POSIX,
    claim_each,
    claimed_ids,
    lines_of,
    make_delivery,
    names,
    names_by_state,
    path_in,
    put,
    touch,
)


def new(number, **handlers):
    return NewEntry(Event("build", number=number), handlers or {"file": "d"}, sending=f"id-{number}")


def put_together(box, count=3):
    """Put entries that share a file; return their claims."""
    return box.put_many([new(number) for number in range(count)], together=True)


def link_count(claim):
    return os.stat(claim.path).st_nlink


def number_of(box, claim):
    """Return the number in the event of a claim, as it is on disk."""
    (candidate,) = box.find(claim.entry.id)
    entry = box.read(candidate)
    assert entry.id == claim.entry.id
    return entry.event.number


def fill_disk(monkeypatch):
    """Let new files be created, but not written."""

    def refuse(path, _data):
        Path(path).touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_files, "write_new", refuse)


def test_small_entries_put_together_are_hard_links_to_one_file(box):
    claims = put_together(box)
    assert names_by_state(box) == {"claimed": sorted(claim.name for claim in claims)}
    assert [link_count(claim) for claim in claims] == [3, 3, 3]
    assert [number_of(box, claim) for claim in claims] == [0, 1, 2]
    assert [claim.event().number for claim in claims] == [0, 1, 2]


@POSIX
def test_entries_put_together_take_two_syncs(box, synced):
    put(box).discard()
    synced.clear()
    claims = put_together(box, 20)
    assert synced == [os.stat(claims[0].path).st_ino, os.stat(path_in(box, "claimed")).st_ino]


def test_delivered_entry_does_not_affect_entries_in_the_same_file(box):
    first, *others = put_together(box)
    first.record(make_delivery("file"))
    assert first.release() == "delivered"
    assert names_by_state(box) == {"claimed": sorted(claim.name for claim in others)}
    assert [number_of(box, claim) for claim in others] == [1, 2]


def test_a_failed_entry_gets_a_file_of_its_own(box):
    first, *others = put_together(box)
    first.record(make_delivery("file", ok=False, error=OSError("down")))
    first.record(make_delivery("file", ok=False, error=OSError("still down")))
    assert [line.get("error") for line in lines_of(first.path)] == [None, "down", "still down"]
    assert (link_count(first), [link_count(claim) for claim in others]) == (1, [2, 2])
    assert first.release() == "waiting"
    assert [number_of(box, claim) for claim in (first, *others)] == [0, 1, 2]
    assert names(box, "tmp") == []


def test_failure_is_not_journaled_if_no_separate_file_can_be_written(box, monkeypatch, caplog):
    first, *_ = put_together(box)
    fill_disk(monkeypatch)
    first.record(make_delivery("file", ok=False, error=OSError("down")))
    assert "its journal cannot be written: [Errno 28] No space left on device" in caplog.text
    assert first.release() == "waiting"
    assert number_of(box, first) == 0
    assert names(box, "tmp") == []


def test_entry_missing_in_its_shared_file_is_not_journaled(box, caplog):
    first, *_ = put_together(box)
    Path(first.path).write_bytes(Path(first.path).read_bytes().replace(b"id-0", b"id-x"))
    first.record(make_delivery("file", ok=False, error=OSError("down")))
    assert "its journal cannot be written: it is missing from its shared file" in caplog.text


def test_entry_missing_in_its_shared_file_is_corrupt(box):
    claims = put_together(box)
    Path(claims[0].path).write_bytes(Path(claims[0].path).read_bytes().replace(b"id-0", b"id-x"))
    assert [box.adopt(claim.name) is None for claim in claims] == [True, False, False]
    assert names(box, "corrupt") == ["id-0"]


def test_a_claimed_entry_gets_a_file_of_its_own(box):
    for claim in put_together(box):
        claim.postpone(1)
    numbers_and_links = [(claim.entry.event.number, link_count(claim)) for claim in claim_each(box)]
    assert sorted(numbers_and_links) == [(0, 1), (1, 1), (2, 1)]


def test_all_entries_of_a_shared_file_are_tried_in_one_pass(box):
    for claim in put_together(box):
        claim.postpone(1)
    assert sorted(claimed_ids(box)) == ["id-0", "id-1", "id-2"]


def test_claim_does_not_touch_other_entries_of_its_file(box):
    first, second, third = put_together(box)
    touch(third.path, 100)
    before = os.stat(third.path).st_mtime
    assert box.adopt(first.name)
    assert os.stat(second.path).st_mtime == before


def test_entry_can_be_claimed_on_a_full_disk(box, monkeypatch):
    first, *_ = put_together(box)
    touch(first.path, 100)
    fill_disk(monkeypatch)
    claim = box.adopt(first.name)
    assert claim.entry.event.number == 0
    assert link_count(claim) == 3
    assert os.stat(claim.path).st_mtime > time.time() - 50


def test_last_entry_of_a_shared_file_gets_its_own_when_journaled(box):
    first, *others = put_together(box)
    for claim in others:
        claim.discard()
    claim = box.adopt(first.name)
    claim.record(make_delivery("file", ok=False, error=OSError("down")))
    assert [line.get("error", line.get("id")) for line in lines_of(claim.path)] == ["id-0", "down"]


def test_entry_that_may_not_share_a_file_has_its_own(box, attached):
    large = NewEntry(Event("build", text="x" * 10_000), {"file": "d"}, sending="large")
    several = new(3, file="d", smtp="s")
    claims = box.put_many([new(0), large, NewEntry(attached, {"file": "d"}), several, new(1)], together=True)
    assert [os.path.isdir(claim.path) or link_count(claim) for claim in claims] == [2, 1, True, 1, 2]


def test_single_small_entry_has_its_own_file(box):
    (claim,) = put_together(box, 1)
    assert link_count(claim) == 1


def test_failed_event_does_not_stop_others_put_together(box):
    bad = NewEntry(Event("build"), {"file": "d"}, sending="..")
    first, second, third = box.put_many([new(0), bad, new(1)], together=True)
    assert isinstance(second, EventError)
    assert sorted([first.name, third.name]) == names(box, "claimed")


def test_each_entry_has_its_own_file_without_hard_links(box, monkeypatch):
    def refuse(*_args):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert [link_count(claim) for claim in put_together(box)] == [1, 1, 1]
    assert names(box, "tmp") == []


def test_no_entry_put_together_is_stored_if_the_last_sync_fails(box, monkeypatch):
    def refuse(_path):
        raise OSError(5, "Input/output error")

    put(box).discard()
    monkeypatch.setattr(_files, "sync_directory", refuse)
    assert [str(error) for error in put_together(box, 2)] == ["[Errno 5] Input/output error"] * 2
    assert names_by_state(box) == {}
