"""The commands store undelivered events by default, and a missing or unusable outbox fails no command."""

from __future__ import annotations

import os
import pathlib

import pytest

from cli.outboxes import block, ids, unblock
from event import _places
from helpers.commands import TO_FILES, handler_source, stored_events

pytestmark = pytest.mark.skipif(os.name == "nt", reason="platform: Windows has other home directories")


@pytest.fixture(autouse=True)
def default(monkeypatch):
    """Let the commands use the default outbox; return its path."""
    monkeypatch.delenv("E3_EVENT_OUTBOX")
    return _places.default_outbox()


def test_failed_event_is_stored_in_the_default_outbox_of_all_commands(command, default):
    block()
    status, out, err = command("send", "n", "--uid", "u", *TO_FILES)
    assert (status, out, err[0].endswith("; kept")) == (0, ["u"], True)
    assert len(ids(default)) == 1
    assert command("outbox", "list")[2] == ["e3-event outbox list: 1 waiting"]
    assert f"  {default}  ok; 0 in delivery, 1 waiting, 0 failed, 0 corrupt" in command("check")[1]
    unblock()
    assert command("deliver", "--all")[0] == 0
    assert [data["uid"] for data in stored_events()] == ["u"]


def test_event_of_run_is_stored(process, default):
    block()
    done = process("run", "n", *TO_FILES, "--", "sh", "-c", "exit 3")
    assert done.returncode == 3
    assert done.stderr.endswith("; kept\n")
    assert len(ids(default)) == 1


@pytest.mark.parametrize("how", ["option", "variable"])
def test_none_turns_the_default_outbox_off(command, default, monkeypatch, how):
    block()
    if how == "variable":
        monkeypatch.setenv("E3_EVENT_OUTBOX", "none")
    option = ["--outbox", "none"] if how == "option" else []
    status, _, err = command("send", "n", *option, *TO_FILES)
    assert (status, err[0].endswith("; lost")) == (1, True)
    assert not os.path.exists(default)


def test_outbox_commands_report_a_missing_outbox(command, monkeypatch):
    monkeypatch.setenv("E3_EVENT_OUTBOX", "none")
    for args, expected in ((["deliver"], 0), (["outbox", "list"], 0), (["outbox", "show", "x"], 1)):
        status, out, err = command(*args)
        assert (status, out, len(err)) == (expected, [], 1)
        assert err[0].endswith("no outbox is configured; give its directory with --outbox")


def test_missing_home_directory_is_reported_and_the_event_sent(command, monkeypatch):
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    status, _, err = command("send", "n", *TO_FILES)
    assert (status, len(err), len(stored_events())) == (0, 2, 1)
    assert err[0] == (
        "e3-event send: no outbox is used: this user has no home directory; "
        "set E3_EVENT_OUTBOX to a directory, or to none"
    )


def test_outbox_writable_by_others_is_reported_and_the_event_sent(command, default):
    pathlib.Path(default).mkdir(parents=True)
    os.chmod(default, 0o777)
    status, _, err = command("send", "n", *TO_FILES)
    assert (status, len(err), len(stored_events())) == (0, 2, 1)
    assert "can be changed by other users" in err[0]


def test_strict_exits_with_1_if_the_event_is_only_stored(command):
    block()
    assert command("send", "n", "--strict", *TO_FILES)[0] == 1
    assert command("send", "n", "--strict")[0] == 1
    unblock()
    assert command("send", "n", "--strict", *TO_FILES)[0] == 0


def test_quiet_is_silent_unless_something_fails(command):
    assert command("send", "n", "--uid", "u", "-q", *TO_FILES) == (0, ["u"], [])
    assert command("send", "n", "--uid", "u", "--quiet") == (0, ["u"], [])
    assert len(command("send", "n", "-q", "--handler", "fiel=x")[2]) == 1


def test_failed_event_is_lost_if_its_outbox_was_removed(command, plugin, default):
    plugin("remover", handler_source(f"import shutil; shutil.rmtree({default!r}); return False"))
    status, _, err = command("send", "n", "--handler", "remover")
    assert (status, err[-1].endswith("; lost")) == (1, True)
