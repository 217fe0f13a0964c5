"""How a job's function in the worker talks to the command."""

from __future__ import annotations

import os
import sys
import time

from event._worker.protocol import LONGEST_BLOB, LONGEST_JOB, LONGEST_REPORT, FrameReader, encode_frame

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_MAX_REPORT_TEXT = 20_000  # characters of one text in a report
_DYING = 2.0  # seconds that a process may take to end after its descriptors were closed
_PARENT_CHECK_INTERVAL = 5.0  # seconds between two looks at whether the command still runs
_JOB_READ_SIZE = 1 << 20  # bytes read at once


class Reporter:
    """What a job's function uses to talk to the command.

    :param command: the command's process id; it is gone once another process is this one's parent
    :ivar beating: whether a thread reports that the process lives
    :ivar exits_at_once: whether nothing that ran here needs the interpreter to end as usual; None if nothing ran
    """

    def __init__(self, jobs: int, reports: int, command: int) -> None:
        from _thread import allocate_lock  # as threading has it, which costs an import

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

        :param fields: what `encode_frame` takes; a text that is very long is cut
        """
        if os.getpid() != self._pid:
            return  # a handler forked, and this is the child of it
        fields = {name: _cut(value) for name, value in fields.items()}
        frame = encode_frame({"report": kind, "id": self._job_id, **fields})
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
            if not self._is_alone():
                os._exit(1)

    def _is_alone(self) -> bool:
        """Return whether the command is gone. One that was killed closes its descriptors a moment before."""
        end = time.monotonic() + _DYING
        while os.getppid() == self._command:
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        return True

    def next_job(self, seconds: float | None = None) -> tuple[dict[str, Any], bytes] | None:
        """Return the command's next frame, its message and its blob; None if it has closed the connection or is gone.

        :param seconds: how long to wait; None for as long as the command runs
        :raises TimeoutError: nothing came in time
        """
        if os.getpid() != self._pid:
            os._exit(0)  # a handler forked, and its child came back from it: the jobs are not for it
        deadline = None if seconds is None else time.monotonic() + seconds
        while not self._waiting:
            left = (
                _PARENT_CHECK_INTERVAL if deadline is None else min(_PARENT_CHECK_INTERVAL, deadline - time.monotonic())
            )
            if not _readable(self._jobs, max(0.0, left)):
                if deadline is not None and time.monotonic() >= deadline:
                    raise TimeoutError
                if os.getppid() != self._command:
                    return None
            else:
                data = _read_jobs(self._jobs)
                if not data:
                    return None
                self._reader.feed(data)
                self._waiting += self._reader.frames()
        frame = self._waiting.pop(0)
        self._job_id = frame[0].get("id")
        return frame


def _cut(value: Any) -> Any:
    return value[:_MAX_REPORT_TEXT] if isinstance(value, str) else value


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


def _read_jobs(fd: int) -> bytes:
    try:
        return os.read(fd, _JOB_READ_SIZE)
    except OSError:
        return b""  # a handler has closed it
