"""A sending that succeeds also delivers what waits for the same handler: a farm of short jobs needs no cron."""

from __future__ import annotations

import re

from cli.outboxes import free, ids, make_due, wait_for
from helpers.commands import TO_FILES, handler_source, stored_events

AT = ("--outbox", "ob")


def due(*names, **more):
    """Put events that wait for the file handler, and are due."""
    waiting = wait_for(*names, **more)
    make_due(*waiting)
    return waiting


def test_delivered_event_is_followed_by_the_backlog_of_its_handler(command):
    due("a", "b")
    free()
    status, _, err = command("send", "c", *AT, *TO_FILES)
    assert (status, ids()) == (0, [])
    assert sorted(data["name"] for data in stored_events()) == ["a", "b", "c"]
    assert err[1] == "e3-event send: delivered earlier events from the outbox: 2 to file"


def test_quiet_prints_nothing_about_the_backlog(command):
    due("a")
    free()
    assert command("send", "c", "-q", *AT, *TO_FILES)[2] == []
    assert len(stored_events()) == 2


def test_event_of_a_step_is_followed_by_the_backlog_without_a_line(process):
    due("a")
    free()
    done = process("run", "c", "--start", *AT, *TO_FILES, "--", "true")
    assert (done.returncode, done.stderr, ids()) == (0, "", [])
    assert sorted(data["name"] for data in stored_events()) == ["a", "c", "c"]


def test_backlog_entry_that_is_not_due_stays_pending(command):
    wait_for("a")
    command("deliver", "ob", "--all")
    free()
    command("send", "c", *AT, *TO_FILES)
    assert len(ids()) == 1


def test_backlog_of_another_handler_stays_pending(command):
    due("a")
    command("send", "c", *AT, "--handler", "file=elsewhere")
    assert len(ids()) == 1


def test_failed_event_is_not_followed_by_the_backlog(command, plugin):
    due("a")
    command("send", "c", *AT, *TO_FILES)
    assert len(ids()) == 2


def test_failed_backlog_delivery_is_the_last(command, plugin, here):
    plugin("choosy", handler_source("open('tried', 'a').write(event.name); return event.name == 'good'"))
    for name in ("bad", "bad", "bad"):
        command("send", name, *AT, "--handler", "choosy")
    make_due(*ids())
    command("send", "good", *AT, "--handler", "choosy")
    assert (here / "tried").read_text("utf-8") == "badbadbadgoodbad"
    assert len(ids()) == 3


def test_hung_backlog_delivery_is_killed_and_the_event_is_delivered(process, plugin, here):
    plugin(
        "stuck",
        handler_source(
            "import os, threading; return event.name == 'c' or os.path.exists('on') and threading.Event().wait()"
        ),
    )
    process("send", "a", *AT, "--handler", "stuck")
    make_due(*ids())
    (here / "on").touch()
    done = process("send", "c", *AT, "--handler", "stuck", "--timeout", "60")
    assert done.returncode == 0
    assert re.fullmatch(r"stuck: delivered in \S+ s\n", done.stderr)
    assert len(ids()) == 1


def test_backlog_delivery_that_holds_the_interpreter_is_killed(process, plugin, here):
    plugin("stuck", STUCK_IN_C)
    process("send", "a", *AT, "--handler", "stuck")
    make_due(*ids())
    (here / "on").touch()
    done = process("send", "c", *AT, "--handler", "stuck", "--timeout", "60")
    assert done.returncode == 0
    assert re.fullmatch(r"stuck: delivered in \S+ s\n", done.stderr)
    assert len(ids(state="claimed")) == 1  # of a dead process: the next one takes it over


STUCK_IN_C = handler_source(
    "import ctypes, os; return event.name == 'c' or os.path.exists('on') and ctypes.PyDLL(None).sleep(600) == 0"
)
