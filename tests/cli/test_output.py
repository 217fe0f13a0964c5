"""Output as JSON, in colours, quiet or verbose; values from files; actions on many outbox entries."""

from __future__ import annotations

import io
import json
import os

import pytest

import event
from cli.outboxes import block, ids, make_due, put_failed, put_waiting, unblock
from event._cli._support import handler_options, terminal
from event._cli._support.outbox_listing import age
from event._outbox import Candidate, Outbox
from event._worker import Result
from helpers.commands import TO_FILES, stored_events

AT = ("--outbox", "ob")


def printed(out):
    """Return the JSON document on stdout."""
    content = json.loads("\n".join(out))
    assert content["version"] == 1
    return content


# JSON


def test_send_prints_the_outcome_as_json(command):
    block()
    status, out, _ = command("send", "n", "--uid", "u", "--json", *AT, *TO_FILES, "--handler", "file:b@failure=x")
    (sent,) = printed(out)["events"]
    assert (status, sent["name"], sent["uid"], sent["state"]) == (0, "n", "u", "kept")
    failed, skipped = sent["results"]
    assert (failed["handler"], failed["state"], failed["warning"]) == ("file", "kept", None)
    assert "not a directory" in failed["error"] or "exists" in failed["error"]
    assert (skipped["handler"], skipped["state"], skipped["error"]) == ("file:b@failure", "skipped", None)


def test_json_shows_delivered_lost_and_unhandled_events(command, here):
    (here / "bad.json").write_text("{", "utf-8")
    path = event.Event("n", uid="u").dump("in")
    _, out, _ = command("send", "--json", *TO_FILES, "--from-file", path, "bad.json")
    assert [sent["state"] for sent in printed(out)["events"]] == ["delivered", "lost"]
    assert [sent["state"] for sent in printed(command("send", "n", "--json")[1])["events"]] == ["no handlers"]
    assert printed(command("send", "--json", "--from-file", path)[1])["events"] == []
    block("blocked")
    lost = printed(command("send", "n", "--json", "--handler", "file=blocked")[1])
    assert lost["events"][0]["state"] == "lost"


def test_json_names_a_file_that_cannot_be_attached(command):
    (sent,) = printed(command("send", "n", "--json", "--attach", "log=.", *TO_FILES)[1])["events"]
    assert (sent["state"], sent["not_attached"]) == ("delivered", ["log"])


def test_json_lists_and_shows_the_outbox(command, here):
    (here / "log").write_text("x", "utf-8")
    assert printed(command("outbox", "list", "--json", "--outbox", str(here / "none"))[1])["entries"] == []
    (waiting,) = put_waiting("a")
    (broken,) = put_waiting("b")
    path = next(here.glob(f"ob/waiting/*/{broken}"))
    path.write_text("{", "utf-8")
    listed = {entry["id"]: entry for entry in printed(command("outbox", "list", "--json", "ob")[1])["entries"]}
    entry = listed[waiting]
    assert entry["event"] == {"name": "a", "uid": "u-a"}
    assert (entry["state"], entry["attempts"], entry["pending"]) == ("waiting", 1, ["file"])
    assert entry["due"] > entry["created"]
    assert "not a directory" in entry["last_error"]
    assert set(listed[broken]) == {"id", "state", "due", "problem"}
    shown = printed(command("outbox", "show", waiting, "--json", *AT)[1])
    assert shown["path"].endswith(waiting)
    assert (shown["delivered"], shown["failed"], shown["attachments"]) == ([], [], [])
    assert (shown["journal"][0]["handler"], shown["journal"][0]["ok"], shown["data"]["name"]) == ("file", False, "a")
    assert "problem" in printed(command("outbox", "show", broken, "--json", *AT)[1])


def test_vanished_entry_prints_one_line(command, monkeypatch):
    (entry_id,) = put_waiting("a")

    def fail(self, candidate):
        raise FileNotFoundError(2, "No such file", candidate.name)

    monkeypatch.setattr(Outbox, "read", fail)
    assert command("outbox", "show", entry_id, "--json", *AT)[:2] == (1, [])


def test_deliver_prints_its_results_as_json(command):
    put_waiting("a")
    status, out, _ = command("deliver", "ob", "--all", "--json", "-q")
    content = printed(out)
    assert (status, content["entries"], content["delivered"], content["waiting"]) == (0, 1, 0, 1)
    assert content["results"][0]["state"] == "kept"
    assert content["next_due"].endswith("Z")
    unblock()
    status, out, err = command("deliver", "ob", "--all", "--json", "--quiet")
    content = printed(out)
    assert (content["delivered"], content["waiting"], content["next_due"], content["error"]) == (1, 0, None, None)
    assert content["results"][0]["state"] == "delivered"
    assert err == ["e3-event deliver: 1 of 1 delivered; nothing is waiting"]
    assert command("deliver", "ob", "--json", "--watch")[0] == 2


