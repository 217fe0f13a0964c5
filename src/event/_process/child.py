"""A command run in our place: with our streams, our signals, and its exit status."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from event._process.output import Output, Tee
    from event._process.signals import Signals

_NOT_EXECUTABLE, _NOT_FOUND, _SIGNALLED = 126, 127, 128  # a shell's: XCU 2.8.2 of POSIX


class ExitResult:
    """How a command ended.

    :ivar status: its exit status, as a shell tells it: 126 and 127 where it could not be started, 128+n on a signal
    :ivar signal: the signal that ended it, or else the last that was sent to stop it, as ``SIGTERM``; None where
        there was none
    :ivar outcome: success, failure, or cancel where it was stopped
    :ivar seconds: how long it ran
    :ivar error: why it could not be started; None where it was
    """

    __slots__ = ("error", "outcome", "seconds", "signal", "status")

    def __init__(self, code: int, seconds: float, received: Sequence[int] = (), error: OSError | None = None) -> None:
        self.status = code if code >= 0 else _SIGNALLED - code
        self.seconds = seconds
        self.error = error
        stopped = [number for number in received if number in _STOPPING]
        number = -code if code < 0 else stopped[-1] if stopped and code else 0
        self.signal = _name_of_signal(number) if number else None
        self.outcome = "success" if not code else "cancel" if stopped or number in _STOPPING else "failure"


class ChildProcess:
    """A command.

    :param words: the command and its arguments; no shell is asked, and the command is looked up in PATH
    :param environ: its environment variables
    :param log: a descriptor to copy its stdout and stderr to; None for no log
    :param keep_end: whether `last_lines` will be asked for; see `event._process.output.Output`
    """

    def __init__(
        self, words: Sequence[str], environ: Mapping[str, str], log: int | None = None, *, keep_end: bool = False
    ) -> None:
        self._words = list(words)
        self._environ = {name: value for name, value in environ.items() if name}
        self._error: OSError | None = None
        self._output: Output | None = None
        self._log = log
        self._log_error: OSError | None = None
        if log is not None or keep_end:
            from event._process.output import Output

            try:
                self._output = Output(log)
            except OSError as error:  # too many files are open
                self._log_error = error
                if log is not None:
                    os.close(log)

    @property
    def _tee(self) -> Tee | None:
        return self._output.tee if self._output else None

    def start(self) -> None:
        """Start the command. That it cannot be started is told by `wait`."""
        self._began = time.monotonic()
        try:
            self._spawn(self._tee)
        except OSError as error:
            self._error = error

    def wait(self) -> ExitResult:
        """Wait until the command has ended, and its log is complete."""
        code = _status(self._error, self._words[0]) if self._error else self._wait()
        seconds = time.monotonic() - self._began
        if self._tee:
            from event._process.output import OUTPUT_TIMEOUT

            self._tee.end(OUTPUT_TIMEOUT if code or self._log is not None else 0.0)
        return ExitResult(code or (1 if self.show_error else 0), seconds, self._received(), self._error)

    def last_lines(self, count: int, redact: Callable[[str], str]) -> str:
        """Return the last lines of the command's output, when it has ended; empty if none were kept.

        :param count: of lines
        :param redact: replaces secrets in a text
        """
        return self._output.last_lines(count, redact) if self._output else ""

    @property
    def log_error(self) -> OSError | None:
        """Why the log is not complete; None where it is, or where there is none."""
        if self._log is None:
            return None
        return self._tee.error if self._tee else self._log_error

    @property
    def show_error(self) -> OSError | None:
        """Why stdout or stderr did not get all of the output; None where they did, or nobody reads it."""
        return self._tee.show_error if self._tee else None

    if sys.platform == "win32":  # pragma: no cover  # platform: Windows

        def _spawn(self, tee: Tee | None) -> None:
            from shutil import which
            from subprocess import Popen

            # The console's Ctrl-C reaches the command too, and it decides.
            self._signals: list[int] = []
            for number in _STOPPING:
                signal.signal(number, lambda number, _frame: self._signals.append(number))
            writers = tee.start() if tee else {}
            program = which(self._words[0]) or self._words[0]  # with an ending of PATHEXT
            try:
                self._popen = Popen(  # noqa: S603  # what the user asks for
                    [program, *self._words[1:]], env=self._environ, stdout=writers.get(1), stderr=writers.get(2)
                )
            finally:
                if tee:
                    tee.spawned()

        def _wait(self) -> int:
            code = self._popen.wait()
            return code - (1 << 32) if code >= 1 << 31 else code  # as sys.exit takes it

        def _received(self) -> list[int]:
            return self._signals

        def finish(self) -> None:
            """Show the rest of the command's output."""
            if self._tee:
                self._tee.finish()

    else:
        _signals: Signals

        def _spawn(self, tee: Tee | None) -> None:
            from event._process.signals import Signals

            self._signals = signals = Signals()
            signals.begin(tee, tee.writers.values() if tee else ())
            if tee:
                tee.on_closed = signals.tell_closed
            writers = tee.start() if tee else {}  # while the signals are blocked: the threads leave them to this one
            try:
                if not self._words[0]:  # execvp says so; Python does not
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
                self._pid = _posix_spawn(self._words, self._environ, writers, signals.mask)
            except BaseException:
                signals.settle()
                raise
            finally:
                if tee:
                    tee.spawned()

        def _wait(self) -> int:
            status = self._signals.wait(self._pid)
            self._signals.settle()
            return os.waitstatus_to_exitcode(status)

        def _received(self) -> list[int]:
            return self._signals.received

        def finish(self) -> None:
            """Show the rest of the command's output, and let go of what watches over the signals."""
            if self._tee:
                self._tee.finish()
            self._signals.end(wait=self._tee is None or not self._tee.left_behind)


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

        # A script without "#!": execvp and every shell give it to sh.
        return spawn("/bin/sh", ["sh", which(words[0]) or words[0], *words[1:]])


def _status(error: OSError, command: str) -> int:
    """Return what a shell exits with for a command that cannot be started."""
    missing = error.errno == errno.ENOENT
    # What is there, and yet not found, names an interpreter that is missing.
    return _NOT_FOUND if missing and not (os.path.dirname(command) and os.path.exists(command)) else _NOT_EXECUTABLE


def _name_of_signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"SIG{number}"


_STOPPING = frozenset(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGBREAK") if hasattr(signal, name)
)
