"""The worker's side: take one job after another until the job ``stop``, or until the command is gone.

The process has a session of its own, its stdin is empty, and what is printed to stdout goes to stderr.
"""

from __future__ import annotations

import os
import sys
import time

from event._worker.protocol import LONGEST_BLOB, LONGEST_JOB, LONGEST_REPORT, FrameReader, ProtocolError, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

JOBS = {
    "prepare": "event._worker.send_job:prepare",
    "send": "event._worker.send_job:send",
    "resume": "event._worker.resume_job:resume",
}
"""The function of each job, as ``module:function``; it is imported when the job comes."""

ALIVE_INTERVAL = 1.0  # seconds between two reports ``alive``, at most
LONGEST_END = 10.0  # seconds that the interpreter may take to end, if the command does not end it earlier
_LONGEST_TEXT = 20_000  # characters of one text in a report
_LOOK = 5.0  # seconds between two looks at whether the command still runs
_SIZE = 1 << 20  # bytes read at once


class Reporter:
    """What a job's function uses to talk to the command.

    :param command: the command's process id; it is gone once another process is this one's parent
    :ivar hung: how many threads a handler has not come back from; a job's function counts them
    :ivar beating: whether a thread reports that the process lives
    :ivar exits_at_once: whether nothing that ran here needs the interpreter to end as usual; None if nothing ran
    """

    def __init__(self, jobs: int, reports: int, command: int) -> None:
        from _thread import allocate_lock  # as threading has it, which costs an import

        self.hung = 0
        self.beating = False
        self.exits_at_once: bool | None = None
        self._job_id: Any = None
        self._jobs = jobs
        self._reports = reports
        self._reader = FrameReader(LONGEST_JOB, LONGEST_BLOB)
        self._waiting: list[tuple[dict[str, Any], bytes]] = []
        self._lock = allocate_lock()
        self._pid = os.getpid()
        self._command = command

    def report(self, kind: str, **fields: Any) -> None:
        """Send a report; once the command is gone, nobody hears it.

        :param fields: the values of JSON; a text that is very long is cut
        """
        if os.getpid() != self._pid:
            return  # a handler forked, and this is the child of it
        fields = {name: _cut(value) for name, value in fields.items()}
        frame = encode({"report": kind, "id": self._job_id, **fields})
        if len(frame) > LONGEST_REPORT:
            raise ValueError(f"a report of {len(frame)} bytes")
        try:
            with self._lock:
                view = memoryview(frame)
                while view:
                    view = view[os.write(self._reports, view) :]
        except OSError:
            # If the command is gone, the job is done all the same. Else the command must not take this worker for one
            # that works: a handler has closed the connection.
            if os.getppid() == self._command:
                os._exit(1)

    def next_job(self, seconds: float | None = None) -> tuple[dict[str, Any], bytes] | None:
        """Return the command's next frame, its message and its blob; None if it has closed the connection or is gone.

        :param seconds: how long to wait; None for as long as the command runs
        :raises TimeoutError: nothing came in time
        """
        if os.getpid() != self._pid:
            os._exit(0)  # a handler forked, and its child came back from it: the jobs are not for it
        deadline = None if seconds is None else time.monotonic() + seconds
        while not self._waiting:
            left = _LOOK if deadline is None else min(_LOOK, deadline - time.monotonic())
            if not _readable(self._jobs, max(0.0, left)):
                if deadline is not None and time.monotonic() >= deadline:
                    raise TimeoutError
                if os.getppid() != self._command:
                    return None
            else:
                data = _read(self._jobs)
                if not data:
                    return None
                self._reader.feed(data)
                self._waiting += self._reader.frames()
        frame = self._waiting.pop(0)
        self._job_id = frame[0].get("id")
        return frame


class Heartbeat:
    """Inside a ``with`` block, a thread reports ``alive``: memory (bytes), threads, and how many of them hang.

    A thread can do that only as long as no handler holds the interpreter's lock. A handler alone, in the main thread,
    needs none: the command's deadline is enough.

    :param interval: seconds between two reports
    """

    def __init__(self, reporter: Reporter, interval: float) -> None:
        from threading import Event, Thread

        self._reporter = reporter
        self._interval = interval
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

    def _beat(self) -> None:
        from threading import active_count

        from event._worker.parent import memory_of

        while not self._over.wait(self._interval):
            self._reporter.report(
                "alive", memory=memory_of(os.getpid()), threads=active_count(), hung=self._reporter.hung
            )


def main(jobs: int, reports: int, command: int) -> None:
    """Serve until the command has no more jobs; then the interpreter may end as it likes.

    :param jobs: the descriptor that jobs arrive on
    :param reports: the descriptor that reports go to
    :param command: the process id of the command
    """
    _detach()
    _preload()
    reporter = Reporter(jobs, reports, command)
    try:
        while (frame := reporter.next_job()) and frame[0]["job"] != "stop":
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
        been killed and cannot end it
    """
    place = JOBS[job["job"]]
    module, _, name = place.partition(":")
    end_within(float(job.get("limit", 0)))
    function = getattr(__import__(module, fromlist=[name]), name)
    try:
        if job.get("alone"):
            function(job, blob, reporter)
        else:
            with Heartbeat(reporter, float(job.get("interval", ALIVE_INTERVAL))):
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


def _preload() -> None:
    """Import what sending an event needs, while the command does its part."""
    from event import _dispatch, _files, _json  # noqa: F401
    from event._worker import send_job  # noqa: F401


def _cut(value: Any) -> Any:
    return value[:_LONGEST_TEXT] if isinstance(value, str) else value


if sys.platform == "win32":  # pragma: no cover  # platform: Windows has no poll for pipes

    def _readable(fd: int, seconds: float) -> bool:
        import msvcrt
        from _winapi import PeekNamedPipe

        deadline = time.monotonic() + seconds
        while True:
            try:
                if PeekNamedPipe(msvcrt.get_osfhandle(fd), 0)[0]:
                    return True
            except OSError:
                return True  # its end, which reading shows
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.01)

else:
    from select import POLLIN, poll

    def _readable(fd: int, seconds: float) -> bool:
        poller = poll()
        poller.register(fd, POLLIN)
        return bool(poller.poll(seconds * 1000))


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, _SIZE)
    except OSError:
        return b""  # a handler has closed it
