# tables
"""Settings of the commands: options, environment variables and the configuration file."""

from __future__ import annotations

import json
import os
import pathlib
import threading

import pytest

from cli.outboxes import block, ids
from event._cli._support import parser
from event._cli._support.settings import Settings
from helpers.commands import TO_FILES, handler_source, stored_events

TO_EVENTS = '[handlers.file]\ndirectory = "events"\n'


def test_send_and_run_use_the_configuration_file(command, process, config, here):
    config(f'outbox = "box"\n{TO_EVENTS}')
    assert command("send", "a")[0] == 0
    (here / "sub").mkdir()
    assert process("run", "b", "--", "true", cwd=here / "sub").returncode == 0
    assert [data["name"] for data in stored_events()] == ["a", "b"]
    assert os.path.isdir("box")


def test_option_overrides_variable_and_variable_overrides_file(command, config, monkeypatch):
    config(f"timeout = 7\n{TO_EVENTS}")
    monkeypatch.setenv("E3_EVENT_HANDLERS", "file=variable")
    command("send", "a")
    command("send", "b", "--handler", "file=option")
    assert [len(stored_events(path)) for path in ("events", "variable", "option")] == [0, 1, 1]


def test_empty_variable_does_not_override_the_file(command, config, monkeypatch):
    config(TO_EVENTS)
    monkeypatch.setenv("E3_EVENT_HANDLERS", "")
    command("send", "a")
    assert len(stored_events()) == 1


def test_another_variable_for_handlers_overrides_the_file(command, config):
    config(TO_EVENTS)
    assert command("send", "a", "--env", "OTHER")[2][0].startswith("e3-event send: nothing is sent: OTHER names no")


def test_configuration_file_can_be_given_or_disabled(command, config, monkeypatch):
    config(TO_EVENTS)
    named = config('[handlers.file]\ndirectory = "named"\n', "named.toml")
    command("send", "a", "--config", named)
    monkeypatch.setenv("E3_EVENT_CONFIG", named)
    command("send", "b")
    command("send", "c", "--config", "NONE")
    assert (len(stored_events("named")), len(stored_events())) == (2, 0)
    monkeypatch.setenv("HOME", os.path.dirname(named))
    command("send", "d", "--config", "~/named.toml", "--outbox", "None")
    assert (len(stored_events("named")), os.path.exists("None")) == (3, False)


@pytest.mark.parametrize(("args", "status"), [(["send", "n"], 1), (["run", "n", "--", "sh", "-c", "exit 3"], 3)])
def test_invalid_file_prints_a_line_and_the_command_continues(process, config, args, status):
    path = config("handler = 1\n")
    done = process(*args)
    assert done.returncode == status
    assert done.stderr == f"e3-event {args[0]}: {path}: handler: is unknown; did you mean 'handlers'?\n"
    assert process(*args[:2], *TO_FILES, *args[2:]).returncode == (status if args[0] == "run" else 0)
    assert len(stored_events()) == 1


def test_strict_exits_with_1_on_an_invalid_file(process, config):
    config("handler = 1\n")
    assert process("run", "n", "--strict", *TO_FILES, "--", "true").returncode == 1


MISTAKES = {
    "syntax": "[handlers.file\n",
    "bytes": "# \xe9\n",
    "twice": '[handlers.file]\ndirectory = "x"\n[handlers.file]\n',
    "list": "[[handlers]]\n",
    "number": "handlers = 1\n",
    "table": "[handler.file]\n",
    "label": '[handlers."a|b"]\ntype = "file"\ndirectory = "x"\n',
    "when": 'when = "CI==1"\n',
    "type": '[handlers.file]\ntype = "fil"\ndirectory = "x"\n',
    "kind": '[handlers.fiel]\ndirectory = "x"\n',
    "key": '[handlers.file]\ndirectry = "x"\n',
}


