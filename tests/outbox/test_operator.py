"""Commands of an operator: find, list, count, retry and drop entries. Finding and counting are bounded."""

from __future__ import annotations

import os
import time

import pytest

from event import Event, PermanentError
from event._outbox import BOUND, Candidate, Outbox
from helpers.entries import (
    LEASE,
    abandon,
    candidate_of,
    candidates,
    claim_each,
    claimed_ids,
    make_delivery,
    names_by_state,
    not_due_yet,
    path_in,
    path_of,
    put,
    put_waiting,
)


def test_retry_of_a_failed_entry_includes_permanent_failures(box):
    claim = put(box, smtp="s")
    claim.record(make_delivery("smtp", ok=False, error=PermanentError("no such user")))
    assert claim.release() == "failed"
    assert box.retry(candidate_of(box, claim.entry.id, "failed"))
    (again,) = claim_each(box)
    assert again.entry.pending == {"smtp": "s"}
    assert again.entry.last_error == "no such user"
    again.record(make_delivery("smtp"))
    assert again.release() == "delivered"
    assert names_by_state(box) == {}


def test_a_waiting_entry_is_retried_at_once(box):
    entry_id, _ = put_waiting(box, not_due_yet())
    put_waiting(box, not_due_yet() + 1000)
    candidate = candidate_of(box, entry_id)
    assert box.retry(candidate)
    assert not box.retry(candidate)  # it is no longer there
    assert len(os.listdir(path_in(box, "waiting"))) == 2  # its old bucket was removed
    assert claimed_ids(box) == [entry_id]


@pytest.mark.parametrize("state", ["waiting", "failed", "corrupt"])
@pytest.mark.parametrize("with_attachments", [True, False])
def test_entry_that_is_not_being_delivered_is_dropped(box, attached, state, with_attachments):
    entry_id, path = put_waiting(box, e=attached if with_attachments else Event("build"))
    other, _ = put_waiting(box, not_due_yet())
    if state != "waiting":
        os.rename(path, path_in(box, state, entry_id))
    candidate = candidate_of(box, entry_id, state)
    assert box.drop(candidate)
    assert not box.drop(candidate)
    assert names_by_state(box) == {"waiting": [other]}
    assert state != "waiting" or len(os.listdir(path_in(box, "waiting"))) == 1


def test_entry_being_delivered_is_neither_dropped_nor_retried(box):
    claim = put(box)
    candidate = candidate_of(box, claim.entry.id, "claimed")
    assert not box.drop(candidate)
    assert not box.retry(candidate)
    assert names_by_state(box) == {"claimed": [claim.name]}


@pytest.mark.parametrize("act", ["drop", "retry"])
def test_claim_of_a_dead_process_is_dropped_or_retried(box, act):
    claim = put(box)
    abandon(box, claim, age=2 * LEASE)
    assert getattr(box, act)(candidate_of(box, claim.entry.id, "claimed"))
    assert names_by_state(box) == ({} if act == "drop" else {"waiting": [claim.entry.id]})


def test_the_entries_of_each_state_are_listed(box):
    waiting, _ = put_waiting(box)
    claimed = put(box).entry.id
    found = [(candidate.state, candidate.id, entry.id) for candidate, entry in box.entries()]
    assert found == [("claimed", claimed, claimed), ("waiting", waiting, waiting)]
    assert [candidate.state for candidate, _ in box.entries("waiting")] == ["waiting"]


def test_entry_that_moves_while_it_is_read_is_not_listed(box):
    _, path = put_waiting(box)
    other, _ = put_waiting(box, 7200)
    found = box.entries("waiting")
    assert next(found)[0].due == 0
    os.unlink(path_of(box, other))
    os.unlink(path)
    assert list(found) == []


# Finding entries.


def test_entry_is_found_by_full_id_in_any_state(box):
    claimed = put(box)
    waiting, path = put_waiting(box, not_due_yet())
    failed, other = put_waiting(box)
    os.rename(other, path_in(box, "failed", failed))
    for entry_id, state in ((claimed.entry.id, "claimed"), (waiting, "waiting"), (failed, "failed")):
        (found,) = box.find(entry_id)
        assert (found.state, found.id) == (state, entry_id)
    assert path == path_in(box, box.find(waiting)[0].name)


