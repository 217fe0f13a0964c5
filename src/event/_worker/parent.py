"""The command's side of a worker: start it, give it jobs, hear its reports, end it.

Nothing here waits without an end, and nothing that the worker writes is trusted.
"""

from __future__ import annotations

import os
import sys
import time

from event._worker.protocol import LONGEST_REPORT, FrameReader, ProtocolError, encode_frame
from event._worker.system import make_pipes, memory_limit, memory_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from subprocess import Popen
    from typing import Any

EXIT_TIMEOUT = 2.0  # seconds for a worker to end by itself, as libraries with an atexit function want it
_WATCH_INTERVAL = 0.05  # seconds between two looks at whether a worker lives and how much memory it uses
_READ_SIZE = 1 << 16  # bytes read at once
_MOST_READS = (
    1 if sys.platform == "win32" else 64
)  # reads in a row from one worker, so that a flood does not keep the command from its deadline
_SIGKILL = 9
_KILL_PATIENCE = 0.5  # seconds for a killed process to end; one that waits for a dead disk does not


class Worker:
    """One worker process.

    :ivar pid: its process id
    :ivar ended: why nothing more comes from it, such as ``its process ended with SIGSEGV``; empty as long as it serves
    :ivar last_report: when it last reported, by `time.monotonic`
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
        self._looked = 0.0
        self._is_deaf = False  # whether it takes no more jobs
        self._job_id = 0
        _set_nonblocking(jobs)
        _set_nonblocking(reports)

    @classmethod
    def spawn(cls) -> Worker:
        """Start a worker as a new interpreter.

        :raises OSError: it could not be started
        """
        from event._worker.spawning import spawn

        return cls(*spawn())

    if sys.platform != "win32":  # pragma: no branch  # platform: Windows has no fork

        @classmethod
        def fork(cls, *, ignores_signals: bool = True) -> Worker | None:
            """Start a worker as a copy of this process; return None in the copy, once its work is over.

            This process must not have started a thread yet. The copy imports what jobs need while this process goes on.

            :param ignores_signals: as `child.main` takes it
            :raises OSError: it could not be started
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

                    child.main(jobs, reports, command, ignores_signals=ignores_signals)
                except BaseException:
                    os._exit(1)  # it must not go on as the command
                return None
            os.close(jobs)
            os.close(reports)
            return cls(pid, to_worker, from_worker)

    def send(self, job: Mapping[str, Any], blob: bytes = b"", *, deadline: float, is_more: bool = False) -> None:
        """Give the worker a job. That it does not take it shows in `ended`.

        :param deadline: when to give up, by `time.monotonic`
        :param is_more: whether this is a further frame of the job that the worker has
        :raises ValueError: the job is too long, or holds what a frame cannot
        """
        if not is_more:
            self._job_id += 1
            self.last_report = time.monotonic()
        view = memoryview(encode_frame({**job, "id": self._job_id}, blob))
        while view and not (self.ended or self._is_deaf):
            try:
                view = view[os.write(self._jobs, view) :]
            except BlockingIOError:
                if not _wait_writable(self._jobs, deadline):
                    self._end("it did not take its job in time")
            except OSError:
                self._is_deaf = True  # `look` sees to it, once the reports are read that came before

    def kill(self, reason: str = "it was ended") -> None:
        """End the worker and the processes that it has started; no report of it is heard any more."""
        self.ended = self.ended or reason
        if self._jobs >= 0:
            self._kill_group()
            self._wait(_KILL_PATIENCE)
            self._close()

    def finish(self, patience: float) -> None:
        """Let the worker end by itself, as its libraries may need to; kill it and its processes afterwards.

        :param patience: seconds that it may take
        """
        if not self.ended:
            # To close the connection would not do: another process may hold an end of it.
            self.send({"job": "stop"}, deadline=time.monotonic() + patience)
            self._wait(patience)
        self.kill("it was asked to end")

    def read(self) -> list[dict[str, Any]]:
        """Return the reports about the last job that have arrived, without waiting."""
        found: list[dict[str, Any]] = []
        if self.ended:
            return found
        try:
            for _ in range(_MOST_READS):
                data = os.read(self._reports, _READ_SIZE)
                if not data:
                    self._end(self._reason())
                    break
                self._reader.feed(data)
                found += (message for message, _ in self._reader.frames())
        except BlockingIOError:
            pass
        except ProtocolError as error:
            self._end(f"it broke the protocol of workers ({error})")
        if found:
            self.last_report = time.monotonic()
        return [report for report in found if report.get("id") == self._job_id]

    def look(self) -> list[dict[str, Any]]:
        """Note in `ended` that the process has ended, or that it uses too much memory; return its last reports."""
        now = time.monotonic()
        if self.ended or now - self._looked < _WATCH_INTERVAL:
            return []
        self._looked = now
        if self._is_deaf or self._has_exited():
            # Another process may hold its end of the pipe open, so there may never be an end to read.
            last = self.read()
            self._end(self._reason())
            return last
        if (used := memory_of(self.pid)) > memory_limit():
            self._end(f"it used {used >> 20} MiB of memory")
        return []

    def fileno(self) -> int:
        """Return the descriptor that its reports arrive on."""
        return self._reports

    def _end(self, reason: str) -> None:
        self.ended = self.ended or reason
        self.kill()

    def _reason(self) -> str:
        self._wait(_KILL_PATIENCE)
        if self._status is None:
            return "it closed its connection"
        if self._status >= 0:
            return f"its process ended with status {self._status}"
        return f"its process ended with {_signal_name(-self._status)}"

    def _wait(self, patience: float) -> None:
        """Wait until the process has ended."""
        deadline = time.monotonic() + patience
        pause = 0.0005
        while not self._has_exited() and time.monotonic() < deadline:
            time.sleep(pause)
            pause = min(2 * pause, 0.01)

    def _close(self) -> None:
        if self._process and self._status is None:
            self._process.returncode = -_SIGKILL  # it is not waited for any more
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
                except ChildProcessError:  # SIGCHLD is ignored: nobody knows how it ended
                    pid, status = self.pid, 0
                if pid:
                    self._status = os.waitstatus_to_exitcode(status)
                    if self._process:
                        self._process.returncode = self._status
            return self._status is not None

        def _kill_group(self) -> None:
            # The group outlives the worker as long as a process that a handler has started is in it.
            for kill, number in ((os.killpg, self.pid), (os.kill, self.pid if self._status is None else 0)):
                try:
                    if number:
                        kill(number, _SIGKILL)
                except (ProcessLookupError, PermissionError):
                    pass


