"""Entries of dead owners: when another process takes them over, and in which order."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from event import Event
from event._outbox import current_owner
from helpers.entries import (
    LEASE,
    OTHER_MACHINE,
    abandon,
    candidate_of,
    claim_each,
    claimed_ids,
    dead_owner,
    make_delivery,
    names_by_state,
    not_due_yet,
    path_in,
    path_of,
    put,
    put_waiting,
    touch,
)


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
    not_of_an_outbox = "1."
    assert names_by_state(box)["tmp"] == [not_of_an_outbox, f"2.{OTHER_MACHINE}", f"3.{current_owner()}"]


def test_abandoned_entry_that_fails_again_is_tried_once_per_pass(box):
    claim = put(box)
    abandon(box, claim, age=2 * LEASE)
    seen = []
    for claim in claim_each(box, everything=True):
        seen.append(claim.entry.id)
        claim.record(make_delivery("file", ok=False))
        assert claim.release() == "waiting"
    assert seen == [claim.entry.id]
