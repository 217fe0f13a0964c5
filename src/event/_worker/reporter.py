"""The worker's side of the connection: send reports to the command and read its jobs."""

from __future__ import annotations

import os
import time

from event._worker.protocol import LONGEST_BLOB, LONGEST_JOB, LONGEST_REPORT, FrameReader, encode_frame
from event._worker.system import readable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_MAX_REPORT_TEXT = 20_000  # characters of one text in a report
_COMMAND_EXIT_TIMEOUT = 2.0  # seconds between the closing of the command's descriptors and its exit
_PARENT_CHECK_INTERVAL = 5.0  # seconds between two checks whether the command still runs
_JOB_READ_SIZE = 1 << 20  # bytes read at once


class Reporter:
    """The connection to the command, for the function of a job.

    :param jobs: the file descriptor to read jobs from
    :param reports: the file descriptor to write reports to
    :param command: the command's process id, to detect that the command has exited
    :ivar has_heartbeat: whether a thread reports ``alive``
    :ivar exits_at_once: whether the process may skip the interpreter's normal exit; None if no event was sent yet
    """

    def __init__(self, jobs: int, reports: int, command: int) -> None:
        from _thread import allocate_lock  # importing `threading` is slow

        self.has_heartbeat = False
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
        """Send a report to the command. If the command has exited, do nothing.

        :param fields: values of the types that `encode_frame` accepts; very long texts are shortened
        :raises ValueError: the report is too long
        """
        if os.getpid() != self._pid:
            return  # a child process that a handler has forked
        fields = {name: _shorten(value) for name, value in fields.items()}
        frame = encode_frame({"report": kind, "id": self._job_id, **fields})
        if len(frame) > LONGEST_REPORT:
            raise ValueError(f"a report of {len(frame)} bytes is too long; the limit is {LONGEST_REPORT}")
        try:
            with self._lock:
                view = memoryview(frame)
                while view:
                    view = view[os.write(self._reports, view) :]
        except OSError:
            # If the command has exited, finish the job. Otherwise a handler has closed the pipe: exit, so that the
            # command notices.
            if not self._is_command_gone():
                os._exit(1)

    def _is_command_gone(self) -> bool:
        """Return whether the command has exited. Wait briefly: a killed process closes its pipes before it exits."""
        end = time.monotonic() + _COMMAND_EXIT_TIMEOUT
        while os.getppid() == self._command:
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        return True

    def next_job(self, seconds: float = float("inf")) -> tuple[dict[str, Any], bytes] | None:
        """Return the message and the blob of the next frame; None if the command has closed the pipe or exited.

        :param seconds: how long to wait; by default, as long as the command runs
        :raises TimeoutError: no frame arrived in time
        """
        if os.getpid() != self._pid:
            os._exit(0)  # a handler forked, and the child process must not take the worker's jobs
        deadline = time.monotonic() + seconds
        while not self._waiting:
            left = max(0.0, deadline - time.monotonic())
            if not readable([self._jobs], min(_PARENT_CHECK_INTERVAL, left)):
                if time.monotonic() >= deadline:
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


def _shorten(value: Any) -> Any:
    return value[:_MAX_REPORT_TEXT] if isinstance(value, str) else value


def _read_jobs(fd: int) -> bytes:
    try:
        return os.read(fd, _JOB_READ_SIZE)
    except OSError:
        return b""  # a handler has closed the descriptor
