"""``e3-event run``: the streams and the environment of the command, its exit status, and the trace."""

from __future__ import annotations

import errno
import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

import event
from cli.outboxes import undelivered
from helpers.commands import TO_FILES, handler_source, stored_event, stored_events

if os.name == "nt":
    pytest.skip("platform: the commands are those of a POSIX system", allow_module_level=True)


# The command.


ECHO = "import sys; print(sys.stdin.read(), sys.argv[1:]); print('err', file=sys.stderr)"


def test_command_inherits_streams_and_gets_its_arguments_unchanged(run):
    done = run("--", sys.executable, "-c", ECHO, "--", "a b", "$HOME", "*", "", input="in")
    assert (done.returncode, done.stdout, done.stderr) == (0, "in ['--', 'a b', '$HOME', '*', '']\n", "err\n")


def test_command_inherits_open_descriptors(here):
    """For example, make passes its job server to the command in this way."""
    line = 'exec 7>seven; "$0" -m event run n --handler file=events -- sh -c "echo x >&7"'
    subprocess.run(["sh", "-c", line, sys.executable], check=True)
    assert (here / "seven").read_text() == "x\n"


@pytest.mark.parametrize("log", [pytest.param([], id="without a log"), pytest.param(["--log", "log"], id="with a log")])
def test_closed_pipe_ends_the_command_as_without_run(run, log):
    assert run(*log, "--", "sh", "-c", "kill -PIPE $$; exit 3").returncode == 141


def test_data_describe_the_result_of_the_command(run, here):
    assert run("a=1", "b:=[2]", "--", "sh", "-c", "exit 3", "secret").returncode == 3
    data = stored_event()
    assert isinstance(data.pop("duration"), float)
    assert data.pop("begin_time") <= data.pop("end_time")
    assert len(data.pop("uid")) == 36
    assert len(data.pop("traceparent")) == 55
    assert data == {
        "name": "n",
        "a": "1",
        "b": [2],
        "outcome": "failure",
        "exit_code": 3,
        "signal": None,
        "command": "sh",
        "host": os.uname().nodename,
    }


def test_arguments_are_in_the_data_if_requested(run):
    run("--arguments", "--", "true", "a", "b")
    assert (stored_event()["command"], stored_event()["arguments"]) == ("true", ["a", "b"])


def test_given_data_override_automatic_data(run):
    run("host=armhf", "command=c", "begin_time:=0", "--", "true")
    data = stored_event()
    assert (data["host"], data["command"], data["begin_time"]) == ("armhf", "c", "1970-01-01T00:00:00")


def test_ci_build_is_in_the_data(run):
    run("--", "true", env={"JENKINS_URL": "x", "BUILD_URL": "https://ci.example.com/7/", "BRANCH_NAME": "main"})
    assert stored_event()["ci"] == {"system": "jenkins", "build_url": "https://ci.example.com/7/", "branch": "main"}


@pytest.mark.parametrize(
    ("words", "status", "outcome_and_signal"),
    [
        pytest.param(["true"], 0, ("success", None), id="success"),
        pytest.param(["sh", "-c", "exit 255"], 255, ("failure", None), id="failure"),
        pytest.param(["sh", "-c", "kill -9 $$"], 137, ("failure", "SIGKILL"), id="killed"),
        pytest.param(["sh", "-c", "kill -TERM $$"], 143, ("cancel", "SIGTERM"), id="stopped"),
        pytest.param(["nosuch"], 127, ("failure", None), id="not found"),
        pytest.param([""], 127, ("failure", None), id="no name"),
        pytest.param(["./nosuch"], 127, ("failure", None), id="no such path"),
        pytest.param(["."], 126, ("failure", None), id="a directory"),
        pytest.param(["./plain"], 126, ("failure", None), id="not executable"),
        pytest.param(["./orphan"], 127, ("failure", None), id="no interpreter"),
        pytest.param(["./bare", "7"], 7, ("failure", None), id="a script without an interpreter"),
    ],
)
@pytest.mark.parametrize("log", [pytest.param([], id="without a log"), pytest.param(["--log", "log"], id="with a log")])
def test_run_exits_with_the_status_of_the_command(run, words, status, outcome_and_signal, log):
    pathlib.Path("plain").write_text("#!/bin/sh\n")
    pathlib.Path("orphan").write_text("#!/no/such/interpreter\n")
    pathlib.Path("bare").write_text("exit $1\n")
    os.chmod("orphan", 0o755)
    os.chmod("bare", 0o755)
    done = run(*log, "--", *words)
    data = stored_event()
    assert (done.returncode, data["exit_code"]) == (status, status)
    assert (data["outcome"], data["signal"]) == outcome_and_signal
    if started := status not in (126, 127):
        assert done.stderr == ""
    else:
        reason = done.stderr.removeprefix(f"e3-event run: {words[0]}: ").removesuffix("\n")
        no_interpreter = "the interpreter in its first line (#!) does not exist"
        expected = {no_interpreter} if words == ["./orphan"] else {os.strerror(n) for n in (errno.ENOENT, errno.EACCES)}
        assert reason in expected
    assert ("error" in data) is not started


