"""Stop a long-running command on SIGINT and SIGTERM: gracefully on the first signal, immediately on a later one."""

from __future__ import annotations

import signal
import threading
import time
from queue import Empty, SimpleQueue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing_extensions import Self

# Two signals within this time, in seconds, count as one: `timeout` and other tools signal a process and its group.
SAME_REQUEST = 0.3


class SignalFlag(threading.Event):
    """A flag that one thread waits for. Other threads and signal handlers can set it.

    The methods of `threading.Event` could deadlock: the thread that a signal handler interrupts may hold their lock.
    Putting into a `queue.SimpleQueue` is reentrant.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._bell: SimpleQueue[None] = SimpleQueue()

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
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


class GracefulShutdown:
    """Handles SIGINT and SIGTERM inside a ``with`` block.

    The first signal sets `requested`. A later one raises KeyboardInterrupt.

    :ivar status: the exit status for the first signal: 130 for SIGINT, as in a shell, else 0
    """

    def __init__(self) -> None:
        self.requested = SignalFlag()
        self.status = 0
        self._first = 0.0

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_args: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: object) -> None:
        now = time.monotonic()
        if not self.requested.is_set():
            self._first = now
            self.status = 130 if number == signal.SIGINT else 0
            self.requested.set()
        elif now - self._first > SAME_REQUEST:
            raise KeyboardInterrupt
