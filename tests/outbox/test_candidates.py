"""Candidates: which entries are due, in which order, and that only one process claims each."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from event import Event
from event._outbox import Outbox, current_owner, files
from helpers.entries import (
    LEASE,
    OTHER_MACHINE,
    abandon,
    candidate_of,
    claim_each,
    claimed_ids,
    dead_owner,
    make_delivery,
    names,
    names_by_state,
    not_due_yet,
    path_in,
    path_of,
    put,
    put_waiting,
    touch,
)


def test_only_due_entries_are_claimed(box):
    past, _ = put_waiting(box, time.time() - 5)
    put_waiting(box, not_due_yet())
    put(box)
    Path(path_in(box, "waiting", "0")).mkdir()
    Path(path_in(box, "waiting", "0", ".nfs0001")).touch()
    assert claimed_ids(box) == [past]
    assert len(names_by_state(box)["waiting"]) == 3


def test_due_entry_is_claimed_at_once(box):
    """A bucket's time is rounded up. An entry that is already due must not wait for it."""
    entry_id, _ = put_waiting(box, time.time())
    assert claimed_ids(box) == [entry_id]


@pytest.mark.parametrize("ahead", [1, 29, 30, 31, 3600, 3601, 21600])
def test_entry_is_not_claimed_before_it_is_due(box, ahead):
    due = time.time() + ahead
    entry_id, _ = put_waiting(box, due)
    candidate = candidate_of(box, entry_id)
    assert due <= candidate.due <= due + (30 if ahead <= 3600 else 300)
    assert candidate.due % 30 == 0
    assert claimed_ids(box) == ([] if candidate.due > time.time() else [entry_id])


def test_oldest_bucket_is_read_first(box):
    ids = {due: put_waiting(box, due)[0] for due in (60_000, 900, 6_000)}
    assert [candidate.id for candidate in box.candidates()] == [ids[due] for due in sorted(ids)]


def test_buckets_that_are_not_due_are_not_read(box, monkeypatch):
    for ahead in (600, 1200, 1800):
        put_waiting(box, time.time() + ahead)
    read = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: (read.append(path), scandir(path))[1])
    assert list(box.candidates()) == []
    assert sorted(read) == [path_in(box, state) for state in ("claimed", "tmp", "waiting")]


def test_an_empty_bucket_is_removed(box):
    put_waiting(box)
    for claim in claim_each(box):
        claim.record(make_delivery("file"))
        assert claim.release() == "delivered"
    assert os.listdir(path_in(box, "waiting")) == []


def test_entry_can_move_into_a_bucket_during_its_removal(box, monkeypatch):
    claim = put(box)
    rename, removed = os.rename, []

    def rename_after_removing_the_bucket(source, target):
        bucket = os.path.dirname(target)
        if len(removed) < 3 and os.path.isdir(bucket):
            os.rmdir(bucket)
            removed.append(bucket)
        rename(source, target)

    monkeypatch.setattr(os, "rename", rename_after_removing_the_bucket)
    claim.postpone(1)
    assert len(removed) == 3
    assert names_by_state(box) == {"waiting": [claim.entry.id]}


def test_bucket_created_by_another_process_is_used(box, monkeypatch):
    claim = put(box)
    mkdir = os.mkdir

    def mkdir_twice(path, mode):
        mkdir(path, mode)
        mkdir(path, mode)

    monkeypatch.setattr(os, "mkdir", mkdir_twice)
    claim.postpone(1)
    assert names_by_state(box) == {"waiting": [claim.entry.id]}


def test_entry_stays_claimed_if_its_bucket_is_always_removed(box, monkeypatch):
    claim = put(box)
    rename = os.rename

    def rename_after_removing_the_bucket(source, target):
        if os.path.isdir(os.path.dirname(target)):
            os.rmdir(os.path.dirname(target))
        rename(source, target)

    monkeypatch.setattr(os, "rename", rename_after_removing_the_bucket)
    assert claim.release() == "claimed"
    assert names(box, "claimed") == [claim.name]


