"""The clock of a delivery pool."""

from __future__ import annotations

import time
from threading import Condition, Thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Lock


class Clock:
    """A thread that checks at each tick, and sleeps while there is nothing to check.

    :param tick: in seconds
    :param lock: held by whoever calls `wake` or `close`
    :param is_needed: whether there is something to check; called with the lock held
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
        """Go on, as there is something to check."""
        self._needed.notify()

    def close(self) -> None:
        """Let the thread end."""
        self._is_closed = True
        self._needed.notify()

    def _run(self) -> None:
        while not self._is_closed:
            with self._needed:
                if not self._is_needed():
                    self._needed.wait()
            time.sleep(self._tick)
            self._check()
