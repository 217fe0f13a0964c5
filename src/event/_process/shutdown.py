"""Stop a long-running command on SIGINT and SIGTERM: gracefully on the first signal, immediately on a later one."""

from __future__ import annotations

import signal
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

# Two signals within this time, in seconds, count as one: `timeout` and other tools signal a process and its group.
SAME_REQUEST = 0.3


class GracefulShutdown:
    """Handles SIGINT and SIGTERM inside a ``with`` block.

    The first signal sets `requested`. A later one raises KeyboardInterrupt.

    :param wake: called in the signal handler, for the first signal
    :ivar requested: whether a signal was received
    :ivar status: the exit status for the first signal: 130 for SIGINT, as in a shell, else 0
    """

    def __init__(self, wake: Callable[[], None] | None = None) -> None:
        self.requested = False
        self.status = 0
        self._wake = wake
        self._first = 0.0

    def __enter__(self) -> Self:
        """Install the signal handlers."""
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_args: object) -> None:
        """Restore the previous signal handlers."""
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
