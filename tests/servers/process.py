"""Servers that are separate programs: find, start, stop, kill and pause them."""

from __future__ import annotations

import gc
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

TIMEOUT = 60  # seconds for a start or an end, also on a busy machine


def find_program(name, *directories):
    """Return the path of a program, which is searched for in these directories and then in PATH.

    If it is not installed, skip the test.
    """
    if sys.platform == "win32":
        pytest.skip("platform: the tests use POSIX signals to stop, kill and pause servers")
    found = shutil.which(name, path=os.pathsep.join([*directories, os.environ.get("PATH", os.defpath)]))
    if not found:
        pytest.skip(f"{name} is not installed; run: apt-get install {name}")
    return found


def free_port():
    """Return a port for a server, and the socket that reserves it.

    While the socket is bound, the system does not give the port to another process, not even while the server is down.
    The socket does not listen, so connections are refused. Linux allows the server to use the port nevertheless. On
    other systems, the socket is closed at once, and another process could get the port.
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    port = holder.getsockname()[1]
    if sys.platform != "linux":
        holder.close()
    return holder, port


class Server:
    """A server and its process. Its port, its password and its files stay the same when the process is restarted.

    A subclass sets `command`, may set `environment`, and implements `ping`.

    :param directory: the directory for the server's files and its log
    """

    environment: dict[str, str] = {}  # noqa: RUF012  # nobody changes it

    def __init__(self, directory):
        self.directory = directory
        self.log = directory / "log"
        self.password = secrets.token_hex(8)  # unique: no other server accepts it
        self.holder, self.port = free_port()
        self.process = self.watcher = None

    def ping(self):
        """Log in and wait for an answer.

        :raises OSError: the server is not ready
        """
        raise NotImplementedError

    def start(self):
        """Start or restart the server, and wait until it answers.

        :raises RuntimeError: it does not answer; the message contains the end of its log
        """
        unmarked = os.environ.get("E3_TESTS_NO_SERVER")
        assert not unmarked, f"{unmarked} starts a server and is not marked `server`"
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.directory,
                # Nothing else: the servers read settings from many variables.
                env={"PATH": os.environ["PATH"], "HOME": str(self.directory), **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that only the tests get Ctrl-C; they kill the server
            )
        self.watcher = _watch(self.process.pid)
        end = time.monotonic() + TIMEOUT
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > end:
                self.kill()
                raise RuntimeError(f"{self.command[0]} does not answer; its log ends with\n{self._end_of_log()}")
            time.sleep(0.02)

    def _answers(self):
        try:
            self.ping()
        except OSError:
            return False
        return True

    def _end_of_log(self):
        # Erlang logs the reason first, and then at length what has ended because of it.
        return self.log.read_text(errors="replace")[-10_000:]

    def kill(self):
        """Kill the server if it runs, also if it is paused; wait until it has ended."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self._forget()

    def stop(self):
        """Send SIGTERM, and wait until the server has ended. Its exit status must be 0."""
        self.process.terminate()
        status = self.process.wait(TIMEOUT)
        self._forget()
        if status != 0:
            raise RuntimeError(f"{self.command[0]} stopped with {status}; its log ends with\n{self._end_of_log()}")

    def _forget(self):
        if self.watcher is not None:
            self.watcher.communicate(b"\n")
        self.process = self.watcher = None

    def pause(self):
        """Pause the process: the system still accepts connections and data for it, but it does not answer."""
        os.kill(self.process.pid, signal.SIGSTOP)
        # Its threads stop a moment after `os.kill` has returned.
        _, status = os.waitpid(self.process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), f"the server has ended with status {status}"

    def resume(self):
        """Continue after `pause`."""
        os.kill(self.process.pid, signal.SIGCONT)


def _watch(pid):
    """Start a shell that kills a process when the shell's stdin is closed, which happens if the tests are killed."""
    return subprocess.Popen(
        ["/bin/sh", "-c", 'read -r line || kill -KILL "$1"', "sh", str(pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


@contextmanager
def running_server(server):
    """Start a server; yield it; kill it at the end."""
    with server.holder:
        try:
            server.start()
            yield server
            # Otherwise, a client of this test may log its end during a later test, when it is garbage-collected.
            gc.collect()
        finally:
            server.kill()