def test_check_prints_its_results_as_json(command):
    status, out, err = command("check", "--json", "--send", "--handler", "file=events", "--handler", "fil=x")
    content = printed(out)
    assert (status, err[-1]) == (1, "e3-event check: 1 problem")
    assert {"handler": "file", "state": "ok"} in content["handlers"]
    assert content["settings"]["handlers"] == {"value": "file, fil", "from": "--handler"}
    assert content["test"][0]["state"] == "delivered"
    assert content["outbox"]["path"] is None
    assert printed(command("check", "--json")[1])["test"] is None


# Lines


def test_verbose_shows_settings_and_successes(command, process):
    assert "e3-event send: outbox: none (E3_EVENT_OUTBOX)" in command("send", "n", "-v", *TO_FILES)[2]
    done = process("run", "n", "--verbose", *TO_FILES, "--", "true")
    assert "e3-event run: timeout: 30 s (default)\n" in done.stderr
    assert "e3-event run: file: delivered in " in done.stderr


def test_quiet_and_verbose_exclude_each_other(command):
    assert command("send", "n", "-q", "-v")[0] == 2


def test_quiet_run_without_handlers_prints_nothing(process):
    assert process("run", "n", "-q", "--", "true").stderr == ""


def test_failure_is_red_and_success_green_if_colours_are_shown(command, monkeypatch):
    block()
    monkeypatch.setenv("FORCE_COLOR", "1")
    _, _, err = command("send", "n", *TO_FILES, "--handler", "file:b=b")
    assert [err[0][:5], err[1][:5]] == [terminal.RED, terminal.GREEN]
    assert all(line.endswith("\x1b[0m") for line in err)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in "".join(command("send", "n", *TO_FILES)[2])


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("stream", "variables", "expected"),
    [
        pytest.param(None, {}, False, id="closed"),
        pytest.param(io.StringIO(), {}, False, id="a file"),
        pytest.param(Terminal(), {"TERM": "xterm"}, True, id="a terminal"),
        pytest.param(Terminal(), {"TERM": "dumb"}, False, id="a dumb terminal"),
        pytest.param(Terminal(), {"TERM": "xterm", "NO_COLOR": "1"}, False, id="NO_COLOR"),
        pytest.param(io.StringIO(), {"FORCE_COLOR": "1"}, True, id="FORCE_COLOR"),
        pytest.param(None, {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False, id="both variables"),
    ],
)
def test_colours_depend_on_terminal_and_environment(monkeypatch, stream, variables, expected):
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert terminal.has_colours(stream) is expected


@pytest.mark.parametrize(
    ("handler_name", "error", "line"),
    [
        ("smtp", "smtp: a:9: connection refused", "a:9: connection refused"),
        ("smtp", "smtp: a: no; smtp: b: no.", "a: no; b: no"),
        ("http", "not done within 5 s", "not done within 5 s"),
        ("smtp:x@failure", "smtp: full", "full"),
        ("h", "smtp: other", "smtp: other"),
    ],
)
def test_line_of_a_failure_begins_with_its_cause(handler_name, error, line):
    result = Result(handler_name, {"error": error})
    assert handler_options.result_line(result, "kept") == f"{line}; kept"
    assert handler_options.result_line(result) == line


# Values


COMMANDS = [["send", "n"], ["send", "n", "--strict"], ["run", "n"], ["run", "n", "--strict"]]


def test_value_can_be_read_from_a_file(command, here):
    (here / "notes.txt").write_bytes(b"two\nlines\xff")
    (here / "data.json").write_text("[1]", "utf-8")
    assert command("send", "n", "notes=@notes.txt", "data:=@data.json", *TO_FILES)[0] == 0
    (data,) = stored_events()
    assert (data["notes"], data["data"]) == ("two\nlines\ufffd", [1])


