"""Pass each signal to the command exactly once.

The command stays in our process group, so that job control in a shell still works. A signal that is sent to the group
(by a terminal, GitLab's runner or `timeout`) reaches the command directly. A signal that is sent only to our process
(by `kill PID`, GitHub's runner or `docker stop`) must be passed on. No system call can distinguish the two: siginfo has
the sender but not the addressee, and macOS does not provide it. So we start a witness:

    a child process in our group, which only reports the signals that it receives.

If the witness reports a signal within `REPORT_TIMEOUT`, the signal was sent to the group. Otherwise it is passed on.
The witness ends when our process ends, because it waits for the end of a pipe that our process holds open.

Neither process has a signal handler: many signals in a row would interrupt it again and again. Instead, the signals are
blocked and waited for. This is for POSIX only. On Windows, Ctrl-C in a console reaches all its processes.
"""

from __future__ import annotations

import os
import sys
import time
from _thread import start_new_thread  # the lock of threading, whose import is expensive

from event._fast_signal import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Protocol

    class Heir(Protocol):
        """The work of the witness after our process has ended."""

        def pass_through(self) -> None:
            """Continue to show the output of remaining processes."""

        def close_reader(self, number: int) -> None:
            """Close a pipe, as `Signals.report_closed` asks for."""


REPORT_TIMEOUT = 0.2  # seconds
SAME_SIGNAL = 0.5  # longest time in seconds between our signal and that of the witness
_PASSED = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
# Sent by a timer that was set before this program was executed, by a batch system at a limit, or by an operator. They
# are not passed on if this interpreter already has a handler for them: they are then meant for it, such as a profiler.
_PASSED_UNLESS_HANDLED = ("SIGABRT", "SIGALRM", "SIGIO", "SIGPROF", "SIGPWR", "SIGVTALRM", "SIGXCPU")
_REPORT = 32  # bytes; a pipe writes so few atomically
_AT_ONCE = 0.01  # seconds; if a wait was shorter, the signal was already pending
_CHECK_INTERVAL = 1.0  # seconds between two checks whether the command has ended, if its SIGCHLD does not arrive


class Signals:
    """Handles the signals that would end this process, from `begin` on.

    A signal that is ignored from the start, as under nohup, remains ignored for this process and for the command.

    :ivar mask: the signals that were blocked before `begin`
    :ivar received: the signals that were received while the command ran
    """

    def __init__(self) -> None:
        self.mask: Iterable[int] = ()
        self.received: list[int] = []
        self._numbers = {number for number in _numbers_of(_PASSED) if signal.getsignal(number) != signal.SIG_IGN}
        others = _numbers_of(_PASSED_UNLESS_HANDLED)
        self._numbers |= {number for number in others if signal.getsignal(number) == signal.SIG_DFL}
        self._witness = 0
        self._reports = -1
        self._lifeline = -1
        self._seen: dict[int, float] = {}

    def begin(self, heir: Heir | None = None, foreign: Iterable[int] = ()) -> None:
        """Block the signals, so that `wait` handles them.

        :param heir: the work of the witness after our process has ended; with it, the witness keeps stdout and stderr
        :param foreign: descriptors that the witness must close
        """
        self.mask = signal.pthread_sigmask(signal.SIG_BLOCK, {*self._numbers, signal.SIGCHLD})
        # If SIGCHLD is ignored, as it may be from the start, it is not sent, and the exit status is lost.
        signal.signal(signal.SIGCHLD, _NOTHING)
        try:
            self._start_witness(heir, foreign)
        except OSError:
            pass  # the process limit is reached; without a witness, every signal is passed on
        self._last = time.monotonic()

    def wait(self, pid: int) -> int:
        """Wait until a child process has ended, and pass signals to it; return its status as os.waitpid does."""
        while True:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return status
            numbers, since = self._next()
            for number in numbers & self._numbers:
                self.received.append(number)
                if not self._reached_all(number, since):
                    os.kill(pid, number)  # if it has just ended, it is a zombie, and this does nothing

    def settle(self) -> None:
        """Ignore the signals from now on, so that the event is sent. Processes of handlers do not ignore them."""
        for number in self._numbers:
            signal.signal(number, _NOTHING)
        signal.pthread_sigmask(signal.SIG_SETMASK, self.mask)

    def end(self, *, wait: bool) -> None:
        """End the witness. The signals remain ignored, so that they cannot change the exit status.

        :param wait: whether to wait until the witness has ended
        """
        for number in self._numbers:
            signal.signal(number, signal.SIG_IGN)
        if self._witness:
            os.close(self._lifeline)
            os.close(self._reports)
            if wait:
                os.kill(self._witness, signal.SIGKILL)  # it may have been stopped
                os.waitpid(self._witness, 0)

    def report_closed(self, number: int) -> None:  # pragma: no cover  # of a `_thread` thread
        """Let the witness close its copy of a pipe too."""
        if self._witness:
            os.write(self._lifeline, bytes([number]))

    def _start_witness(self, heir: Heir | None, foreign: Iterable[int]) -> None:
        lifeline, self._lifeline = map(above_standard, os.pipe())
        self._reports, reports = map(above_standard, os.pipe())
        try:
            self._witness = os.fork()
            if not self._witness:  # pragma: no cover  # the witness exits without a report to coverage
                _watch(self._numbers, reports, lifeline, heir, {self._lifeline, self._reports, *foreign})
        finally:
            os.close(lifeline)
            os.close(reports)
        os.set_blocking(self._reports, False)

    def _next(self) -> tuple[set[int], float]:
        """Wait for signals, but not for long; return the pending ones, and the earliest time of their sending."""
        begun, last = time.monotonic(), self._last
        numbers = _first_signal({*self._numbers, signal.SIGCHLD})
        # Return all of them: the lowest number is returned first, and could be sent again and again.
        numbers |= {signal.sigwait({number}) for number in signal.sigpending() & self._numbers}
        self._last = time.monotonic()
        return numbers, last if self._last - begun < _AT_ONCE else self._last

    def _reached_all(self, number: int, since: float) -> bool:
        """Wait until the witness reports a signal; return whether it has."""
        deadline = time.monotonic() + REPORT_TIMEOUT
        while self._witness:
            self._read_reports()
            if number in self._seen and self._seen[number] >= since - SAME_SIGNAL:
                return True
            if time.monotonic() > deadline:
                break
            time.sleep(0.002)
        return False

    def _read_reports(self) -> None:
        try:
            while report := os.read(self._reports, _REPORT):
                number, when = report.split()
                self._seen[int(number)] = float(when)
        except BlockingIOError:
            return