def test_search_for_a_full_id_reads_no_bucket(box, monkeypatch):
    ids = [put_waiting(box, not_due_yet() + 60 * number)[0] for number in range(3)]
    read = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: (read.append(path), scandir(path))[1])
    assert [found.id for found in box.find(ids[1])] == [ids[1]]
    assert sorted(read) == [path_in(box, "claimed"), path_in(box, "waiting")]


def test_entry_is_found_by_id_prefix(box):
    for sending in ("abc-1", "abc-2", "abd-1"):
        box.put(Event("build"), {"file": "d"}, sending=sending).postpone(1)
    assert sorted(found.id for found in box.find("ab")) == ["abc-1", "abc-2", "abd-1"]
    assert sorted(found.id for found in box.find("abc")) == ["abc-1", "abc-2"]
    assert box.find("") == box.find("x") == box.find("../waiting") == box.find("abc-1/") == []


def test_full_id_is_found_even_if_it_is_a_prefix_of_another(box):
    for sending in ("abc", "abc-2"):
        box.put(Event("build"), {"file": "d"}, sending=sending).postpone(1)
    assert [found.id for found in box.find("abc")] == ["abc"]


def test_a_candidate_knows_its_id_and_due_time(box):
    claim = put(box)
    (claimed,) = candidates(box, "claimed")
    assert (claimed.due, claimed.id, claimed.name) == (None, claim.entry.id, f"claimed/{claim.name}")
    claim.postpone(3600)
    (waiting,) = candidates(box, "waiting")
    assert waiting.due == 3600
    assert repr(waiting) == f"<Candidate waiting/3600/{waiting.id}>"
    assert Candidate("failed/x").due is None


# Counting entries.


def test_summary_has_counts_by_state_due_entries_and_next_due_time(box):
    put(box)
    put_waiting(box, 3600)
    put_waiting(box, 3600)
    put_waiting(box, time.time() + 40 * 86400)  # the clock was wrong: it counts as due
    soon = candidate_of(box, put_waiting(box, not_due_yet())[0]).due
    failed, path = put_waiting(box)
    os.rename(path, path_in(box, "failed", failed))
    found = box.summary()
    assert found.counts == {"claimed": 1, "waiting": 4, "failed": 1, "corrupt": 0}
    assert (found.due, found.next_due) == (3, soon)


def test_summary_stops_counting_at_its_limit(box):
    entry_id, path = put_waiting(box)
    for number in range(BOUND + 200):
        os.link(path, f"{path}-{number}")
        if number < 3:
            os.link(path, path_in(box, "failed", str(number)))
    found = box.summary()
    assert found.counts == {"claimed": 0, "waiting": BOUND, "failed": 3, "corrupt": 0}
    assert found.due == BOUND
    assert len(box.find(entry_id[:8])) == BOUND


def test_missing_state_directory_is_created_and_writable(box, monkeypatch):
    box.require_writable()
    put_waiting(box)
    os.rmdir(path_in(box, "corrupt"))
    box.require_writable()
    # Not chmod, since root, which runs the tests in a container, may write anyway.
    monkeypatch.setattr(os, "access", lambda path, _mode: path != path_in(box, "tmp"))
    with pytest.raises(PermissionError, match="tmp is not writable"):
        box.require_writable()


def test_outbox_that_cannot_be_created_is_not_writable(tmp_path, monkeypatch):
    Outbox(tmp_path / "a" / "b" / "outbox").require_writable()
    (tmp_path / "file").touch()
    for path in ("file", "file/outbox"):
        with pytest.raises(NotADirectoryError, match="file is not a directory"):
            Outbox(tmp_path / path).require_writable()
    monkeypatch.setattr(os, "access", lambda _path, _mode: False)
    with pytest.raises(PermissionError, match="is not writable"):
        Outbox(tmp_path / "a" / "outbox").require_writable()
