"""``e3-event run``: the streams and the environment of the command, the exit status, and the data of the event."""

from __future__ import annotations

import errno
import json
import os
import pathlib
import resource
import shlex
import shutil
import signal
import subprocess
import sys

import pytest

import event
from cli.processes import started
from event._outbox import Outbox
from event._process import ci
from helpers.commands import TO_FILES, handler_source, patched, stored_events
from helpers.waiting import wait_until

if os.name == "nt":
    pytest.skip("platform: the commands are those of a POSIX system", allow_module_level=True)

CI_MARKS = {variables["mark"].partition("=")[0] for variables in ci.SYSTEMS.values()}


@pytest.fixture(autouse=True)
def outside_of_ci(monkeypatch):
    for name in CI_MARKS:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def run(process):
    """Return a function that runs ``e3-event run n``, with the file handler unless the options name others."""

    def run(*args, default_handlers=TO_FILES, **kwargs):
        handlers = () if "--handler" in args[: args.index("--")] else default_handlers
        return process("run", "n", *handlers, *args, **kwargs)

    return run


def event_of(path="events"):
    (data,) = stored_events(path)
    return data


def waiting(outbox="outbox"):
    """Return the entries of an outbox that are waiting or claimed."""
    return [entry for _, entry in Outbox(outbox).entries("waiting", "claimed")]


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
    data = event_of()
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
    assert (event_of()["command"], event_of()["arguments"]) == ("true", ["a", "b"])


def test_given_data_override_automatic_data(run):
    run("host=armhf", "command=c", "begin_time:=0", "--", "true")
    data = event_of()
    assert (data["host"], data["command"], data["begin_time"]) == ("armhf", "c", "1970-01-01T00:00:00")


def test_ci_build_is_in_the_data(run):
    run("--", "true", env={"JENKINS_URL": "x", "BUILD_URL": "https://ci.example.com/7/", "BRANCH_NAME": "main"})
    assert event_of()["ci"] == {"system": "jenkins", "build_url": "https://ci.example.com/7/", "branch": "main"}


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
    data = event_of()
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


@pytest.mark.parametrize("how", ["option", "variable"])
def test_command_runs_in_a_removed_working_directory(tmp_path, how):
    chosen = ["--outbox", "ob"] if how == "option" else []
    environment = {**os.environ, **({"E3_EVENT_OUTBOX": "ob"} if how == "variable" else {})}
    events = tmp_path / "events"
    options = ["--handler", f"file={events}", *chosen]
    words = [sys.executable, "-m", "event", "run", "n", *options, "--", "sh", "-c", "exit 7"]
    gone = tmp_path / "gone"
    gone.mkdir()
    line = f"cd {shlex.quote(str(gone))} && rmdir {shlex.quote(str(gone))} && exec {shlex.join(words)}"
    done = subprocess.run(["sh", "-c", line], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 7
    assert "cannot be kept in the outbox" in done.stderr
    assert len(list(events.glob("*.json"))) == 1


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
    assert event_of()["signal"] == "SIG40"


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


# The log.


def test_log_has_every_byte_of_both_streams_and_is_attached(process, here):
    code = "import os\nfor i in range(400):\n os.write(1, bytes(range(256)) * 16)\n os.write(2, b'\\xff\\0e' * 100)"
    args = [sys.executable, "-m", "event", "run", "n", *TO_FILES, "--log", "log", "--", sys.executable, "-c", code]
    done = subprocess.run(args, capture_output=True, check=True)
    assert done.stdout == bytes(range(256)) * 6400
    assert done.stderr == b"\xff\0e" * 40_000
    log = (here / "log").read_bytes()
    assert len(log) == len(done.stdout) + len(done.stderr)
    assert log.count(b"\xff\0e") == 40_000
    (attached,) = (here / "events").glob("n-*/log")
    assert attached.read_bytes() == log


def test_output_is_shown_immediately(here):
    """The command prints a question and waits for the answer."""
    args = [sys.executable, "-m", "event", "run", "n", *TO_FILES, "--log", "log", "--", "sh", "-c", "echo ?; read x"]
    with subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"?\n"
        assert (here / "log").read_bytes() == b"?\n"
        process.stdin.write(b"!\n")
    assert process.returncode == 0


def test_older_log_is_replaced(run, here):
    (here / "log").write_text("older\n" * 9)
    run("--log", "log", "--", "echo", "new")
    assert (here / "log").read_text() == "new\n"


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        pytest.param("missing/log", "No such file or directory", id="no directory"),
        pytest.param(".", "Is a directory", id="a directory"),
        pytest.param("fifo", "No such device or address", id="a FIFO without a reader"),
        pytest.param("/dev/null", "not a regular file", id="a device"),
    ],
)
def test_unwritable_log_prints_one_line_and_the_command_runs(run, log, reason):
    os.mkfifo("fifo")
    done = run("--log", log, "--", "echo", "x")
    assert (done.returncode, done.stdout) == (0, "x\n")
    assert done.stderr == f"e3-event run: --log: {log!r} cannot be written: {reason}\n"
    assert event_of()["outcome"] == "success"


