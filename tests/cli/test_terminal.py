"""The command among other processes: arguments, streams, signals, imports."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from cli.helpers import TO_FILES, handler, stored
from event._cli import main

BUFFERING = pytest.mark.parametrize("unbuffered", [pytest.param("", id="buffered"), pytest.param("1", id="unbuffered")])


@pytest.mark.skipif(os.name == "nt", reason="platform: arguments are text on Windows")
def test_bytes_that_are_no_text_do_not_crash(process, here):
    odd = os.fsdecode(b"\xff")
    (here / "file").write_text("x", "utf-8")
    done = process("send", f"n{odd}", f"k{odd}=v{odd}", "--attach", f"a{odd}=file", "--handler", f"file:{odd}=events")
    assert done.returncode == 0
    assert done.stderr.startswith("file:\\udcff: delivered")
    assert stored()[0][f"k{odd}"] == f"v{odd}"
    done = process("send", "n", f"x{odd}", *TO_FILES)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    done = process("send", "n", "--attach", odd, *TO_FILES)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)


def test_a_uid_that_the_terminal_cannot_show_is_escaped(process):
    env = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = process("send", "n", "--uid", "ü", *TO_FILES, env=env)
    assert (done.returncode, done.stdout) == (0, "\\xfc\n")


@pytest.mark.parametrize("args", [["send", "n", *TO_FILES], ["check"], ["--version"], ["--help"]], ids=lambda a: a[0])
@BUFFERING
def test_a_reader_that_has_gone_away_is_no_error(process, args, unbuffered):
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
def test_a_uid_that_cannot_be_written_is_one_line_and_status_1(process, unbuffered):
    env = {"PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as full:
        done = process("send", "n", *TO_FILES, stdout=full, env=env)
        assert done.returncode == 1
        assert done.stderr.splitlines()[1:] == ["e3-event: cannot write to stdout: No space left on device"]
        assert process("send", "n", "--handler", "file=more", stderr=full, env=env).returncode == 0


@pytest.mark.skipif(os.name == "nt", reason="platform: no sh")
def test_an_event_is_sent_where_stdout_and_stderr_are_closed(here):
    line = '"$0" -m event send n --handler file=events >&- 2>&-'
    assert subprocess.run(["sh", "-c", line, sys.executable], check=False).returncode == 0
    assert len(stored()) == 1


def test_an_interrupt_ends_quietly_with_status_130(process, plugin):
    plugin("slow", handler("raise KeyboardInterrupt"))
    done = process("send", "n", "--handler", "slow", *TO_FILES)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_an_error_that_nobody_foresaw_is_one_line(command, monkeypatch):
    monkeypatch.setattr("event._cli.send.run", lambda args: 1 / 0)
    assert command("send", "n") == (1, [], ["e3-event send: ZeroDivisionError: division by zero"])


def test_main_takes_the_arguments_of_the_process(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["e3-event", "--version"])
    assert main() == 0
    assert capsys.readouterr().out.startswith("e3-event ")


def test_the_version_is_unknown_where_the_package_is_not_installed(command, monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    assert command("--version") == (0, ["e3-event unknown"], [])


def test_importing_the_module_runs_nothing(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["e3-event", "sned"])
    import event.__main__  # noqa: F401


def test_sending_imports_no_other_command(here):
    code = "import sys; from event._cli import main; main(['send', 'n', '--handler', 'file=e']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {"event._cli.send", "event.handler.file"} <= loaded
    assert not {"event._cli.check", "importlib.metadata", "typing_extensions"} & loaded
