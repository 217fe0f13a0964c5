"""Handlers that crash, hang or damage their process affect neither the command nor other handlers."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

from cli.outboxes import undelivered
from helpers.commands import HOLDS_THE_LOCK, handler_source, in_parallel, patched, stored_events

if os.name == "nt":
    pytest.skip("platform: the commands and the signals are those of a POSIX system", allow_module_level=True)

pytestmark = pytest.mark.server

HANGS = "__import__('threading').Event().wait()"
STARTS_NO_THREADS = """def fail(*args): raise RuntimeError("can't start new thread")
        sys.modules['threading'].Thread.start = fail
        return True"""
WRITES_GARBAGE = """import os
        for fd in range(3, 64):
            try: os.write(fd, b'garbage ' * 100)
            except OSError: pass
        import time; time.sleep(1000)"""
EATS_MEMORY = """blocks = []
        while True:
            blocks.append(b'x' * (1 << 24))"""
ENDED = "its process ended with "
TIMED_OUT = "not done within 20 s"

# Handlers that fail: the source, and the reason that the command prints.
FAILING = {
    "a segmentation fault": (
        handler_source("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"),
        f"{ENDED}SIGSEGV",
    ),
    "a null pointer": (handler_source("import ctypes; ctypes.string_at(0)"), f"{ENDED}SIGSEGV"),
    "_exit(0)": (handler_source("import os; os._exit(0)"), f"{ENDED}status 0"),
    "killed": (handler_source("import os, signal; os.kill(os.getpid(), signal.SIGKILL)"), f"{ENDED}SIGKILL"),
    "stopped": (handler_source("import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"), TIMED_OUT),
    "holds the interpreter": (handler_source(HOLDS_THE_LOCK), TIMED_OUT),
    "holds the interpreter at import": (f"{HOLDS_THE_LOCK}\n{handler_source()}", TIMED_OUT),
    "hangs": (handler_source(HANGS), TIMED_OUT),
    "hangs at import": (f"{HANGS}\n{handler_source()}", TIMED_OUT),
    "hangs, and a thread with it": (
        handler_source(f"import threading; threading.Thread(target=threading.Event().wait).start(); {HANGS}"),
        TIMED_OUT,
    ),
    "exits at import": (f"raise SystemExit(3)\n{handler_source()}", "handler 'hostile' "),
    "writes garbage to each descriptor": (handler_source(WRITES_GARBAGE), "it sent an invalid report"),
    "closes each descriptor": (
        handler_source("import os; os.closerange(0, 100); return True"),
        "it closed its connection",
    ),
    "raises KeyboardInterrupt": (handler_source("raise KeyboardInterrupt"), "KeyboardInterrupt"),
}
# Handlers that deliver the event, and leave their process in a bad state.
DELIVERING = {
    "sleeps in atexit": handler_source("import atexit, time; atexit.register(time.sleep, 1000); return True"),
    "a stuck thread": handler_source(
        "import threading; threading.Thread(target=threading.Event().wait).start(); return True"
    ),
    "a stuck pool": handler_source(
        "from concurrent.futures import ThreadPoolExecutor as Pool; from threading import Event\n"
        "        Pool().submit(Event().wait); return True"
    ),
    "no more threads": handler_source(STARTS_NO_THREADS),
    "forks, and the child keeps running": handler_source(
        "import os, time\n        os.fork() or time.sleep(1000)\n        return True"
    ),
    "forks, and the child returns": handler_source("import os; os.fork(); return True"),
    "leaves a process with its streams": handler_source(
        "import subprocess; subprocess.Popen(['sleep', '1000']); return True"
    ),
}
# One handler of each group: it exits, hangs, holds the interpreter's lock, breaks the protocol or leaves a thread. With
# the marker `long`, each test uses all of them. `test_bad_handlers_of_one_event_do_not_affect_each_other` always does.
SOME = ("_exit(0)", "hangs at import", "holds the interpreter", "writes garbage to each descriptor", "a stuck thread")
BAD = FAILING.keys() | DELIVERING.keys()
KINDS = pytest.mark.parametrize("kinds", [SOME, pytest.param(BAD, marks=pytest.mark.long)], ids=["some", "all"])
COMMANDS = pytest.mark.parametrize(
    ("words", "status"),
    [
        pytest.param(["send", "n"], None, id="send"),
        pytest.param(["run", "n", "--", "true"], 0, id="run true"),
        pytest.param(["run", "n", "--", "sh", "-c", "exit 3"], 3, id="run exit 3"),
    ],
)


def with_options(words, *options):
    """Insert options after the event's name, before the command of `run`."""
    return [*words[:2], *options, *words[2:]]


def with_both_handlers(words, *options):
    """Insert the bad handler and a healthy one."""
    return with_options(words, "--handler", "hostile=secret", "--handler", "file=events", *options)


@pytest.fixture
def bad_plugins(plugin):
    """Return a function that installs bad plugins. It returns the kind of each, by the name of its handler."""

    def install(kinds):
        names = {f"hostile{number}": kind for number, kind in enumerate(sorted(kinds))}
        for name, kind in names.items():
            plugin(name, FAILING[kind][0] if kind in FAILING else DELIVERING[kind])
        return names

    return install


