"""``e3-event run``: the data of the event, JUnit reports, and failures to deliver the event."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from cli.outboxes import undelivered
from cli.processes import started
from event._process.junit import JUNIT_TIMEOUT
from helpers.commands import TO_FILES, handler_source, patched, stored_event, stored_events
from helpers.environments import CHECKOUT
from helpers.waiting import wait_until

if os.name == "nt":
    pytest.skip("platform: the commands are those of a POSIX system", allow_module_level=True)


# The event.


# If the end event were sent in parallel, it would be faster: the handler waits for it with the start event.
RECORDS = """import os, time
        deadline = time.monotonic() + 0.5
        while not event._closed and not os.path.exists('record') and time.monotonic() < deadline:
            pass
        with open('record', 'a') as record:
            record.write(f'{event.uid} {event._closed}\\n')
        return True"""


def test_start_event_has_the_same_uid_and_is_sent_before_the_end(run, here, plugin):
    plugin("records", handler_source(RECORDS))
    assert run("--start", "--handler", "records", *TO_FILES, "--", "true").returncode == 0
    start, end = sorted(stored_events(), key=lambda data: "outcome" in data)
    assert start["uid"] == end["uid"]
    assert (here / "record").read_text() == f"{start['uid']} False\n{end['uid']} True\n"
    assert start["end_time"] is None
    assert start["command"] == "true"


def test_failed_start_event_is_reported(run, plugin):
    plugin("choosy", handler_source("return event._closed"))
    done = run("--start", "--handler", "choosy", "--", "true")
    assert (done.returncode, done.stderr) == (
        0,
        "e3-event run: start: choosy: the handler returned False; lost\n",
    )


def test_command_environment_has_the_uid_of_its_event(run, here):
    inner = [sys.executable, "-m", "event", "run", "inner", "--handler", "file=inner", "--", "true"]
    assert run("--", *inner).returncode == 0
    assert stored_event("inner")["parent"] == stored_event()["uid"]
    assert "parent" not in stored_event()


def test_handlers_from_the_environment_get_the_event(run, here):
    assert run("--", "true", default_handlers=(), env={"E3_EVENT_HANDLERS": "file=there"}).stderr == ""
    assert stored_event("there")["outcome"] == "success"


def test_missing_handlers_are_reported_and_the_command_runs(run):
    done = run("--", "echo", "x", default_handlers=())
    assert (done.returncode, done.stdout) == (0, "x\n")
    assert done.stderr == (
        "e3-event run: nothing is sent: E3_EVENT_HANDLERS names no handler; "
        "set it, as in E3_EVENT_HANDLERS=file=events, or give --handler file=events\n"
    )


# JUnit reports.

WRITES_REPORT = """import sys
open('report.xml', 'w').write('<testsuite><testcase name="ok"/><testcase name="bad"><failure/></testcase></testsuite>')
sys.exit(1)"""


def test_results_in_the_reports_of_the_command_are_counted(run):
    done = run("--junit", "*.xml", "--", sys.executable, "-c", WRITES_REPORT)
    assert (done.returncode, done.stderr) == (1, "")
    data = stored_event()
    assert [data[key] for key in ("tests", "failures", "errors", "skipped")] == [2, 1, 0, 0]
    assert data["failing_tests"] == ["bad"]


def test_given_data_override_the_reports(run):
    run("tests=mine", "--junit", "*.xml", "--", sys.executable, "-c", WRITES_REPORT)
    assert (stored_event()["tests"], stored_event()["failures"]) == ("mine", 1)


@pytest.mark.parametrize("strict", [[], ["--strict"]])
def test_missing_report_prints_one_line_and_changes_no_status(run, strict):
    done = run(*strict, "--junit", "report.xml", "--", "true")
    assert (done.returncode, done.stderr) == (0, "e3-event run: --junit: 'report.xml': no such report\n")
    assert "tests" not in stored_event()


def test_time_limit_of_reading_reports_is_documented():
    page = (CHECKOUT / "docs/howto/run.md").read_text("utf-8")
    assert f"the reports are read first, for at most {JUNIT_TIMEOUT:g} seconds" in " ".join(page.split())
    assert f"After {JUNIT_TIMEOUT:g} seconds, the event is sent without them" in page


def test_unexpected_error_in_a_report_prints_one_line(here):
    patch = "from event._process import junit\ndef summary(*args): raise LookupError('odd')\njunit.summary = summary"
    words = patched(patch, "run", "n", *TO_FILES, "--junit", "x", "--", "true")
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stderr == "e3-event run: --junit: LookupError: odd\n"
    assert stored_event()["outcome"] == "success"


# Failures to deliver the event.

FAILURES = pytest.mark.parametrize(
    ("handler", "reason"),
    [
        pytest.param("fil=x", "fil: no handler is named 'fil'", id="unknown handler"),
        pytest.param("file", "file: the log directory is ''", id="broken configuration"),
        pytest.param("broken=hush-hush", "broken: ", id="a plugin that does not load"),
        pytest.param("quits=x", "quits: ", id="a plugin that exits"),
        pytest.param("raises=hush-hush", "raises: ValueError: ***", id="a plugin that raises"),
        pytest.param("refuses", "refuses: the handler returned False", id="a plugin that refuses"),
        pytest.param("logs=hush-hush", "logs: no ***", id="a plugin that logs the reason"),
    ],
)


@pytest.fixture
def plugins(plugin):
    plugin("broken", handler_source() + "1 / 0")
    plugin("quits", handler_source("sys.exit(3)"))
    plugin("raises", handler_source("raise ValueError(self.config)"))
    plugin("refuses", handler_source("return False"))
    plugin("logs", handler_source("logging.getLogger('event').warning('no %s', self.config)"))


@FAILURES
def test_handler_failure_prints_one_line_and_affects_nothing_else(run, plugins, handler, reason):
    done = run("--handler", handler, "--handler", "file:good=events", "--", "echo", "x")
    assert (done.returncode, done.stdout) == (0, "x\n")
    assert stored_event()["outcome"] == "success"
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"e3-event run: {reason}")
    assert "hush" not in line


@FAILURES
def test_undelivered_event_is_stored_in_the_outbox(run, plugins, handler, reason):
    done = run("--handler", handler, "--outbox", "outbox", "--", "sh", "-c", "exit 3")
    assert done.returncode == 3
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"e3-event run: {reason}")
    assert line.endswith("; kept")
    (entry,) = undelivered()
    name, _, config = handler.partition("=")
    assert entry.handlers == {name: config}
    assert entry.event.outcome == "failure"


def test_relative_directory_is_stored_as_an_absolute_path(run, here):
    (here / "file").write_text("in the way")
    run("--handler", "file=file/events", "--outbox", "outbox", "--", "true")
    (entry,) = undelivered()
    assert entry.handlers == {"file": f"{here}/file/events"}


def test_other_configurations_are_stored_unchanged(run):
    config = "s,a@localhost,b@localhost,localhost:1"
    run("--handler", f"smtp={config}", "--outbox", "outbox", "--", "true")
    (entry,) = undelivered()
    assert entry.handlers == {"smtp": config}


def test_unusable_outbox_prints_one_line_and_the_event_is_sent(run, here):
    (here / "file").write_text("in the way")
    done = run("--", "echo", "x", env={"E3_EVENT_OUTBOX": "file/outbox"})
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (0, "x\n", 1)
    assert "cannot be kept in the outbox" in done.stderr
    assert stored_event()["outcome"] == "success"


def test_wrong_timeout_in_the_environment_prints_one_line(run):
    done = run("--", "echo", "x", env={"E3_EVENT_TIMEOUT": "soon"})
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (0, "x\n", 1)
    assert "E3_EVENT_TIMEOUT is 'soon'" in done.stderr
    assert stored_event()["outcome"] == "success"


@pytest.mark.parametrize(
    ("args", "status", "strict"),
    [
        pytest.param([*TO_FILES, "--", "true"], 0, 0, id="delivered"),
        pytest.param(["--handler", "fil", "--", "true"], 0, 1, id="not delivered"),
        pytest.param(["--handler", "fil", "--outbox", "o", "--", "true"], 0, 1, id="kept"),
        pytest.param(["--handler", "fil", "--", "false"], 1, 1, id="the command failed"),
        pytest.param(["--handler", "fil", "--", "sh", "-c", "exit 7"], 7, 7, id="with another status"),
        pytest.param(["--", "true"], 0, 1, id="no handlers"),
        pytest.param([*TO_FILES, "--log", ".", "--", "true"], 0, 1, id="no log"),
        pytest.param([*TO_FILES, "--", "nosuch"], 127, 127, id="not found"),
    ],
)
def test_strict_exits_with_1_on_delivery_failure_of_a_successful_command(process, args, status, strict):
    assert process("run", "n", *args).returncode == status
    assert process("run", "n", "--strict", *args).returncode == strict


def test_other_handlers_deliver_while_one_hangs(plugin, here):
    os.mkfifo("gate")
    plugin("waits", handler_source("open('gate').close(); return True"))  # until the test opens the gate
    with started("run", "n", "--handler", "waits", *TO_FILES, "--timeout", "600", "--", "true") as command:
        wait_until(lambda: list(here.glob("events/*.json")), "the file handler has the event")
        with open("gate", "w"):
            assert command.end() == 0
    assert command.lines == []


@pytest.mark.parametrize(
    ("options", "status"), [pytest.param([], 0, id="lenient"), pytest.param(["--strict"], 1, id="strict")]
)
def test_hung_handler_is_abandoned_at_the_timeout(run, plugin, options, status):
    """The handler has also started a thread that would keep its interpreter from exiting."""
    thread = "threading.Thread(target=threading.Event().wait, daemon=False)"
    plugin("hung", handler_source(f"import threading; {thread}.start(); threading.Event().wait()"))
    done = run("--handler", "hung", "--timeout", "0.3", *options, "--", "echo", "x")
    assert (done.returncode, done.stdout) == (status, "x\n")
    assert done.stderr == "e3-event run: hung: not done within 0.3 s; lost\n"


def test_unexpected_error_keeps_the_status_of_the_command(here):
    patch = "from event._worker import EventSender\nEventSender.__init__ = lambda *args, **kwargs: 1 / 0"
    args = patched(patch, "run", "n", *TO_FILES, "--", "sh", "-c", "exit 4")
    done = subprocess.run(args, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (4, "e3-event run: ZeroDivisionError: division by zero\n")
