"""How long threads have been waiting for the outbox's disk."""

from __future__ import annotations

import time
from threading import get_ident


class DiskWatch:
    """Context manager around each use of the disk, shared by threads; not reentrant in one thread."""

    def __init__(self) -> None:
        self._since: dict[int, float] = {}  # when a thread began, by its id

    def __enter__(self) -> None:
        """Note that this thread begins."""
        self._since[get_ident()] = time.monotonic()

    def __exit__(self, *_args: object) -> None:
        """Note that it is done."""
        self._since.pop(get_ident(), None)

    def longest_wait(self) -> float:
        """Return for how many seconds the thread that has waited longest has been waiting."""
        now = time.monotonic()
        return now - min([*self._since.values()], default=now)