@pytest.mark.parametrize("args", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("a=@gone", "the file 'gone' cannot be read (No such file", id="missing"),
        pytest.param("a:=@gone", "the file 'gone' cannot be read (No such file", id="missing JSON"),
        pytest.param("a=@", "the file '' cannot be read (", id="no name"),
        pytest.param("a=@.", "the file '.' cannot be read ('.' is not a regular file)", id="a directory"),
        pytest.param("a=@big", "the file 'big' is larger than 1048576 bytes; attach it instead", id="large"),
    ],
)
def test_event_is_sent_without_a_value_whose_file_cannot_be_read(command, here, args, text, reason):
    (here / "big").write_bytes(b"x" * ((1 << 20) + 1))
    status, err = send_or_run(command, [*args, text])
    assert (status, err[0].startswith(f"e3-event {args[0]}: 'a' is not sent: {reason}")) == (
        int("--strict" in args),
        True,
    )
    (data,) = stored_events()
    assert "a" not in data


@pytest.mark.parametrize("args", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("", "Expecting value", id="empty"),
        pytest.param("hush", "Expecting value", id="text"),
        pytest.param("NaN", "NaN is not a JSON number", id="NaN"),
        pytest.param("[" * 100_000, "nested too deeply", id="too deep to read"),
        pytest.param("[" * 101 + "]" * 101, "nested too deeply", id="too deep to write"),
        pytest.param("@notes", "Expecting value", id="a file"),
    ],
)
def test_value_that_is_not_json_is_sent_as_text(command, here, args, text, reason):
    (here / "notes").write_text("@notes", "utf-8")
    status, err = send_or_run(command, [*args, f"a:={text}"])
    assert err[0].startswith(f"e3-event {args[0]}: 'a' is sent as text: the value after := is not JSON ({reason}")
    assert err[0].endswith("); to pass text, use a=...")
    assert (status, "hush" in err[0]) == (int("--strict" in args), False)
    (data,) = stored_events()
    assert data["a"] == text


def send_or_run(command, args):
    """Send an event, or run a command that succeeds; return the status and the lines of stderr."""
    touch = ["--", "sh", "-c", "touch done"] if args[0] == "run" else []
    status, _, err = command(*args, *TO_FILES, *touch)
    assert os.path.exists("done") == bool(touch)
    return status, err


# The version


def test_version_option_has_a_short_form_and_prints_the_name(command):
    assert command("-V") == command("--version") == (0, [f"e3-event {event.__version__}"], [])
    assert command("send", "-V")[0] == 2


# Many entries


def test_retry_all_makes_every_entry_due(command, plugin):
    put_failed(command, plugin)
    put_waiting("w")
    unblock()
    status, out, err = command("outbox", "retry", "--all", *AT)
    assert (status, len(out), err) == (0, 2, ["e3-event outbox retry: 2 entries due now"])
    command("deliver", "ob")
    assert [data["name"] for data in stored_events()] == ["w"]


def test_drop_failed_keeps_waiting_entries(command, plugin):
    put_failed(command, plugin)
    put_waiting("w")
    assert command("outbox", "drop", "--failed", *AT)[2] == ["e3-event outbox drop: 1 entry dropped"]
    assert (len(ids()), ids(state="failed")) == (1, [])


def test_prune_removes_old_entries(command, plugin, here):
    failed = put_failed(command, plugin)
    (waiting,) = put_waiting("w")
    assert command("outbox", "prune", "ob")[2] == ["e3-event outbox prune: 0 entries dropped"]
    make_due(waiting)
    assert command("outbox", "prune", "ob", "--older-than", "0m")[1] == [f"{failed} is dropped"]
    corrupt = here / "ob/corrupt/x"
    corrupt.write_text("{", "utf-8")
    assert command("outbox", "prune", "ob", "--older-than", "1h")[1] == []
    os.utime(corrupt, (0, 0))
    assert command("outbox", "prune", "ob", "--older-than", "1d")[1] == ["x is dropped"]
    assert ids() == [waiting]


def test_entry_that_was_moved_meanwhile_has_no_age(tmp_path):
    assert age(Outbox(tmp_path), Candidate("corrupt/x"), "damaged") == 0.0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        pytest.param(["prune", "--older-than", "soon"], "age such as 30d, 12h or 90m, not 'soon'", id="age"),
        pytest.param(["prune", "--older-than", "d"], "expected an age such as 30d", id="no number"),
        pytest.param(
            ["retry", "--all", "x"], "unrecognized argument 'x'; an ID cannot be combined with --all;", id="all"
        ),
        pytest.param(["drop", "--failed", "x"], "an ID cannot be combined with --failed;", id="failed"),
        pytest.param(
            ["retry", "x", "--handler", "logging=a|hp=b"],
            "--handler: logging: its configuration must be a string without '|' and NUL; use one option per handler",
            id="vertical bar",
        ),
    ],
)
def test_wrong_command_line_explains_what_was_expected(command, args, message):
    status, _, err = command("outbox", *args, *AT)
    assert (status, message in err[0]) == (2, True)
