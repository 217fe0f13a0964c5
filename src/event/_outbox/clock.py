"""A thread that calls a function periodically, for the timeouts of a delivery pool."""

from __future__ import annotations

import time
from threading import Condition, Thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Lock


class Clock:
    """Call `check` at each tick, in a thread that sleeps while `is_needed` returns False.

    :param tick: seconds between two calls
    :param lock: the lock that callers of `wake` and `close` must hold
    :param is_needed: returns whether there is something to check; called with the lock held
    :param check: called without the lock
    """

    def __init__(self, tick: float, lock: Lock, is_needed: Callable[[], bool], check: Callable[[], None]) -> None:
        self._tick = tick
        self._needed = Condition(lock)
        self._is_needed = is_needed
        self._check = check
        self._is_closed = False
        Thread(target=self._run, name="event pool clock", daemon=True).start()

    def wake(self) -> None:
        """Wake the thread, because there is something to check."""
        self._needed.notify()

    def close(self) -> None:
        """Stop the thread, without waiting for it."""
        self._is_closed = True
        self._needed.notify()

    def _run(self) -> None:
        while not self._is_closed:
            with self._needed:
                if not self._is_needed():
                    self._needed.wait()
            time.sleep(self._tick)
            self._check()
