"""Who has claimed an entry of the outbox, and whether that process still runs."""

from __future__ import annotations

import os
import sys

_known: dict[int, str] = {}


def me() -> str:
    """Return this process as ``MACHINE-PID-START``; a forked child is another."""
    pid = os.getpid()
    name = _known.get(pid)
    if name is None:
        name = f"{_machine()}-{pid}-{_start(pid)}"
        _known.clear()  # of what a parent process knew
        _known[pid] = name
    return name


def gone(owner: str, path: str, now: float, lease: float) -> bool:
    """Tell whether an owner's process has ended.

    :param owner: what `me` returned there
    :param path: what it has claimed; where the process cannot be asked after, a claim holds for the lease
    :param now: the file server's time, in seconds since 1970 UTC
    :param lease: how long an untouched claim holds, in seconds
    """
    machine, pid, start, *_ = (*owner.split("-"), "", "", "")
    if pid.isdecimal() and machine == me().partition("-")[0] and os.name == "posix":
        if not _runs(int(pid)):
            return True
        if start and (present := _start(int(pid))):
            return present != start
    try:
        return now - os.lstat(path).st_mtime > lease
    except OSError:
        return False  # it has moved on


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True  # another user's
    return True


def _start(pid: int) -> str:
    """Return when a process began, in ticks since boot (proc(5)), so that a reused pid is told apart.

    :return: "ended" for a process that nobody has waited for yet; "" where the system does not tell
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return "ended" if fields[0] in {b"Z", b"X"} else fields[19].decode()
    except (OSError, IndexError):
        return ""


def _machine() -> str:
    """Return what processes share that can see each other: the boot and the process namespace, else the host name."""
    from hashlib import sha256

    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            name = file.read().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:
        name = f"{sys.platform} {os.uname().nodename if hasattr(os, 'uname') else os.environ.get('COMPUTERNAME', '')}"
    return sha256(name.encode()).hexdigest()[:16]
