"""The command's side of a worker: start it, send it jobs, read its reports, stop it.

Every wait has a timeout. All data from the worker is validated, since a handler may corrupt it.
"""

from __future__ import annotations

import os
import sys
import time

from event._worker.protocol import LONGEST_REPORT, FrameReader, ProtocolError, encode_frame
from event._worker.system import make_pipes, memory_limit, memory_of, readable, set_nonblocking

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from subprocess import Popen
    from typing import Any

EXIT_TIMEOUT = 2.0  # seconds for a worker to exit normally, so that the atexit functions of libraries run
_WATCH_INTERVAL = 0.05  # seconds between two checks of a worker's state and memory
_READ_SIZE = 1 << 16  # bytes read at once
# Reads in a row from one worker, so that a flood of data can't delay the command's deadline.
_MAX_READS = 1 if sys.platform == "win32" else 64
_SIGKILL = 9
_KILL_TIMEOUT = 0.5  # seconds for a killed process to exit; a process that waits for a disk may not


class Worker:
    """One worker process.

    :ivar pid: its process id
    :ivar ended: why the worker stopped, such as ``its process ended with SIGSEGV``; empty while it runs
    :ivar last_report: time of its last report, by `time.monotonic`
    """

    def __init__(self, pid: int, jobs: int, reports: int, process: Popen[bytes] | None = None) -> None:
        self.pid = pid
        self.ended = ""
        self.last_report = time.monotonic()
        self._jobs = jobs
        self._reports = reports
        self._process = process
        self._reader = FrameReader(LONGEST_REPORT)
        self._status: int | None = None
        self._last_check = 0.0
        self._rejects_jobs = False  # whether writing a job to its pipe has failed
        self._job_id = 0
        set_nonblocking(jobs)
        set_nonblocking(reports)

    @classmethod
    def spawn(cls) -> Worker:
        """Start a worker in a new Python interpreter.

        :raises OSError: the process can't be started
        """
        from event._worker.spawning import spawn

        return cls(*spawn())

    if sys.platform != "win32":  # pragma: no branch  # platform: Windows has no fork

        @classmethod
        def fork(cls) -> Worker | None:
            """Start a worker by forking this process. In the child, run the jobs, then return None.

            Call this before the process starts a thread. The child imports the modules that jobs need meanwhile.

            :raises OSError: the process can't be started
            """
            pipes = make_pipes()
            jobs, to_worker, from_worker, reports = pipes
            command = os.getpid()
            try:
                pid = os.fork()
            except OSError:
                for fd in pipes:
                    os.close(fd)
                raise
            if not pid:
                try:
                    os.close(to_worker)
                    os.close(from_worker)
                    from event._worker import child

                    child.main(jobs, reports, command)
                except BaseException:
                    os._exit(1)  # the child must not continue as a second command
                return None
            os.close(jobs)
            os.close(reports)
            return cls(pid, to_worker, from_worker)

    def send(self, job: Mapping[str, Any], blob: bytes = b"", *, deadline: float, is_more: bool = False) -> None:
        """Send a job to the worker. If that fails, `ended` has the reason, at the latest after the next `check`.

        :param blob: bytes that belong to the job, such as the messages of a broker
        :param deadline: when to give up, by `time.monotonic`
        :param is_more: whether this is a further frame of the current job
        :raises ValueError: the job is too long, or a value has a type that `marshal` can't write
        """
        if not is_more:
            self._job_id += 1
            self.last_report = time.monotonic()
        view = memoryview(encode_frame({**job, "id": self._job_id}, blob))
        while view and not (self.ended or self._rejects_jobs):
            try:
                view = view[os.write(self._jobs, view) :]
            except BlockingIOError:
                if not _wait_writable(self._jobs, deadline):
                    self.kill("it did not take its job in time")
            except OSError:
                self._rejects_jobs = True  # `check` handles this after the worker's last reports are read

    def kill(self, reason: str = "it was ended") -> None:
        """Kill the worker and the processes that it has started. Its unread reports are lost."""
        self.ended = self.ended or reason
        if self._jobs >= 0:
            self._kill_group()
            self._wait(_KILL_TIMEOUT)
            self._close()

    def finish(self, timeout: float) -> None:
        """Ask the worker to exit, and wait. Then kill the worker and its child processes, if they still run.

        :param timeout: seconds to wait
        """
        if not self.ended:
            # Closing the pipe would not be enough: another process may hold its other end.
            self.send({"job": "stop"}, deadline=time.monotonic() + timeout)
            self._wait(timeout)
        self.kill("it was asked to end")

    def read(self) -> list[dict[str, Any]]:
        """Return the reports about the current job that have arrived, without waiting."""
        found: list[dict[str, Any]] = []
        if self.ended:
            return found
        try:
            for _ in range(_MAX_READS):
                data = os.read(self._reports, _READ_SIZE)
                if not data:
                    self.kill(self._exit_reason())
                    break
                self._reader.feed(data)
                found += (message for message, _ in self._reader.frames())
        except BlockingIOError:
            pass
        except ProtocolError as error:
            self.kill(f"it sent an invalid report ({error})")
        if found:
            self.last_report = time.monotonic()
        return [report for report in found if report.get("id") == self._job_id]

    def check(self) -> list[dict[str, Any]]:
        """Check whether the process has exited or uses too much memory, and set `ended` if so.

        :return: the last reports of a process that has exited
        """
        now = time.monotonic()
        if self.ended or now - self._last_check < _WATCH_INTERVAL:
            return []
        self._last_check = now
        if self._rejects_jobs or self._has_exited():
            # Do not wait for the end of the pipe: another process may still hold it open.
            last = self.read()
            self.kill(self._exit_reason())
            return last
        if (used := memory_of(self.pid)) > memory_limit():
            self.kill(f"it used {used >> 20} MiB of memory")
        return []

    def fileno(self) -> int:
        """Return the file descriptor to read reports from."""
        return self._reports

    def _exit_reason(self) -> str:
        self._wait(_KILL_TIMEOUT)
        if self._status is None:
            return "it closed its connection"
        if self._status >= 0:
            return f"its process ended with status {self._status}"
        from event._fast_signal import signal_name

        number = -self._status
        return f"its process ended with {signal_name(number) or f'signal {number}'}"

    def _wait(self, timeout: float) -> None:
        """Wait until the process has exited, at most `timeout` seconds."""
        deadline = time.monotonic() + timeout
        pause = 0.0005
        while not self._has_exited() and time.monotonic() < deadline:
            time.sleep(pause)
            pause = min(2 * pause, 0.01)

    def _close(self) -> None:
        if self._process and self._status is None:
            self._process.returncode = -_SIGKILL  # else Popen warns that the process is still running
        os.close(self._jobs)
        os.close(self._reports)
        self._jobs = self._reports = -1

    if sys.platform == "win32":  # pragma: no cover  # platform: Windows

        def _has_exited(self) -> bool:
            if self._process:
                self._status = self._process.poll()
            return self._status is not None

        def _kill_group(self) -> None:
            if self._process:
                self._process.kill()

    else:

        def _has_exited(self) -> bool:
            if self._status is None:
                try:
                    pid, status = os.waitpid(self.pid, os.WNOHANG)
                except ChildProcessError:  # SIGCHLD is ignored, so the exit status is not available
                    pid, status = self.pid, 0
                if pid:
                    self._status = os.waitstatus_to_exitcode(status)
                    if self._process:
                        self._process.returncode = self._status
            return self._status is not None

        def _kill_group(self) -> None:
            # Processes that a handler has started keep the group alive after the worker has exited.
            for kill, number in ((os.killpg, self.pid), (os.kill, self.pid if self._status is None else 0)):
                try:
                    if number:
                        kill(number, _SIGKILL)
                except (ProcessLookupError, PermissionError):
                    pass