def test_full_disk_ends_only_the_log(here):
    args = [sys.executable, "-m", "event", "run", "n", "--log", "log", *TO_FILES, "--", "seq", "600000"]
    line = f"ulimit -f 2048; exec {shlex.join(args)}"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True)
    assert done.stdout == "".join(f"{n}\n" for n in range(1, 600_001))
    assert done.stderr == "e3-event run: --log: 'log' is not complete: File too large\n"
    assert event_of()["outcome"] == "success"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="platform: Linux has a disk that is always full")
def test_output_that_cannot_be_written_fails_a_successful_command(run, here):
    with open("/dev/full", "w") as full:
        done = run("--log", "log", "--", "seq", "99999", stdout=full)
        failed = run("--log", "log", "--", "sh", "-c", "seq 99999; exit 7", stdout=full)
    assert (done.returncode, failed.returncode) == (1, 7)
    assert done.stderr == "e3-event run: the command's output is not complete: No space left on device\n"
    assert (here / "log").read_text().endswith("99999\n")


def test_file_that_replaced_the_log_is_not_attached(run, here):
    (here / "secret").write_text("of the host")
    done = run("--log", "log", "--", "ln", "-sf", "secret", "log")
    assert done.returncode == 0
    assert done.stderr == "e3-event run: --log: 'log' is not attached: another file has taken its place\n"
    assert not [*here.glob("events/n-*/*")]


def test_log_removed_by_the_command_is_not_attached(run):
    done = run("--log", "log", "--", "rm", "log")
    assert done.stderr == "e3-event run: --log: 'log' is not attached: No such file or directory\n"


def test_working_directory_removed_by_the_command_loses_only_a_relative_log(run, here, tmp_path):
    done = run("--handler", f"file={tmp_path}/events", "--log", "log", "--", "sh", "-c", f"rm -r {here}; exit 7")
    assert done.returncode == 7
    assert done.stderr == "e3-event run: --log: 'log' is not attached: No such file or directory\n"
    assert event_of(tmp_path / "events")["exit_code"] == 7


def test_command_runs_without_free_descriptors_for_the_log(process, here, monkeypatch):
    """The pipes for the log need four, and the pipes to the witness process need four too."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (6, resource.getrlimit(7)[1]))"
    assert resource.RLIMIT_NOFILE == 7
    code = f"import event._cli.run, event._process.output, sys; {limit}; sys.exit(event._cli.main(sys.argv[1:]))"
    args = [sys.executable, "-c", code, "run", "n", "--log", "log", "--", "echo", "x"]
    done = subprocess.run(args, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "x\n")
    assert "e3-event run: --log: 'log' is not complete: Too many open files\n" in done.stderr


@pytest.mark.parametrize("which", ["stdout", "stderr"])
def test_closed_reader_ends_neither_the_command_nor_its_log(run, here, which):
    reader, writer = os.pipe()
    os.close(reader)
    target = {"stdout": "", "stderr": ">&2"}[which]
    try:
        done = run("--log", "log", "--", "sh", "-c", f"seq 99999 {target} && exit 7", **{which: writer})
    finally:
        os.close(writer)
    assert done.returncode == 7
    assert (here / "log").read_text().endswith("99999\n")


FILLS_PIPES = """
import os
def write(data, logged):
    os.write(1, data)
    while logged and os.stat("log").st_size < logged:
        pass
