"""A handler that delivers an event also gets its earlier events from the outbox. So short CI jobs need no cron."""

from __future__ import annotations

import re
import subprocess

from cli.outboxes import ids, make_due, put_waiting, unblock
from event._worker import sending
from helpers.commands import HOLDS_THE_LOCK, TO_FILES, handler_source, patched, stored_events

AT = ("--outbox", "ob")


def put_due(*names):
    """Put events that are due for the file handler, which is still blocked."""
    make_due(*put_waiting(*names))


def test_delivered_event_is_followed_by_the_backlog_of_its_handler(command):
    put_due("a", "b")
    unblock()
    status, _, err = command("send", "c", *AT, *TO_FILES)
    assert (status, ids()) == (0, [])
    assert sorted(data["name"] for data in stored_events()) == ["a", "b", "c"]
    assert err[1] == "e3-event send: delivered earlier events from the outbox: 2 to file"


def test_quiet_prints_nothing_about_the_backlog(command):
    put_due("a")
    unblock()
    assert command("send", "c", "-q", *AT, *TO_FILES)[2] == []
    assert len(stored_events()) == 2


def test_event_of_a_step_is_followed_by_the_backlog_without_a_line(process):
    put_due("a")
    unblock()
    done = process("run", "c", "--start", *AT, *TO_FILES, "--", "true")
    assert (done.returncode, done.stderr, ids()) == (0, "", [])
    assert sorted(data["name"] for data in stored_events()) == ["a", "c", "c"]


def test_backlog_entry_that_is_not_due_stays_pending(command):
    put_waiting("a")
    command("deliver", "ob", "--all")
    unblock()
    command("send", "c", *AT, *TO_FILES)
    assert len(ids()) == 1


def test_backlog_of_another_handler_stays_pending(command):
    put_due("a")
    command("send", "c", *AT, "--handler", "file=elsewhere")
    assert len(ids()) == 1


def test_failed_event_is_not_followed_by_the_backlog(command):
    put_due("a")
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


# A backlog that hangs. The handler delivers the event `new`, and hangs with the event `old` once the file `on` exists.


def put_stuck(command, plugin, here, hang):
    """Put the event `old`, with which its handler now hangs."""
    plugin("stuck", handler_source(f"import os; return event.name == 'new' or os.path.exists('on') and {hang}"))
    command("send", "old", *AT, "--handler", "stuck")
    make_due(*ids())
    (here / "on").touch()


SEND_NEW = ("send", "new", *AT, "--handler", "stuck", "--timeout", "600")  # far above the limit for a backlog
DELIVERED = r"stuck: delivered in \S+ s"


def test_hung_backlog_delivery_ends_at_its_limit(command, plugin, here):
    put_stuck(command, plugin, here, "__import__('threading').Event().wait()")
    # The worker's limit is shorter than usual. The command's limit is longer, so that it does not kill the worker.
    patch = "from event._outbox import backlog\nfrom event._worker import sending\n"
    patch += "backlog.LONGEST = 0.2\nsending.BACKLOG_LIMIT = 600.0"
    done = subprocess.run(patched(patch, *SEND_NEW), capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0
    assert re.fullmatch(f"{DELIVERED}\n", done.stderr)
    assert len(ids()) == 1


def test_backlog_delivery_that_holds_the_interpreter_is_killed(command, plugin, here, monkeypatch):
    put_stuck(command, plugin, here, HOLDS_THE_LOCK)
    monkeypatch.setattr(sending, "BACKLOG_LIMIT", 0.3)  # shorter than usual
    status, _, (line,) = command(*SEND_NEW)
    assert status == 0
    assert re.fullmatch(DELIVERED, line)
    # Usually the worker had claimed the entry when it was killed. The next `deliver` takes over such a claim.
    assert len(ids() + ids(state="claimed")) == 1
