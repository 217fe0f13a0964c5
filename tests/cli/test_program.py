"""The program ``e3-event``: it imports its own package, starts and exits quickly, and collects garbage."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

import _e3_event
import event
from event import _cli
from event._cli._support import terminal
from event._worker import Worker
from helpers.commands import TO_FILES, handler_source, stored_events
from helpers.waiting import SECONDS

PROGRAM = os.path.join(os.path.dirname(sys.executable), "e3-event")


@pytest.mark.skipif(os.name == "nt", reason="platform: the commands are those of a POSIX system")
@pytest.mark.parametrize("module", ["event.py", "event/__init__.py", "json.py", "queue.py"])
@pytest.mark.parametrize("command", ["send", "run"])
def test_module_of_the_build_does_not_shadow_the_package(tmp_path, monkeypatch, module, command):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "lib" / module
    path.parent.mkdir(parents=True)
    path.write_text("raise SystemError('the module of the build was imported')")
    more = {"send": [], "run": ["--", "sh", "-c", "echo $PYTHONPATH >&2"]}[command]
    args = [PROGRAM, command, "n", *TO_FILES, *more]
    done = subprocess.run(args, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": "lib"}, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith({"send": "file: delivered in ", "run": "lib\n"}[command])
    assert len(stored_events()) == 1


@pytest.mark.skipif(os.name == "nt", reason="platform: the commands are those of a POSIX system")
def test_interactive_interpreter_exits_with_the_status_of_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONINSPECT", "1")
    args = [PROGRAM, "run", "n", *TO_FILES, "--", "sh", "-c", "exit 7"]
    done = subprocess.run(args, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (7, "", "")
    assert len(stored_events()) == 1


def test_program_exits_despite_pythoninspect(monkeypatch):
    statuses = []
    monkeypatch.setattr(_e3_event, "_import_program", lambda: lambda: 7)
    monkeypatch.setattr(sys, "flags", SimpleNamespace(inspect=1))
    monkeypatch.setattr(os, "_exit", statuses.append)
    assert _e3_event.main() == 7
    assert statuses == [7]


@pytest.fixture
def without_event(monkeypatch):
    """Let the import of the package fail."""

    def fail():
        raise ImportError("no package")

    monkeypatch.setattr(_e3_event, "_import_program", fail)


def test_run_executes_its_command_without_the_package(without_event, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(os, "execvp", lambda *args: calls.append(args))
    monkeypatch.setattr(sys, "argv", ["e3-event", "run", "n", "--", "make", "-j"])
    monkeypatch.setattr(sys, "platform", "linux")
    _e3_event.main()
    assert calls == [("make", ["make", "-j"])]
    assert capsys.readouterr().err == "e3-event run: the command runs without an event: ImportError: no package\n"


@pytest.mark.parametrize(("error", "status"), [(FileNotFoundError(2, "gone"), 127), (PermissionError(13, "no"), 126)])
def test_run_without_the_package_exits_like_a_shell(without_event, monkeypatch, capsys, error, status):
    def fail(*_args):
        raise error

    monkeypatch.setattr(os, "execvp", fail)
    monkeypatch.setattr(sys, "argv", ["e3-event", "run", "n", "--", "make"])
    monkeypatch.setattr(sys, "platform", "linux")
    assert _e3_event.main() == status
    assert capsys.readouterr().err.endswith(f"e3-event run: make: {error.strerror}\n")


@pytest.mark.parametrize("args", [["send", "n"], ["run", "n"], ["run", "n", "--"]])
def test_other_commands_fail_without_the_package(without_event, monkeypatch, capsys, args):
    monkeypatch.setattr(sys, "argv", ["e3-event", *args])
    assert _e3_event.main() == 1
    assert capsys.readouterr().err == "e3-event: ImportError: no package\n"


def test_program_calls_the_command_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["e3-event", "--version"])
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(_cli, "_is_run_by_another_program", lambda: True)  # otherwise it would end this process
    assert _e3_event.main() == 0
    assert capsys.readouterr().out.startswith("e3-event ")


# The program skips the interpreter's normal exit, unless other code depends on it.


def test_program_exits_without_freeing_its_memory():
    code = (
        f"import os, sys; sys.path.insert(0, {os.path.dirname(event.__path__[0])!r})\n"
        "class Freed:\n    def __del__(self, write=os.write): write(1, b'freed')\nfreed = Freed()\n"
        "from event._cli import program; sys.exit(program())"
    )
    args = [sys.executable, "-I", "-S", "-c", code, "--version"]
    done = subprocess.run(args, capture_output=True, text=True, check=True)
    assert done.stdout == f"e3-event {event.__version__}\n"


def test_exit_functions_of_the_environment_run(tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text("import atexit; atexit.register(print, 'bye')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True).stdout.endswith("bye\n")


# The environment's interpreter may have threads before the program begins.

WATCHDOG = "import faulthandler; faulthandler.dump_traceback_later(1000)"


@pytest.fixture
def sitecustomize(here, monkeypatch):
    """Return a function that lets each interpreter run some code at its start."""
    monkeypatch.setenv("PYTHONPATH", str(here))
    return (here / "sitecustomize.py").write_text


@pytest.mark.skipif(sys.platform != "linux", reason="platform: the command forks on Linux only")
@pytest.mark.parametrize(
    "words", [("send", "n"), ("run", "n", "--", sys.executable, "-c", "")], ids=lambda words: words[0]
)
def test_thread_of_the_environment_does_not_block_the_worker(process, sitecustomize, words):
    sitecustomize(WATCHDOG)
    done = process(*words[:2], "--outbox", "outbox", *TO_FILES, "--quiet", *words[2:])
    assert (done.returncode, done.stderr) == (0, "")
    assert len(stored_events()) == 1


@pytest.mark.skipif(os.name == "nt", reason="platform: the commands are those of a POSIX system")
def test_thread_of_the_environment_does_not_keep_the_command_running(here, sitecustomize):
    sitecustomize("import threading, time; threading.Thread(target=time.sleep, args=(1000,)).start()")
    args = [PROGRAM, "run", "n", *TO_FILES, "--", "sh", "-c", "exit 3"]
    with subprocess.Popen(args, stderr=subprocess.PIPE) as process:
        try:
            assert process.wait(SECONDS) == 3
        finally:
            process.kill()
        assert process.stderr.read() == b""
    assert len(stored_events()) == 1


def test_program_exits_at_once_if_its_exit_cannot_be_limited(monkeypatch):
    def fail(*_args):
        raise RuntimeError("can't start new thread")

    statuses = []
    monkeypatch.setattr(_cli, "main", lambda: 7)
    monkeypatch.setattr(_cli, "_is_run_by_another_program", lambda: False)
    monkeypatch.setattr(_cli, "start_new_thread", fail)
    monkeypatch.setattr(os, "_exit", statuses.append)
    assert _cli.program() == 7
    assert statuses == [7]


def test_worker_is_forked_if_the_threads_are_unknown(monkeypatch):
    def fail(_path):
        raise FileNotFoundError

    monkeypatch.setattr(os, "stat", fail)
    monkeypatch.setattr(Worker, "fork", lambda: None)
    assert _cli._fork_worker() == (None, True)


def test_profiler_gets_control_back():
    args = [sys.executable, "-m", "cProfile", "-m", "event", "--version"]
    assert "function calls" in subprocess.run(args, capture_output=True, text=True, check=True).stdout


def test_worker_exits_normally_since_plugins_may_depend_on_it(monkeypatch):
    monkeypatch.setattr(_cli, "main", lambda: 0)
    monkeypatch.setattr(_cli, "_is_run_by_another_program", lambda: False)
    monkeypatch.setattr(_cli, "_exit_only_frees_memory", lambda: True)
    monkeypatch.setattr(os, "getpid", iter([1, 2]).__next__)
    monkeypatch.setattr(os, "_exit", lambda status: pytest.fail(f"exits at once, with {status}"))
    assert _cli.program() == 0


def test_program_flushes_stdout_before_it_exits(monkeypatch):
    calls = []
    monkeypatch.setattr(_cli, "main", lambda: 7)
    monkeypatch.setattr(_cli, "_is_run_by_another_program", lambda: False)
    monkeypatch.setattr(_cli, "_exit_only_frees_memory", lambda: True)
    monkeypatch.setattr(terminal, "flush_out", lambda: calls.append("flush"))
    monkeypatch.setattr(os, "_exit", calls.append)
    assert _cli.program() == 7
    assert calls == ["flush", 7]


def test_garbage_is_collected_while_a_handler_runs(process, plugin):
    plugin("checks", handler_source("import gc; return gc.isenabled()"))
    assert process("send", "n", "--handler", "checks").returncode == 0


@pytest.mark.parametrize("args", [["check"], ["outbox", "list"]], ids=" ".join)
def test_command_collects_garbage_but_not_what_was_imported(here, args):
    code = f"import gc, sys; sys.argv[1:] = {args}; from event._cli import main; main()"
    code += "; print(gc.isenabled(), gc.get_freeze_count() > 1000)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "True True"


def test_garbage_collection_of_another_program_is_unchanged(command):
    frozen = gc.get_freeze_count()
    command("check")
    assert gc.get_freeze_count() <= frozen
