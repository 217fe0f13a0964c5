"""Handlers that crash, hang or damage their process: neither the command nor the handler next to them suffers."""

from __future__ import annotations

import os
import pathlib
import sys

import pytest

from event._outbox import Outbox
from helpers.commands import HOLDS_THE_LOCK, handler_source, in_parallel, stored_events

if os.name == "nt":
    pytest.skip("platform: the commands and the signals are those of a POSIX system", allow_module_level=True)

pytestmark = pytest.mark.server

FOR_EVER = "__import__('threading').Event().wait()"
NO_THREADS = """def no(*args): raise RuntimeError("can't start new thread")
        sys.modules['threading'].Thread.start = no
        return True"""
GARBAGE = """import os
        for fd in range(3, 64):
            try: os.write(fd, b'garbage ' * 100)
            except OSError: pass
        import time; time.sleep(1000)"""
EATS_MEMORY = """self.eaten = []
        while True:
            self.eaten.append(b'x' * (1 << 24))"""
DIES = "its process ended with "
LATE = "not done within 20 s"

FAILING = {
    "a segmentation fault": (
        handler_source("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"),
        f"{DIES}SIGSEGV",
    ),
    "a null pointer": (handler_source("import ctypes; ctypes.string_at(0)"), f"{DIES}SIGSEGV"),
    "_exit(0)": (handler_source("import os; os._exit(0)"), f"{DIES}status 0"),
    "killed": (handler_source("import os, signal; os.kill(os.getpid(), signal.SIGKILL)"), f"{DIES}SIGKILL"),
    "stopped": (handler_source("import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"), LATE),
    "stuck in C": (handler_source(HOLDS_THE_LOCK), LATE),
    "stuck in C at import": (f"{HOLDS_THE_LOCK}\n{handler_source()}", LATE),
    "hangs": (handler_source(FOR_EVER), LATE),
    "hangs at import": (f"{FOR_EVER}\n{handler_source()}", LATE),
    "hangs, and a thread with it": (
        handler_source(f"import threading; threading.Thread(target=threading.Event().wait).start(); {FOR_EVER}"),
        LATE,
    ),
    "exits at import": (f"raise SystemExit(3)\n{handler_source()}", "handler 'hostile' "),
    "garbage to each descriptor": (handler_source(GARBAGE), "it sent an invalid report"),
    "closes each descriptor": (
        handler_source("import os; os.closerange(0, 100); return True"),
        "it closed its connection",
    ),
    "raises KeyboardInterrupt": (handler_source("raise KeyboardInterrupt"), "KeyboardInterrupt"),
}
DELIVERING = {
    "sleeps in atexit": handler_source("import atexit, time; atexit.register(time.sleep, 1000); return True"),
    "a stuck thread": handler_source(
        "import threading; threading.Thread(target=threading.Event().wait).start(); return True"
    ),
    "a stuck pool": handler_source(
        "from concurrent.futures import ThreadPoolExecutor as Pool; from threading import Event\n"
        "        Pool().submit(Event().wait); return True"
    ),
    "no more threads": handler_source(NO_THREADS),
    "forks, and the child stays": handler_source(
        "import os, time\n        os.fork() or time.sleep(1000)\n        return True"
    ),
    "forks, and the child returns": handler_source("import os; os.fork(); return True"),
    "leaves a process with our streams": handler_source(
        "import subprocess; subprocess.Popen(['sleep', '1000']); return True"
    ),
}
# One of each group: it ends, hangs, holds the interpreter's lock, breaks the protocol, or leaves something running. All
# kinds are tried at length, and in one step by `test_bad_handlers_of_one_event_do_not_affect_each_other`.
SOME = ("_exit(0)", "hangs at import", "stuck in C", "garbage to each descriptor", "a stuck thread")
BAD = FAILING.keys() | DELIVERING.keys()
KINDS = pytest.mark.parametrize("kinds", [SOME, pytest.param(BAD, marks=pytest.mark.long)], ids=["some", "all"])
COMMANDS = pytest.mark.parametrize(
    "step",
    [
        pytest.param((["send", "n"], None), id="send"),
        pytest.param((["run", "n", "--", "true"], 0), id="run true"),
        pytest.param((["run", "n", "--", "sh", "-c", "exit 3"], 3), id="run exit 3"),
    ],
)


def give(process, words, *options):
    """Run a command with the bad handler and a healthy one."""
    command, name, *rest = words
    chosen = ["--handler", "hostile=secret", "--handler", "file=events", *options]
    return process(command, name, *chosen, *rest)


def waiting(outbox="outbox"):
    return [entry for _, entry in Outbox(outbox).entries("waiting", "claimed")]


@pytest.fixture
def zoo(plugin):
    """Return a function that installs bad plugins, and returns their kinds by the name of the handler."""

    def install(kinds):
        names = {f"hostile{number}": kind for number, kind in enumerate(sorted(kinds))}
        for name, kind in names.items():
            plugin(name, FAILING[kind][0] if kind in FAILING else DELIVERING[kind])
        return names

    return install


def assert_reported(name, kind, stderr):
    """Assert that stderr has a line about each handler that fails, and none about another one."""
    lines = [line for line in stderr.splitlines() if f"{name}: " in line and "delivered" not in line]
    if kind in FAILING:
        (line,) = lines
        assert FAILING[kind][1].replace("hostile", name) in line
        assert line.endswith("; kept")
    else:
        assert lines == []


