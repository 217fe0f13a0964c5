"""``--attach -``: stdin as an attachment."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import tempfile

import pytest

from cli.processes import started
from event._cli._support import stdin_file
from helpers.commands import TO_FILES, stored_event
from helpers.waiting import wait_until

POSIX = pytest.mark.skipif(os.name == "nt", reason="platform: Windows has no such signals")
PART = "e3-event send: only a part of stdin could be read and is attached: "


@pytest.fixture
def stdin(monkeypatch):
    """Return the writing end of a pipe that is stdin."""
    reader, writer = os.pipe()
    with open(reader) as reading, open(writer, "wb", buffering=0) as writing:
        monkeypatch.setattr(sys, "stdin", reading)
        yield writing


@pytest.mark.parametrize(("option", "name"), [("-", "stdin"), ("log=-", "log")])
def test_stdin_is_attached(process, here, option, name):
    done = process("send", "n", "--uid", "u", "--attach", option, *TO_FILES, input="all well\n")
    assert done.returncode == 0
    assert (here / "events/n-u" / name).read_text("utf-8") == "all well\n"


def test_closed_stdin_is_attached_as_an_empty_file(command, here, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    assert command("send", "n", "--uid", "u", "--attach", "-", *TO_FILES)[0] == 0
    assert (here / "events/n-u/stdin").read_bytes() == b""


def test_unreadable_stdin_does_not_lose_the_event(process, here):
    with (here / "log").open("wb") as stdin:  # which is open only for writing
        done = process("send", "n", "--uid", "u", "--attach", "-", *TO_FILES, stdin=stdin)
    assert (done.returncode, done.stdout) == (0, "u\n")
    assert "only a part of stdin could be read and is attached: bad file descriptor" in done.stderr
    assert (here / "events/n-u/stdin").read_bytes() == b""


def test_stdin_can_be_attached_only_once(command):
    status, _, err = command("send", "n", "--attach", "-", "--attach", "log=-", *TO_FILES)
    assert (status, "--attach: stdin can be attached once only" in err[0]) == (2, True)


@pytest.fixture
def megabyte(monkeypatch):
    """Limit the attached part of stdin to a megabyte."""
    monkeypatch.setattr(stdin_file, "LARGEST", 1 << 20)


@pytest.mark.parametrize(("strict", "status"), [([], 0), (["--strict"], 1)])
def test_only_a_part_of_a_large_stdin_is_attached(command, megabyte, monkeypatch, strict, status):
    with open("/dev/zero") as zeros:
        monkeypatch.setattr(sys, "stdin", zeros)
        done = command("send", "n", "--uid", "u", "--attach", "-", *strict, *TO_FILES)
    assert (done[0], done[2][0]) == (status, f"{PART}it is larger than 1 MiB")
    assert 1 << 20 <= pathlib.Path("events/n-u/stdin").stat().st_size < 2 << 20


def fill_disk(monkeypatch):
    monkeypatch.setattr(tempfile, "mkstemp", lambda **_kwargs: (os.open("/dev/full", os.O_WRONLY), ""))


def limit_size(monkeypatch):
    monkeypatch.setattr(stdin_file, "LARGEST", 1 << 20)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="platform: there is no /dev/full")
@pytest.mark.parametrize("change", [limit_size, fill_disk])
def test_command_that_writes_more_than_is_attached_does_not_fail(command, monkeypatch, change):
    change(monkeypatch)
    with subprocess.Popen([sys.executable, "-c", f"print('x' * {4 << 20})"], stdout=subprocess.PIPE) as writer:
        monkeypatch.setattr(sys, "stdin", writer.stdout)
        assert command("send", "n", "--attach", "-", *TO_FILES)[0] == 0
    assert writer.returncode == 0


def test_event_is_sent_without_stdin_if_there_is_no_temporary_directory(command, stdin, monkeypatch):
    stdin.close()
    monkeypatch.setattr(tempfile, "mkstemp", lambda **_kwargs: (_ for _ in ()).throw(FileNotFoundError(2, "gone")))
    status, _, err = command("send", "n", "--attach", "-", *TO_FILES)
    assert (status, err[0]) == (0, "e3-event send: stdin is not attached: gone")
    assert stored_event()["not_attached"] == ["stdin"]


def test_event_is_sent_if_stdin_is_closed_and_there_is_no_temporary_directory(command, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    monkeypatch.setattr(tempfile, "mkstemp", lambda **_kwargs: (_ for _ in ()).throw(FileNotFoundError(2, "gone")))
    assert command("send", "n", "--attach", "-", *TO_FILES)[0] == 0
    assert stored_event()["not_attached"] == ["stdin"]


@POSIX
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_signal_removes_the_temporary_file(here, name):
    number = getattr(signal, name)
    (here / "tmp").mkdir()
    options = ["--attach", "-", *TO_FILES]
    with started("send", "n", *options, stdin=subprocess.PIPE, env={"TMPDIR": str(here / "tmp")}) as background:
        background.popen.stdin.write("x" * (1 << 20))
        background.popen.stdin.flush()
        wait_until(lambda: any(file.stat().st_size for file in (here / "tmp").iterdir()))
        assert background.end(number) == (130 if name == "SIGINT" else -number)
        background.popen.stdin.close()
    assert list((here / "tmp").iterdir()) == []


@POSIX
def test_signal_that_removes_the_temporary_file_then_ends_the_process(stdin, monkeypatch):
    stdin.close()
    sent = []
    monkeypatch.setattr(os, "kill", lambda *args: sent.append((*args, signal.getsignal(signal.SIGTERM))))
    with stdin_file.StdinFile() as saved:
        signal.raise_signal(signal.SIGTERM)
        assert not os.path.exists(saved.path)
    assert sent == [(os.getpid(), signal.SIGTERM, signal.SIG_DFL)]


@POSIX
def test_ignored_signal_stays_ignored_while_stdin_is_read(stdin):
    stdin.close()
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stdin_file.StdinFile() as saved:
            os.kill(os.getpid(), signal.SIGHUP)
            assert os.path.exists(saved.path)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
