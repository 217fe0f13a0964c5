"""Who has claimed an entry, and whether that process still runs."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from event import _owner

POSIX = pytest.mark.skipif(os.name == "nt", reason="platform: Windows asks no process whether it runs")
PROC = pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="platform: there is no /proc")
NOW = 1_800_000_000.0


@pytest.fixture
def path(tmp_path):
    """A claim that was touched at NOW."""
    os.utime(tmp_path, (NOW, NOW))
    return str(tmp_path)


def run(code):
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_a_process_is_named_by_machine_number_and_beginning():
    machine, pid, start = _owner.me().split("-")
    assert (len(machine), int(pid)) == (16, os.getpid())
    assert start.isdecimal() or not os.path.exists("/proc/self/stat")
    assert run("from event._owner import me; print(me())").startswith(f"{machine}-")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="platform: Windows has no fork")
def test_a_forked_child_is_another():
    code = """
import os
from event._owner import me
parent, pid = me(), os.fork()
if pid == 0:
    os._exit(me() == parent or me().split("-")[1] != str(os.getpid()))
print(os.waitpid(pid, 0)[1], me() == parent)
"""
    assert run(code) == "0 True"


def test_a_thread_that_forgets_the_name_meanwhile_does_no_harm(monkeypatch):
    class Forgetful(dict):
        """As where another thread, which asks first too, clears it at once."""

        def __setitem__(self, pid, name):
            pass

    expected = _owner.me()
    monkeypatch.setattr(_owner, "_known", Forgetful())
    assert _owner.me() == expected


@POSIX
def test_a_process_that_runs_is_not_gone_however_long_it_takes(path):
    if os.path.exists("/proc/self/stat"):
        assert not _owner.gone(_owner.me(), path, NOW + 1e6, 60)
    assert not _owner.gone(_owner.me(), path, NOW, 60)


@POSIX
def test_a_process_that_has_ended_is_gone_at_once(path):
    assert _owner.gone(run("from event._owner import me; print(me())"), path, NOW, 60)


@PROC
def test_a_process_that_has_ended_is_gone_before_its_parent_has_noticed(path):
    code = "from event._owner import me; print(me(), flush=True)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        owner = process.stdout.readline().strip()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is not waited for
        assert _owner.gone(owner, path, NOW, 60)


@PROC
def test_a_process_that_took_a_dead_one_s_number_is_told_apart(path):
    machine, pid, start = _owner.me().split("-")
    assert _owner.gone(f"{machine}-{pid}-{int(start) - 1}", path, NOW, 60)


@POSIX
def test_another_user_s_process_runs(path, monkeypatch):
    def refuse(pid, number):
        raise PermissionError(1, "not permitted")

    monkeypatch.setattr(os, "kill", refuse)  # to run one would need a second user
    assert not _owner.gone(_owner.me(), path, NOW, 60)


@POSIX
def test_a_number_beyond_all_processes_is_judged_by_the_lease(path):
    owner = f"{_owner.me().partition('-')[0]}-{10**30}-1"
    assert not _owner.gone(owner, path, NOW, 60)
    assert _owner.gone(owner, path, NOW + 61, 60)


@pytest.mark.parametrize(
    "owner",
    [
        pytest.param("0123456789abcdef-1-1", id="another machine"),
        pytest.param(f"{_owner.me().partition('-')[0]}-x-1", id="no number"),
        pytest.param(
            f"{_owner.me().partition('-')[0]}-{os.getpid()}-", id="a system that does not tell when", marks=POSIX
        ),
        pytest.param("", id="nobody"),
        pytest.param("x", id="nonsense"),
    ],
)
def test_where_the_process_cannot_be_asked_after_a_claim_holds_for_the_lease(path, owner):
    assert not _owner.gone(owner, path, NOW + 60, 60)
    assert _owner.gone(owner, path, NOW + 61, 60)
    assert not _owner.gone(owner, path + "/moved on", NOW + 61, 60)


def test_a_system_without_proc_goes_by_its_name(monkeypatch):
    def missing(*args, **kwargs):
        raise FileNotFoundError

    there = _owner._machine()
    assert there == _owner._machine()
    monkeypatch.setattr(_owner, "open", missing, raising=False)
    elsewhere = _owner._machine()
    assert (len(elsewhere), elsewhere == there) == (16, False)
    assert _owner._start(os.getpid()) == ""
