"""Identify the process that has claimed an entry, and check whether it is still running."""

from __future__ import annotations

import os
import sys

_known: dict[int, str] = {}


def current_owner() -> str:
    """Return the owner string of the current process, ``MACHINE-PID-START``. After fork(), the child gets its own."""
    pid = os.getpid()
    name = _known.get(pid)
    if name is None:
        name = f"{_machine()}-{pid}-{_start_time(pid)}"
        _known.clear()  # removes the parent's string after a fork
        _known[pid] = name
    return name


def has_owner(text: str) -> bool:
    """Return whether a text begins with an owner string, as the names in tmp/ and claimed/ do after the entry's id."""
    machine, pid, *rest = (*text.split("-"), "")
    return len(machine) == 16 and machine.isalnum() and pid.isdecimal() and len(rest) >= 2


def owner_is_dead(owner: str) -> bool | None:
    """Return whether a claim owner's process has ended; None if that is unknown, as for another machine.

    :param owner: the owner's string from `current_owner`
    """
    machine, pid, start, *_ = (*owner.split("-"), "", "", "")
    if os.name != "posix" or not pid.isdecimal() or machine != current_owner().partition("-")[0]:
        return None
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OverflowError:
        return None
    except OSError:
        pass  # the process is running and belongs to another user
    present = _start_time(int(pid))
    return present != start if start and present else None


def _start_time(pid: int) -> str:
    """Return when a process started, in ticks since boot (proc(5)). It distinguishes processes with the same id.

    :return: "ended" for a zombie process; "" if the start time is not available
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return "ended" if fields[0] in {b"Z", b"X"} else fields[19].decode()
    except (OSError, IndexError):
        return ""


def _machine() -> str:
    """Return an id of the current boot and process namespace, or if that is not available, of the host.

    Processes with the same id can check whether the others are running.
    """
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            boot = file.read().replace(b"-", b"")
        namespace = os.readlink("/proc/self/ns/pid").strip("pid:[]")
        return f"{int(boot[:16], 16) ^ int(namespace):016x}"  # importing hashlib takes longer than sending
    except (OSError, ValueError):
        from hashlib import sha256

        host = os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "")
        return sha256(f"{sys.platform} {host}".encode()).hexdigest()[:16]
