"""A flag to wait for, which a signal handler may set."""

from __future__ import annotations

import threading
from queue import Empty, SimpleQueue


class SignalFlag(threading.Event):
    """A flag that one thread waits for. Other threads and signal handlers can set it.

    The methods of `threading.Event` could deadlock: the thread that a signal handler interrupts may hold their lock.
    Putting into a `queue.SimpleQueue` is reentrant.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._bell: SimpleQueue[None] = SimpleQueue()

    def is_set(self) -> bool:
        """Return whether the flag is set."""
        return self._is_set

    def set(self) -> None:
        """Set the flag, and end the wait."""
        self._is_set = True
        self._bell.put(None)

    def clear(self) -> None:
        """Clear the flag. If it is set at the same time, the next wait may or may not end early."""
        self._is_set = False
        while not self._bell.empty():
            self._bell.get()  # no other thread calls get

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the flag is set, or for some seconds; return whether it is set."""
        if not self._is_set:
            try:
                self._bell.get(timeout=timeout)
            except Empty:
                pass
        return self._is_set
