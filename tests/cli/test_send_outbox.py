"""``e3-event send`` with an outbox, which stores undelivered events."""

from __future__ import annotations

import os
import pathlib

import pytest

from cli.outboxes import block, ids
from helpers.commands import TO_FILES, handler_source, stored_events

POSIX = pytest.mark.skipif(os.name == "nt", reason="platform: POSIX signals and terminals")


def test_undelivered_event_is_stored_and_reported(command):
    block()
    status, out, err = command("send", "n", "--uid", "u", "--outbox", "ob", *TO_FILES, "--handler", "file:b=other")
    assert (status, out, len(err)) == (0, ["u"], 2)
    assert err[0].startswith("file: ")
    assert err[0].endswith("; kept")
    assert err[1].startswith("file:b: delivered")
    assert len(ids()) == 1


def test_event_delivered_by_all_handlers_leaves_the_outbox_empty(command, monkeypatch):
    monkeypatch.setenv("E3_EVENT_OUTBOX", "ob")
    status, _, err = command("send", "n", *TO_FILES)
    assert (status, len(err)) == (0, 1)
    assert [sorted(os.listdir(f"ob/{state}")) for state in sorted(os.listdir("ob"))] == [[]] * 5


def test_handler_that_cannot_be_loaded_gets_its_event_later(command, plugin):
    status, out, err = command("send", "n", "--uid", "u", "--outbox", "ob", "--handler", "late=1", *TO_FILES)
    assert (status, out, len(err)) == (0, ["u"], 2)
    assert err[0].startswith("late: no handler is named 'late'")
    assert err[0].endswith("; not loaded (in --handler); kept")
    plugin("late", handler_source("import pathlib; return pathlib.Path('got').write_text(event.uid + self.config)"))
    status, _, err = command("deliver", "ob", "--all")
    assert (status, len(err)) == (0, 2)
    assert pathlib.Path("got").read_text("utf-8") == "u1"
    assert len(stored_events()) == 1


def test_event_is_stored_if_no_handler_loads(command):
    status, out, err = command("send", "n", "--uid", "u", "--outbox", "ob", "--handler", "late=1")
    assert (status, out) == (0, ["u"])
    assert "; kept" in err[0]
    assert len(ids()) == 1


def test_failing_outbox_is_reported_and_the_event_sent(command):
    pathlib.Path("ob").write_text("in the way", "utf-8")
    status, _, err = command("send", "n", "--outbox", "ob", "--handler", "late=1", *TO_FILES)
    assert (status, len(err)) == (1, 3)
    assert f"cannot be kept in the outbox {os.path.abspath('ob')} and is sent without it" in err[0]
    assert err[2].startswith("file: delivered")
    assert len(stored_events()) == 1


def test_log_of_a_handler_thread_is_a_separate_line(command, plugin):
    log = "logging.getLogger('event').warning"
    plugin(
        "busy",
        handler_source(
            f"import threading; t = threading.Thread(target=lambda: ({log}('%d', 'x'), {log}('late')));"
            "t.start(); t.join(); return True"
        ),
    )
    status, _, err = command("send", "n", "--handler", "busy")
    assert (status, err[:2]) == (0, ["%d", "late"])
    assert err[2].startswith("busy: delivered")


def test_long_reason_is_shortened_before_the_final_state(command, plugin):
    plugin("down", handler_source("raise OSError('x' * 9999)"))
    _, _, err = command("send", "n", "--outbox", "ob", "--handler", "down")
    assert err[0].endswith("xx; kept")


def test_permanently_refused_event_moves_to_failed(command, plugin):
    plugin("strict", handler_source("import event as e; raise e.error.PermanentError('no such board')"))
    status, _, err = command("send", "n", "--outbox", "ob", "--handler", "strict")
    assert status == 0
    assert "is no longer retried, and is kept in failed/: no such board" in err[0]
    assert err[1:] == ["strict: no such board; refused for good, kept"]
    assert len(ids(state="failed")) == 1


def test_permanent_and_temporary_failure_are_reported_differently(command, plugin):
    plugin("strict", handler_source("import event as e; raise e.error.PermanentError('no such board')"))
    block()
    _, _, err = command("send", "n", "--outbox", "ob", "--handler", "strict", *TO_FILES)
    assert err[0] == "strict: no such board; refused for good, kept"
    assert err[1].endswith("; kept")
