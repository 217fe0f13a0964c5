"""Copy a command's output to stdout and stderr and to a log, and keep its last bytes.

The command writes to pipes instead of stdout and stderr, and a thread copies the data. If stdout and stderr are the
same file, they share a pipe, so that the order is kept. A process that the command started may keep a pipe open after
the command has ended. So the copying ends in several steps: `Tee.end`, `Tee.finish` and `Tee.pass_through`.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import time
from _thread import allocate_lock, start_new_thread  # the lock of threading, whose import is expensive

from event import _files
from event._process.signals import above_standard
from event._process.tail import FileEnd, Ring, last_lines

if sys.platform != "win32":  # pragma: no branch  # platform: Windows has no poll
    from select import POLLIN, POLLOUT, poll

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

OUTPUT_TIMEOUT = 0.1  # seconds; a process may write a little longer than the command, as in `make > >(tee copy)`
_PIPE_SIZE = 1 << 16  # bytes read at once: the capacity of a pipe
_MAX_REST = 1 << 20  # bytes read after the command has ended; the largest pipe that Linux grants by default
_NO_READER = frozenset({errno.EPIPE, errno.EBADF})  # the reader has gone away


def tee_of_own_output(log: int | None) -> Tee:
    """Return a tee for a command that would write to our stdout and stderr.

    With a log, both streams are replaced by pipes. Without a log, the command must not notice a difference, so only
    pipes and sockets are replaced. The command keeps a terminal, a device, a closed descriptor or a file. The end of a
    file is read from the file itself.

    :param log: a descriptor to copy the output to; `Tee.end` closes it
    :raises OSError: too many files are open; the log is still open
    """
    ends: list[Ring | FileEnd] = []
    piped: list[tuple[int, ...]] = []
    for targets in [(1, 2)] if _is_one_file(1, 2) else [(1,), (2,)]:
        if log is not None:
            piped.append(targets)
        elif end := _file_end(targets[0]):
            ends.append(end)
        elif _is_unnoticed(targets[0]):
            piped.append(targets)
    tee = Tee(piped, log)
    # The end of stderr, with the reason of a failure, comes last.
    tee.ends = [*ends, *tee.ends] if (2,) in piped else [*tee.ends, *ends]
    return tee


class Tee:
    """Copies the output from pipes to stdout or stderr, to a log and to a ring.

    :param piped: for each pipe, the descriptors that it replaces
    :param log: the log's descriptor, or None. Without a log, the command gets a closed pipe if the reader of its output
        has gone away, as if it wrote there itself
    :ivar error: the error that makes a log incomplete; None if it is complete
    :ivar show_error: the error that kept output from stdout or stderr, other than a closed pipe; None if there is none
    :ivar on_closed: called with the number of a stream whose reader has gone away
    :ivar ends: the sources of the last bytes of the output
    """

    def __init__(self, piped: Sequence[tuple[int, ...]], log: int | None) -> None:
        self.error: OSError | None = None
        self.show_error: OSError | None = None
        self.on_closed: Callable[[int], None] | None = None
        self._ring = Ring()
        self.ends: list[Ring | FileEnd] = [self._ring]
        self._log = log
        self._ended = False
        self._reading = allocate_lock()
        self.streams = [_Stream(targets) for targets in piped]

    @property
    def writers(self) -> dict[int, int]:
        """The pipe's end for the command's stdout (1) and stderr (2); one may be missing."""
        return {target: stream.writer for stream in self.streams for target in stream.targets}

    def start(self) -> dict[int, int]:
        """Start to copy; return `writers`, or an empty dict if no thread can be started."""
        try:
            for number in range(len(self.streams)):
                start_new_thread(self._copy, (number,))
        except RuntimeError as error:  # there may be no more threads
            self.error = OSError(errno.EAGAIN, str(error))
            return {}
        return self.writers

    def spawned(self) -> None:
        """Close our ends of the pipes, since the command has its own."""
        for stream in self.streams:
            os.close(stream.writer)

    def end(self, grace: float) -> None:
        """Complete the log and the ring, after the command has ended.

        :param grace: how long to wait for the output of processes that still run, in seconds
        """
        with self._reading:
            self._ended = True
            deadline = time.monotonic() + grace
            for stream in self.streams:
                left = _MAX_REST
                while left > 0 and stream.open and _readable(stream.reader, deadline - time.monotonic()):
                    data = self._take(stream)
                    stream.rest += data
                    left -= len(data)
            try:
                if self._log is not None:
                    os.close(self._log)
            except OSError as error:  # on NFS a full disk may show only here
                self.error = self.error or error
        try:
            for stream in self.streams:
                start_new_thread(self._show_rest, (stream,))  # the last lines must not wait until the event is sent
        except RuntimeError:
            pass  # there may be no more threads; `finish` shows them

    def finish(self) -> None:
        for stream in self.streams:
            self._show_rest(stream)

    def _show_rest(self, stream: _Stream) -> None:
        with stream.showing:
            rest, stream.rest = stream.rest, b""
            self._show(stream, rest)

    def last_lines(self, count: int, redact: Callable[[str], str]) -> str:
        """Return the last lines of the output, after the command has ended; see `event._process.tail.last_lines`."""
        return last_lines([end.content() for end in self.ends], count, redact)

    @property
    def left_behind(self) -> bool:
        """Whether another process may still write to a pipe."""
        return any(stream.open for stream in self.streams)

    def pass_through(self) -> None:  # pragma: no cover  # the witness exits without a report to coverage
        """Show the output of remaining processes, so that they are not killed by a closed pipe.

        The witness does this after our process has ended; see `event._process.signals`.
        """
        poller = poll()
        streams = {stream.reader: stream for stream in self.streams if stream.open}
        for reader in streams:
            poller.register(reader, POLLIN)
        while streams:
            for reader, _ in poller.poll():
                data = os.read(reader, _PIPE_SIZE)
                if not data or show(streams[reader].targets[0], data):
                    poller.unregister(reader)
                    os.close(reader)
                    del streams[reader]

    def close_reader(self, number: int) -> None:  # pragma: no cover  # of a `_thread` thread
        """Close a pipe, so that its writers get an error."""
        with self._reading:
            stream = self.streams[number]
            if stream.open and not self._ended:
                stream.open = False
                os.close(stream.reader)

    def _copy(self, number: int) -> None:  # pragma: no cover  # of a `_thread` thread
        stream = self.streams[number]
        while True:
            _readable(stream.reader, None)
            with self._reading:
                if self._ended:
                    return
                data = self._take(stream)
                if not data:
                    return
                stream.showing.acquire()
            is_shown = self._show(stream, data)
            stream.showing.release()
            if self._log is None and not is_shown:
                self.close_reader(number)
                if self.on_closed:
                    self.on_closed(number)
                return

    def _take(self, stream: _Stream) -> bytes:
        """Read from a pipe and write the data to the log; return the data, empty at the end of the pipe."""
        data = os.read(stream.reader, _PIPE_SIZE)
        stream.open = bool(data)
        self._ring.append(data)
        if self.error is None and self._log is not None:
            try:
                _files.write_all(self._log, data)
            except OSError as error:  # pragma: no cover  # of a `_thread` thread
                self.error = error
        return data

    def _show(self, stream: _Stream, data: bytes) -> bool:
        error = show(stream.targets[0], data)
        if error and error.errno not in _NO_READER:
            self.show_error = error
        return not error


class _Stream:
    """A pipe that replaces stdout, stderr or both."""

    def __init__(self, targets: tuple[int, ...]) -> None:
        self.targets = targets
        self.reader, self.writer = map(above_standard, os.pipe())
        self.open = True
        self.rest = b""
        self.showing = allocate_lock()


def show(target: int, data: bytes) -> OSError | None:
    """Write to stdout or stderr; return the error, or None."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(target, view) :]
        except BlockingIOError:  # another process has made the shared terminal or pipe nonblocking
            _writable(target)
        except OSError as error:
            return error
    return None


