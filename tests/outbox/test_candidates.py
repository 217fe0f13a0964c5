"""Candidates: which entries are due, in which order, and that only one process claims each."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from event._outbox import Outbox, files
from helpers.entries import (
    OTHER_MACHINE,
    candidate_of,
    claim_each,
    claimed_ids,
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
