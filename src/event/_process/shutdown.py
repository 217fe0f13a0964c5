"""The signals that end a command which stays: the first one asks it to end, a later one insists."""

from __future__ import annotations

import signal
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

# Seconds within which two signals are one wish: `timeout`, and others that supervise, signal a process and its group.
SAME_REQUEST = 0.3


class GracefulShutdown:
    """Takes SIGINT and SIGTERM inside a ``with`` block; one that comes later than the first is a KeyboardInterrupt.

    :param wake: called with the first one, in the handler of the signal
    :ivar requested: whether one has come
    :ivar status: the exit status that the first one makes, 130 for SIGINT as a shell has it; else 0
    """

    def __init__(self, wake: Callable[[], None] | None = None) -> None:
        self.requested = False
        self.status = 0
        self._wake = wake
        self._first = 0.0

    def __enter__(self) -> Self:
        """Begin."""
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_args: object) -> None:
        """Leave the signals as they were."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: object) -> None:
        now = time.monotonic()
        if not self.requested:
            self.requested = True
            self._first = now
            self.status = 130 if number == signal.SIGINT else 0
            if self._wake:
                self._wake()
        elif now - self._first > SAME_REQUEST:
            raise KeyboardInterrupt
