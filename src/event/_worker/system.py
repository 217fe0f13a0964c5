"""Create and await the pipes between a command and its worker, and limit the memory of the worker."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

MEMORY_LIMIT = 2 << 30  # bytes that a worker may use, or half of the machine's memory if that is less


def make_pipes() -> tuple[int, int, int, int]:
    """Create two pipes, for jobs and for reports; return both ends of each.

    :raises OSError: too many files are open
    """
    jobs = os.pipe()
    try:
        return (*map(_above_standard, jobs), *map(_above_standard, os.pipe()))  # type: ignore[return-value]
    except OSError:
        for fd in jobs:
            os.close(fd)
        raise


def memory_of(pid: int) -> int:
    """Return how many bytes of memory a process uses, from /proc (proc(5)); 0 if that is not available."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


def memory_limit() -> int:
    """Return how many bytes of memory a worker may use."""
    try:
        return min(MEMORY_LIMIT, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
    except (AttributeError, OSError, ValueError):  # pragma: no cover  # platform: Windows has no sysconf
        return MEMORY_LIMIT


def _above_standard(fd: int) -> int:
    """Return a descriptor above 2. If this process was started without stdin, stdout or stderr, `fd` may be lower."""
    if fd > 2:
        return fd
    from event._process.signals import above_standard

    return above_standard(fd)


if sys.platform == "win32":  # pragma: no cover  # platform: Windows has no poll for pipes
    import time

    def set_nonblocking(fd: int) -> None:  # same signature as on the other platforms
        pass

    def readable(fds: Collection[int], seconds: float) -> set[int]:
        import msvcrt
        from _winapi import PeekNamedPipe

        deadline = time.monotonic() + seconds
        while True:
            ready = set()
            for fd in fds:
                try:
                    if PeekNamedPipe(msvcrt.get_osfhandle(fd), 0)[0]:
                        ready.add(fd)
                except OSError:
                    ready.add(fd)  # the pipe is closed, which reading then finds
            if ready or time.monotonic() >= deadline:
                return ready
            time.sleep(0.01)

else:
    from select import POLLIN, poll

    def set_nonblocking(fd: int) -> None:
        """Make operations on a pipe fail instead of waiting; on Windows, do nothing."""
        os.set_blocking(fd, False)

    def readable(fds: Collection[int], seconds: float) -> set[int]:
        """Return the pipes that can be read or are closed; wait until there is one, for some seconds at most."""
        poller = poll()
        for fd in fds:
            poller.register(fd, POLLIN)
        return {fd for fd, _ in poller.poll(seconds * 1000)}