# The timeout also covers the start of the program, and of the worker, next to those of all others.
KEPT = ("--outbox", "outbox", "--timeout", "20")


@pytest.mark.usefixtures("unmeasured_children")  # the other tests run the same code
@KINDS
def test_bad_handler_changes_no_status_and_the_healthy_one_delivers(here, process, zoo, kinds):
    names = zoo(kinds)

    def run(name):
        chosen = ("--handler", f"{name}=secret", "--handler", "file=events")
        (here / name).mkdir()
        return process("run", "n", *chosen, *KEPT, "--", "sh", "-c", "exit 3", cwd=here / name)

    for name, done in in_parallel(run, names).items():
        kind = names[name]
        assert (kind, done.returncode) == (kind, 3)
        assert_reported(name, kind, done.stderr)
        assert "secret" not in done.stderr
        assert len(stored_events(here / name / "events")) == 1, kind
        pending = [{*entry.pending} for entry in waiting(here / name / "outbox")]
        assert pending == ([{name}] if kind in FAILING else []), kind


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["send", "n"], id="send", marks=pytest.mark.long),
        pytest.param(["run", "n", "--", "true"], id="run"),
    ],
)
@pytest.mark.usefixtures("unmeasured_children")
def test_bad_handlers_of_one_event_do_not_affect_each_other(process, zoo, words):
    names = zoo(BAD)
    command, name, *rest = words
    chosen = [word for name in names for word in ("--handler", f"{name}=secret")]
    done = process(command, name, *chosen, "--handler", "file=events", *KEPT, *rest)
    assert done.returncode == 0
    for bad, kind in names.items():
        assert_reported(bad, kind, done.stderr)
    assert "secret" not in done.stderr
    assert len(stored_events()) == 1
    (entry,) = waiting()
    assert {*entry.pending} == {bad for bad, kind in names.items() if kind in FAILING}


@pytest.mark.parametrize("source", [FAILING["_exit(0)"][0], FAILING["a segmentation fault"][0]], ids=["exit", "crash"])
@COMMANDS
def test_healthy_handler_gets_the_event_once_without_an_outbox(process, plugin, step, source):
    words, status = step
    plugin("hostile", source)
    done = give(process, words)
    assert done.returncode == (1 if status is None else status)  # without an outbox, the event is lost
    assert "hostile: its process ended with" in done.stderr
    assert "kept" not in done.stderr
    assert len(stored_events()) == 1


def program(patch, *words):
    """Run the command line in a process of its own, after a patch of the package."""
    import subprocess

    code = f"import sys\nfrom event._worker import system\n{patch}\nfrom event._cli import main\nsys.exit(main())"
    args = [sys.executable, "-c", code, *words]
    return subprocess.run(args, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.skipif(sys.platform != "linux", reason="platform: only Linux says how much memory a process uses")
@COMMANDS
def test_handler_above_the_memory_limit_is_killed(here, plugin, step):
    words, status = step
    plugin("hostile", handler_source(EATS_MEMORY))
    command, name, *rest = words
    chosen = ["--handler", "hostile", "--handler", "file=events", "--outbox", "outbox"]
    done = program("system.MEMORY_LIMIT = 1 << 28", command, name, *chosen, *rest)
    assert done.returncode == (status or 0)
    assert "hostile: it used " in done.stderr
    assert len(stored_events()) == 1
    (entry,) = waiting()
    assert [*entry.pending] == ["hostile"]


BLOCKED = """\
import os, sys, threading
def blocked(*args, **kwargs):
    threading.Event().wait()
if {condition}:
    os.{call} = blocked
"""


@pytest.mark.parametrize("call", ["rename", "fsync", "mkdir"])
@COMMANDS
def test_hung_outbox_is_reported_and_the_event_sent_directly(process, plugin, step, call):
    """As on a network's file system whose server is gone."""
    words, status = step
    plugin("good", handler_source("open('delivered', 'w').close(); return True"))
    site = pathlib.Path(os.environ["PYTHONPATH"])
    (site / "sitecustomize.py").write_text(BLOCKED.format(condition="'--outbox' in sys.orig_argv", call=call))
    command, name, *rest = words
    done = process(command, name, "--handler", "good", "--outbox", "outbox", "--timeout", "4", *rest)
    assert done.returncode == (status or 0)
    assert "cannot be kept in the outbox" in done.stderr
    assert "it did not answer within 2" in done.stderr
    assert os.path.exists("delivered")


def test_end_of_a_step_does_not_overtake_its_hung_start(process, plugin):
    send = """import threading
        if not event._closed:
            threading.Event().wait()
        with open('tape', 'a') as tape:
            tape.write(f'{event._closed}\\n')
        return True"""
    plugin("hostile", handler_source(send))
    done = give(process, ["run", "n", "--", "true"], "--start", "--timeout", "6")
    assert done.returncode == 0
    assert "start: hostile: not done within 6 s" in done.stderr
    assert pathlib.Path("tape").read_text() == "True\n"
    assert len(stored_events()) == 2


def test_end_of_a_step_is_delivered_if_its_start_crashes_a_handler(process, plugin):
    plugin("hostile", handler_source("import os\n        event._closed or os._exit(7)\n        return True"))
    done = give(process, ["run", "n", "--", "true"], "--start")
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert line == "e3-event run: start: hostile: its process ended with status 7; lost"
    assert len(stored_events()) == 2
