"""What the servers that are programs of their own share: how they are found, started, killed and held still."""

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

SECONDS = 60  # for a start on a machine that has other work


def find_program(name, *directories):
    """Return the path of a program, from one of these directories if it is there; skip the test if it is nowhere."""
    if sys.platform == "win32":
        pytest.skip("platform: the tests start, stop and kill servers in the ways of POSIX")
    found = shutil.which(name, path=os.pathsep.join([*directories, os.environ.get("PATH", os.defpath)]))
    if not found:
        pytest.skip(f"{name} is not installed; run: apt-get install {name}")
    return found


def free_port():
    """Return a socket, and the port that it holds free for a server.

    A socket that is bound and does not listen refuses connections, and keeps the system from giving the port to anyone
    who asks for any port, or to a connection that goes out: also while the server is down. Linux lets a server that
    names the port have it nevertheless; elsewhere it is let go, and free until somebody happens to get it.
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    port = holder.getsockname()[1]
    if sys.platform != "linux":
        holder.close()
    return holder, port


class Server:
    """A server's process; its `port`, its `password` and what is in its `directory` outlive it.

    A subclass has the `command`, the `environment`, the `url`, and asks the server for an answer.
    """

    environment: dict[str, str] = {}  # noqa: RUF012  # nobody writes into it

    def __init__(self, directory):
        self.directory = directory
        self.log = directory / "log"
        self.password = secrets.token_hex(8)  # nobody else's: the one who answers to it is ours
        self.holder, self.port = free_port()
        self.process = self.watcher = None

    def ask(self):
        """Log in and get an answer. Raise OSError while there is none."""
        raise NotImplementedError

    def start(self):
        """Start it, or start it again; return when it answers. Raise RuntimeError with the end of its log if not."""
        unmarked = os.environ.get("E3_TESTS_NO_SERVER")
        assert not unmarked, f"{unmarked} starts a server and is not marked `server`"
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.directory,
                # Nothing else of ours: either server takes settings from many a variable.
                env={"PATH": os.environ["PATH"], "HOME": str(self.directory), **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C is for the tests, which then end it
            )
        self.watcher = _watch(self.process.pid)
        end = time.monotonic() + SECONDS
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > end:
                self.kill()
                raise RuntimeError(f"{self.command[0]} does not answer; its log ends with\n{self._last_words()}")
            time.sleep(0.02)

    def _answers(self):
        try:
            self.ask()
        except OSError:
            return False
        return True

    def _last_words(self):
        # Erlang tells the reason first, and then in many words what has ended because of it.
        return self.log.read_text(errors="replace")[-10_000:]

    def kill(self):
        """Kill it at once, if it runs, held still or not; return when it is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self._forget()

    def stop(self):
        """Have it end in its own way; return when it has. Raise if it takes too long, or says that it failed."""
        self.process.terminate()
        status = self.process.wait(SECONDS)
        self._forget()
        if status != 0:
            raise RuntimeError(f"{self.command[0]} stopped with {status}; its log ends with\n{self._last_words()}")

    def _forget(self):
        if self.watcher is not None:
            self.watcher.communicate(b"\n")
        self.process = self.watcher = None

    def pause(self):
        """Hold it still: the system takes connections and bytes for it, and nothing is answered."""
        os.kill(self.process.pid, signal.SIGSTOP)
        # Each of its threads stops when it gets to see the signal, a moment after kill has returned.
        _, status = os.waitpid(self.process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), f"it ended: {status}"

    def resume(self):
        """Let it go on."""
        os.kill(self.process.pid, signal.SIGCONT)


def _watch(pid):
    """Start a shell that kills a process when its own input ends, as it does when the tests are killed."""
    return subprocess.Popen(
        ["/bin/sh", "-c", 'read -r line || kill -KILL "$1"', "sh", str(pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


@contextmanager
def running_server(server):
    """Start a server; give it; in the end kill it, whatever has become of it."""
    with server.holder:
        try:
            server.start()
            yield server
            # A client that is garbage would take leave, and log it, in the midst of another test.
            gc.collect()
        finally:
            server.kill()
