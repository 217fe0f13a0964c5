"""How ``e3-event send`` finds its handlers, and what it prints about each of them."""

from __future__ import annotations

import logging
import os
import re

import pytest

import event
from event._redact import without_secrets
from helpers.commands import TO_FILES, handler_source, stored_events


def test_handlers_come_from_the_variable(command, monkeypatch):
    monkeypatch.setenv("E3_EVENT_HANDLERS", "file=a|file:second=b")
    status, _, err = command("send", "n")
    assert status == 0
    assert [line.partition(" delivered")[0] for line in err] == ["file:", "file:second:"]
    assert len(stored_events("a")) == len(stored_events("b")) == 1


def test_another_variable_can_be_given(command, monkeypatch):
    monkeypatch.setenv("E3_EVENT_HANDLERS", "file=a")
    monkeypatch.setenv("OTHER", "file=b")
    assert command("send", "n", "--env", "OTHER")[0] == 0
    assert os.listdir() == ["b"]


def test_handler_option_replaces_the_variable(command, monkeypatch):
    monkeypatch.setenv("E3_EVENT_HANDLERS", "file=a")
    assert command("send", "n", "--handler", "file=b")[0] == 0
    assert os.listdir() == ["b"]


@pytest.mark.skipif(os.name == "nt", reason="platform: Windows allows no such name")
def test_handler_option_is_one_handler_with_any_configuration(command):
    assert command("send", "n", "--handler", "file=b|c=d")[0] == 0
    assert os.listdir() == ["b|c=d"]


def test_send_without_handlers_succeeds_and_prints_advice(command):
    assert command("send", "n", "--uid", "u") == (
        0,
        ["u"],
        [
            "e3-event send: nothing is sent: E3_EVENT_HANDLERS names no handler; "
            "set it, as in E3_EVENT_HANDLERS=file=events, or give --handler file=events"
        ],
    )


def test_broken_entry_prints_a_line_and_others_deliver(command, monkeypatch):
    monkeypatch.setenv("E3_EVENT_HANDLERS", "fiel=x|logging=a,b,c|file=events")
    status, out, err = command("send", "n", "--uid", "u")
    assert (status, out, len(err)) == (1, ["u"], 3)
    assert err[0].startswith("fiel: no handler is named 'fiel', did you mean 'file'?")
    assert err[1].startswith("logging: 3 values")
    assert all(line.endswith("; not loaded (in E3_EVENT_HANDLERS); lost") for line in err[:2])
    assert err[2].startswith("file: delivered")
    assert len(stored_events()) == 1


def test_nothing_is_sent_if_no_handler_loads(command):
    status, out, err = command("send", "n", "--handler", "fiel=x")
    assert (status, out) == (1, [])
    assert err[0].endswith("; not loaded (in --handler); lost")
    assert err[1:] == ["e3-event send: nothing is sent: no handler could be loaded"]


@pytest.mark.parametrize(
    ("send", "reason"),
    [
        pytest.param("raise OSError('no route')", "no route", id="raises"),
        pytest.param("raise OSError('a\\n  b\\x1b[31m')", r"a b\x1b[31m", id="control characters"),
        pytest.param("raise OSError('x' * 9999)", "x" * 900, id="very long"),
        pytest.param("sys.exit(3)", "SystemExit: 3", id="exits"),
        pytest.param("return False", "the handler returned False", id="refuses without a reason"),
        pytest.param(
            "logging.getLogger('event').warning('%s is\\nfull', 'disk')\n        return False",
            "disk is full",
            id="refuses and logs the reason",
        ),
        pytest.param(
            "l = logging.getLogger('event')\n        l.warning('one')\n        l.error('two')\n        return False",
            "one; two",
            id="logs twice",
        ),
        pytest.param(
            "logging.getLogger('event').warning('%d', 'x')\n        return False", "%d", id="logs with a wrong format"
        ),
        pytest.param(
            "try: 1 / 0\n        except Exception: logging.getLogger('event').exception('cannot', stack_info=True)",
            "cannot: ZeroDivisionError: division by zero",
            id="logs an exception",
        ),
    ],
)
def test_failed_handler_prints_one_line_and_the_next_delivers(command, plugin, send, reason):
    plugin("down", handler_source(send))
    status, out, err = command("send", "n", "--uid", "u", "--handler", "down", *TO_FILES)
    assert (status, out, len(err)) == (1, ["u"], 2)
    assert err[0] == f"down: {reason}; lost"
    assert err[1].startswith("file: delivered")
    assert len(stored_events()) == 1


