"""Which entries come up for delivery, in which order, and that one process takes each."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from event import Event
from event._outbox import Outbox, files
from helpers.entries import (
    ELSEWHERE,
    LEASE,
    abandon,
    candidate_of,
    claims,
    current,
    did,
    ended,
    later,
    names,
    path_of,
    place,
    put,
    taken,
    there,
    touch,
    waiting,
)


def test_what_is_due_is_claimed_and_nothing_else(box):
    past, _ = waiting(box, time.time() - 5)
    waiting(box, later())
    put(box)
    Path(place(box, "waiting", "0")).mkdir()
    Path(place(box, "waiting", "0", ".nfs0001")).touch()
    assert taken(box) == [past]
    assert len(there(box)["waiting"]) == 3


def test_what_is_due_now_comes_at_once(box):
    """A bucket holds what is due at its time, rounded up; what is due already must not wait for the next one."""
    entry_id, _ = waiting(box, time.time())
    assert taken(box) == [entry_id]


@pytest.mark.parametrize("ahead", [1, 29, 30, 31, 3600, 3601, 21600])
def test_nothing_comes_before_it_is_due(box, ahead):
    due = time.time() + ahead
    entry_id, _ = waiting(box, due)
    candidate = candidate_of(box, entry_id)
    assert due <= candidate.due <= due + (30 if ahead <= 3600 else 300)
    assert candidate.due % 30 == 0
    assert taken(box) == ([] if candidate.due > time.time() else [entry_id])


def test_the_oldest_bucket_comes_first(box):
    ids = {due: waiting(box, due)[0] for due in (60_000, 900, 6_000)}
    assert [candidate.id for candidate in box.candidates()] == [ids[due] for due in sorted(ids)]


def test_no_bucket_is_read_that_is_not_due(box, monkeypatch):
    for ahead in (600, 1200, 1800):
        waiting(box, time.time() + ahead)
    read = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: (read.append(path), scandir(path))[1])
    assert list(box.candidates()) == []
    assert sorted(read) == [place(box, state) for state in ("claimed", "tmp", "waiting")]


def test_an_empty_bucket_is_removed(box):
    waiting(box)
    for claim in claims(box):
        claim.record(did("file"))
        assert claim.release() == "delivered"
    assert os.listdir(place(box, "waiting")) == []


def test_an_entry_can_move_into_a_bucket_that_is_being_removed(box, monkeypatch):
    claim = put(box)
    rename, removed = os.rename, []

    def racing(source, target):
        bucket = os.path.dirname(target)
        if len(removed) < 3 and os.path.isdir(bucket):
            os.rmdir(bucket)
            removed.append(bucket)
        rename(source, target)

    monkeypatch.setattr(os, "rename", racing)
    claim.postpone(1)
    assert len(removed) == 3
    assert there(box) == {"waiting": [claim.entry.id]}


def test_a_bucket_that_others_make_first_is_used(box, monkeypatch):
    claim = put(box)
    mkdir = os.mkdir

    def first(path, mode):
        mkdir(path, mode)
        mkdir(path, mode)

    monkeypatch.setattr(os, "mkdir", first)
    claim.postpone(1)
    assert there(box) == {"waiting": [claim.entry.id]}


def test_an_entry_stays_claimed_if_its_bucket_is_removed_without_end(box, monkeypatch):
    claim = put(box)
    rename = os.rename

    def racing(source, target):
        if os.path.isdir(os.path.dirname(target)):
            os.rmdir(os.path.dirname(target))
        rename(source, target)

    monkeypatch.setattr(os, "rename", racing)
    assert claim.release() == "claimed"
    assert names(box, "claimed") == [claim.name]


def test_an_outbox_whose_empty_directories_are_lost_is_complete(box):
    """An archive, such as a CI system's artifact, holds files alone."""
    entry_id, _ = waiting(box, time.time() - 5)
    for state in ("tmp", "claimed", "failed", "corrupt"):
        Path(place(box, state)).rmdir()
    assert box.exists()
    assert [candidate.id for candidate, _ in box.entries()] == [entry_id]
    assert taken(box) == [entry_id]


def test_an_outbox_that_is_not_there_has_nothing(box, tmp_path):
    assert taken(box) == []
    assert list(box.entries("waiting", "failed")) == []
    assert box.find("a") == []
    assert box.changes()[1:] == (0, 0)
    assert not os.path.exists(box.path)
    (tmp_path / "outbox").mkdir(mode=0o700)
    assert taken(box) == []
    assert os.listdir(box.path) == []


def test_a_state_that_was_removed_is_made_again(box):
    entry_id, _ = waiting(box)
    os.rmdir(place(box, "corrupt"))
    assert taken(box) == [entry_id]
    assert os.path.isdir(place(box, "corrupt"))