def _numbers_of(names: Iterable[str]) -> list[int]:
    """Return the numbers of the signals that this platform has."""
    return [getattr(signal, name) for name in names if hasattr(signal, name)]


def _first_signal(numbers: set[int]) -> set[int]:
    """Wait for one of several blocked signals; return it, or nothing after `_CHECK_INTERVAL`.

    A thread that does not block SIGCHLD may receive it instead. A ``sitecustomize`` module, for example, may have
    started such a thread.
    """
    if not hasattr(signal, "sigtimedwait"):  # pragma: no cover  # platform: macOS
        return {signal.sigwait(numbers)}
    found = signal.sigtimedwait(numbers, _CHECK_INTERVAL)
    return {found.si_signo} if found else set()


def _watch(  # pragma: no cover  # the witness exits without a report to coverage
    numbers: Iterable[int], reports: int, lifeline: int, heir: Heir | None, foreign: Iterable[int]
) -> None:
    """Run the witness: close the foreign descriptors, report signals, and exit at the end of the lifeline."""

    def live() -> None:
        try:
            while closed := os.read(lifeline, 1):
                if heir:
                    heir.close_reader(closed[0])
            if heir:
                heir.pass_through()
        finally:
            os._exit(0)

    try:
        for fd in (*foreign, *range(1 if heir else 3)):
            try:
                os.close(fd)  # a reader that waits for the end of our output must not wait for the witness
            except OSError:
                pass
        os.set_blocking(reports, False)
        start_new_thread(live, ())
        while True:
            number = signal.sigwait(numbers)
            try:
                os.write(reports, f"{int(number)} {time.monotonic()!r}".encode().ljust(_REPORT))
            except OSError:
                pass  # our process reads no more, or has not read for so long that the pipe is full
    finally:
        os._exit(0)


def above_standard(fd: int) -> int:
    """Return a descriptor above 2 in place of a lower one, as in a process that was started without stdin."""
    if fd > 2 or sys.platform == "win32":
        return fd
    from fcntl import F_DUPFD_CLOEXEC, fcntl

    higher = fcntl(fd, F_DUPFD_CLOEXEC, 3)
    os.close(fd)
    return higher


# A handler in C that does nothing. A Python handler could be interrupted by the next signal.
_NOTHING: Callable[..., None] = {}.get