def test_outbox_without_its_empty_directories_is_complete(box):
    """An archive, such as an artifact of a CI system, contains only files."""
    entry_id, _ = put_waiting(box, time.time() - 5)
    for state in ("tmp", "claimed", "failed", "corrupt"):
        Path(path_in(box, state)).rmdir()
    assert box.exists()
    assert [candidate.id for candidate, _ in box.entries()] == [entry_id]
    assert claimed_ids(box) == [entry_id]


def test_missing_outbox_has_no_candidates(box, tmp_path):
    assert claimed_ids(box) == []
    assert list(box.entries("waiting", "failed")) == []
    assert box.find("a") == []
    assert not os.path.exists(box.path)
    (tmp_path / "outbox").mkdir(mode=0o700)
    assert claimed_ids(box) == []
    assert os.listdir(box.path) == []


def test_removed_state_directory_is_created_again(box):
    entry_id, _ = put_waiting(box)
    os.rmdir(path_in(box, "corrupt"))
    assert claimed_ids(box) == [entry_id]
    assert os.path.isdir(path_in(box, "corrupt"))


@pytest.mark.parametrize("ahead", [13 * 3600, 400 * 86400])
def test_entry_dated_by_a_clock_that_was_set_back_is_due(box, ahead):
    entry_id, _ = put_waiting(box, time.time() + ahead)
    assert claimed_ids(box) == [entry_id]


def test_names_that_are_not_buckets_are_skipped(box):
    entry_id, _ = put_waiting(box)
    for name in ("x", "٣", "-30"):
        Path(path_in(box, "waiting", name)).mkdir()
    assert claimed_ids(box) == [entry_id]


# A pass over all entries.


def test_each_entry_is_a_candidate_once_even_if_released(box):
    ids = {put_waiting(box, not_due_yet() + 60 * number)[0] for number in range(50)}
    for entry_id in ids:
        touch(path_of(box, entry_id), 1000)
    seen = []
    for claim in claim_each(box, everything=True):
        seen.append(claim.entry.id)
        claim.postpone(not_due_yet() + 60 * len(seen))
        assert len(seen) <= 50
    assert set(seen) == ids
    assert sorted(claimed_ids(box, everything=True)) == sorted(ids)


@pytest.mark.parametrize("everything", [True, False])
def test_released_entry_is_not_a_candidate_again_in_the_same_pass(box, monkeypatch, everything):
    entry_id, path = put_waiting(box)
    touch(path, 1000)
    list_names = files.list_names

    def list_names_again(directory):
        """List the names again, as a file system may do that adds new names while a directory is read."""
        yield from list_names(directory)
        for _ in range(10):
            yield from list_names(directory)

    monkeypatch.setattr(files, "list_names", list_names_again)
    seen = []
    for claim in claim_each(box, everything=everything):
        seen.append(claim.entry.id)
        claim.postpone(1)
    assert seen == [entry_id]


def test_entry_released_by_an_earlier_pass_is_a_candidate_in_the_next(box):
    entry_id, _ = put_waiting(box, not_due_yet())
    for _ in range(3):
        assert claimed_ids(box, everything=True) == [entry_id]


def test_entry_is_due_after_the_file_server_clock_was_set_back(box):
    entry_id, path = put_waiting(box)
    touch(path, -86400)
    assert claimed_ids(box) == [entry_id]
    touch(path_of(box, entry_id), -86400)
    assert claimed_ids(box, everything=True) == [entry_id]


def test_entries_are_due_if_the_file_server_time_is_unknown(box, monkeypatch):
    entry_id, path = put_waiting(box)
    touch(path, 1000)
    tmp = path_in(box, "tmp")
    utime = os.utime

    def fail_for_tmp(path, *args, **kwargs):
        if path == tmp:
            raise OSError(30, "Read-only file system")
        utime(path, *args, **kwargs)

    monkeypatch.setattr(os, "utime", fail_for_tmp)
    assert claimed_ids(box) == [entry_id]