@pytest.mark.parametrize("ahead", [13 * 3600, 400 * 86400])
def test_what_a_clock_since_set_back_has_dated_is_due(box, ahead):
    entry_id, _ = waiting(box, time.time() + ahead)
    assert taken(box) == [entry_id]


def test_names_that_are_not_buckets_are_passed_over(box):
    entry_id, _ = waiting(box)
    for name in ("x", "٣", "-30"):
        Path(place(box, "waiting", name)).mkdir()
    assert taken(box) == [entry_id]


# A whole pass.


def test_everything_comes_once_also_what_fails_and_is_put_back(box):
    ids = {waiting(box, later() + 60 * number)[0] for number in range(50)}
    for entry_id in ids:
        touch(path_of(box, entry_id), 1000)
    seen = []
    for claim in claims(box, everything=True):
        seen.append(claim.entry.id)
        claim.postpone(later() + 60 * len(seen))
        assert len(seen) <= 50
    assert set(seen) == ids
    assert sorted(taken(box, everything=True)) == sorted(ids)


@pytest.mark.parametrize("everything", [True, False])
def test_an_entry_that_is_put_back_does_not_come_again_in_the_same_pass(box, monkeypatch, everything):
    entry_id, path = waiting(box)
    touch(path, 1000)
    list_names = files.list_names

    def endless(directory):
        """As a file system that shows each name that comes while the directory is read."""
        yield from list_names(directory)
        for _ in range(10):
            yield from list_names(directory)

    monkeypatch.setattr(files, "list_names", endless)
    seen = []
    for claim in claims(box, everything=everything):
        seen.append(claim.entry.id)
        claim.postpone(1)
    assert seen == [entry_id]


def test_an_entry_that_was_put_back_by_a_pass_that_ended_comes_in_the_next(box):
    entry_id, _ = waiting(box, later())
    for _ in range(3):
        assert taken(box, everything=True) == [entry_id]


def test_an_entry_that_was_touched_before_the_file_server_s_clock_was_set_back_is_not_held_up(box):
    entry_id, path = waiting(box)
    touch(path, -86400)
    assert taken(box) == [entry_id]
    touch(path_of(box, entry_id), -86400)
    assert taken(box, everything=True) == [entry_id]


def test_a_file_server_that_does_not_tell_the_time_holds_up_nothing(box, monkeypatch):
    entry_id, path = waiting(box)
    touch(path, 1000)
    tmp = place(box, "tmp")
    utime = os.utime

    def broken(where, *args, **kwargs):
        if where == tmp:
            raise OSError(30, "Read-only file system")
        utime(where, *args, **kwargs)

    monkeypatch.setattr(os, "utime", broken)
    assert taken(box) == [entry_id]


# Owners that have died.


def test_a_claim_of_a_dead_process_is_taken_over_at_once(box):
    claim = put(box)
    abandon(box, claim, ended())
    expected = [claim.entry.id] if os.name == "posix" else []
    assert taken(box) == expected


def test_abandoned_entries_come_first(box):
    waits, _ = waiting(box)
    claim = put(box)
    abandon(box, claim, age=2 * LEASE)
    assert taken(box) == [claim.entry.id, waits]


def test_a_claim_from_another_machine_holds_for_the_lease(box):
    claim = put(box)
    path = abandon(box, claim, age=LEASE - 60)
    assert taken(box, everything=True) == []
    touch(path, LEASE + 60)
    assert taken(box) == [claim.entry.id]


@pytest.mark.parametrize("with_attachments", [True, False])
def test_a_claim_that_is_written_to_holds_for_another_lease(box, attached, with_attachments):
    claim = put(box, attached if with_attachments else Event("build"), file="d", smtp="s")
    os.utime(claim.path, (1e9, 1e9))
    claim.record(did("file"))
    abandoned = place(box, "claimed", f"{claim.entry.id}.{ELSEWHERE}")
    os.rename(claim.path, abandoned)
    assert taken(box) == []
    os.utime(abandoned, (1e9, 1e9))
    assert taken(box) == [claim.entry.id]


def test_an_entry_whose_owner_died_before_it_could_give_it_back_is_settled(box):
    claim = put(box, file="d", smtp="s")
    claim.record(did("file"))
    claim.record(did("smtp", ok=False))
    claim.record(did("smtp"))
    with open(claim.path, "ab") as file:
        file.write(b'{"handler": "smtp", "ok": true}\n')
    abandon(box, claim, age=2 * LEASE)
    assert taken(box) == []
    assert there(box) == {}


def crashed(box):
    """Return an entry whose second attempt has ended with its process."""
    claim = put(box)
    claim.begin()
    abandon(box, claim, age=2 * LEASE)
    return claim.entry


