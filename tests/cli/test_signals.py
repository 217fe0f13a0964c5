"""Signals during `e3-event run`: the command gets each signal once, and its event is not lost."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from cli.outboxes import undelivered
from cli.processes import children_of
from helpers.commands import TO_FILES, handler_source, patched, stored_events
from helpers.waiting import wait_until

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
def started(here):
    """Return a function that starts `e3-event run` in its own session and waits until its command is ready."""
    processes = []

    def start(*args, handlers=TO_FILES, before=(), patch="", command=COUNT, **kwargs):
        """Start it.

        :param before: a program that executes `e3-event run`, and its arguments
        :param patch: code that patches the package first; see `patched`
        """
        program = patched(patch) if patch else [sys.executable, "-m", "event"]
        words = [*before, *program, "run", "n", *handlers, *args, "--", *command]
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
    """Wait until a process ends; return the remaining lines of its stdout, and its exit status."""
    lines = process.stdout.read().decode().split()
    return lines, process.wait(SECONDS)


def lines_until(process, last):
    """Read lines of stdout until an expected one; return them."""
    lines = []
    while last not in lines:
        lines.append(process.stdout.readline())
        assert lines[-1], "the process has ended"
    return lines


SIGNALS = pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR2"])
LOGS = pytest.mark.parametrize("log", [pytest.param([], id="no log"), pytest.param(["--log", "log"], id="log")])


@SIGNALS
@LOGS
def test_signal_to_run_alone_reaches_the_command_once(started, name, log):
    process = started(*log)
    os.kill(process.pid, getattr(signal, name))
    assert process.stdout.readline().decode() == f"{name}\n"
    os.kill(process.pid, signal.SIGUSR1)  # it is forwarded after the first signal and any duplicate of it
    assert rest(process) == (["SIGUSR1"], 5)


@SIGNALS
@LOGS
def test_signal_to_the_process_group_reaches_the_command_once(started, name, log):
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


def test_signal_to_run_long_after_one_to_the_group_is_forwarded(started):
    process = started(patch="from event._process import signals\nsignals.SAME_SIGNAL = 0.05")  # shorter than usual
    os.killpg(process.pid, signal.SIGTERM)
    assert process.stdout.readline() == b"SIGTERM\n"
    for _ in range(100):  # usually, the first or the second one is forwarded
        os.kill(process.pid, signal.SIGTERM)
        os.kill(process.pid, signal.SIGUSR2)
        if b"SIGTERM\n" in lines_until(process, b"SIGUSR2\n"):
            return
    pytest.fail("SIGTERM is never forwarded")


def test_many_signals_neither_end_run_nor_lose_the_event(started):
    # Shorter than usual, so that many signals are forwarded. No signal is sent to the group.
    patch = "from event._process import signals\nsignals.REPORT_TIMEOUT = 0.001"
    command = "trap : INT TERM HUP; echo ready; for i in 1 2 3; do sleep 0.1; done; exit 3"
    process = started(patch=patch, command=["sh", "-c", command])
    while process.poll() is None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(process.pid, number)
    assert process.returncode == 3
    (data,) = stored_events()
    assert (data["exit_code"], data["outcome"]) == (3, "cancel")
    assert data["signal"] in {"SIGINT", "SIGTERM", "SIGHUP"}


SLEEPS = "echo ready; exec sleep 99"
EXITS_ON_SIGTERM = "trap 'kill $!; exit {}' TERM; sleep 99 & echo ready; wait"


@pytest.mark.parametrize(
    ("command", "status", "outcome", "name"),
    [
        pytest.param(SLEEPS, 143, "cancel", "SIGTERM", id="the signal kills it"),
        pytest.param(EXITS_ON_SIGTERM.format(4), 4, "cancel", "SIGTERM", id="it exits with failure"),
        pytest.param(EXITS_ON_SIGTERM.format(0), 0, "success", None, id="it exits with success"),
    ],
)
def test_event_of_a_stopped_command_has_its_signal(started, command, status, outcome, name):
    process = started(command=["sh", "-c", command])
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(SECONDS) == status
    (data,) = stored_events()
    assert (data["outcome"], data["signal"], data["exit_code"]) == (outcome, name, status)


@pytest.mark.parametrize("name", ["SIGABRT", "SIGALRM", "SIGIO", "SIGPROF", "SIGPWR", "SIGVTALRM", "SIGXCPU"])
def test_signal_of_a_timer_or_a_limit_ends_the_command_not_run(started, name):
    if (number := getattr(signal, name, None)) is None or (name, sys.platform) == ("SIGIO", "darwin"):
        pytest.skip("platform: the signal does not exist, or does not end a process")
    process = started(command=["sh", "-c", SLEEPS])
    os.kill(process.pid, number)
    assert process.wait(SECONDS) == 128 + number
    (data,) = stored_events()
    assert (data["outcome"], data["signal"], data["exit_code"]) == ("failure", name, 128 + number)


def test_signal_of_a_profiler_is_not_passed_to_the_command(started):
    patch = "import signal\nsignal.signal(signal.SIGPROF, lambda *_: print('sample', flush=True))"
    process = started(patch=patch)
    os.kill(process.pid, signal.SIGPROF)
    assert process.stdout.readline() == b"sample\n"
    os.kill(process.pid, signal.SIGUSR1)
    assert rest(process) == (["SIGUSR1"], 5)


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


def started_at_terminal(started, *args, **kwargs):
    """Start `e3-event run` at a terminal; return its process and the terminal's master side."""
    master, slave = os.openpty()
    os.set_inheritable(slave, True)
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), slave)
    process = started(*args, before=[sys.executable, "-c", LOG_IN], **streams, **kwargs)
    os.close(slave)
    return process, master