def _is_one_file(one: int, other: int) -> bool:
    try:
        a, b = os.fstat(one), os.fstat(other)
    except OSError:  # one is closed
        return False
    return bool(a.st_ino) and os.path.samestat(a, b)  # on Windows, a pipe has no inode number


def _file_end(target: int) -> FileEnd | None:
    try:
        return FileEnd(target) if stat.S_ISREG(os.fstat(target).st_mode) else None
    except OSError:
        return None


def _is_unnoticed(target: int) -> bool:
    """Return whether a command cannot notice that our pipe replaces its stdout or stderr."""
    try:
        found = os.fstat(target)
        if stat.S_ISCHR(found.st_mode):
            return os.path.samestat(found, os.stat(os.devnull)) and not os.isatty(target)
    except OSError:  # it is closed
        return False
    return not _has_no_reader(target)


if sys.platform == "win32":  # pragma: no cover  # platform: Windows has no poll for pipes

    def _readable(fd: int, seconds: float | None) -> bool:
        import msvcrt
        from _winapi import PeekNamedPipe

        deadline = None if seconds is None else time.monotonic() + seconds
        while True:
            try:
                if PeekNamedPipe(msvcrt.get_osfhandle(fd), 0)[0]:
                    return True
            except OSError:
                return True  # the end of the pipe, which the next read reports
            if deadline is not None and time.monotonic() >= deadline:
                return False
            time.sleep(0.01)

    def _writable(fd: int) -> None:  # noqa: ARG001  # the other platforms' signature
        time.sleep(0.01)

    def _has_no_reader(fd: int) -> bool:  # noqa: ARG001  # the other platforms' signature
        return False

else:

    def _readable(fd: int, seconds: float | None) -> bool:
        """Wait until data or the end of the pipe can be read; without limit if `seconds` is None."""
        return _polled(fd, POLLIN, None if seconds is None else max(0.0, seconds))

    def _writable(fd: int) -> None:
        _polled(fd, POLLOUT, None)

    def _has_no_reader(fd: int) -> bool:
        return _polled(fd, 0, 0.0)  # errors are always reported

    def _polled(fd: int, what: int, seconds: float | None) -> bool:
        poller = poll()
        poller.register(fd, what)
        return bool(poller.poll(None if seconds is None else seconds * 1000))
