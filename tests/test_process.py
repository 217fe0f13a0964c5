"""Signals during `e3-event run`: the command gets each signal once, and its event is sent."""

from __future__ import annotations

import errno
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from cli.test_run import waiting
from event._process import child, output, signals
from helpers.commands import TO_FILES, handler_source, stored_events

if os.name == "nt":
    pytest.skip("platform: the signals are those of a POSIX system", allow_module_level=True)

SECONDS = 60  # timeout of each wait

# Prints "ready", then the name of each signal that it gets. SIGUSR1 ends it.
COUNTER = """
import os, signal
def report(number, _frame):
    os.write(1, signal.Signals(number).name.encode() + b"\\n")
    if number == signal.SIGUSR1:
        os._exit(5)
for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"):
    if signal.getsignal(getattr(signal, name)) != signal.SIG_IGN:
        signal.signal(getattr(signal, name), report)
os.write(1, b"ready\\n")
while True:
    signal.pause()
"""
COUNT = [sys.executable, "-c", COUNTER]
# Makes the terminal on stdin the controlling terminal, as a login does, and executes the program.
LOG_IN = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"


@pytest.fixture
def here(tmp_path, monkeypatch):
    path = tmp_path / "here"
    path.mkdir()
    monkeypatch.chdir(path)
    return path


@pytest.fixture
def started(here):
    """Return a function that starts `e3-event run` in its own session and waits until the command is ready."""
    processes = []

    def start(*args, handlers=TO_FILES, before=(), command=COUNT, **kwargs):
        words = [*before, sys.executable, "-m", "event", "run", "n", *handlers, *args, "--", *command]
        kwargs = {"stdout": subprocess.PIPE, "start_new_session": True, **kwargs}
        process = subprocess.Popen(words, **kwargs)
        processes.append(process)
        if kwargs["stdout"] == subprocess.PIPE:
            assert process.stdout.readline() == b"ready\n"
        return process

    yield start
    for process in processes:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
        if process.stdout:
            process.stdout.close()


def rest(process):
    """Return the lines that the command prints until it ends, and the exit status."""
    lines = process.stdout.read().decode().split()
    return lines, process.wait(SECONDS)


SIGNALS = pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR2"])
LOGS = pytest.mark.parametrize("log", [pytest.param([], id="no log"), pytest.param(["--log", "log"], id="log")])


@SIGNALS
@LOGS
def test_signal_to_run_alone_reaches_the_command_once(started, name, log):
    process = started(*log)
    os.kill(process.pid, getattr(signal, name))
    assert process.stdout.readline().decode() == f"{name}\n"
    os.kill(process.pid, signal.SIGUSR1)  # forwarded last: a duplicate of the first would precede it
    assert rest(process) == (["SIGUSR1"], 5)


@SIGNALS
@LOGS
def test_a_signal_to_the_whole_group_reaches_the_command_once(started, name, log):
    process = started(*log)
    os.killpg(process.pid, getattr(signal, name))
    assert process.stdout.readline().decode() == f"{name}\n"
    os.kill(process.pid, signal.SIGUSR1)
    assert rest(process) == (["SIGUSR1"], 5)


def test_signal_to_run_and_its_group_reaches_the_command_once(started):
    """GNU timeout sends its signal to both."""
    process = started()
    os.kill(process.pid, signal.SIGTERM)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.stdout.readline() == b"SIGTERM\n"
    os.kill(process.pid, signal.SIGUSR1)
    assert rest(process) == (["SIGUSR1"], 5)


def test_signal_to_run_long_after_one_to_the_group_is_forwarded(started, monkeypatch):
    process = started()
    os.killpg(process.pid, signal.SIGTERM)
    assert process.stdout.readline() == b"SIGTERM\n"
    time.sleep(2 * signals.SAME_SIGNAL)  # the test needs this time to pass
    os.kill(process.pid, signal.SIGTERM)
    assert process.stdout.readline() == b"SIGTERM\n"