def receive(workers: Sequence[Worker], deadline: float) -> list[tuple[Worker, dict[str, Any]]]:
    """Wait until reports have arrived, a worker has ended or the deadline has come; return the reports.

    :param workers: those whose `Worker.ended` is empty are waited for
    :param deadline: by `time.monotonic`
    """
    while serving := [worker for worker in workers if not worker.ended]:
        wait = min(_WATCH_INTERVAL, deadline - time.monotonic())
        ready = _wait_readable(serving, max(0.0, wait))
        reports = [(worker, report) for worker in ready for report in worker.read()]
        reports += [(worker, report) for worker in serving for report in worker.look()]
        if reports or any(worker.ended for worker in serving) or wait <= 0:
            return reports
    return []


def _signal_name(number: int) -> str:
    from signal import Signals

    try:
        return Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


if sys.platform == "win32":  # pragma: no cover  # platform: Windows has no poll for pipes

    def _set_nonblocking(fd: int) -> None:  # the other platforms' signature
        pass

    def _wait_writable(fd: int, deadline: float) -> bool:  # noqa: ARG001  # as above
        time.sleep(0.01)
        return time.monotonic() < deadline

    def _wait_readable(workers: Sequence[Worker], seconds: float) -> list[Worker]:
        import msvcrt
        from _winapi import PeekNamedPipe

        deadline = time.monotonic() + seconds
        while True:
            ready = []
            for worker in workers:
                try:
                    if PeekNamedPipe(msvcrt.get_osfhandle(worker.fileno()), 0)[0]:
                        ready.append(worker)
                except OSError:
                    ready.append(worker)  # its end, which reading shows
            if ready or time.monotonic() >= deadline:
                return ready
            time.sleep(0.01)

else:
    from select import POLLIN, POLLOUT, poll

    def _set_nonblocking(fd: int) -> None:
        os.set_blocking(fd, False)

    def _wait_writable(fd: int, deadline: float) -> bool:
        poller = poll()
        poller.register(fd, POLLOUT)
        return bool(poller.poll(max(0.0, deadline - time.monotonic()) * 1000))

    def _wait_readable(workers: Sequence[Worker], seconds: float) -> list[Worker]:
        poller = poll()
        for worker in workers:
            poller.register(worker.fileno(), POLLIN)
        ready = {fd for fd, _ in poller.poll(seconds * 1000)}
        return [worker for worker in workers if worker.fileno() in ready]