def screen_until(master, end):
    """Read from a terminal until a text appears; return all of it."""
    text = b""
    while end not in text:
        text += os.read(master, 1000)
    return text.decode()


@LOGS
def test_ctrl_c_at_a_terminal_reaches_the_command_once(started, log):
    process, master = started_at_terminal(started, *log)
    screen_until(master, b"ready")
    os.write(master, b"\x03")
    screen_until(master, b"SIGINT")
    os.kill(process.pid, signal.SIGUSR1)
    assert screen_until(master, b"SIGUSR1").count("SIGINT") == 0
    assert process.wait(SECONDS) == 5
    os.close(master)
    (data,) = stored_events()
    assert (data["outcome"], data["signal"]) == ("cancel", "SIGINT")


def test_event_is_not_lost_if_the_terminal_hangs_up(started):
    process, master = started_at_terminal(started, command=["sh", "-c", SLEEPS])
    screen_until(master, b"ready")
    os.close(master)
    assert process.wait(SECONDS) == 129
    (data,) = stored_events()
    assert (data["outcome"], data["signal"]) == ("cancel", "SIGHUP")


@pytest.mark.parametrize(
    ("log", "status"), [pytest.param([], 0, id="no log"), pytest.param(["--log", "log"], 1, id="log")]
)
def test_command_has_the_terminal_unless_it_is_logged(started, log, status):
    process, master = started_at_terminal(
        started, *log, command=["sh", "-c", "test -t 0 && test -t 1 && test -t 2; echo $?"]
    )
    assert str(status) in screen_until(master, b"\n")
    assert process.wait(SECONDS) == 0
    os.close(master)


# While an event is being sent.


@pytest.fixture
def slow_handler(here, plugin):
    """Install a handler that opens the FIFO `sending` and then waits for the FIFO `gate`; return options for it.

    It appends each event's `outcome` to a file.
    """
    send = "open('sending', 'w').close(); open('gate').close(); "
    send += "return print(getattr(event, 'outcome', 'start'), file=open('received', 'a')) is None"
    plugin("slow", handler_source(send))
    os.mkfifo("sending")
    os.mkfifo("gate")
    yield ["--handler", "slow=x", "--outbox", "outbox", "--timeout", "600"]
    os.close(os.open("gate", os.O_RDWR))  # for a handler that still waits


