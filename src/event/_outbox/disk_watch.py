"""Measure how long threads have been waiting for the outbox's disk, which may hang."""

from __future__ import annotations

import time
from threading import get_ident


class DiskWatch:
    """A context manager for each use of the disk. Threads may share it; one thread must not nest it."""

    def __init__(self) -> None:
        self._since: dict[int, float] = {}  # when each thread started using the disk, by thread id

    def __enter__(self) -> None:
        """Record that this thread starts using the disk."""
        self._since[get_ident()] = time.monotonic()

    def __exit__(self, *_args: object) -> None:
        """Record that this thread no longer uses the disk."""
        self._since.pop(get_ident(), None)

    def longest_wait(self) -> float:
        """Return how many seconds the longest-waiting thread has been using the disk; 0.0 if none is."""
        now = time.monotonic()
        return now - min([*self._since.values()], default=now)