def test_many_signals_neither_end_run_nor_lose_the_event(started):
    process = started(
        command=["sh", "-c", "trap : INT TERM HUP; echo ready; for i in 1 2 3 4 5 6 7 8 9; do sleep 0.1; done; exit 3"]
    )
    while process.poll() is None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(process.pid, number)
    assert process.returncode == 3
    (data,) = stored_events()
    assert (data["exit_code"], data["outcome"]) == (3, "cancel")
    assert data["signal"] in {"SIGINT", "SIGTERM", "SIGHUP"}


@pytest.mark.parametrize(
    ("command", "status", "outcome", "name"),
    [
        pytest.param(["sh", "-c", "echo ready; exec sleep 99"], 143, "cancel", "SIGTERM", id="the signal kills it"),
        pytest.param(
            ["sh", "-c", "trap 'kill $!; exit 4' TERM; sleep 99 & echo ready; wait"],
            4,
            "cancel",
            "SIGTERM",
            id="it exits with failure",
        ),
        pytest.param(
            ["sh", "-c", "trap 'kill $!; exit 0' TERM; sleep 99 & echo ready; wait"],
            0,
            "success",
            None,
            id="it exits with success",
        ),
    ],
)
def test_event_of_a_stopped_command_has_its_signal(started, command, status, outcome, name):
    process = started(command=command)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(SECONDS) == status
    (data,) = stored_events()
    assert (data["outcome"], data["signal"], data["exit_code"]) == (outcome, name, status)


def test_signal_that_does_not_end_the_command_does_not_cancel_it(started):
    process = started()
    os.kill(process.pid, signal.SIGUSR1)
    assert rest(process) == (["SIGUSR1"], 5)
    (data,) = stored_events()
    assert (data["outcome"], data["signal"]) == ("failure", None)


def test_signal_ignored_at_the_start_stays_ignored(started):
    """`nohup` starts its command this way."""
    process = started(before=["sh", "-c", 'trap "" HUP INT; exec "$@"', "sh"])
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        os.kill(process.pid, number)
        if number == signal.SIGTERM:
            assert process.stdout.readline() == b"SIGTERM\n"
    assert rest(process) == (["SIGUSR1"], 5)


def test_status_is_known_if_the_parent_ignores_sigchld(started):
    code = "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    process = started(before=[sys.executable, "-c", code], command=["sh", "-c", "echo ready; exit 6"])
    assert process.wait(SECONDS) == 6


def test_signals_blocked_at_the_start_stay_blocked_for_the_command(started):
    code = "import os, signal, sys; signal.pthread_sigmask(0, {signal.SIGUSR2}); os.execv(sys.argv[1], sys.argv[1:])"
    show_mask = "import signal; print('ready'); print(*map(int, signal.pthread_sigmask(0, ())))"
    process = started(before=[sys.executable, "-c", code], command=[sys.executable, "-c", show_mask])
    assert rest(process) == ([str(int(signal.SIGUSR2))], 0)


def terminal(started, *args, **kwargs):
    """Start `e3-event run` at a terminal; return its process and the master side of the terminal."""
    master, slave = os.openpty()
    os.set_inheritable(slave, True)
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), slave)
    process = started(*args, before=[sys.executable, "-c", LOG_IN], **streams, **kwargs)
    os.close(slave)
    return process, master


def read_until(master, end):
    text = b""
    while end not in text:
        text += os.read(master, 1000)
    return text.replace(b"\r", b"").decode()


@LOGS
def test_ctrl_c_at_a_terminal_reaches_the_command_once(started, log):
    process, master = terminal(started, *log)
    read_until(master, b"ready")
    os.write(master, b"\x03")
    read_until(master, b"SIGINT")
    os.kill(process.pid, signal.SIGUSR1)
    assert read_until(master, b"SIGUSR1").count("SIGINT") == 0
    assert process.wait(SECONDS) == 5
    os.close(master)
    (data,) = stored_events()
    assert (data["outcome"], data["signal"]) == ("cancel", "SIGINT")


def test_a_terminal_that_hangs_up_does_not_lose_the_event(started, here):
    process, master = terminal(started, command=["sh", "-c", "echo ready; exec sleep 99"])
    read_until(master, b"ready")
    os.close(master)
    assert process.wait(SECONDS) == 129
    (data,) = stored_events()
    assert (data["outcome"], data["signal"]) == ("cancel", "SIGHUP")