def wait_until_sending():
    open("sending").close()  # the handler opens it to write


def let_handler_return():
    open("gate", "w").close()


def received():
    return pathlib.Path("received").read_text().split()


def test_signals_during_the_send_neither_end_run_nor_lose_the_event(started, slow_handler):
    process = started(handlers=slow_handler, command=["sh", "-c", SLEEPS])
    os.kill(process.pid, signal.SIGTERM)
    wait_until_sending()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(process.pid, number)
        os.killpg(process.pid, number)
    let_handler_return()
    assert process.wait(SECONDS) == 143
    assert received() == ["cancel"]
    assert undelivered() == []


def test_kill_during_the_send_does_not_lose_the_event(started, slow_handler):
    process = started(handlers=slow_handler, command=["sh", "-c", "echo ready; exit 3"])
    wait_until_sending()
    process.kill()
    process.wait(SECONDS)
    (entry,) = undelivered()
    assert (entry.event.exit_code, entry.handlers) == (3, {"slow": "x"})


def test_signal_reaches_the_command_while_the_start_event_is_being_sent(started, slow_handler):
    process = started("--start", handlers=slow_handler)
    wait_until_sending()
    os.kill(process.pid, signal.SIGUSR1)
    assert process.stdout.readline() == b"SIGUSR1\n"
    let_handler_return()
    wait_until_sending()
    let_handler_return()
    assert process.wait(SECONDS) == 5
    assert received() == ["start", "failure"]


def test_output_of_the_command_is_shown_if_run_is_killed(started):
    os.mkfifo("gate")
    process = started("--log", "log", command=["sh", "-c", "echo ready; read x < gate; echo late"])
    process.kill()
    process.wait(SECONDS)
    pathlib.Path("gate").write_text("go\n")
    assert process.stdout.read() == b"late\n"


def test_run_leaves_no_process(started):
    process = started(command=["sh", "-c", "echo ready"])
    assert process.wait(SECONDS) == 0
    # On a busy machine, the witness may still hold the pipes of the output. It then ends shortly after `run`.
    wait_until(lambda: has_no_process(process.pid))


def has_no_process(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


# No more processes and threads.


def test_signals_are_forwarded_without_a_witness_process(started):
    patch = "import errno, os\ndef fork(): raise BlockingIOError(errno.EAGAIN, 'no more processes')\nos.fork = fork"
    process = started(patch=patch)
    os.kill(process.pid, signal.SIGTERM)
    assert process.stdout.readline() == b"SIGTERM\n"
    os.kill(process.pid, signal.SIGUSR1)
    assert rest(process) == (["SIGUSR1"], 5)


@pytest.mark.skipif(sys.platform != "linux", reason="platform: only Linux has /proc")
def test_signals_are_forwarded_after_the_witness_was_killed(started):
    process = started()
    (witness,) = [pid for pid in children_of(process.pid) if is_witness(pid, process.pid)]
    os.kill(witness, signal.SIGKILL)
    os.kill(process.pid, signal.SIGTERM)
    assert process.stdout.readline() == b"SIGTERM\n"
    os.kill(process.pid, signal.SIGUSR1)
    assert rest(process) == (["SIGUSR1"], 5)


def is_witness(pid, run):
    """Return whether a child process of `run` is a fork of it in the same group; the worker has a group of its own."""
    command_lines = [pathlib.Path(f"/proc/{each}/cmdline").read_bytes() for each in (pid, run)]
    return command_lines[0] == command_lines[1] and os.getpgid(pid) == run


def test_command_writes_directly_if_no_log_thread_can_be_started(here):
    patch = "from event._process import output\ndef start(*args): raise RuntimeError('no more threads')\n"
    words = patched(f"{patch}output.start_new_thread = start", "run", "n", *TO_FILES, "--log", "log", "--", "echo", "x")
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout == "x\n"
    assert done.stderr == "e3-event run: --log: 'log' is not complete: no more threads\n"
