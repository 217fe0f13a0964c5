"""A flag for those who wait, which the handler of a signal may set."""

from __future__ import annotations

import threading
from queue import Empty, SimpleQueue


class SignalFlag(threading.Event):
    """A flag that one thread waits for, and that is set by others, or by a signal that interrupts the wait itself.

    threading's own flag has a lock. A signal that comes while the waiting thread holds it would wait for that lock, in
    that thread, for ever. Putting into a `queue.SimpleQueue` is reentrant.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._bell: SimpleQueue[None] = SimpleQueue()

    def is_set(self) -> bool:
        """Tell whether it is set."""
        return self._is_set

    def set(self) -> None:
        """Set it, and end the wait."""
        self._is_set = True
        self._bell.put(None)

    def clear(self) -> None:
        """Take it back. What sets it meanwhile may end the next wait early, or not at all."""
        self._is_set = False
        while not self._bell.empty():
            self._bell.get()  # nobody else gets

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set, or for some seconds; return whether it is."""
        if not self._is_set:
            try:
                self._bell.get(timeout=timeout)
            except Empty:
                pass
        return self._is_set
