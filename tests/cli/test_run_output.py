"""``e3-event run``: the log of the command, and the last lines of its output."""

from __future__ import annotations

import os
import pathlib
import resource
import shlex
import signal
import subprocess
import sys

import pytest

from helpers.commands import TO_FILES, stored_event
from helpers.waiting import wait_until

if os.name == "nt":
    pytest.skip("platform: the commands are those of a POSIX system", allow_module_level=True)


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
    assert stored_event()["outcome"] == "success"


def test_full_disk_ends_only_the_log(here):
    args = [sys.executable, "-m", "event", "run", "n", "--log", "log", *TO_FILES, "--", "seq", "600000"]
    line = f"ulimit -f 2048; exec {shlex.join(args)}"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True)
    assert done.stdout == "".join(f"{n}\n" for n in range(1, 600_001))
    assert done.stderr == "e3-event run: --log: 'log' is not complete: File too large\n"
    assert stored_event()["outcome"] == "success"


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
    assert stored_event(tmp_path / "events")["exit_code"] == 7


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
    assert stored_event()["outcome"] == "success"


def test_leftover_process_neither_delays_the_event_nor_loses_output(here):
    """The process still writes to the same stdout after `run` has exited."""
    os.mkfifo("gate")
    args = [sys.executable, "-m", "event", "run", "n", *TO_FILES, "--log", "log", "--"]
    args += ["sh", "-c", "{ read x < gate; echo late; } & echo soon"]
    with subprocess.Popen(args, stdout=subprocess.PIPE) as process:
        assert process.wait(60) == 0
        assert stored_event()["outcome"] == "success"
        assert (here / "log").read_text() == "soon\n"
        pathlib.Path("gate").write_text("go\n")
        assert process.stdout.read() == b"soon\nlate\n"


def test_output_flood_of_a_leftover_process_does_not_delay_the_event(here):
    args = [sys.executable, "-m", "event", "run", "n", *TO_FILES, "--log", "log", "--"]
    args += ["sh", "-c", "yes & echo $! > pid"]
    with open(os.devnull, "wb") as nowhere, subprocess.Popen(args, stdout=nowhere) as process:
        assert process.wait(60) == 0
    os.kill(int((here / "pid").read_text()), 9)
    assert stored_event()["outcome"] == "success"


# The last lines of the output.

BOTH = ["sh", "-c", "echo one; echo two >&2; echo three; exit 3"]


def test_failure_event_has_the_last_output_lines_in_order(run):
    done = run("--", *BOTH, stderr=subprocess.STDOUT)
    assert (done.returncode, done.stdout) == (3, "one\ntwo\nthree\n")
    assert stored_event()["output_tail"] == "one\ntwo\nthree"


def test_failure_event_has_the_last_lines_of_both_streams(run):
    done = run("--", *BOTH)
    assert (done.stdout, done.stderr) == ("one\nthree\n", "two\n")
    assert sorted(stored_event()["output_tail"].split()) == ["one", "three", "two"]


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
    assert stored_event().get("output_tail") == tail


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
    assert stored_event()["output_tail"] == "one\ntwo"
    assert (here / "out").read_text().startswith("before\none\n")


def test_last_lines_of_stderr_follow_those_of_stdout(run, here):
    with open("err", "ab") as err:
        run("--", "sh", "-c", "echo two >&2; echo one; exit 3", stderr=err)
    assert stored_event()["output_tail"] == "one\ntwo"


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
    assert stored_event()["exit_code"] == statuses[1]


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
    assert stored_event()["output_tail"] == "***\nb\nred\ufffd"


@pytest.mark.parametrize(("redact", "tail"), [("false", "hunter2hunter2 4711"), ('["4711"]', "*** ***")])
def test_configuration_file_sets_redaction_of_the_last_lines(run, here, monkeypatch, redact, tail):
    monkeypatch.setenv("NPM_TOKEN", "hunter2hunter2")
    (here / "e3-event.toml").write_text(f"redact = {redact}\n")
    run("--", "sh", "-c", "echo $NPM_TOKEN 4711; exit 1")
    assert stored_event()["output_tail"] == tail


def test_command_writes_directly_without_free_descriptors_for_a_pipe(process, here):
    line = 'ulimit -n 6; exec "$0" -m event run n --handler file=events -- sh -c "echo x; exit 3"'
    done = subprocess.run(["bash", "-c", line, sys.executable], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (3, b"x\n")