@pytest.mark.parametrize("text", MISTAKES.values(), ids=MISTAKES)
@pytest.mark.parametrize("trigger", ["next event", "deliver", "retry"])
def test_event_is_kept_until_the_file_is_fixed(command, config, text, trigger):
    path = config("")
    pathlib.Path(path).write_text(text, "latin-1")
    status, out, (line,) = command("send", "a", "--outbox", "ob", "--json")[0:3]
    assert (status, json.loads("\n".join(out))["events"][0]["state"]) == (0, "kept")
    assert (path in line, line.endswith("; kept")) == (True, True)
    status, _, (line,) = command("run", "b", "--outbox", "ob", "--strict", "--", "true")
    assert (status, line.endswith("; kept"), stored_events()) == (1, True, [])
    config(TO_EVENTS)
    if trigger == "next event":
        err = command("send", "c", "--outbox", "ob")[2]
        assert err[-1] == "e3-event send: delivered earlier events from the outbox: 2 to file"
    else:
        if trigger == "retry":
            assert command("outbox", "retry", "--all", "--outbox", "ob")[0] == 0
        assert command("deliver", "ob", *["--all"] * (trigger == "deliver"))[0] == 0
    assert {"a", "b"} <= {data["name"] for data in stored_events()}
    assert ids("ob") == []


@pytest.mark.parametrize("text", MISTAKES.values(), ids=MISTAKES)
def test_event_is_lost_without_an_outbox_if_the_file_is_wrong(command, config, text):
    pathlib.Path(config("")).write_text(text, "latin-1")
    status, out, err = command("send", "a", "--outbox", "none", "--json")
    assert (status, json.loads("\n".join(out))["events"][0]["state"]) == (1, "lost")
    assert err[0].endswith("; lost")


def test_event_is_kept_until_the_plugin_of_the_file_is_installed(process, config, plugin):
    config('[handlers.acme]\nconfig = "x"\n')
    done = process("send", "a", "--outbox", "ob")
    assert (done.returncode, "handlers.acme: no handler is named 'acme'" in done.stderr) == (0, True)
    plugin("acme2", handler_source())
    assert "no handler is named 'acme'" in process("check").stdout
    plugin("acme", handler_source())
    assert "acme: delivered in " in process("send", "b", "--outbox", "ob").stderr
    assert ids("ob") == []


def test_unreadable_file_is_reported_if_its_handlers_are_not_used(command, config):
    path = config("= 1")
    status, _, err = command("send", "a", *TO_FILES)
    assert (status, len(stored_events())) == (0, 1)
    assert err[0].startswith(f"e3-event send: {path}: is not TOML: ")
    assert command("outbox", "list", "--outbox", "ob")[2][0].startswith(f"e3-event outbox list: {path}: is not TOML")


@pytest.mark.skipif(os.name == "nt", reason="platform: Windows users may not create links")
def test_dangling_link_is_reported_and_keeps_the_event(command, here, config):
    os.symlink("gone.toml", "e3-event.toml")
    status, _, (line,) = command("send", "a", "--outbox", "ob")
    assert (status, len(ids("ob"))) == (0, 1)
    assert line.endswith("e3-event.toml: is a symbolic link to 'gone.toml', which does not exist; kept")


def test_mistake_in_a_handler_with_an_unmet_when_prints_a_line(command, config, monkeypatch):
    monkeypatch.delenv("GONE", raising=False)
    config('[handlers.file]\nwhen = "GONE"\n')
    for options, expected in ((), 0), (("--strict",), 1):
        status, _, (line,) = command("send", "a", "--outbox", "ob", *options)
        assert (status, "handlers.file.directory: is missing" in line) == (expected, True)
    assert not os.path.exists("ob")


def test_event_is_kept_in_the_outbox_of_a_file_that_is_not_toml(command, config):
    config('outbox = "box"\n[handlers.file\n')
    assert command("send", "a")[0] == 0
    config(f'outbox = "box"\n{TO_EVENTS}')
    assert command("send", "b")[2][-1].endswith("earlier events from the outbox: 1 to file")
    assert len(stored_events()) == 2


def test_handler_with_an_unmet_when_is_skipped(command, config, monkeypatch):
    monkeypatch.delenv("GONE", raising=False)
    path = config(f'{TO_EVENTS}when = "GONE"\n')
    assert command("run", "a", "--strict", "--", "true") == (0, [], [])
    assert command("send", "a", "--strict", "--uid", "u") == (0, ["u"], [])
    assert stored_events() == []
    assert command("send", "a", "x=@gone", "--strict", "--uid", "u")[0] == 1
    assert command("check", "--send")[2][0] == f"e3-event check: nothing is sent: 'when' in {path} is not met"


