"""Which process has claimed an entry, and whether it still runs."""

from __future__ import annotations

import os
import sys

_known: dict[int, str] = {}


def current_owner() -> str:
    """Return the owner string of the current process, ``MACHINE-PID-START``. After fork(), the child has its own."""
    pid = os.getpid()
    name = _known.get(pid)
    if name is None:
        name = f"{_machine()}-{pid}-{_start_time(pid)}"
        _known.clear()  # of what a parent process knew
        _known[pid] = name
    return name


def owner_is_dead(owner: str) -> bool | None:
    """Return whether the owner's process has ended; None if this process cannot tell, as for another machine.

    :param owner: what `current_owner` returned there
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
        pass  # it runs, as another user's
    present = _start_time(int(pid))
    return present != start if start and present else None


def _start_time(pid: int) -> str:
    """Return when a process began, in ticks since boot (proc(5)): it distinguishes processes that share a number.

    :return: "ended" for a process that its parent has not waited for yet; "" if the system does not say
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return "ended" if fields[0] in {b"Z", b"X"} else fields[19].decode()
    except (OSError, IndexError):
        return ""


def _machine() -> str:
    """Return an id of the boot and the process namespace, or else of the host: within it, processes see each other."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            boot = file.read().replace(b"-", b"")
        namespace = os.readlink("/proc/self/ns/pid").strip("pid:[]")
        return f"{int(boot[:16], 16) ^ int(namespace):016x}"  # no hashlib: its import costs more than to send an event
    except (OSError, ValueError):
        from hashlib import sha256

        host = os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "")
        return sha256(f"{sys.platform} {host}".encode()).hexdigest()[:16]
