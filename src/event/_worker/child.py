"""The worker process: run one job after another until the job ``stop`` arrives or the command exits.

The process runs in its own session. Its stdin is empty, and its stdout goes to stderr.
"""

from __future__ import annotations

import gc
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
    "deliver": "event._worker.deliver_job:run",
    "watch": "event._worker.deliver_job:run",
    "relay": "event._worker.relay_job:relay",
}
"""The function of each job, as ``module:function``. It is imported when the job arrives."""

ALIVE_INTERVAL = 1.0  # seconds between two reports ``alive``, unless the job has its own ``interval``
MAX_EXIT_SECONDS = 10.0  # that the interpreter may take to exit after the last job


class Heartbeat:
    """Report ``alive`` from a thread inside a ``with`` block, with the memory used (bytes) and the number of threads.

    If a handler holds the interpreter lock, the thread can't run and the reports stop. A job that calls a single
    handler in the main thread needs no heartbeat, since the command enforces its deadline.

    :param interval: seconds between two reports
    :param guard: seconds without a report after which the process exits by itself, even if the command was killed; 0 to
        never exit
    """

    def __init__(self, reporter: Reporter, interval: float, guard: float = 0.0) -> None:
        from threading import Event, Thread

        self._reporter = reporter
        self._interval = interval
        self._guard = guard
        self._over = Event()
        self._thread = Thread(target=self._beat, name="event worker heartbeat", daemon=True)

    def __enter__(self) -> None:
        try:
            self._thread.start()
            self._reporter.has_heartbeat = True
        except RuntimeError:  # no more threads can be started: the command still enforces its deadline
            self._reporter.has_heartbeat = False

    def __exit__(self, *_args: object) -> None:
        """Stop the thread, without joining it: a handler may have patched `threading`."""
        self._over.set()
        self._reporter.has_heartbeat = False  # if the next job has no heartbeat, its silence is normal

    def _beat(self) -> None:
        from threading import active_count

        from event._worker.system import memory_of

        while not self._over.wait(self._interval):
            self._reporter.report("alive", memory=memory_of(os.getpid()), threads=active_count())
            if self._guard:
                end_within(self._guard)


def main(jobs: int, reports: int, command: int) -> None:
    """Run jobs until the command stops the worker or exits; then let the interpreter exit.

    :param jobs: the file descriptor to read jobs from
    :param reports: the file descriptor to write reports to
    :param command: the process id of the command
    """
    _detach()
    _ignore_signals()
    _preload()
    gc.freeze()  # imported objects exist until the end: do not search them for garbage
    gc.enable()  # the command has disabled it before the fork
    reporter = Reporter(jobs, reports, command)
    last: Any = 0
    try:
        while (frame := reporter.next_job()) and frame[0]["job"] != "stop":
            # Skip frames of a job that has already ended.
            if frame[0].get("id") != last:
                last = frame[0].get("id")
                run_job(*frame, reporter)
    except ProtocolError:
        pass  # a defect in the command, which then kills this process
    try:
        os.close(reports)
    except OSError:
        pass  # a handler has closed it
    if reporter.exits_at_once:
        os._exit(0)  # a normal exit of the interpreter takes as long as sending an event
    end_within(MAX_EXIT_SECONDS)


def run_job(job: dict[str, Any], blob: bytes, reporter: Reporter) -> None:
    """Run one job, then report ``done``.

    :param job: ``job`` is the name of the function. After ``limit`` seconds the process exits by itself, in case the
        command was killed. ``interval`` and ``guard`` are as for `Heartbeat`; with ``alone``, there is no heartbeat.
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
    """Make the process exit after `seconds`, even if its threads hang; 0 cancels this.

    `faulthandler` runs the timer in a C thread, so it works while a handler holds the interpreter lock.
    """
    import faulthandler

    if not seconds:
        faulthandler.cancel_dump_traceback_later()
        return
    if not _devnull_fds:
        _devnull_fds.append(os.open(os.devnull, os.O_WRONLY))
    try:
        faulthandler.dump_traceback_later(seconds, exit=True, file=_devnull_fds[0])
    except RuntimeError:  # no more threads can be started: the command still enforces its deadline
        pass


_devnull_fds: list[int] = []  # receives the traceback that `faulthandler` prints


def _detach() -> None:
    if hasattr(os, "setsid"):
        try:
            os.setsid()
        except PermissionError:
            pass  # already the leader of its own session
    devnull = os.open(os.devnull, os.O_RDWR)
    try:
        os.dup2(devnull, 0)
        try:
            os.dup2(2, 1)
        except OSError:  # the command was started without stderr
            os.dup2(devnull, 1)
            os.dup2(devnull, 2)
    finally:
        if devnull > 2:
            os.close(devnull)
    sys.stdout = sys.stderr


def _ignore_signals() -> None:
    """Ignore SIGINT and SIGTERM: systemd sends them to every process of a service; the command handles them."""
    from event._fast_signal import signal

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _ignore)  # not SIG_IGN: processes that a handler starts would inherit it


def _ignore(_number: int, _frame: object) -> None:
    """Ignore a signal."""


def _preload() -> None:
    """Import the modules that sending an event needs, while the command is still busy."""
    from event import _dispatch, _files, _json  # noqa: F401
    from event._worker import send_job  # noqa: F401
