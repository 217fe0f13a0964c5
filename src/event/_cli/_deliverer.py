"""The process that delivers what a relay has put into its outbox."""

from __future__ import annotations

import os
import sys
import time
from subprocess import PIPE, Popen
from threading import Event as Flag
from threading import Lock, Thread

from event._cli import _text
from event.error import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from typing_extensions import Self

WAKE = b"\n"  # something has come
FAREWELL = b"."  # nothing more comes
_RESTART = 5.0  # seconds between two starts, at least


class Deliverer:
    """A process that delivers what is in the outbox.

    Of its own, so that a handler which hangs holds up no taking, and one that brings down its process not us. It ends
    when we end, however we do, since it reads a pipe that we hold open.

    :raises OSError: it could not be started
    """

    def __init__(self, outbox: str, timeout: float) -> None:
        # The same path, so that it finds what we have found.
        code = (
            f"import sys; sys.path[:] = {sys.path!r}; from event._cli import deliver; "
            f"raise SystemExit(deliver.follow({outbox!r}, {timeout!r}))"
        )
        self._command = [sys.executable, "-c", code]
        self._lock = Lock()  # of the process that is written to, since another may take its place and its pipe's number
        self._ending = Flag()
        self._start()
        self._watcher = Thread(target=self._watch, name="relay deliverer", daemon=True)
        self._watcher.start()

    def __enter__(self) -> Self:
        """Return the deliverer."""
        return self

    def __exit__(self, kind: type[BaseException] | None, _val: object, _tb: object) -> None:
        """Let it deliver what is due, and wait until it has; on the way out with an exception end it now."""
        with self._lock:  # from now on nobody starts it but us
            self._ending.set()
        try:
            if kind is None:
                self._finish()
        finally:
            self._process.kill()
            self._process.wait()
            self._watcher.join()
            _pipe(self._process).close()

    def wake(self) -> None:
        """Have it look for what has come."""
        with self._lock:
            self._say(WAKE)

    def _finish(self) -> None:
        if not self._say(FAREWELL):
            _pipe(self._process).close()  # it does not read; so it ends as if we were gone
        if self._process.wait() != 0:
            # A handler has brought it down, which has had its turn. There may be more that is due, for others.
            _pipe(self._process).close()
            self._start()
            self._say(FAREWELL)
            self._process.wait()

    def _say(self, word: bytes) -> bool:
        try:
            return os.write(_pipe(self._process).fileno(), word) > 0
        except OSError:
            return False  # it has enough to read, or is about to be started again

    def _start(self) -> None:
        # A session of its own: a terminal's Ctrl-C is ours to answer.
        self._process = Popen(self._command, stdin=PIPE, bufsize=0, start_new_session=True)  # noqa: S603  # ourselves
        self._started = time.monotonic()
        if hasattr(os, "set_blocking"):  # not on Windows before Python 3.12
            os.set_blocking(_pipe(self._process).fileno(), False)

    def _watch(self) -> None:
        """Start it again where it has ended."""
        while True:
            status = self._process.wait()
            if self._ending.is_set():
                return
            _text.tell(f"e3-event relay: the deliverer has ended with status {status}, and is started again")
            while not self._ending.wait(max(0.0, self._started + _RESTART - time.monotonic())) and not self._restart():
                pass

    def _restart(self) -> bool:
        """Start it again where we are to go on; return whether there is nothing left to do."""
        with self._lock:
            if self._ending.is_set():
                return True
            pipe = _pipe(self._process)
            try:
                self._start()
            except OSError as error:
                _text.tell(f"e3-event relay: the deliverer cannot be started: {one_line(error)}")
                self._started = time.monotonic()
                return False
            pipe.close()
            return True


def _pipe(process: Popen[bytes]) -> Any:
    return process.stdin
