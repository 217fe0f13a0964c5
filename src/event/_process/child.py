"""Run a command with this process's streams and signals, and return its exit status."""

from __future__ import annotations

import errno
import os
import sys
import time

from event._fast_signal import signal, signal_name
from event._process.output import OUTPUT_TIMEOUT, Tee, tee_of_own_output
from event._process.signals import Signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


_NOT_EXECUTABLE, _NOT_FOUND, _SIGNALLED = 126, 127, 128  # a shell's: XCU 2.8.2 of POSIX


class ExitResult:
    """How a command ended.

    :ivar status: the exit status that a shell would return: 126 or 127 if the command could not be started, 128+n if
        signal n ended it
    :ivar signal: the name of the signal that ended the command, such as ``SIGTERM``; if the command failed after a
        signal was passed to it to stop it, the last such signal; else None
    :ivar outcome: ``success`` or ``failure``, or ``cancel`` if a signal stopped the command
    :ivar seconds: the run time
    :ivar error: the error if the command could not be started; else None
    """

    __slots__ = ("error", "outcome", "seconds", "signal", "status")

    def __init__(self, code: int, seconds: float, received: Sequence[int] = (), error: OSError | None = None) -> None:
        self.status = code if code >= 0 else _SIGNALLED - code
        self.seconds = seconds
        self.error = error
        stopped = [number for number in received if number in _STOPPING]
        number = -code if code < 0 else stopped[-1] if stopped and code else 0
        self.signal = (signal_name(number) or f"SIG{number}") if number else None
        self.outcome = "success" if not code else "cancel" if stopped or number in _STOPPING else "failure"


class ChildProcess:
    """A command that runs as a child process. If it cannot be started, `wait` returns the error.

    :param words: the command and its arguments; it is looked up in PATH and runs without a shell
    :param environ: its environment variables
    :param log: a descriptor to copy its stdout and stderr to; None for no log
    :param keep_end: whether to keep the end of the output
    :ivar tee: copies the output, and has its end
    """

    def __init__(
        self, words: Sequence[str], environ: Mapping[str, str], log: int | None = None, *, keep_end: bool = False
    ) -> None:
        self._words = list(words)
        self._environ = {name: value for name, value in environ.items() if name}
        self._error: OSError | None = None
        self._received: list[int] = []
        self._is_logged = log is not None
        self.tee = Tee((), None)
        if log is not None or keep_end:
            try:
                self.tee = tee_of_own_output(log)
            except OSError as error:  # too many files are open
                self.tee.error = error
                if log is not None:
                    os.close(log)
        self._began = time.monotonic()
        try:
            self._spawn()
        except OSError as error:
            self._error = _with_reason(error, self._words[0])

    def wait(self) -> ExitResult:
        """Wait until the command has ended and its log is complete."""
        code = _status(self._error) if self._error else self._wait()
        seconds = time.monotonic() - self._began
        self.tee.end(OUTPUT_TIMEOUT if code or self._is_logged else 0.0)
        return ExitResult(code or (1 if self.tee.show_error else 0), seconds, self._received, self._error)

    def finish(self) -> None:
        """Show the rest of the command's output, and end the witness of the signals."""
        self.tee.finish()
        if sys.platform != "win32":  # pragma: no branch  # platform: Windows has no witness
            self._signals.end(wait=not self.tee.left_behind)

    if sys.platform == "win32":  # pragma: no cover  # platform: Windows

        def _spawn(self) -> None:
            from shutil import which
            from subprocess import Popen

            # The console also sends Ctrl-C to the command, which decides whether to end.
            for number in _STOPPING:
                signal.signal(number, lambda number, _frame: self._received.append(number))
            writers = self.tee.start()
            program = which(self._words[0]) or self._words[0]  # with an extension of PATHEXT
            try:
                self._popen = Popen(  # noqa: S603  # what the user asks for
                    [program, *self._words[1:]], env=self._environ, stdout=writers.get(1), stderr=writers.get(2)
                )
            finally:
                self.tee.spawned()

        def _wait(self) -> int:
            code = self._popen.wait()
            return code - (1 << 32) if code >= 1 << 31 else code  # as sys.exit expects it

    else:

        def _spawn(self) -> None:
            tee = self.tee
            self._signals = signals = Signals()
            self._received = signals.received
            signals.begin(tee if tee.streams else None, tee.writers.values())
            tee.on_closed = signals.report_closed
            writers = tee.start()  # while the signals are blocked, so that the threads block them too
            try:
                if not self._words[0]:  # as execvp does; Python raises another error
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
                self._pid = _posix_spawn(self._words, self._environ, writers, signals.mask)
            except BaseException:
                signals.settle()
                raise
            finally:
                tee.spawned()

        def _wait(self) -> int:
            status = self._signals.wait(self._pid)
            self._signals.settle()
            return os.waitstatus_to_exitcode(status)


def _posix_spawn(words: list[str], environ: dict[str, str], writers: Mapping[int, int], mask: Iterable[int]) -> int:
    """Start a command as execvp would; return its process id.

    :param writers: descriptors that become its stdout (1) and stderr (2)
    """

    def spawn(program: str, words: list[str]) -> int:
        return os.posix_spawnp(
            program,
            words,
            environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, fd, target) for target, fd in writers.items()],
            setsigmask=mask,
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # which Python ignores
        )

    try:
        return spawn(words[0], words)
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise
        from shutil import which

        # A script without "#!": like execvp and every shell, run it with sh.
        return spawn("/bin/sh", ["sh", which(words[0]) or words[0], *words[1:]])


def _status(error: OSError) -> int:
    return _NOT_FOUND if error.errno == errno.ENOENT else _NOT_EXECUTABLE


def _with_reason(error: OSError, command: str) -> OSError:
    """Return the error of a command that cannot be started; if the command exists, its interpreter does not."""
    from shutil import which

    if error.errno == errno.ENOENT and which(command):
        return FileNotFoundError(errno.ENOENT, "the interpreter in its first line (#!) does not exist")
    return error


_STOPPING = frozenset(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGBREAK") if hasattr(signal, name)
)