@pytest.mark.parametrize(
    ("log", "status"), [pytest.param([], 0, id="no log"), pytest.param(["--log", "log"], 1, id="log")]
)
def test_command_has_the_terminal_unless_it_is_logged(started, log, status):
    process, master = terminal(started, *log, command=["sh", "-c", "test -t 0 && test -t 1 && test -t 2; echo $?"])
    assert str(status) in read_until(master, b"\n")
    assert process.wait(SECONDS) == 0
    os.close(master)


# During the send.


@pytest.fixture
def plugin(here, tmp_path, monkeypatch):
    """Install a handler that opens the FIFO `sending` when it gets the event, and then hangs; return the options."""
    site = tmp_path / "site"
    info = site / "hung-1.dist-info"
    info.mkdir(parents=True)
    send = "open('sending', 'w').close(); import threading; threading.Event().wait()"
    (site / "hung_module.py").write_text(handler_source(send))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hung\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[e3.event.handler]\nhung = hung_module:Handler\n")
    monkeypatch.setenv("PYTHONPATH", str(site))
    os.mkfifo(here / "sending")
    return ["--handler", "hung=h", "--outbox", "outbox"]


def wait_for(fifo):
    """Wait until a process opens a FIFO to write."""
    with open(fifo, "rb"):
        pass


def test_signals_during_the_send_neither_end_run_nor_lose_the_event(started, plugin):
    process = started("--timeout", "1", handlers=plugin, command=["sh", "-c", "echo ready; exec sleep 99"])
    os.kill(process.pid, signal.SIGTERM)
    wait_for("sending")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(process.pid, number)
        os.killpg(process.pid, number)
    assert process.wait(SECONDS) == 143
    (entry,) = waiting()
    assert (entry.event.outcome, entry.handlers) == ("cancel", {"hung": "h"})


def test_kill_during_the_send_does_not_lose_the_event(started, plugin):
    process = started(handlers=plugin, command=["sh", "-c", "echo ready; exit 3"])
    wait_for("sending")
    process.kill()
    process.wait(SECONDS)
    (entry,) = waiting()
    assert (entry.event.exit_code, entry.handlers) == (3, {"hung": "h"})


def test_a_signal_while_the_start_is_still_being_sent_reaches_the_command(started, plugin):
    # A part of this timeout must be enough to store the closed event, also on a busy machine.
    process = started("--start", "--timeout", "8", handlers=plugin)
    wait_for("sending")
    os.kill(process.pid, signal.SIGUSR1)
    assert rest(process) == (["SIGUSR1"], 5)
    assert sorted(entry.event._closed for entry in waiting()) == [False, True]


def test_output_of_the_command_is_shown_if_run_is_killed(started, here):
    os.mkfifo("gate")
    process = started("--log", "log", command=["sh", "-c", "echo ready; read x < gate; echo late"])
    process.kill()
    process.wait(SECONDS)
    pathlib.Path("gate").write_text("go\n")
    assert process.stdout.read() == b"late\n"


def test_run_leaves_no_process(started):
    process = started(command=["sh", "-c", "echo ready"])
    assert process.wait(SECONDS) == 0
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


# Missing processes and threads, and full pipes.


