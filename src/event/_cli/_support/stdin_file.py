"""Save stdin to a temporary file, so that it can be attached."""

from __future__ import annotations

import os
import stat
import sys

from event import _files
from event._fast_signal import signal
from event.error import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

LARGEST = 1 << 30  # bytes; more could fill the disk, for example from /dev/zero
_PIECE = 1 << 16  # bytes
_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]  # Windows has no SIGHUP


class StdinFile:
    """A temporary file with the content of stdin, inside a ``with`` block.

    Stdin is read to its end, however long that takes: if this process ended first, the command that writes to the pipe
    would fail. SIGINT, SIGTERM and SIGHUP remove the file and end the process, unless they are ignored.

    :ivar path: the file's path; empty if the file cannot be created
    :ivar problem: why the file does not have the whole content; empty if it has
    """

    def __init__(self) -> None:
        self.path = ""
        self.problem = ""
        self._handled: list[int] = []

    def __enter__(self) -> Self:
        self._handled = [number for number in _SIGNALS if signal.getsignal(number) == signal.SIG_DFL]
        for number in self._handled:
            signal.signal(number, self._end_process)
        try:
            self._save()
        except BaseException:  # such as KeyboardInterrupt
            self.__exit__()
            raise
        return self

    def __exit__(self, *_args: object) -> None:
        _files.unlink_quietly(self.path)  # if the event is kept, the outbox has its own copy
        for number in self._handled:
            signal.signal(number, signal.SIG_DFL)

    def _end_process(self, number: int, _frame: object) -> None:
        self.__exit__()
        os.kill(os.getpid(), number)

    def _save(self) -> None:
        from tempfile import mkstemp

        try:
            fd, self.path = mkstemp(prefix="e3-event-")
            with open(fd, "wb") as file:
                reason = self._copy_to(file.write)
        except OSError as error:
            reason = one_line(error)
        if reason:
            what = "only a part of stdin could be read and is attached" if self.path else "stdin is not attached"
            self.problem = f"{what}: {reason}"
            _skip_rest()

    def _copy_to(self, write: Callable[[bytes], object]) -> str:
        """Copy stdin up to `LARGEST`; return why the copy does not have the whole content, or an empty text."""
        if sys.stdin is None:
            return ""
        stdin, size = sys.stdin.fileno(), 0
        while size <= LARGEST:
            piece = os.read(stdin, _PIECE)
            if not piece:
                return ""
            write(piece)
            size += len(piece)
        return f"it is larger than {LARGEST >> 20} MiB"


def _skip_rest() -> None:
    """Read stdin to its end; see `StdinFile`."""
    if sys.stdin is None:
        return
    stdin = sys.stdin.fileno()
    try:
        if not stat.S_ISCHR(os.fstat(stdin).st_mode):  # /dev/zero does not end
            while os.read(stdin, _PIECE):
                pass
    except OSError:
        pass