def test_deliver_reads_the_configuration_file_only_if_it_is_given(command, config, here):
    path = config('outbox = "box"\n')
    block()
    command("send", "n", *TO_FILES)
    assert len(ids("box")) == 1
    assert "there is no outbox" in command("deliver")[2][0]
    assert command("deliver", "--config", path)[2][-1].startswith("e3-event deliver: nothing was due; 1 waiting in ")
    assert command("outbox", "list")[2] == ["e3-event outbox list: 1 waiting"]


def test_error_about_the_file_shows_no_password(command, config):
    config('[handlers."http=https://u:hush-hush@h/"]\nurl = 1\n')
    (line,) = command("send", "a")[2]
    assert "hush" not in line
    assert "https://u:***@h/" in line


def test_report_search_that_times_out_prints_a_line(command, config, monkeypatch):
    over = threading.Event()
    monkeypatch.setattr("event._process.junit.JUNIT_TIMEOUT", 0.05)
    monkeypatch.setattr("event._process.junit.summary", lambda *_args: over.wait(60))
    config(TO_EVENTS)
    assert command("run", "a", "--junit", "/**/*", "--", "true") == (
        0,
        [],
        ["e3-event run: --junit: not read within 0.05 s"],
    )
    over.set()
    assert len(stored_events()) == 1


def test_relay_has_no_default_outbox(config):
    args = parser.parse(["relay", "redis://localhost"])
    assert Settings(args, default_outbox=False).outbox is None


def test_check_shows_the_source_of_each_value(command, config, monkeypatch):
    path = config(
        f'timeout = 7\nredact = ["env:X"]\n{TO_EVENTS}[handlers.mail]\ntype = "smtp"\nconfig = "x"\nwhen = "GONE"\n'
    )
    monkeypatch.setenv("X", "hush-hush")
    status, out, _ = command("check", "--outbox", "ob")
    rows = [line.split("  ") for line in out[out.index("Settings:") + 1 :]]
    shown = {row[1]: [cell.strip() for cell in row[2:] if cell.strip()] for row in rows}
    assert status == 0
    assert shown == {
        "config file": [path, "E3_EVENT_CONFIG, --config or found"],
        "handlers": ["file; smtp:mail: 'when' is not met", path],
        "outbox": [str(pathlib.Path("ob").resolve()), "--outbox"],
        "timeout": ["7 s", path],
        "redact": ["on, 1 more", path],
    }
    config("redact = false\n")
    monkeypatch.setenv("E3_EVENT_TIMEOUT", "3")
    assert "  redact       off" in "\n".join(command("check")[1])


def test_check_counts_an_invalid_file_as_a_problem(command, config):
    config("handler = 1\n")
    status, _, err = command("check")
    assert (status, err[-1]) == (1, "e3-event check: 1 problem")


# Conditions.


def test_handler_gets_only_events_that_meet_its_conditions(process, here):
    both = ("--outbox", "ob", "--handler", "file@failure+fixed=bad", "--handler", "file:all=events")
    for status in (0, 1, 0):
        assert process("run", "n", *both, "--", "sh", "-c", f"exit {status}").stderr == ""
    assert [data["outcome"] for data in stored_events("bad")].count("failure") == 1
    assert (len(stored_events("bad")), len(stored_events())) == (2, 3)
    done = process("send", "n", *both)
    assert "file@failure+fixed: skipped\n" in done.stderr
    assert done.returncode == 0


def test_event_skipped_by_every_handler_is_not_stored(command):
    status, out, err = command("send", "n", "--uid", "u", "--outbox", "ob", "--handler", "file@failure=bad")
    assert (status, out, err) == (0, ["u"], ["file@failure: skipped"])
    assert not os.path.exists("ob")