def test_an_entry_that_may_have_killed_its_owner_lets_the_others_go_first(box):
    entry = crashed(box)
    other, path = waiting(box)
    touch(path, 1000)
    assert taken(box) == [other]
    assert {*there(box)["waiting"]} == {entry.id, other}


def test_an_entry_that_may_have_killed_its_owner_comes_last_of_everything(box):
    entry = crashed(box)
    other, path = waiting(box, later())
    touch(path, 1000)
    assert taken(box, everything=True) == [other, entry.id]
    assert taken(box) == []


def test_an_entry_that_keeps_killing_its_owners_is_given_up_in_the_end(box, monkeypatch):
    claim = put(box)
    claim.entry.attempts = 9
    claim.begin()
    abandon(box, claim, age=2 * LEASE)
    monkeypatch.setattr("event._outbox.entry.ENTRY_LIFETIME", -1.0)
    assert taken(box) == []
    assert there(box) == {"failed": [claim.entry.id]}


def test_an_entry_that_another_process_takes_before_its_turn_is_left_to_it(box):
    entry = crashed(box)
    other, path = waiting(box)
    touch(path, 1000)
    for claim in claims(box, everything=True):
        assert claim.entry.id == other
        claim.postpone(later())
        os.rename(path_of(box, entry.id), place(box, "claimed", f"{entry.id}.{ELSEWHERE}"))


def test_an_entry_that_killed_its_owner_long_ago_comes_at_once(box, monkeypatch):
    claim = put(box)
    now = time.time
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: now() - 1000)
        claim.begin()
    abandon(box, claim, age=2 * LEASE)
    assert taken(box) == [claim.entry.id]


def test_a_clock_that_was_set_back_does_not_hold_up_what_its_owner_left(box, monkeypatch):
    claim = put(box)
    now = time.time
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: now() + 10 * 3600)
        claim.begin()
    abandon(box, claim, age=2 * LEASE)
    assert taken(box) == []
    assert candidate_of(box, claim.entry.id).due < now() + 300


def test_what_dead_processes_left_in_tmp_is_removed(box):
    put(box).discard()
    for number, (owner, age) in enumerate(
        ((ELSEWHERE, 2 * LEASE), ("", 2 * LEASE), (ELSEWHERE, 0), (current(), 0), (ELSEWHERE, 2 * LEASE))
    ):
        path = place(box, "tmp", f"{number}.{owner}")
        if number == 4:
            Path(path).touch()
        else:
            os.mkdir(path)
            Path(path, "entry").touch()
        touch(path, age)
    taken(box)
    assert there(box)["tmp"] == [f"2.{ELSEWHERE}", f"3.{current()}"]


# Two want one.


def test_each_entry_is_taken_by_one(box):
    waiting(box)
    (candidate,) = box.candidates()
    first = box.claim(candidate)
    assert first is not None
    assert box.claim(candidate) is None
    assert taken(box, everything=True) == []


@pytest.mark.parametrize("moment", ["utime", "rename", "open"])
def test_an_entry_that_another_process_takes_meanwhile_is_left_to_it(box, monkeypatch, moment, caplog):
    entry_id, path = waiting(box)
    (candidate,) = box.candidates()
    call = getattr(os, moment)

    def first(source, *args):
        monkeypatch.undo()
        os.rename(path, place(box, "claimed", f"{entry_id}.{ELSEWHERE}"))
        return call(source, *args)

    monkeypatch.setattr(os, moment, first)
    assert box.claim(candidate) is None
    assert there(box) == {"claimed": [f"{entry_id}.{ELSEWHERE}"]}
    assert caplog.records == []


@pytest.mark.parametrize("with_attachments", [True, False])
def test_a_rename_that_a_file_server_repeats_has_succeeded(box, attached, monkeypatch, with_attachments):
    entry_id, _ = waiting(box, e=attached if with_attachments else None)
    rename = os.rename

    def twice(source, target):
        rename(source, target)
        raise FileNotFoundError(2, "No such file", source)

    monkeypatch.setattr(os, "rename", twice)  # as an NFS client does whose first answer was lost
    assert taken(box) == [entry_id]
    (claim,) = claims(box, everything=True)
    claim.record(did("file"))
    assert claim.release() == "delivered"
    assert there(box) == {}


def test_two_outboxes_of_one_directory_are_one(box):
    entry_id, _ = waiting(box)
    assert taken(Outbox(box.path)) == [entry_id]


def test_an_abandoned_entry_that_fails_again_does_not_come_twice_in_a_pass(box):
    claim = put(box)
    abandon(box, claim, age=2 * LEASE)
    seen = []
    for claim in claims(box, everything=True):
        seen.append(claim.entry.id)
        claim.record(did("file", ok=False))
        assert claim.release() == "waiting"
    assert seen == [claim.entry.id]