# Dead owners.


def test_claim_of_a_dead_process_is_taken_over_at_once(box):
    claim = put(box)
    abandon(box, claim, dead_owner())
    expected = [claim.entry.id] if os.name == "posix" else []
    assert claimed_ids(box) == expected


def test_abandoned_entries_are_claimed_first(box):
    waiting, _ = put_waiting(box)
    claim = put(box)
    abandon(box, claim, age=2 * LEASE)
    assert claimed_ids(box) == [claim.entry.id, waiting]


def test_claim_from_another_machine_is_valid_for_the_lease(box):
    claim = put(box)
    path = abandon(box, claim, age=LEASE - 60)
    assert claimed_ids(box, everything=True) == []
    touch(path, LEASE + 60)
    assert claimed_ids(box) == [claim.entry.id]


@pytest.mark.parametrize("with_attachments", [True, False])
def test_write_to_a_claim_renews_its_lease(box, attached, with_attachments):
    claim = put(box, attached if with_attachments else Event("build"), file="d", smtp="s")
    os.utime(claim.path, (1e9, 1e9))
    claim.record(make_delivery("file"))
    path = path_in(box, "claimed", f"{claim.entry.id}.{OTHER_MACHINE}")
    os.rename(claim.path, path)
    assert claimed_ids(box) == []
    os.utime(path, (1e9, 1e9))
    assert claimed_ids(box) == [claim.entry.id]


def test_finished_entry_of_a_dead_owner_is_removed(box):
    claim = put(box, file="d", smtp="s")
    claim.record(make_delivery("file"))
    claim.record(make_delivery("smtp", ok=False))
    claim.record(make_delivery("smtp"))
    with open(claim.path, "ab") as file:
        file.write(b'{"handler": "smtp", "ok": true}\n')
    abandon(box, claim, age=2 * LEASE)
    assert claimed_ids(box) == []
    assert names_by_state(box) == {}


def put_crashed(box):
    """Put an entry whose owner has died during the second attempt."""
    claim = put(box)
    claim.begin()
    abandon(box, claim, age=2 * LEASE)
    return claim.entry


def test_entry_of_a_dead_owner_follows_the_other_due_entries(box):
    entry = put_crashed(box)
    other, path = put_waiting(box)
    touch(path, 1000)
    assert claimed_ids(box) == [other]
    assert {*names_by_state(box)["waiting"]} == {entry.id, other}


def test_entry_of_a_dead_owner_stays_claimed_if_it_cannot_be_postponed(box, monkeypatch, caplog):
    entry = put_crashed(box)
    before = names_by_state(box)
    utime = os.utime

    def fail_for_the_epoch(path, times=None, **kwargs):
        if times == (0, 0):
            raise OSError(116, "Stale file handle")
        utime(path, times, **kwargs)

    monkeypatch.setattr(os, "utime", fail_for_the_epoch)
    assert claimed_ids(box) == []
    assert names_by_state(box) == before
    assert f"outbox entry {entry.id} cannot be read now" in caplog.text


def test_entry_of_a_dead_owner_is_the_last_candidate(box):
    entry = put_crashed(box)
    other, path = put_waiting(box, not_due_yet())
    touch(path, 1000)
    assert claimed_ids(box, everything=True) == [other, entry.id]
    assert claimed_ids(box) == []


def test_entry_whose_owners_keep_dying_fails_after_its_lifetime(box, monkeypatch):
    claim = put(box)
    claim.entry.attempts = 9
    claim.begin()
    abandon(box, claim, age=2 * LEASE)
    monkeypatch.setattr("event._outbox.entry.ENTRY_LIFETIME", -1.0)
    assert claimed_ids(box) == []
    assert names_by_state(box) == {"failed": [claim.entry.id]}


