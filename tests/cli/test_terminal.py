"""The command line as a process: arguments, streams, interrupts and imported modules."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading

import pytest

import event
from event._cli import interrupt_again, main
from helpers.commands import TO_FILES, handler_source, stored_events

BUFFERING = pytest.mark.parametrize("unbuffered", [pytest.param("", id="buffered"), pytest.param("1", id="unbuffered")])


@pytest.mark.skipif(os.name == "nt", reason="platform: arguments are text on Windows")
def test_undecodable_arguments_do_not_crash(process, here):
    byte = os.fsdecode(b"\xff")
    (here / "file").write_text("x", "utf-8")
    done = process(
        "send", f"n{byte}", f"k{byte}=v{byte}", "--attach", f"a{byte}=file", "--handler", f"file:{byte}=events"
    )
    assert done.returncode == 0
    assert done.stderr.startswith("file:\\udcff: delivered")
    assert stored_events()[0]["k\\udcff"] == "v\\udcff"  # I-JSON allows no lone surrogate (RFC 7493, section 2.1)
    done = process("send", "n", f"x{byte}", *TO_FILES)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    done = process("send", "n", "--attach", byte, *TO_FILES)
    assert (done.returncode, len(done.stderr.splitlines())) == (0, 2)


def test_unprintable_uid_is_escaped(process):
    env = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = process("send", "n", "--uid", "ü", *TO_FILES, env=env)
    assert (done.returncode, done.stdout) == (0, "\\xfc\n")


@pytest.mark.parametrize("args", [["send", "n", *TO_FILES], ["check"], ["--version"], ["--help"]], ids=lambda a: a[0])
@BUFFERING
def test_closed_reader_is_no_error(process, args, unbuffered):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = process(*args, stdout=writer, env={"PYTHONUNBUFFERED": unbuffered})
    finally:
        os.close(writer)
    assert done.returncode == 0
    assert "Error" not in done.stderr
    assert "Exception" not in done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="platform: no /dev/full")
@BUFFERING
def test_uid_that_cannot_be_written_is_reported_and_does_not_change_the_status(process, unbuffered):
    env = {"PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as full:
        done = process("send", "n", *TO_FILES, stdout=full, env=env)
        assert done.returncode == 0
        assert done.stderr.splitlines()[1:] == ["e3-event: cannot write to stdout: No space left on device"]
        assert process("send", "n", "--handler", "file=more", stderr=full, env=env).returncode == 0
        assert process("outbox", "list", "--json", "--outbox", "ob", stdout=full, env=env).returncode == 1


@pytest.mark.skipif(os.name == "nt", reason="platform: no sh")
def test_event_is_sent_with_closed_stdout_and_stderr(here):
    line = '"$0" -m event send n --handler file=events >&- 2>&-'
    assert subprocess.run(["sh", "-c", line, sys.executable], check=False).returncode == 0
    assert len(stored_events()) == 1


@pytest.mark.skipif(os.name == "nt", reason="platform: no SIGINT")
@pytest.mark.usefixtures("unmeasured_children")
def test_interrupt_ends_the_command_quietly_with_status_130(here, plugin):
    os.mkfifo("begun")
    plugin("slow", handler_source("open('begun', 'w').close(); __import__('threading').Event().wait()"))
    args = [sys.executable, "-m", "event", "send", "n", "--handler", "slow", *TO_FILES]
    with subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        open("begun").close()
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60) == (b"", b"")
    assert process.returncode == 130


class InterruptedInCallback:
    def __del__(self):
        raise KeyboardInterrupt


def test_interrupt_that_python_ignores_is_raised_again(monkeypatch):
    def work():
        InterruptedInCallback()
        for _ in range(1200):
            threading.Event().wait(0.05)  # as the command waits for its worker

    monkeypatch.setattr(sys, "unraisablehook", interrupt_again)
    with pytest.raises(KeyboardInterrupt):
        work()


def test_other_errors_that_python_ignores_are_printed(monkeypatch, capsys):
    class Broken:
        def __del__(self):
            raise ValueError("no interrupt")

    monkeypatch.setattr(sys, "unraisablehook", interrupt_again)
    Broken()
    assert "ValueError: no interrupt" in capsys.readouterr().err


def test_interrupted_command_has_the_status_of_the_interrupt(command, monkeypatch):
    def interrupt(_args):
        raise KeyboardInterrupt

    monkeypatch.setattr("event._cli.send.run", interrupt)
    assert command("send", "n") == (130, [], [])


def test_unexpected_error_prints_one_line(command, monkeypatch):
    monkeypatch.setattr("event._cli.send.run", lambda args: 1 / 0)
    assert command("send", "n") == (1, [], ["e3-event send: ZeroDivisionError: division by zero"])


def test_main_uses_the_arguments_of_the_process(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["e3-event", "--version"])
    assert main() == 0
    assert capsys.readouterr().out.startswith("e3-event ")


@pytest.mark.skipif(sys.platform != "linux", reason="platform: elsewhere no worker is forked")
def test_failed_early_worker_start_is_retried_on_demand(monkeypatch, here):
    def fail():
        raise OSError(errno.EAGAIN, "no more processes")

    monkeypatch.setattr(os, "fork", fail)
    monkeypatch.setattr(sys, "argv", ["e3-event", "send", "n", *TO_FILES])
    assert main() == 0
    assert len(stored_events()) == 1


@pytest.mark.parametrize(("option", "first"), [("--version", "e3-event "), ("--help", "usage: e3-event ")])
def test_arguments_after_version_or_help_are_ignored(command, option, first):
    status, out, err = command(option, "--", "send")
    assert (status, err) == (0, [])
    assert out[0].startswith(first)
    assert out == command(option)[1]


def test_importing_the_module_runs_nothing(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["e3-event", "sned"])
    import event.__main__  # noqa: F401


def imported_modules(*args):
    """Return the modules that a command imports in its own process, except those that `import event` imports."""
    package = os.path.dirname(event.__path__[0])
    code = (
        f"import sys; sys.path.insert(0, {package!r}); import event; before = set(sys.modules)\n"
        "from event._cli import main; status = main(); print(); print(*set(sys.modules) - before); sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code, *args], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_version_option_imports_four_modules():
    names = {"event._cli", "event._cli._support", "event._cli._support.terminal", "event._version"}
    assert imported_modules("--version") == names


def test_help_option_imports_no_command():
    assert imported_modules("--help") == {
        "event._cli",
        "event._cli._support",
        "event._cli._support.help_text",
        "event._cli._support.terminal",
    }


@pytest.mark.skipif(sys.platform != "linux", reason="platform: elsewhere the worker is another interpreter")
def test_send_imports_no_handler_and_no_slow_module_in_its_process(here):
    names = imported_modules("send", "n", *TO_FILES)
    assert {name for name in names if name.startswith("event")} == {
        "event._cli",
        "event._cli._support",
        "event._cli._support.arguments",
        "event._cli._support.fast_parser",
        "event._cli._support.handler_options",
        "event._cli._support.settings",
        "event._cli._support.terminal",
        "event._cli.send",
        "event._fast_signal",
        "event._files",
        "event._handler_config",
        "event._places",
        "event._trace_context",
        "event._worker",
        "event._worker.parent",
        "event._worker.protocol",
        "event._worker.results",
        "event._worker.system",
        "event._worker.sending",
    }
    costly = {"argparse", "gettext", "hashlib", "importlib.metadata", "logging", "shutil", "subprocess", "threading"}
    assert not costly & names
    assert len(stored_events()) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="platform: elsewhere the worker is another interpreter")
def test_run_imports_no_handler_and_no_slow_module_in_its_process(here):
    names = imported_modules("run", "n", *TO_FILES, "--", "true")
    assert not {name for name in names if name.startswith(("event.handler", "event._outbox", "event._dispatch"))}
    assert not {"argparse", "gettext", "hashlib", "importlib.metadata", "logging", "shutil", "subprocess"} & names
    assert len(stored_events()) == 1