def test_command_that_removes_this_package_does_not_lose_the_event(process, here):
    """For example, `git clean` removes an environment in the checkout, and an upgrade replaces its own packages."""
    shutil.copytree(pathlib.Path(event.__file__).parent, here / "copy" / "event")
    wait_for_start_event = "until ls events/*.json; do :; done >/dev/null 2>&1"
    done = process(
        *("run", "n", "--start", *TO_FILES, "--log", "log", "--junit", "x", "--"),
        *("sh", "-c", f"{wait_for_start_event}; rm -r copy; echo x; exit 7"),
        env={"PYTHONPATH": f"{here}/copy"},
    )
    assert (done.returncode, done.stdout) == (7, "x\n")
    assert done.stderr == "e3-event run: --junit: 'x': no such report\n"
    assert [each["exit_code"] for each in stored_events("events") if "exit_code" in each] == [7]


def test_real_time_signal_is_reported_by_number(run):
    assert run("--", "sh", "-c", "kill -40 $$").returncode == 168
    assert stored_event()["signal"] == "SIG40"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        pytest.param(["n"], "the COMMAND is missing; put it after --", id="no command"),
        pytest.param(["n", "--"], "the COMMAND is missing", id="nothing after --"),
        pytest.param(["--", "true"], "the event's NAME is missing", id="no name"),
        pytest.param(["n", "make", "--", "all"], "'make': expected key=value or key:=json", id="-- in the wrong place"),
        pytest.param(
            ["n", "outcome=x", "--", "true"], "'outcome' cannot be set as data; it is the result", id="reserved"
        ),
        pytest.param(["n", "uid=x", "--", "true"], "'uid' cannot be set as data; it is generated", id="uid"),
        pytest.param(["tests", "pytest", "-q"], "the COMMAND is missing; put it after --", id="no --"),
        pytest.param(["tests", "pytest", "-x"], "unrecognized argument '-x'; put the command after --", id="option"),
        pytest.param(
            ["n", "--frob", "--", "true"],
            "unrecognized argument '--frob'; put the command after --",
            id="unknown option",
        ),
        pytest.param(["n", "--timeout", "0", "--", "true"], "argument --timeout: ", id="no time"),
        pytest.param(["n", "--outbox", "", "--", "true"], "--outbox: expected a directory", id="no outbox"),
        pytest.param(["n", "--handler", "=x", "--", "true"], "--handler: the name is missing", id="nameless handler"),
    ],
)
def test_wrong_command_line_exits_with_2_and_runs_nothing(command, args, message):
    status, out, err = command("run", *args)
    assert (status, out, len(err)) == (2, [], 1)
    assert message in err[0]


# Unusual processes.

SIGNAL_IN_OTHER_THREAD = """
import os, sys, threading
from event import _cli
from event._process import signals

signals._CHECK_INTERVAL = 0.05  # shorter than usual
threading.Thread(target=threading.Event().wait, daemon=True).start()  # it does not block SIGCHLD
waitpid, calls = os.waitpid, []


def waitpid_too_early(pid, options):
    calls.append(pid)
    if len(calls) > 1:
        return waitpid(pid, options)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # the thread gets SIGCHLD meanwhile
    return 0, 0


os.waitpid = waitpid_too_early
sys.exit(_cli.main(["run", "a", "--outbox", "none", "--", "sh", "-c", "exit 3"]))
"""


def test_end_of_the_command_is_noticed_if_another_thread_gets_sigchld(here):
    done = subprocess.run([sys.executable, "-c", SIGNAL_IN_OTHER_THREAD], capture_output=True, check=False, timeout=60)
    assert done.returncode == 3, done.stderr