write(bytes(65536), 65536)  # fills the pipe to the reader
write(b"x", 65537)  # is logged, but not shown, since the pipe is full
write(b"y" * 60000, 0)  # stays in the command's pipe until the command has ended
"""


def test_slow_reader_gets_all_output_and_the_log_is_complete(here):
    command = [sys.executable, "-c", FILLS_PIPES]
    args = [sys.executable, "-m", "event", "run", "n", *TO_FILES, "--log", "log", "--", *command]
    with subprocess.Popen(args, stdout=subprocess.PIPE) as process:
        wait_until(lambda: list(here.glob("events/*.json")), "the event is sent, although nobody reads the output")
        (log,) = (path.read_bytes() for path in (here / "events").glob("n-*/log"))
        assert process.stdout.read() == log == bytes(65536) + b"x" + b"y" * 60000
    assert process.returncode == 0


def test_nonblocking_stream_gets_all_output(here):
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    args = [sys.executable, "-m", "event", "run", "n", *TO_FILES, "--log", "log", "--", "seq", "99999"]
    with subprocess.Popen(args, stdout=writer) as process, open(reader, "rb") as file:
        os.close(writer)
        assert file.read().endswith(b"99999\n")
    assert process.returncode == 0


def test_closed_streams_stay_closed_and_the_log_is_written(here):
    line = '"$0" -m event run n --handler file=events --log log -- sh -c "echo x; echo y >&2" <&- >&- 2>&-'
    subprocess.run(["sh", "-c", line, sys.executable], check=True)
    assert sorted((here / "log").read_text().split()) == ["x", "y"]
    assert event_of()["outcome"] == "success"


def test_leftover_process_neither_delays_the_event_nor_loses_output(here):
    """The process still writes to the same stdout after `run` has exited."""
    os.mkfifo("gate")
    args = [sys.executable, "-m", "event", "run", "n", *TO_FILES, "--log", "log", "--"]
    args += ["sh", "-c", "{ read x < gate; echo late; } & echo soon"]
    with subprocess.Popen(args, stdout=subprocess.PIPE) as process:
        assert process.wait(60) == 0
        assert event_of()["outcome"] == "success"
        assert (here / "log").read_text() == "soon\n"
        pathlib.Path("gate").write_text("go\n")
        assert process.stdout.read() == b"soon\nlate\n"


def test_output_flood_of_a_leftover_process_does_not_delay_the_event(here):
    args = [sys.executable, "-m", "event", "run", "n", *TO_FILES, "--log", "log", "--"]
    args += ["sh", "-c", "yes & echo $! > pid"]
    with open(os.devnull, "wb") as nowhere, subprocess.Popen(args, stdout=nowhere) as process:
        assert process.wait(60) == 0
    os.kill(int((here / "pid").read_text()), 9)
    assert event_of()["outcome"] == "success"


# The last lines of the output.

BOTH = ["sh", "-c", "echo one; echo two >&2; echo three; exit 3"]


def test_failure_event_has_the_last_output_lines_in_order(run):
    done = run("--", *BOTH, stderr=subprocess.STDOUT)
    assert (done.returncode, done.stdout) == (3, "one\ntwo\nthree\n")
    assert event_of()["output_tail"] == "one\ntwo\nthree"


def test_failure_event_has_the_last_lines_of_both_streams(run):
    done = run("--", *BOTH)
    assert (done.stdout, done.stderr) == ("one\nthree\n", "two\n")
    assert sorted(event_of()["output_tail"].split()) == ["one", "three", "two"]


@pytest.mark.parametrize(
    ("args", "tail"),
    [
        pytest.param(["--", "sh", "-c", "echo x"], None, id="success"),
        pytest.param(["--", "false"], None, id="no output"),
        pytest.param(["--tail", "0", "--", *BOTH], None, id="zero lines"),
        pytest.param(["--tail", "1", "--", *BOTH], "three", id="one line"),
        pytest.param(["--tail=2", "--log", "log", "--", *BOTH], "two\nthree", id="with a log"),
        pytest.param(["--tail", "0", "--log", "log", "--", *BOTH], None, id="zero lines, with a log"),
    ],
)
def test_number_of_lines_is_an_option(run, args, tail):
    run(*args, stderr=subprocess.STDOUT)
    assert event_of().get("output_tail") == tail


@pytest.mark.parametrize("number", ["x", "-1", "1.5"])
def test_wrong_number_of_lines_prints_one_line_and_exits_with_2(run, number):
    done = run(f"--tail={number}", "--", "true")
    assert done.returncode == 2
    assert done.stderr.startswith(
        f"e3-event run: argument --tail: '{number}' is not a number of lines; expected 0 or more"
    )


@pytest.mark.parametrize("stderr", ["the same", "a file", "a pipe"])
def test_command_with_stdout_in_a_file_writes_directly(run, here, stderr):
    (here / "out").write_text("before\n")
    streams = {"the same": subprocess.STDOUT, "a file": (here / "err").open("ab"), "a pipe": subprocess.PIPE}
    with open("out", "ab") as out, streams["a file"]:
        command = "test -f /dev/stdout || exit 9; echo one; echo two >&2; exit 3"
        assert run("--", "sh", "-c", command, stdout=out, stderr=streams[stderr]).returncode == 3
    assert event_of()["output_tail"] == "one\ntwo"
    assert (here / "out").read_text().startswith("before\none\n")


def test_last_lines_of_stderr_follow_those_of_stdout(run, here):
    with open("err", "ab") as err:
        run("--", "sh", "-c", "echo two >&2; echo one; exit 3", stderr=err)
    assert event_of()["output_tail"] == "one\ntwo"


REDIRECTIONS = {
    "closed": ">&-",
    "full": "> /dev/full",
    "discarded": "> /dev/null",
    "a file with a size limit": "> file",
    "a pipe without a reader": "| true",
}


@pytest.mark.parametrize(
    ("redirection", "command"),
    [
        pytest.param(redirection, command, id=f"{name}-{command}")
        for name, redirection in REDIRECTIONS.items()
        for command in ("head -c 3000000 /dev/zero", "echo x", "yes | head -c 3000000")
        if (redirection, command) != ("| true", "echo x")  # the result depends on which of the two is faster
    ],
)
def test_command_ends_as_without_run(here, redirection, command):
    with_run = f'"$0" -m event run n --handler file=events -- sh -c "{command}"'
    statuses = [
        subprocess.run(
            ["bash", "-c", f"ulimit -f 1000; {line} {redirection}; exit ${{PIPESTATUS[0]}}", sys.executable],
            stderr=subprocess.DEVNULL,
            check=False,
        ).returncode
        for line in (f'sh -c "{command}"', with_run)
    ]
    assert statuses[0] == statuses[1]
    assert event_of()["exit_code"] == statuses[1]


def test_pipe_without_a_reader_is_passed_to_the_command(here):
    reader, writer = os.pipe()
    os.close(reader)
    args = [sys.executable, "-m", "event", "run", "n", *TO_FILES, "--", "sh", "-c", "echo x; echo still >&2"]
    done = subprocess.run(args, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


def test_incomplete_output_is_a_failure_with_a_log(here):
    line = '"$0" -m event run n --handler file=events --log log -- echo x > /dev/full'
    done = subprocess.run(["sh", "-c", line, sys.executable], stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "e3-event run: the command's output is not complete: No space left on device\n"
    assert (here / "log").read_text() == "x\n"


def test_leftover_process_keeps_writing_to_its_streams(here):
    os.mkfifo("gate")
    args = [sys.executable, "-m", "event", "run", "n", *TO_FILES, "--"]
    args += ["sh", "-c", "{ read x < gate; echo late; } & echo soon"]
    with subprocess.Popen(args, stdout=subprocess.PIPE) as process:
        assert process.wait(60) == 0
        pathlib.Path("gate").write_text("go\n")
        assert process.stdout.read() == b"soon\nlate\n"


def test_last_lines_contain_no_secret(run, monkeypatch):
    monkeypatch.setenv("NPM_TOKEN", "hunter2hunter2")
    run("--", "sh", "-c", "echo $NPM_TOKEN; printf 'a\\rb\\n\\033[31mred\\351'; exit 1", errors="replace")
    assert event_of()["output_tail"] == "***\nb\nred\ufffd"


@pytest.mark.parametrize(("redact", "tail"), [("false", "hunter2hunter2 4711"), ('["4711"]', "*** ***")])
def test_configuration_file_sets_redaction_of_the_last_lines(run, here, monkeypatch, redact, tail):
    monkeypatch.setenv("NPM_TOKEN", "hunter2hunter2")
    (here / "e3-event.toml").write_text(f"redact = {redact}\n")
    run("--", "sh", "-c", "echo $NPM_TOKEN 4711; exit 1")
    assert event_of()["output_tail"] == tail


def test_command_writes_directly_without_free_descriptors_for_a_pipe(process, here):
    line = 'ulimit -n 6; exec "$0" -m event run n --handler file=events -- sh -c "echo x; exit 3"'
    done = subprocess.run(["bash", "-c", line, sys.executable], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (3, b"x\n")


# JUnit reports.

WRITES_REPORT = """import sys
open('report.xml', 'w').write('<testsuite><testcase name="ok"/><testcase name="bad"><failure/></testcase></testsuite>')
sys.exit(1)"""


def test_results_in_the_reports_of_the_command_are_counted(run):
    done = run("--junit", "*.xml", "--", sys.executable, "-c", WRITES_REPORT)
    assert (done.returncode, done.stderr) == (1, "")
    data = event_of()
    assert [data[key] for key in ("tests", "failures", "errors", "skipped")] == [2, 1, 0, 0]
    assert data["failing_tests"] == ["bad"]


def test_given_data_override_the_reports(run):
    run("tests=mine", "--junit", "*.xml", "--", sys.executable, "-c", WRITES_REPORT)
    assert (event_of()["tests"], event_of()["failures"]) == ("mine", 1)


@pytest.mark.parametrize("strict", [[], ["--strict"]])
def test_missing_report_prints_one_line_and_changes_no_status(run, strict):
    done = run(*strict, "--junit", "report.xml", "--", "true")
    assert (done.returncode, done.stderr) == (0, "e3-event run: --junit: 'report.xml': no such report\n")
    assert "tests" not in event_of()


def test_unexpected_error_in_a_report_prints_one_line(here):
    patch = "from event._process import junit\ndef summary(*args): raise LookupError('odd')\njunit.summary = summary"
    words = patched(patch, "run", "n", *TO_FILES, "--junit", "x", "--", "true")
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stderr == "e3-event run: --junit: LookupError: odd\n"
    assert event_of()["outcome"] == "success"


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
    plugin("odd", handler_source("return event._closed"))
    done = run("--start", "--handler", "odd", "--", "true")
    assert (done.returncode, done.stderr) == (
        0,
        "e3-event run: start: odd: the handler returned False; lost\n",
    )


def test_command_environment_has_the_uid_of_its_event(run, here):
    inner = [sys.executable, "-m", "event", "run", "inner", "--handler", "file=inner", "--", "true"]
    assert run("--", *inner).returncode == 0
    assert event_of("inner")["parent"] == event_of()["uid"]
    assert "parent" not in event_of()


def test_handlers_from_the_environment_get_the_event(run, here):
    assert run("--", "true", default_handlers=(), env={"E3_EVENT_HANDLERS": "file=there"}).stderr == ""
    assert event_of("there")["outcome"] == "success"


def test_missing_handlers_are_reported_and_the_command_runs(run):
    done = run("--", "echo", "x", default_handlers=())
    assert (done.returncode, done.stdout) == (0, "x\n")
    assert done.stderr == (
        "e3-event run: nothing is sent: E3_EVENT_HANDLERS names no handler; "
        "set it, as in E3_EVENT_HANDLERS=file=events, or give --handler file=events\n"
    )


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
    assert event_of()["outcome"] == "success"
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
    (entry,) = waiting()
    name, _, config = handler.partition("=")
    assert entry.handlers == {name: config}
    assert entry.event.outcome == "failure"


def test_relative_directory_is_stored_as_an_absolute_path(run, here):
    (here / "file").write_text("in the way")
    run("--handler", "file=file/events", "--outbox", "outbox", "--", "true")
    (entry,) = waiting()
    assert entry.handlers == {"file": f"{here}/file/events"}


def test_other_configurations_are_stored_unchanged(run):
    config = "s,a@localhost,b@localhost,localhost:1"
    run("--handler", f"smtp={config}", "--outbox", "outbox", "--", "true")
    (entry,) = waiting()
    assert entry.handlers == {"smtp": config}


def test_unusable_outbox_prints_one_line_and_the_event_is_sent(run, here):
    (here / "file").write_text("in the way")
    done = run("--", "echo", "x", env={"E3_EVENT_OUTBOX": "file/outbox"})
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (0, "x\n", 1)
    assert "cannot be kept in the outbox" in done.stderr
    assert event_of()["outcome"] == "success"


def test_wrong_timeout_in_the_environment_prints_one_line(run):
    done = run("--", "echo", "x", env={"E3_EVENT_TIMEOUT": "soon"})
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (0, "x\n", 1)
    assert "E3_EVENT_TIMEOUT is 'soon'" in done.stderr
    assert event_of()["outcome"] == "success"


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
    assert len(waiting(here / "outbox")) == 1


# The trace.


def test_run_is_a_span_in_the_environment_of_the_command(run, monkeypatch):
    monkeypatch.setenv("TRACEPARENT", "00-4bf92f3577b34da6a3ce929d0e0e4736-b7ad6b7169203331-01")
    monkeypatch.setenv("TRACESTATE", "v=1")
    done = run("--", "sh", "-c", 'echo "$TRACEPARENT" "$TRACESTATE"')
    data = event_of()
    assert data["traceparent"].split("-")[1] == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert (data["parent_span_id"], data["tracestate"]) == ("b7ad6b7169203331", "v=1")
    assert done.stdout.split() == [data["traceparent"], "v=1"]


def test_run_without_a_parent_span_begins_a_trace(run):
    done = run("--", "sh", "-c", 'echo "$TRACEPARENT"')
    data = event_of()
    assert done.stdout.split() == [data["traceparent"]]
    assert "parent_span_id" not in data
    assert "tracestate" not in data


def test_span_of_a_script_is_a_child_of_the_run(run):
    script = "import event; event.add_handler('file', 'inner')\nwith event.track('i'): pass"
    assert run("--", sys.executable, "-c", script).returncode == 0
    outer, inner = event_of(), event_of("inner")
    assert inner["traceparent"].split("-")[1] == outer["traceparent"].split("-")[1]
    assert inner["parent_span_id"] == outer["traceparent"].split("-")[2]