def test_signals_are_forwarded_without_a_witness_process(here):
    code = (
        "import errno, os, sys, event._cli as c\n"
        "def fork(): raise BlockingIOError(errno.EAGAIN, 'no more processes')\n"
        "os.fork = fork\nsys.exit(c.main(sys.argv[1:]))"
    )
    words = [sys.executable, "-c", code, "run", "n", *TO_FILES, "--", *COUNT]
    with subprocess.Popen(words, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout.readline() == b"ready\n"
        os.kill(process.pid, signal.SIGTERM)
        assert process.stdout.readline() == b"SIGTERM\n"
        os.kill(process.pid, signal.SIGUSR1)
        assert rest(process) == (["SIGUSR1"], 5)


def test_command_writes_directly_if_no_log_thread_can_be_started(here):
    code = (
        "import os, sys, event._cli as c, event._process.output as t\n"
        "def start(*args): raise RuntimeError('no more threads')\n"
        "t.start_new_thread = start\nsys.exit(c.main(sys.argv[1:]))"
    )
    words = [sys.executable, "-c", code, "run", "n", *TO_FILES, "--log", "log", "--", "echo", "x"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout == "x\n"
    assert done.stderr == "e3-event run: --log: 'log' is not complete: no more threads\n"


def test_output_read_after_the_command_ended_is_limited(here, monkeypatch):
    monkeypatch.setattr(output, "_MAX_REST", 10)
    monkeypatch.setattr(output, "_PIPE_SIZE", 4)
    tee = output.Tee([(1, 2)], os.open("log", os.O_WRONLY | os.O_CREAT))
    os.write(tee.writers[1], b"x" * 100)
    tee.end(0.0)
    assert pathlib.Path("log").read_bytes() == b"x" * 12
    assert tee.left_behind
    tee.spawned()


def test_full_nonblocking_pipe_is_waited_for(monkeypatch):
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    size = os.write(writer, bytes(1 << 22))
    wait = output._writable

    def read_and_wait(fd):
        os.read(reader, size)
        wait(fd)

    monkeypatch.setattr(output, "_writable", read_and_wait)
    assert output.show(writer, b"x" * 100) is None
    assert os.read(reader, 200) == b"x" * 100
    os.close(reader)
    os.close(writer)


def test_show_returns_why_nothing_can_be_written():
    reader, writer = os.pipe()
    os.close(reader)
    assert output.show(writer, b"x").errno == errno.EPIPE
    os.close(writer)
    assert output.show(writer, b"x").errno == errno.EBADF


@pytest.mark.parametrize(("number", "expected"), [(errno.ENOSPC, errno.ENOSPC), (errno.EPIPE, None)])
def test_output_that_cannot_be_shown_is_an_error_if_a_reader_exists(monkeypatch, number, expected):
    monkeypatch.setattr(output, "show", lambda *_args: OSError(number, "no"))
    tee = output.Tee([(1,)], None)
    tee.spawned()
    tee.finish()
    assert (tee.show_error and tee.show_error.errno) == expected
    os.close(tee.streams[0].reader)


def test_a_log_whose_end_cannot_be_written_is_not_complete(here):
    """NFS reports a full disk only at the end."""
    log = os.open("log", os.O_WRONLY | os.O_CREAT)
    tee = output.Tee([(1,), (2,)], log)
    os.close(log)
    tee.spawned()
    tee.end(0.0)
    assert tee.error.errno == errno.EBADF
    tee.finish()


def test_a_witness_that_has_been_killed_reports_nothing():
    received = signals.Signals()
    received._reports, reports = os.pipe()
    os.write(reports, b"15 7.5".ljust(32))
    os.close(reports)
    received._read_reports()
    assert received._seen == {15: 7.5}
    os.close(received._reports)


@pytest.mark.parametrize(
    ("code", "received", "outcome", "name", "status"),
    [
        pytest.param(0, [], "success", None, 0, id="success"),
        pytest.param(0, [signal.SIGTERM], "success", None, 0, id="success after a signal"),
        pytest.param(1, [], "failure", None, 1, id="failure"),
        pytest.param(1, [signal.SIGUSR1], "failure", None, 1, id="failure after a signal that does not cancel"),
        pytest.param(1, [signal.SIGINT, signal.SIGTERM], "cancel", "SIGTERM", 1, id="cancelled"),
        pytest.param(-9, [signal.SIGTERM], "cancel", "SIGKILL", 137, id="cancelled and then killed"),
        pytest.param(-9, [], "failure", "SIGKILL", 137, id="killed"),
        pytest.param(-2, [], "cancel", "SIGINT", 130, id="ended by SIGINT"),
    ],
)
def test_an_exit_result_follows_from_the_exit_code_and_the_signals(code, received, outcome, name, status):
    result = child.ExitResult(code, 1.0, received)
    assert (result.outcome, result.signal, result.status) == (outcome, name, status)
