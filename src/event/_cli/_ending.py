"""The signals that end a command which stays: the first one asks it to end, a later one insists."""

from __future__ import annotations

import signal
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# Seconds within which two signals are one wish: `timeout`, and others that supervise, signal a process and its group.
SAME = 0.3


class Ending:
    """Takes SIGINT and SIGTERM inside a ``with`` block; one that comes later than the first is a KeyboardInterrupt.

    :param end: called with the first one
    :ivar status: the exit status that the first one makes, 130 for SIGINT as a shell has it; else 0
    """

    def __init__(self, end: Callable[[], None]) -> None:
        self.status = 0
        self._end = end
        self._first = 0.0

    def __enter__(self) -> None:
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}

    def __exit__(self, *_args: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: object) -> None:
        now = time.monotonic()
        if not self._first:
            self._first = now
            self.status = 130 if number == signal.SIGINT else 0
            self._end()
        elif now - self._first > SAME:
            raise KeyboardInterrupt
