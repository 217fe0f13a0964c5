"""Claim owners: the owner string of a process, and whether the process still runs."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from event._outbox import current_owner, owner_is_dead

POSIX = pytest.mark.skipif(os.name == "nt", reason="platform: a process is not checked on Windows")
PROC = pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="platform: there is no /proc")
PRINT_OWNER = "import sys; from event._outbox import current_owner; print(current_owner())"


def run(code):
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_owner_string_has_machine_pid_and_start_time():
    machine, pid, start = current_owner().split("-")
    assert (len(machine), int(pid)) == (16, os.getpid())
    assert start.isdecimal() or not os.path.exists("/proc/self/stat")
    assert run(PRINT_OWNER).startswith(f"{machine}-")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="platform: Windows has no fork")
def test_forked_child_has_its_own_owner_string():
    code = """
import os
from event._outbox import current_owner
parent, pid = current_owner(), os.fork()
if pid == 0:
    os._exit(current_owner() == parent or current_owner().split("-")[1] != str(os.getpid()))
print(os.waitpid(pid, 0)[1], current_owner() == parent)
"""
    assert run(code) == "0 True"


def test_owner_string_is_safe_if_another_thread_clears_its_cache(monkeypatch):
    class ClearedDict(dict):
        def __setitem__(self, pid, name):
            pass

    expected = current_owner()
    monkeypatch.setattr("event._outbox.liveness._known", ClearedDict())
    assert current_owner() == expected


@PROC
def test_running_process_is_not_dead():
    assert owner_is_dead(current_owner()) is False


@POSIX
def test_ended_process_is_dead_at_once():
    assert owner_is_dead(run(PRINT_OWNER)) is True


@PROC
def test_ended_process_is_dead_before_its_parent_reaps_it():
    code = f"{PRINT_OWNER}; sys.stdout.flush()"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        owner = process.stdout.readline().strip()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # the process has ended, and is not reaped
        assert owner_is_dead(owner) is True


@PROC
def test_process_with_a_reused_pid_is_another_owner():
    machine, pid, start = current_owner().split("-")
    assert owner_is_dead(f"{machine}-{pid}-{int(start) - 1}") is True


@POSIX
def test_running_process_of_another_user_is_not_dead(monkeypatch):
    def refuse(pid, number):
        raise PermissionError(1, "not permitted")

    monkeypatch.setattr(os, "kill", refuse)  # a real process would need another user
    assert not owner_is_dead(current_owner())


def on_this_machine(rest):
    """Return an owner string with the id of this machine."""
    return f"{current_owner().partition('-')[0]}-{rest}"


@pytest.mark.parametrize(
    "owner",
    [
        pytest.param("0123456789abcdef-1-1", id="another machine"),
        pytest.param(on_this_machine("x-1"), id="not a process id"),
        pytest.param(on_this_machine(f"{10**30}-1"), id="too large a process id"),
        pytest.param(on_this_machine(f"{os.getpid()}-"), id="no start time", marks=POSIX),
        pytest.param("", id="empty"),
        pytest.param("x", id="not an owner"),
    ],
)
def test_owner_that_cannot_be_checked_is_unknown(owner):
    assert owner_is_dead(owner) is None


def test_machine_without_proc_is_identified_by_host_name(monkeypatch):
    def missing(*args, **kwargs):
        raise FileNotFoundError

    usual = current_owner()
    monkeypatch.setattr("event._outbox.liveness.open", missing, raising=False)
    monkeypatch.setattr("event._outbox.liveness._known", {})
    machine, pid, start = current_owner().split("-")
    assert (len(machine), int(pid), start) == (16, os.getpid(), "")
    assert machine != usual.partition("-")[0]
    assert owner_is_dead(current_owner()) is None