def assert_reported(name, kind, stderr):
    """Assert that stderr has a line about a handler that fails, and none about one that delivers."""
    lines = [line for line in stderr.splitlines() if f"{name}: " in line and "delivered" not in line]
    if kind in FAILING:
        (line,) = lines
        assert FAILING[kind][1].replace("hostile", name) in line
        assert line.endswith("; kept")
    else:
        assert lines == []


# The timeout covers the start of the program and its worker too, while all others start on the same machine.
KEPT = ("--outbox", "outbox", "--timeout", "20")


@pytest.mark.usefixtures("unmeasured_children")  # other tests measure the same code
@KINDS
def test_bad_handler_changes_no_status_and_the_healthy_one_delivers(here, process, bad_plugins, kinds):
    names = bad_plugins(kinds)

    def run(name):
        handlers = ("--handler", f"{name}=secret", "--handler", "file=events")
        (here / name).mkdir()
        return process("run", "n", *handlers, *KEPT, "--", "sh", "-c", "exit 3", cwd=here / name)

    for name, done in in_parallel(run, names).items():
        kind = names[name]
        assert (kind, done.returncode) == (kind, 3)
        assert_reported(name, kind, done.stderr)
        assert "secret" not in done.stderr
        assert len(stored_events(here / name / "events")) == 1, kind
        pending = [{*entry.pending} for entry in undelivered(here / name / "outbox")]
        assert pending == ([{name}] if kind in FAILING else []), kind


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["send", "n"], id="send", marks=pytest.mark.long),
        pytest.param(["run", "n", "--", "true"], id="run"),
    ],
)
@pytest.mark.usefixtures("unmeasured_children")
def test_bad_handlers_of_one_event_do_not_affect_each_other(process, bad_plugins, words):
    names = bad_plugins(BAD)
    bad_handlers = [word for name in names for word in ("--handler", f"{name}=secret")]
    done = process(*with_options(words, *bad_handlers, "--handler", "file=events", *KEPT))
    assert done.returncode == 0
    for bad, kind in names.items():
        assert_reported(bad, kind, done.stderr)
    assert "secret" not in done.stderr
    assert len(stored_events()) == 1
    (entry,) = undelivered()
    assert {*entry.pending} == {bad for bad, kind in names.items() if kind in FAILING}


@pytest.mark.parametrize("source", [FAILING["_exit(0)"][0], FAILING["a segmentation fault"][0]], ids=["exit", "crash"])
@COMMANDS
def test_healthy_handler_gets_the_event_once_without_an_outbox(process, plugin, words, status, source):
    plugin("hostile", source)
    done = process(*with_both_handlers(words))
    assert done.returncode == (1 if status is None else status)  # without an outbox, the event is lost
    assert "hostile: its process ended with" in done.stderr
    assert "kept" not in done.stderr
    assert len(stored_events()) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="platform: only on Linux is the memory known")
@COMMANDS
def test_handler_above_the_memory_limit_is_killed(here, plugin, words, status):
    plugin("hostile", handler_source(EATS_MEMORY))
    patch = "from event._worker import system\nsystem.MEMORY_LIMIT = 1 << 28"
    args = patched(patch, *with_both_handlers(words, "--outbox", "outbox"))
    done = subprocess.run(args, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == (status or 0)
    assert "hostile: it used " in done.stderr
    assert len(stored_events()) == 1
    (entry,) = undelivered()
    assert [*entry.pending] == ["hostile"]


# Runs in each process at its start, and makes a system call hang in a command that uses an outbox, and in its worker.
HANGING_CALL = """\
import os, sys, threading
def hang(*args, **kwargs):
    threading.Event().wait()
if '--outbox' in sys.orig_argv:
    os.{call} = hang
"""


@pytest.mark.parametrize("call", ["rename", "fsync", "mkdir"])
@COMMANDS
def test_hung_outbox_is_reported_and_the_event_sent_directly(process, plugin, words, status, call):
    """On a network file system without its server, a system call hangs."""
    plugin("good", handler_source("open('delivered', 'w').close(); return True"))
    site = pathlib.Path(os.environ["PYTHONPATH"])
    (site / "sitecustomize.py").write_text(HANGING_CALL.format(call=call))
    done = process(*with_options(words, "--handler", "good", "--outbox", "outbox", "--timeout", "4"))
    assert done.returncode == (status or 0)
    assert "cannot be kept in the outbox" in done.stderr
    assert "it did not answer within " in done.stderr
    assert os.path.exists("delivered")


def test_end_event_does_not_overtake_a_hung_start_event(process, plugin):
    send = """import threading
        if not event._closed:
            threading.Event().wait()
        with open('record', 'a') as record:
            record.write(f'{event._closed}\\n')
        return True"""
    plugin("hostile", handler_source(send))
    done = process(*with_both_handlers(["run", "n", "--", "true"], "--start", "--timeout", "6"))
    assert done.returncode == 0
    assert "start: hostile: not done within 6 s" in done.stderr
    assert pathlib.Path("record").read_text() == "True\n"
    assert len(stored_events()) == 2


def test_end_event_is_delivered_if_the_start_event_crashes_a_handler(process, plugin):
    plugin("hostile", handler_source("import os\n        event._closed or os._exit(7)\n        return True"))
    done = process(*with_both_handlers(["run", "n", "--", "true"], "--start"))
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert line == "e3-event run: start: hostile: its process ended with status 7; lost"
    assert len(stored_events()) == 2
