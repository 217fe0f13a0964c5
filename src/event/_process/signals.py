"""Signals reach the command once, whether they came to us alone or to all of us.

The command stays in our process group, so that a shell's job control works as without us. What a terminal sends
(Ctrl-C, a hang-up), and what is sent to the group (by GitLab's runner, by `timeout`), reaches the command without us;
what is sent to our process alone (by `kill PID`, GitHub's runner, `docker stop`) we must pass on. No system call tells
one from the other: siginfo has the sender, not the addressee, and macOS does not hand it out. So there is a witness:

    a child of ours, in our group, that does nothing but report the signals that it gets.

A signal that the witness got too was the group's. It is given `REPORT_TIMEOUT` to report; else the signal is passed on.
The witness ends when we end, however we do, since it waits for the end of a pipe that we hold open.

Neither of us has a signal handler: in a storm, one would interrupt itself without end. The signals are blocked, and
waited for. POSIX alone; on Windows a console's Ctrl-C reaches all its processes, and there is nothing to pass on.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from _thread import start_new_thread  # as threading has it, which costs an import

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Protocol

    class Heir(Protocol):
        """What the witness does in our place."""

        def pass_through(self) -> None:
            """Go on when we have ended."""

        def close_reader(self, number: int) -> None:
            """Follow `Signals.tell_closed`."""


REPORT_TIMEOUT = 0.2  # seconds
SAME_SIGNAL = 0.5  # seconds between our signal and the witness's, at most
_PASSED = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
_REPORT = 32  # bytes; a pipe takes so few as a whole
_AT_ONCE = 0.01  # seconds; a wait that was shorter found the signal there


class Signals:
    """Takes the signals that would end us, from `begin` on.

    One that is ignored from the start, as under nohup, stays so for us and for the command.

    :ivar mask: the signals that were blocked when we began
    :ivar received: the signals that came while the command ran
    """

    def __init__(self) -> None:
        self.mask: Iterable[int] = ()
        self.received: list[int] = []
        numbers = [getattr(signal, name) for name in _PASSED]
        self._numbers = {number for number in numbers if signal.getsignal(number) != signal.SIG_IGN}
        self._witness = 0
        self._reports = -1
        self._lifeline = -1
        self._seen: dict[int, float] = {}

    def begin(self, heir: Heir | None = None, foreign: Iterable[int] = ()) -> None:
        """Take the signals over: from now on they wait for `wait`.

        :param heir: what the witness does when we have ended; with it, it holds on to our stdout and stderr
        :param foreign: descriptors that the witness must not hold
        """
        self.mask = signal.pthread_sigmask(signal.SIG_BLOCK, {*self._numbers, signal.SIGCHLD})
        # Ignored, as it may be from the start, it would not come, and take the command's exit status away.
        signal.signal(signal.SIGCHLD, _NOTHING)
        try:
            self._start_witness(heir, foreign)
        except OSError:
            pass  # there may be no more processes: without a witness, all is passed on
        self._last = time.monotonic()

    def wait(self, pid: int) -> int:
        """Wait until a child of ours has ended, and pass signals on to it; return its status, as os.waitpid does."""
        while True:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return status
            numbers, since = self._next()
            for number in numbers & self._numbers:
                self.received.append(number)
                if not self._reached_all(number, since):
                    os.kill(pid, number)  # a zombie at worst, which takes it

    def settle(self) -> None:
        """Ignore the signals from now on, so that the event is sent; processes that handlers start get them."""
        for number in self._numbers:
            signal.signal(number, _NOTHING)
        signal.pthread_sigmask(signal.SIG_SETMASK, self.mask)

    def end(self, *, wait: bool) -> None:
        """Let the witness go. A signal that comes while the interpreter ends must not change the exit status.

        :param wait: until the witness is gone
        """
        for number in self._numbers:
            signal.signal(number, signal.SIG_IGN)
        if self._witness:
            os.close(self._lifeline)
            os.close(self._reports)
            if wait:
                os.kill(self._witness, signal.SIGKILL)  # it may have been stopped
                os.waitpid(self._witness, 0)

    def tell_closed(self, number: int) -> None:  # pragma: no cover  # of a `_thread` thread
        """Have the witness close its copy of a pipe too."""
        if self._witness:
            os.write(self._lifeline, bytes([number]))

    def _start_witness(self, heir: Heir | None, foreign: Iterable[int]) -> None:
        lifeline, self._lifeline = map(above_standard, os.pipe())
        self._reports, reports = map(above_standard, os.pipe())
        try:
            self._witness = os.fork()
            if not self._witness:  # pragma: no cover  # it ends without a word to coverage
                _watch(self._numbers, reports, lifeline, heir, {self._lifeline, self._reports, *foreign})
        finally:
            os.close(lifeline)
            os.close(reports)
        os.set_blocking(self._reports, False)

    def _next(self) -> tuple[set[int], float]:
        """Wait for signals; return all that are there, and since when they may be."""
        begun, last = time.monotonic(), self._last
        numbers = {signal.sigwait({*self._numbers, signal.SIGCHLD})}
        # The others too: the lowest one comes first, and might come again and again.
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


def _watch(  # pragma: no cover  # the witness; it ends without a word to coverage
    numbers: Iterable[int], reports: int, lifeline: int, heir: Heir | None, foreign: Iterable[int]
) -> None:
    """Report signals, and exit when the lifeline ends.

    :param foreign: descriptors that are not ours
    """

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
                os.close(fd)  # who waits for the end of our output must not wait for the witness
            except OSError:
                pass
        os.set_blocking(reports, False)
        start_new_thread(live, ())
        while True:
            number = signal.sigwait(numbers)
            try:
                os.write(reports, f"{int(number)} {time.monotonic()!r}".encode().ljust(_REPORT))
            except OSError:
                pass  # nobody reads any more, or nobody has for long
    finally:
        os._exit(0)


def above_standard(fd: int) -> int:
    """Return a descriptor above 2 in place of one that may be lower, as where the process began without stdin."""
    if fd > 2 or sys.platform == "win32":
        return fd
    from fcntl import F_DUPFD_CLOEXEC, fcntl

    higher = fcntl(fd, F_DUPFD_CLOEXEC, 3)
    os.close(fd)
    return higher


# A handler that does nothing, in C: one in Python could be interrupted by the next signal before it has ended.
_NOTHING: Callable[..., None] = {}.get
