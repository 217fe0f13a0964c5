"""A claim: the journal, and the state of the entry after the release."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from shutil import rmtree

import pytest

from event import Event, PermanentError
from helpers.entries import (
    POSIX,
    ROOT,
    abandon,
    claim_each,
    claimed_ids,
    journal_of,
    lines_of,
    make_delivery,
    names_by_state,
    not_due_yet,
    path_in,
    path_of,
    put,
    put_waiting,
)

DAY = 86400
BUCKET = 30  # seconds


def test_entry_is_removed_after_every_handler_succeeded(box, attached):
    claim = put(box, attached, file="d", smtp="s")
    claim.record(make_delivery("file"))
    claim.record(make_delivery("smtp"))
    assert claim.release() == "delivered"
    assert names_by_state(box) == {}


def test_entry_stays_for_its_pending_handlers(box):
    claim = put(box, file="d", smtp="s")
    claim.record(make_delivery("file"))
    claim.record(make_delivery("smtp", ok=False, error=ValueError("down")))
    start = time.time()
    assert claim.release() == "waiting"
    ((candidate, entry),) = box.entries()
    assert (candidate.state, candidate.id) == ("waiting", claim.entry.id)
    assert (entry.pending, entry.last_error) == ({"smtp": "s"}, "ValueError: down")
    assert start + 44 <= candidate.due <= time.time() + 75 + BUCKET
    assert claimed_ids(box) == []


def test_success_is_journaled_while_other_handlers_are_pending(box):
    """If the process dies now, the handler that has delivered the event does not get it again."""
    claim = put(box, file="d", smtp="s")
    claim.record(make_delivery("file"))
    first, second = lines_of(claim.path)
    assert first["id"] == claim.entry.id
    assert {key: second[key] for key in ("handler", "ok", "seconds")} == {
        "handler": "file",
        "ok": True,
        "seconds": 0.123,
    }


def test_the_journal_has_a_line_for_each_attempt_and_result(box, attached):
    for e in (Event("build"), attached):
        claim = put(box, e)
        claim.record(make_delivery("file", ok=False, error=ValueError("no")))
        claim.begin()
        claim.record(make_delivery("file", ok=False, error=PermanentError("gone")))
        claim.begin()
        lines = [{k: v for k, v in line.items() if k not in ("time", "seconds")} for line in lines_of(claim.path)[1:]]
        assert lines == [
            {"handler": "file", "ok": False, "error": "ValueError: no", "permanent": False},
            {"attempt": 2},
            {"handler": "file", "ok": False, "error": "gone", "permanent": True},
            {"attempt": 3},
        ]


def test_journal_has_no_secret_of_the_environment(box, monkeypatch):
    monkeypatch.setenv("BOARD_TOKEN", "hush-hush-hush")
    claim = put(box)
    claim.record(make_delivery("file", ok=False, error=ValueError("401 for hush-hush-hush")))
    assert lines_of(claim.path)[1]["error"] == claim.entry.last_error == "ValueError: 401 for ***"
    claim.record(make_delivery("file", ok=False, error=ValueError("x" * 3980 + "hush-hush-hush")))
    assert lines_of(claim.path)[2]["error"] == f"ValueError: {'x' * 3980}***"


def test_permanent_failure_fails_the_entry_after_the_other_handlers(box, caplog):
    claim = put(box, file="d", smtp="s")
    claim.record(make_delivery("smtp", ok=False, error=PermanentError("no such user")))
    assert claim.release() == "waiting"
    (claim,) = claim_each(box, everything=True)
    assert claim.entry.pending == {"file": "d"}
    claim.record(make_delivery("file"))
    assert claim.release() == "failed"
    assert names_by_state(box) == {"failed": [claim.entry.id]}
    assert "is no longer retried, and is kept in failed/: no such user" in caplog.text


@pytest.mark.parametrize(
    ("age", "attempts", "state"),
    [
        pytest.param(5 * DAY + 60, 10, "failed", id="old and tried often"),
        pytest.param(5 * DAY - 60, 1000, "waiting", id="young, tried often"),
        pytest.param(10 * DAY, 1, "waiting", id="old, tried once"),
        pytest.param(10 * DAY, 9, "waiting", id="old, tried nine times"),
        pytest.param(-10 * DAY, 1000, "waiting", id="created in the future"),
    ],
)
def test_entry_fails_after_five_days_and_ten_attempts(box, age, attempts, state):
    """An entry can be old after one attempt: the clock is ahead, or the machine was off."""
    claim = put(box)
    claim.entry.created -= age
    claim.entry.attempts = attempts
    assert claim.release() == state
    assert list(names_by_state(box)) == [state]


def test_clock_that_is_ahead_fails_no_entry(box, monkeypatch):
    """A single `deliver` with a wrong clock must not end the retries of all entries."""
    ids = {put_waiting(box)[0] for _ in range(3)}
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 10 * DAY)
    for claim in claim_each(box, everything=True):
        claim.begin()
        claim.record(make_delivery("file", ok=False))
        assert claim.release() == "waiting"
    monkeypatch.undo()
    assert {*names_by_state(box)["waiting"]} == ids
    assert {*claimed_ids(box)} == ids  # their due time in ten days is a mistake


def test_entry_moves_to_failed_or_corrupt_if_its_name_is_taken(box, caplog):
    for state in ("failed", "corrupt"):
        claim = put(box)
        entry_id = claim.entry.id
        Path(path_in(box, state, entry_id)).write_text("precious")
        if state == "failed":
            claim.record(make_delivery("file", ok=False, error=PermanentError("no")))
            assert claim.release() == "failed"
        else:
            Path(claim.path).write_text("{")
            assert box.adopt(claim.name) is None
        first, second = names_by_state(box)[state]
        assert (first, second.partition(".")[0]) == (entry_id, entry_id)
        assert Path(path_in(box, state, first)).read_text() == "precious"
        assert [candidate.id for candidate in box.find(second)] == [second]


def test_sending_put_twice_becomes_two_entries(box):
    """A broker may deliver a message twice. Neither entry replaces the other."""
    for e in (Event("a"), Event("b")):
        box.put(e, {"file": "d"}, sending="same").postpone(not_due_yet())
    found = box.find("same")
    assert len(found) == 2
    assert {box.read(candidate).event.name for candidate in found} == {"a", "b"}
    assert {found[1].due - found[0].due} == {BUCKET}


@pytest.mark.parametrize("state", ["waiting", "failed"])
def test_state_directory_removed_meanwhile_is_created_again(box, state):
    claim = put(box)
    os.rmdir(path_in(box, state))
    claim.record(make_delivery("file", ok=False, error=PermanentError("no") if state == "failed" else None))
    assert claim.release() == state
    assert names_by_state(box) == {state: [claim.entry.id]}


def test_removed_outbox_breaks_neither_record_nor_release(box, caplog):
    claim = put(box)
    rmtree(box.path)
    claim.record(make_delivery("file", ok=False))
    assert claim.release() == "claimed"
    assert "its journal cannot be written" in caplog.text


def test_entry_that_cannot_be_moved_stays_claimed(box, caplog):
    claim = put(box)
    os.rmdir(path_in(box, "waiting"))
    Path(path_in(box, "waiting")).touch()
    assert claim.release() == "claimed"
    assert "cannot be moved, and stays claimed until this process ends" in caplog.text
    assert len(os.listdir(path_in(box, "claimed"))) == 1


def test_delivered_entry_is_not_delivered_again_if_removal_fails(box, monkeypatch):
    claim = put(box)
    claim.record(make_delivery("file"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", lambda _path: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        assert claim.release() == "claimed"
    assert lines_of(claim.path)[1]["ok"] is True
    abandon(box, claim, age=7200)
    assert claimed_ids(box) == []
    assert names_by_state(box) == {}


@POSIX
def test_forked_child_cannot_write_or_release_a_claim_of_its_parent(box, monkeypatch):
    claim = put(box)
    before = Path(claim.path).read_bytes()
    parent = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: parent + 1)  # simulates the child
    claim.begin()
    claim.record(make_delivery("file", ok=False))
    assert claim.release() == "claimed"
    assert Path(claim.path).read_bytes() == before


def test_torn_journal_line_does_not_damage_the_next(box):
    entry_id, path = put_waiting(box, file="d", smtp="s")
    with open(path, "ab") as file:
        file.write(b'{"handler": "file", "ok": tr')
    (claim,) = claim_each(box)
    claim.begin()
    claim.record(make_delivery("file"))
    claim.postpone(1)
    text = Path(path_of(box, entry_id)).read_bytes()
    assert b'"ok": tr\n{"time"' in text
    assert b"\n\n" not in text
    (claim,) = claim_each(box)
    assert (claim.entry.attempts, claim.entry.pending) == (2, {"smtp": "s"})


def test_partly_written_journal_line_does_not_damage_the_next(box, monkeypatch, caplog):
    claim = put(box, file="d", smtp="s")
    write = os.write

    def write_in_part(fd, data):
        monkeypatch.undo()
        write(fd, data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", write_in_part)
    claim.begin()
    assert "its journal cannot be written: [Errno 28]" in caplog.text
    claim.record(make_delivery("file"))
    first, torn, last = Path(claim.path).read_bytes().splitlines()
    assert torn == b'{"time": 1'
    assert json.loads(last)["handler"] == "file"
    assert json.loads(first)["id"] == claim.entry.id


def test_long_error_is_shortened(box):
    """A server may answer every attempt with a page of HTML."""
    claim = put(box)
    claim.record(make_delivery("file", ok=False, error=ValueError("x" * 100_000)))
    assert len(lines_of(claim.path)[1]["error"]) == 4000
    assert claim.entry.last_error == lines_of(claim.path)[1]["error"]


# Damaged attachments.


def change(path):
    os.chmod(path, 0o600)
    Path(path).write_bytes(b"other\n")


def replace(path):
    os.unlink(path)
    os.mkdir(path)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        pytest.param(change, "has changed", id="changed"),
        pytest.param(os.unlink, "is missing", id="missing"),
        pytest.param(replace, "is not a regular file", id="replaced by a directory"),
    ],
)
def test_an_entry_with_a_damaged_attachment_moves_to_corrupt(box, attached, damage, reason, caplog):
    entry_id, path = put_waiting(box, e=attached)
    damage(os.path.join(path, "0"))
    assert claimed_ids(box) == []
    assert names_by_state(box) == {"corrupt": [entry_id]}
    assert "is moved to corrupt/: attachment 'log'" in caplog.text
    assert reason in caplog.text


def test_attachment_found_at_the_second_check_is_not_missing(box, attached, monkeypatch):
    """An NFS client may see a new file late."""
    entry_id, _ = put_waiting(box, e=attached)
    open_ = os.open

    def open_at_the_second_call(path, *args, **kwargs):
        if path.endswith("1"):
            monkeypatch.undo()
            raise FileNotFoundError(2, "No such file or directory", path)
        return open_(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", open_at_the_second_call)
    assert claimed_ids(box) == []
    assert names_by_state(box) == {"waiting": [entry_id]}


# Adopting a claim.


def test_claim_is_adopted_by_name(box, attached):
    claim = put(box, attached, file="d", smtp="s")
    claim.record(make_delivery("file"))
    adopted = box.adopt(claim.name)
    assert adopted.name != claim.name
    assert adopted.entry.pending == {"smtp": "s"}
    assert names_by_state(box) == {"claimed": [adopted.name]}
    assert box.adopt(claim.name) is None
    adopted.record(make_delivery("smtp"))
    assert adopted.release() == "delivered"


@pytest.mark.parametrize("name", ["", "..", "../waiting/x", "nosuch.owner", "a/b"])
def test_only_the_name_of_a_claim_is_adopted(box, name):
    put(box)
    assert box.adopt(name) is None


def test_missing_outbox_has_no_claim_to_adopt(box):
    assert box.adopt("x.y") is None
    assert not os.path.exists(box.path)


def test_adopted_claim_is_finished_by_the_results_of_its_first_owner(box):
    claim = put(box)
    adopted = box.adopt(claim.name)
    adopted.record(make_delivery("file"))
    assert adopted.release() == "delivered"
    assert names_by_state(box) == {}


@ROOT
def test_claim_of_another_user_is_not_adopted(box, caplog):
    claim = put(box)
    os.chown(claim.path, 12345, -1)
    assert box.adopt(claim.name) is None
    assert "belongs to another user" in caplog.text
    assert journal_of(claim.path).exists()