@pytest.mark.parametrize("limit", range(8, 14))
def test_scarce_descriptors_do_not_block_a_logged_command(here, limit):
    line = f'ulimit -n {limit}; exec "$0" -m event run n --log log --handler file=events -- sh -c "$1"'
    command = "head -c 300000 /dev/zero; exit 3"
    done = subprocess.run(["sh", "-c", line, sys.executable, command], capture_output=True, check=False, timeout=60)
    assert (done.returncode, len(done.stdout)) == (3, 300000), done.stderr


def test_handler_that_closes_foreign_descriptors_keeps_the_status(run, plugin):
    plugin("closes", handler_source("import os; os.closerange(3, 100); return True"))
    assert run("--handler", "closes", "--", "sh", "-c", "exit 5").returncode == 5


def test_relative_outbox_is_resolved_before_the_command_runs(here, run):
    (here / "sub").mkdir()
    os.chdir("sub")
    run("--outbox", "../outbox", "--handler", "smtp=s,a@b.c,d@e.f,127.0.0.1:1", "--", "sh", "-c", "rm -r ../sub")
    assert len(undelivered(here / "outbox")) == 1


# The trace.


def test_run_is_a_span_in_the_environment_of_the_command(run, monkeypatch):
    monkeypatch.setenv("TRACEPARENT", "00-4bf92f3577b34da6a3ce929d0e0e4736-b7ad6b7169203331-01")
    monkeypatch.setenv("TRACESTATE", "v=1")
    done = run("--", "sh", "-c", 'echo "$TRACEPARENT" "$TRACESTATE"')
    data = stored_event()
    assert data["traceparent"].split("-")[1] == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert (data["parent_span_id"], data["tracestate"]) == ("b7ad6b7169203331", "v=1")
    assert done.stdout.split() == [data["traceparent"], "v=1"]


def test_run_without_a_parent_span_begins_a_trace(run):
    done = run("--", "sh", "-c", 'echo "$TRACEPARENT"')
    data = stored_event()
    assert done.stdout.split() == [data["traceparent"]]
    assert "parent_span_id" not in data
    assert "tracestate" not in data


def test_span_of_a_script_is_a_child_of_the_run(run):
    script = "import event; event.add_handler('file', 'inner')\nwith event.track('i'): pass"
    assert run("--", sys.executable, "-c", script).returncode == 0
    outer, inner = stored_event(), stored_event("inner")
    assert inner["traceparent"].split("-")[1] == outer["traceparent"].split("-")[1]
    assert inner["parent_span_id"] == outer["traceparent"].split("-")[2]


# Imports.


def modules_before_the_command(*args):
    """Return the modules that `run` has imported when it starts the command."""
    code = (
        f"import os, sys\nsys.path.insert(0, {os.path.dirname(event.__path__[0])!r})\n"
        "from event._cli import main\nbefore = set(sys.modules)\nspawn = os.posix_spawnp\n"
        "def posix_spawnp(*a, **k):\n    print(*set(sys.modules) - before)\n    return spawn(*a, **k)\n"
        "os.posix_spawnp = posix_spawnp\nsys.exit(main())"
    )
    command = [sys.executable, "-I", "-S", "-c", code, "run", "n", *args, "--", "true"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.skipif(sys.platform != "linux", reason="platform: elsewhere the worker is another interpreter")
def test_only_modules_needed_to_start_are_imported_before_the_command(here):
    loaded = modules_before_the_command(*TO_FILES)
    assert {name for name in loaded if name.startswith("event.")} == {
        "event._cli._support",
        "event._cli._support.arguments",
        "event._cli._support.fast_parser",
        "event._cli._support.handler_options",
        "event._cli._support.settings",
        "event._cli._support.terminal",
        "event._cli.run",
        "event._files",
        "event._handler_config",
        "event._places",
        "event._process",
        "event._process.child",
        "event._fast_signal",
        "event._process.ci",
        "event._process.output",
        "event._process.signals",
        "event._process.tail",
        "event._trace_context",
        "event._worker",
        "event._worker.parent",
        "event._worker.protocol",
        "event._worker.system",
    }
    assert not {"argparse", "logging", "shutil", "subprocess", "threading", "hashlib", "importlib.metadata"} & loaded
    assert json.loads(next((here / "events").glob("*.json")).read_text())["outcome"] == "success"
