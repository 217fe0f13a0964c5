"""The process that delivers what a relay has put into its outbox."""

from __future__ import annotations

import os
import sys
import time
from subprocess import PIPE, Popen
from threading import Thread

from event._cli import _text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from typing_extensions import Self

_RESTART = 5.0  # seconds before it is started again


class Deliverer:
    """A process that delivers what is in the outbox.

    Of its own, so that a handler which hangs holds up no taking, and one that brings down its process not us. It ends
    when we end, however we do, since it reads a pipe that we hold open.
    """

    def __init__(self, outbox: str, timeout: float) -> None:
        # The same path, so that it finds what we have found.
        code = (
            f"import sys; sys.path[:] = {sys.path!r}; from event._cli import deliver; "
            f"raise SystemExit(deliver.follow({outbox!r}, {timeout!r}))"
        )
        self._command = [sys.executable, "-c", code]
        self._ending = False
        self._process = self._started()
        self._watcher = Thread(target=self._watch, name="relay deliverer", daemon=True)
        self._watcher.start()

    def __enter__(self) -> Self:
        """Return the deliverer."""
        return self

    def __exit__(self, kind: type[BaseException] | None, _val: object, _tb: object) -> None:
        """Let it deliver what is due, and wait until it has; on the way out with an exception end it now."""
        self._ending = True
        try:
            if kind is None:
                self._process.communicate()
        finally:
            self._process.kill()
            self._process.communicate()

    def wake(self) -> None:
        """Have it look for what has come."""
        try:
            os.write(_stdin(self._process), b"\n")
        except OSError:
            pass  # it has enough to read, or is about to be started again

    def _started(self) -> Popen[bytes]:
        # A session of its own: a terminal's Ctrl-C is ours to answer.
        process = Popen(self._command, stdin=PIPE, start_new_session=True)  # noqa: S603  # ourselves
        if hasattr(os, "set_blocking"):  # not on Windows before Python 3.12
            os.set_blocking(_stdin(process), False)
        return process

    def _watch(self) -> None:
        """Start it again where it has ended."""
        while True:
            status = self._process.wait()
            if self._ending:
                return
            _text.tell(f"e3-event relay: the deliverer has ended with status {status}, and is started again")
            time.sleep(_RESTART)
            self._process = self._started()


def _stdin(process: Any) -> int:
    return int(process.stdin.fileno())