def test_stored_event_is_delivered_regardless_of_conditions(command):
    block()
    command("send", "n", "outcome=failure", "--outbox", "ob", "--handler", "file@failure=events")
    pathlib.Path("events").unlink()
    assert command("deliver", "ob", "--all")[0] == 0
    assert len(stored_events()) == 1


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        pytest.param("file@weekly", "'weekly' is not a condition; ", id="unknown"),
        pytest.param("file@fixed", "'fixed' needs an outbox, which keeps the last outcome; ", id="no outbox"),
    ],
)
def test_invalid_conditions_print_a_line_and_others_get_the_event(command, name, reason):
    status, _, err = command("send", "n", "--handler", f"{name}=x", *TO_FILES)
    assert (status, len(err), len(stored_events())) == (1, 2, 1)
    assert err[0].startswith(f"e3-event send: {name}: {reason}")
    assert err[0].endswith(" (in --handler); lost")


def test_event_is_stored_for_a_handler_with_invalid_conditions(command):
    status, _, err = command("send", "n", "--handler", "smtp@failrue=x", *TO_FILES, "--outbox", "ob")
    assert (status, len(stored_events())) == (0, 1)
    assert (
        err[0] == "smtp@failrue: 'failrue' is not a condition; did you mean 'failure'?; not loaded (in --handler); kept"
    )
    assert "1 waiting" in command("deliver", "ob", "--all")[2][-1]


def test_event_is_stored_until_its_handler_in_the_file_is_fixed(command, config):
    path = config(f'[handlers.other]\ntype = "file"\ndirectry = "events"\n{TO_EVENTS}')
    status, _, err = command("send", "n", "--outbox", "ob")
    assert (status, len(stored_events()), len(err)) == (0, 1, 2)
    reason = f"{path}: handlers.other.directry: is unknown; did you mean 'directory'?"
    assert err[0] == f"file:other: {reason}; kept"
    config(f'[handlers.other]\ntype = "file"\ndirectory = "other"\n{TO_EVENTS}')
    assert command("send", "n", "--outbox", "ob")[2][-1].endswith("earlier events from the outbox: 1 to file:other")
    assert (len(stored_events()), len(stored_events("other"))) == (2, 2)


def test_event_for_an_invalid_handler_is_lost_without_an_outbox(command, config):
    config(f"[handlers.other]\nx = 1\n{TO_EVENTS}")
    status, _, err = command("send", "n", "--outbox", "none")
    assert (status, len(stored_events())) == (1, 1)
    assert err[0].endswith("; lost")


def test_mistake_outside_the_handlers_prints_a_line_and_keeps_the_status(command, config):
    config(f"timeuot = 1\n{TO_EVENTS}")
    status, _, err = command("send", "n")
    assert (status, len(stored_events())) == (0, 1)
    assert err[0].endswith("timeuot: is unknown; did you mean 'timeout'?")


def test_crash_of_a_handler_with_conditions_does_not_affect_others(process, plugin):
    plugin("crash", handler_source("import os; os._exit(7)"))
    done = process("send", "n", "outcome=failure", "--handler", "crash@failure", *TO_FILES)
    assert "crash@failure: its process ended with status 7; lost" in done.stderr
    assert len(stored_events()) == 1


def test_settings_need_no_other_option_than_the_parser():
    class Args:
        parser = None

    assert Settings(Args(), finds_file=False).handlers_from == "E3_EVENT_HANDLERS"


@pytest.mark.parametrize(
    ("option", "correction"),
    [
        ("file=d1|file=d2", "--handler file=CONFIG --handler file:other=CONFIG"),
        ("file=ev1,logging=builds", "--handler file=CONFIG --handler logging=CONFIG"),
    ],
)
def test_error_about_a_wrong_separator_of_handlers_shows_the_correction(command, option, correction):
    status, _, (line, *_) = command("send", "n", "--handler", option)
    assert status == 2
    assert correction in line


def test_handler_that_appears_twice_in_the_variable_prints_a_warning(command, monkeypatch):
    monkeypatch.setenv("E3_EVENT_HANDLERS", "file=other|file=events")
    status, _, err = command("send", "n")
    assert (status, len(stored_events())) == (0, 1)
    assert err[0].startswith("e3-event send: E3_EVENT_HANDLERS: 'file' appears twice, and the last one is used; ")