def test_postponed_entry_claimed_by_another_process_is_skipped(box):
    entry = put_crashed(box)
    other, path = put_waiting(box)
    touch(path, 1000)
    seen = []
    for claim in claim_each(box, everything=True):
        seen.append(claim.entry.id)
        claim.postpone(not_due_yet())
        os.rename(path_of(box, entry.id), path_in(box, "claimed", f"{entry.id}.{OTHER_MACHINE}"))
    assert seen == [other]


def test_entry_of_an_owner_that_died_long_ago_is_claimed_at_once(box, monkeypatch):
    claim = put(box)
    now = time.time
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: now() - 1000)
        claim.begin()
    abandon(box, claim, age=2 * LEASE)
    assert claimed_ids(box) == [claim.entry.id]


def test_abandoned_entry_is_claimed_after_the_clock_was_set_back(box, monkeypatch):
    claim = put(box)
    now = time.time
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: now() + 10 * 3600)
        claim.begin()
    abandon(box, claim, age=2 * LEASE)
    assert claimed_ids(box) == []
    assert candidate_of(box, claim.entry.id).due < now() + 300


def test_files_of_dead_processes_in_tmp_are_removed(box):
    put(box).discard()
    for number, (owner, age) in enumerate(
        (
            (OTHER_MACHINE, 2 * LEASE),
            ("", 2 * LEASE),
            (OTHER_MACHINE, 0),
            (current_owner(), 0),
            (OTHER_MACHINE, 2 * LEASE),
        )
    ):
        path = path_in(box, "tmp", f"{number}.{owner}")
        if number == 4:
            Path(path).touch()
        else:
            os.mkdir(path)
            Path(path, "entry").touch()
        touch(path, age)
    claimed_ids(box)
    assert names_by_state(box)["tmp"] == [f"2.{OTHER_MACHINE}", f"3.{current_owner()}"]


# Several processes.


def test_each_entry_is_claimed_by_one_process(box):
    put_waiting(box)
    (candidate,) = box.candidates()
    first = box.claim(candidate)
    assert first is not None
    assert box.claim(candidate) is None
    assert claimed_ids(box, everything=True) == []


@pytest.mark.parametrize("moment", ["utime", "rename", "open"])
def test_entry_claimed_by_another_process_meanwhile_is_skipped(box, monkeypatch, moment, caplog):
    entry_id, path = put_waiting(box)
    (candidate,) = box.candidates()
    call = getattr(os, moment)

    def call_after_the_other_claim(source, *args):
        monkeypatch.undo()
        os.rename(path, path_in(box, "claimed", f"{entry_id}.{OTHER_MACHINE}"))
        return call(source, *args)

    monkeypatch.setattr(os, moment, call_after_the_other_claim)
    assert box.claim(candidate) is None
    assert names_by_state(box) == {"claimed": [f"{entry_id}.{OTHER_MACHINE}"]}
    assert caplog.records == []


@pytest.mark.parametrize("with_attachments", [True, False])
def test_claim_succeeds_if_the_file_server_repeats_the_rename(box, attached, monkeypatch, with_attachments):
    entry_id, _ = put_waiting(box, e=attached if with_attachments else None)
    rename = os.rename

    def repeated_rename(source, target):
        """Act as an NFS client that has lost the first answer, and repeats the request."""
        rename(source, target)
        raise FileNotFoundError(2, "No such file", source)

    monkeypatch.setattr(os, "rename", repeated_rename)
    assert claimed_ids(box) == [entry_id]
    (claim,) = claim_each(box, everything=True)
    claim.record(make_delivery("file"))
    assert claim.release() == "delivered"
    assert names_by_state(box) == {}


def test_two_outbox_objects_share_one_directory(box):
    entry_id, _ = put_waiting(box)
    assert claimed_ids(Outbox(box.path)) == [entry_id]


def test_abandoned_entry_that_fails_again_is_tried_once_per_pass(box):
    claim = put(box)
    abandon(box, claim, age=2 * LEASE)
    seen = []
    for claim in claim_each(box, everything=True):
        seen.append(claim.entry.id)
        claim.record(make_delivery("file", ok=False))
        assert claim.release() == "waiting"
    assert seen == [claim.entry.id]
