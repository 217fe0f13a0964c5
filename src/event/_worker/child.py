"""The worker's side: take one job after another until the job ``stop``, or until the command is gone.

The process has a session of its own, its stdin is empty, and what is printed to stdout goes to stderr.
"""

from __future__ import annotations

import os
import sys

from event._worker.protocol import ProtocolError
from event._worker.reporter import Reporter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

JOB_MODULES = {
    "prepare": "event._worker.send_job:prepare",
    "send": "event._worker.send_job:run_send_job",
    "resume": "event._worker.resume_job:resume",
    "deliver": "event._worker.deliver_job:deliver",
    "watch": "event._worker.deliver_job:watch",
    "relay": "event._worker.relay_job:relay",
}
"""The function of each job, as ``module:function``; it is imported when the job comes."""

ALIVE_INTERVAL = 1.0  # seconds between two reports ``alive``, at most
LONGEST_END = 10.0  # seconds that the interpreter may take to end, if the command does not end it earlier


class Heartbeat:
    """Inside a ``with`` block, a thread reports ``alive``: memory (bytes), threads, and how many of them hang.

    A thread can do that only as long as no handler holds the interpreter's lock. A handler alone, in the main thread,
    needs none: the command's deadline is enough.

    :param interval: seconds between two reports
    :param guard: seconds without a beat after which the process ends by itself, also if the command was killed; 0 for
        no end
    """

    def __init__(self, reporter: Reporter, interval: float, guard: float = 0.0) -> None:
        from threading import Event, Thread

        self._reporter = reporter
        self._interval = interval
        self._guard = guard
        self._over = Event()
        self._thread = Thread(target=self._beat, name="event worker heartbeat", daemon=True)

    def __enter__(self) -> None:
        """Begin."""
        try:
            self._thread.start()
            self._reporter.beating = True
        except RuntimeError:  # no more threads: the command has a deadline all the same
            self._reporter.beating = False

    def __exit__(self, *_args: object) -> None:
        """End. The thread is not waited for: a handler may have patched what threads need."""
        self._over.set()
        self._reporter.beating = False  # a next job may have no heart: then silence does not mean that it hangs

    def _beat(self) -> None:
        from threading import active_count

        from event._worker.system import memory_of

        while not self._over.wait(self._interval):
            self._reporter.report("alive", memory=memory_of(os.getpid()), threads=active_count())
            if self._guard:
                end_within(self._guard)


def main(jobs: int, reports: int, command: int, *, ignores_signals: bool = True) -> None:
    """Serve until the command has no more jobs; then the interpreter may end as it likes.

    :param jobs: the descriptor that jobs arrive on
    :param reports: the descriptor that reports go to
    :param command: the process id of the command
    :param ignores_signals: whether SIGINT and SIGTERM are the command's to answer
    """
    _detach()
    if ignores_signals:
        _ignore_signals()
    _preload()
    reporter = Reporter(jobs, reports, command)
    last: Any = 0
    try:
        while (frame := reporter.next_job()) and frame[0]["job"] != "stop":
            # A further frame of a job may have been under way when the job ended.
            if frame[0].get("id") != last:
                last = frame[0].get("id")
                run_job(*frame, reporter)
    except ProtocolError:
        pass  # the command has a defect, and will end us
    try:
        os.close(reports)
    except OSError:
        pass  # a handler has closed it
    if reporter.exits_at_once:
        os._exit(0)  # to take the interpreter down would cost as much as a send
    end_within(LONGEST_END)


def run_job(job: dict[str, Any], blob: bytes, reporter: Reporter) -> None:
    """Run one job, and report ``done``.

    :param job: ``job`` names the function; ``limit`` is when the process ends by itself, in seconds, if the command has
        been killed and cannot end it; ``guard`` is when it does so without a beat of its heart
    """
    place = JOB_MODULES[job["job"]]
    module, _, name = place.partition(":")
    end_within(float(job.get("limit", 0)))
    function = getattr(__import__(module, fromlist=[name]), name)
    try:
        if job.get("alone"):
            function(job, blob, reporter)
        else:
            with Heartbeat(reporter, float(job.get("interval", ALIVE_INTERVAL)), float(job.get("guard", 0))):
                function(job, blob, reporter)
    finally:
        end_within(0)
    reporter.report("done")


def end_within(seconds: float) -> None:
    """Have the process end after a time, whatever its threads do; never, if it is 0.

    The timer is one of C: it needs no lock of the interpreter.
    """
    import faulthandler

    if not seconds:
        faulthandler.cancel_dump_traceback_later()
        return
    if not _nowhere:
        _nowhere.append(os.open(os.devnull, os.O_WRONLY))
    faulthandler.dump_traceback_later(seconds, exit=True, file=_nowhere[0])


_nowhere: list[int] = []  # where the timer writes what it has to say


def _detach() -> None:
    """Leave the terminal and the command's process group, and keep stdout for the command."""
    if hasattr(os, "setsid"):
        try:
            os.setsid()
        except PermissionError:
            pass  # it was started in a session of its own
    nowhere = os.open(os.devnull, os.O_RDWR)
    try:
        os.dup2(nowhere, 0)
        try:
            os.dup2(2, 1)
        except OSError:  # the command was started without stderr
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
    finally:
        if nowhere > 2:
            os.close(nowhere)
    sys.stdout = sys.stderr


def _ignore_signals() -> None:
    """Do nothing about what asks the command to end: systemd, for one, signals all processes of a service."""
    import signal

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _ignore)  # not SIG_IGN, which the processes of a handler would inherit


def _ignore(_number: int, _frame: object) -> None:
    """Do nothing about a signal."""


def _preload() -> None:
    """Import what sending an event needs, while the command does its part."""
    from event import _dispatch, _files, _json  # noqa: F401
    from event._worker import send_job  # noqa: F401
