"""Both output streams of a command: shown where they would have gone, and copied to a log.

The command writes into two pipes, and a thread copies each one, as the bytes come. A process that the command leaves
behind may keep a pipe open for ever, so the end of the copying is not the end of the pipes:

=============  ========================================================================================================
`Tee.start`    the threads begin; `Tee.spawned`: the command has its ends of the pipes
`Tee.end`      the command has ended: what it wrote, and what comes within `OUTPUT_TIMEOUT`, is in the log
`Tee.finish`   that is shown too
`pass_through` in the witness (see `event._process.signals`), when we have ended: what is left behind still writes to
               where it always did, and does not die of a closed pipe
=============  ========================================================================================================
"""

from __future__ import annotations

import errno
import os
import sys
import time
from threading import Lock, Thread

from event import _files
from event._process.signals import above_standard

if sys.platform != "win32":  # pragma: no branch  # platform: Windows has no poll
    from select import POLLIN, POLLOUT, poll

OUTPUT_TIMEOUT = 0.1  # seconds, for what writes a moment longer than the command, as in `make > >(tee copy)`
_PIPE_SIZE = 1 << 16  # bytes read at once: what a pipe holds
_MAX_REST = 1 << 20  # bytes read after the command has ended; the largest pipe that Linux grants by default


class Tee:
    """Copies what is written to two pipes to stdout, to stderr and to a log.

    :param log: the log's descriptor; it is closed by `end`
    :ivar error: why the log is not complete; None where it is
    :ivar show_error: why the output is not complete, although somebody may read it; None if it is
    """

    def __init__(self, log: int) -> None:
        self.error: OSError | None = None
        self.show_error: OSError | None = None
        self._log = log
        self._ended = False
        self._reading = Lock()
        self.streams = [_Stream(1), _Stream(2)]

    @property
    def writers(self) -> tuple[int, ...]:
        """The pipes' ends for the command's stdout and stderr."""
        return tuple(stream.writer for stream in self.streams)

    def start(self) -> tuple[int, ...]:
        """Begin to copy; return `writers`, or nothing where that is impossible."""
        try:
            for stream in self.streams:
                Thread(target=self._copy, args=(stream,), daemon=True).start()
        except RuntimeError as error:  # there may be no more threads
            self.error = OSError(errno.EAGAIN, str(error))
            return ()
        return self.writers

    def spawned(self) -> None:
        """Close our ends of the pipes: the command has its own."""
        for writer in self.writers:
            os.close(writer)

    def end(self) -> None:
        """Complete the log; the command has ended."""
        with self._reading:
            self._ended = True
            deadline = time.monotonic() + OUTPUT_TIMEOUT
            for stream in self.streams:
                left = _MAX_REST
                while left > 0 and stream.open and _readable(stream.reader, deadline - time.monotonic()):
                    data = self._take(stream)
                    stream.rest += data
                    left -= len(data)
            try:
                os.close(self._log)
            except OSError as error:  # on NFS a full disk may show only here
                self.error = self.error or error

    def finish(self) -> None:
        """Show what was not shown yet."""
        for stream in self.streams:
            stream.showing.acquire()
            self._show(stream, stream.rest)

    @property
    def left_behind(self) -> bool:
        """Whether another process may still write to a pipe."""
        return any(stream.open for stream in self.streams)

    def pass_through(self) -> None:  # pragma: no cover  # runs in the witness, which ends without a word to coverage
        """Show what comes until nobody writes any more, or nobody reads."""
        poller = poll()
        streams = {stream.reader: stream for stream in self.streams}
        for reader in streams:
            poller.register(reader, POLLIN)
        while streams:
            for reader, _ in poller.poll():
                data = os.read(reader, _PIPE_SIZE)
                if not data or not self._passed(streams[reader], data):
                    poller.unregister(reader)
                    os.close(reader)
                    del streams[reader]

    def _copy(self, stream: _Stream) -> None:
        while True:
            _readable(stream.reader, None)
            with self._reading:
                if self._ended:
                    return
                data = self._take(stream)
                if not data:
                    return
                stream.showing.acquire()
            self._show(stream, data)
            stream.showing.release()

    def _passed(self, stream: _Stream, data: bytes) -> bool:  # pragma: no cover  # runs in the witness
        try:
            return show(stream.target, data)
        except OSError:
            return False

    def _show(self, stream: _Stream, data: bytes) -> None:
        try:
            show(stream.target, data)
        except OSError as error:
            self.show_error = self.show_error or error

    def _take(self, stream: _Stream) -> bytes:
        """Read from a pipe, and write it to the log; return it, empty at the pipe's end."""
        data = os.read(stream.reader, _PIPE_SIZE)
        stream.open = bool(data)
        if self.error is None:
            try:
                _files.write_all(self._log, data)
            except OSError as error:
                self.error = error
        return data


class _Stream:
    """A pipe in place of stdout or stderr.

    :param target: the descriptor that it stands for
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.reader, self.writer = map(above_standard, os.pipe())
        self.open = True
        self.rest = b""
        self.showing = Lock()


def show(target: int, data: bytes) -> bool:
    """Write to stdout or stderr; return False if nobody reads any more, or the stream was closed from the start.

    :raises OSError: it cannot be written for another reason, such as a full disk
    """
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(target, view) :]
        except BlockingIOError:  # who shares the terminal or the pipe with us has made it so
            _writable(target)
        except OSError as error:
            if error.errno in {errno.EPIPE, errno.EBADF}:
                return False
            raise
    return True


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
                return True  # its end, which reading shows
            if deadline is not None and time.monotonic() >= deadline:
                return False
            time.sleep(0.01)

    def _writable(fd: int) -> None:  # noqa: ARG001  # the other platforms' signature
        time.sleep(0.01)

else:

    def _readable(fd: int, seconds: float | None) -> bool:
        """Wait until something can be read, if only the pipe's end; for ever where seconds is None."""
        return _polled(fd, POLLIN, None if seconds is None else max(0.0, seconds))

    def _writable(fd: int) -> None:
        _polled(fd, POLLOUT, None)

    def _polled(fd: int, what: int, seconds: float | None) -> bool:
        poller = poll()
        poller.register(fd, what)
        return bool(poller.poll(None if seconds is None else seconds * 1000))
