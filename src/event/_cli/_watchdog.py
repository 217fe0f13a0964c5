"""Ends a process in which a handler lets no other thread run: in C without end, as a regular expression may be.

No thread of Python could: each waits for the same interpreter. The timer of faulthandler is one of C.
"""

from __future__ import annotations

import faulthandler
import os
import sys
from threading import Event, Thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

    from typing_extensions import Self

_GRACE = 5.0  # seconds
_PULSE = 1.0  # seconds


class Watchdog:
    """Inside a ``with`` block, the process ends with status 1 once its threads have not run for too long.

    Where they stood goes to stderr: files and lines, no values.

    :param timeout: seconds that a handler has
    """

    def __init__(self, timeout: float) -> None:
        self._patience = 2 * timeout + _GRACE
        self._over = Event()
        self._pulse = Thread(target=self._beat, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        """Begin."""
        self._nowhere = open(os.devnull, "w")  # the timer may write to it until the end of the block
        self._arm()
        self._pulse.start()
        return self

    def __exit__(self, *_args: object) -> None:
        """Let the process live."""
        self._over.set()
        self._pulse.join()
        faulthandler.cancel_dump_traceback_later()
        self._nowhere.close()

    def _beat(self) -> None:
        while not self._over.wait(_PULSE):
            self._arm()

    def _arm(self) -> None:
        faulthandler.dump_traceback_later(self._patience, exit=True, file=self._target())

    def _target(self) -> TextIO:
        try:
            os.fstat(sys.stderr.fileno())
        except (AttributeError, OSError, ValueError):
            return self._nowhere  # the process was started without one
        return sys.stderr
