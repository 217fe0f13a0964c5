"""``e3-event check`` of an outbox."""

from __future__ import annotations

import os

import pytest

from cli.outboxes import (
    block,
    path_of,
    put_failed,
    put_waiting,
)
from helpers.commands import TO_FILES

AT = ("--outbox", "ob")


def outbox_of(out):
    return out[out.index("Outbox:") + 1]


def test_check_reports_a_missing_outbox(command):
    assert outbox_of(command("check")[1]) == "  none  if a handler fails, the event is lost"


def test_check_counts_entries_and_creates_no_outbox(command, plugin, monkeypatch):
    monkeypatch.setenv("E3_EVENT_OUTBOX", "ob/deep")
    status, out, _ = command("check")
    assert (status, outbox_of(out)) == (
        0,
        f"  {os.path.abspath('ob/deep')}  ok; it is created when the first event is sent",
    )
    assert not os.path.exists("ob")
    put_failed(command, plugin)
    put_waiting("a", "b")
    status, out, _ = command("check", *AT)
    assert (status, outbox_of(out)) == (
        0,
        f"  {os.path.abspath('ob')}  ok; 0 in delivery, 2 waiting, 1 failed, 0 corrupt",
    )


def test_unusable_outbox_is_a_problem(command):
    block("ob")
    status, out, err = command("check", *AT)
    assert (status, err) == (1, ["e3-event check: 1 problem"])
    assert outbox_of(out).startswith(f"  {os.path.abspath('ob')}  broken: ")
    status, out, _ = command("check", "--outbox", "ob/deep")
    assert (status, "  broken: " in outbox_of(out)) == (1, True)


@pytest.mark.parametrize("state", ["waiting", "tmp"])
def test_unwritable_outbox_is_a_problem(command, monkeypatch, state):
    put_waiting("n")
    closed = os.path.abspath(f"ob/{state}")
    # Not chmod, since it does not restrict root, and in a container the tests run as root.
    monkeypatch.setattr(os, "access", lambda path, _mode: path != closed)
    status, out, _ = command("check", *AT)
    assert (status, outbox_of(out)) == (
        1,
        f"  {os.path.abspath('ob')}  broken: {closed} is not writable",
    )


def test_missing_state_directory_is_created_on_use(command):
    put_waiting("n")
    os.rmdir("ob/corrupt")
    assert (
        outbox_of(command("check", *AT)[1])
        == f"  {os.path.abspath('ob')}  ok; 0 in delivery, 1 waiting, 0 failed, 0 corrupt"
    )


@pytest.mark.skipif(os.name == "nt", reason="platform: symbolic links need a privilege")
def test_outbox_that_is_a_dangling_link_is_a_problem(command):
    os.symlink("gone", "ob")
    status, out, _ = command("check", *AT)
    assert status == 1
    assert outbox_of(out).endswith("ob is not a directory")


def test_undelivered_test_event_is_not_stored(command, monkeypatch):
    monkeypatch.setenv("E3_EVENT_OUTBOX", "ob")
    block()
    assert command("check", "--send", *TO_FILES)[0] == 1
    assert not os.path.exists("ob")


def test_check_stops_counting_at_its_limit(command):
    (entry_id,) = put_waiting("n")
    path = path_of(entry_id)
    for number in range(1500):
        os.link(path, f"{path}-{number}")
    assert "0 in delivery, 1000 or more waiting, 0 failed" in outbox_of(command("check", *AT)[1])
    assert command("outbox", "show", entry_id[:8], *AT)[2] == [
        f"e3-event outbox show: 1000 or more IDs begin with {entry_id[:8]!r}; give a longer prefix"
    ]