def receive(
    workers: Sequence[Worker], deadline: float, wake_up: int | None = None
) -> list[tuple[Worker, dict[str, Any]]]:
    """Wait until a report arrives, a worker ends or the deadline passes; return the reports.

    :param workers: the workers to wait for; those that have already ended are ignored
    :param deadline: when to return, by `time.monotonic`
    :param wake_up: a file descriptor; when it can be read, read it and return
    """
    while (serving := [worker for worker in workers if not worker.ended]) or wake_up is not None:
        fds = [worker.fileno() for worker in serving] + ([] if wake_up is None else [wake_up])
        wait = min(_WATCH_INTERVAL, deadline - time.monotonic())
        ready = readable(fds, max(0.0, wait))
        reports = [(worker, report) for worker in serving if worker.fileno() in ready for report in worker.read()]
        reports += [(worker, report) for worker in serving for report in worker.check()]
        if wake_up in ready:
            os.read(wake_up, _READ_SIZE)
            return reports
        if reports or any(worker.ended for worker in serving) or wait <= 0:
            return reports
    return []


if sys.platform == "win32":  # pragma: no cover  # platform: Windows has no poll for pipes

    def _wait_writable(fd: int, deadline: float) -> bool:  # noqa: ARG001  # as below
        time.sleep(0.01)
        return time.monotonic() < deadline

else:
    from select import POLLOUT, poll

    def _wait_writable(fd: int, deadline: float) -> bool:
        poller = poll()
        poller.register(fd, POLLOUT)
        return bool(poller.poll(max(0.0, deadline - time.monotonic()) * 1000))