def test_handler_that_exits_on_import_does_not_end_the_command(command, plugin):
    plugin("quits", handler_source(decode="sys.exit('no token')"))
    status, _, err = command("send", "n", "--handler", "quits", *TO_FILES)
    assert (status, err[0]) == (1, "quits: SystemExit: no token; not loaded (in --handler); lost")
    assert len(stored_events()) == 1


def test_warning_of_a_successful_handler_is_on_its_line(command, plugin):
    plugin("half", handler_source("logging.getLogger('event').warning('b@x refused')\n        return True"))
    status, _, err = command("send", "n", "--handler", "half")
    assert status == 0
    assert re.fullmatch(r"half: delivered in \d\.\d{3} s; warning: b@x refused", err[0])


def test_log_of_a_plugin_never_prints_a_traceback(process, plugin):
    send = """logging.basicConfig()
        log = logging.getLogger("acme")
        log.warning("%d", "x")
        try:
            1 / 0
        except Exception:
            log.exception("oops", stack_info=True)
        logging.getLogger("event").warning("it is full")
        return False"""
    plugin("noisy", handler_source(send))
    done = process("send", "n", "--handler", "noisy")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "ERROR:acme:oops: ZeroDivisionError: division by zero\n" in done.stderr
    assert "Stack" not in done.stderr
    assert done.stderr.count("it is full") == 1
    assert done.stderr.endswith("noisy: it is full; lost\n")


def test_stdout_has_only_the_uid_even_if_a_plugin_prints(process, plugin):
    plugin("chatty", "print('importing')\n" + handler_source("print('sending')\n        return True"))
    done = process("send", "n", "--uid", "u", "--handler", "chatty")
    assert (done.returncode, done.stdout) == (0, "u\n")
    assert done.stderr.startswith("importing\nsending\nchatty: delivered")


def test_send_leaves_logging_unchanged(command):
    log = logging.getLogger("event")
    before = (log.propagate, [*log.handlers], logging.getLogRecordFactory(), logging.raiseExceptions)
    command("send", "n", *TO_FILES)
    assert (log.propagate, [*log.handlers], logging.getLogRecordFactory(), logging.raiseExceptions) == before


@pytest.mark.server
@pytest.mark.parametrize(
    "source",
    [
        pytest.param(handler_source(decode="raise ValueError(config_str)"), id="while its configuration is read"),
        pytest.param(handler_source("raise OSError(f'no answer: {self.config}')"), id="while it sends"),
        pytest.param(handler_source("raise OSError('GET /T00/abcd1234 of hooks.example')"), id="only a part of it"),
        pytest.param(handler_source("sys.exit(self.config)"), id="while it exits"),
        pytest.param(
            handler_source("logging.getLogger('event').warning(self.config)\n        return False"), id="while it logs"
        ),
    ],
)
def test_plugin_that_quotes_its_configuration_reveals_no_secret(process, plugin, source):
    plugin("hook", source)
    secret = "https://bot:hunter2@hooks.example/T00/abcd1234?x=%2C"
    for args in (["send", "n"], ["check", "--send"]):
        done = process(*args, env={"E3_EVENT_HANDLERS": f"hook={secret}"})
        assert done.returncode == 1
        assert "***" in done.stdout + done.stderr
        for part in ("hunter2", "abcd1234", secret):
            assert part not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("no amqp://u:s3cret@h/v here", "no amqp://u:***@h/v here", id="user"),
        pytest.param("redis://:s3cret@h and sqs://k:s3cret@", "redis://:***@h and sqs://k:***@", id="two"),
        pytest.param("http://h/a:b@c and u:p@h", "http://h/a:b@c and u:p@h", id="none"),
    ],
)
def test_url_in_an_error_shows_no_password(text, shown):
    assert without_secrets(text, {}) == shown


def test_logging_handler_without_configuration_prints_each_event(process, here):
    files = [event.Event(name).dump(here / "dumps") for name in ("first", "second")]
    done = process("send", "--handler", "logging", "--from-file", *files)
    assert [done.stderr.count(f'"name": "{name}"') for name in ("first", "second")] == [1, 1]


def test_logging_handler_without_configuration_prints_no_debug_messages_of_others(process, plugin):
    plugin("chatty", handler_source("import logging; logging.getLogger('lib').debug('noise'); return True"))
    done = process("send", "n", "--handler", "logging", "--handler", "chatty")
    assert '"name": "n"' in done.stderr
    assert "noise" not in done.stderr
