"""The main loop of the worker process, and its exit."""

from __future__ import annotations

import faulthandler
import os
import subprocess
import sys

import pytest

from event._worker import child
from helpers.commands import HOLDS_THE_LOCK, handler_source, stored_events
from worker.jobs import kinds, send_job

if os.name == "nt":
    pytest.skip("platform: the pipes are those of a POSIX system", allow_module_level=True)


def run_main(connection):
    """Run the worker's main loop in this process."""
    child.main(connection.jobs, connection.reports, os.getppid())


def start_worker(connection):
    """Run the worker's main loop in another process."""
    code = f"import sys; sys.path[:] = {sys.path!r}; from event._worker import child"
    return subprocess.Popen(
        [sys.executable, "-c", f"{code}; child.main({connection.jobs}, {connection.reports}, {os.getpid()})"],
        pass_fds=(connection.jobs, connection.reports),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_worker_runs_jobs_one_after_another_until_stop(connection):
    for number in (1, 2):
        connection.send({**send_job(), "id": number})
    connection.send({"job": "stop"})
    start_worker(connection).communicate(timeout=60)
    assert kinds(connection.receive()) == ["taken", "begin", "result", "done"] * 2
    assert len(stored_events()) == 1


@pytest.mark.usefixtures("exits")
def test_frame_of_a_finished_job_is_ignored(connection):
    connection.send({**send_job(), "id": 1})
    connection.send({"job": "release", "lane": "x", "id": 1})
    connection.send({"job": "stop", "id": 1})
    run_main(connection)
    assert kinds(connection.receive()) == ["taken", "begin", "result", "done"]


def test_worker_ends_when_the_command_closes_the_connection(connection):
    process = start_worker(connection)
    os.close(connection.to_worker)
    os.close(connection.jobs)
    assert process.communicate(timeout=60) == (b"", b"")
    assert process.returncode == 0


def test_worker_ends_if_a_frame_is_malformed(connection):
    process = start_worker(connection)
    os.write(connection.to_worker, b"\xff" * 16)
    assert process.communicate(timeout=60) == (b"", b"")
    assert process.returncode == 0


def test_worker_of_a_killed_command_ends_even_if_the_pipe_is_open(connection):
    """Another process may hold the command's end, such as the witness of `run`."""
    code = (
        "import os, sys\n"
        f"sys.path[:] = {sys.path!r}\n"
        "from event._worker import child\n"
        "from event._worker import reporter\n"
        "reporter._PARENT_CHECK_INTERVAL = 0.05\n"
        "pid = os.fork()\n"
        "if pid: os._exit(0)\n"
        f"child.main({connection.jobs}, {connection.reports}, {os.getpid()})\n"
    )
    fds = (connection.jobs, connection.reports)
    assert subprocess.run([sys.executable, "-c", code], pass_fds=fds, check=False, timeout=60).returncode == 0
    os.close(connection.reports)
    assert os.read(connection.from_worker, 1) == b""  # the worker, which had the last open end, has ended


def test_worker_writes_stdout_to_stderr_and_has_an_empty_stdin(connection, here, plugin):
    plugin("chatty", handler_source("print('out'); print(repr(sys.stdin.read())); return True"))
    connection.send(send_job(handlers=[["chatty", ""]]))
    connection.send({"job": "stop"})
    out, err = start_worker(connection).communicate(timeout=60)
    assert out == b""
    assert err.split() == [b"out", b"''"]


@pytest.mark.usefixtures("exits")
@pytest.mark.parametrize("has_stderr", [True, False])
def test_worker_leaves_the_streams_and_the_session_of_the_command(connection, monkeypatch, has_stderr):
    moved, sessions = [], []

    def dup2(fd, target):
        if fd == 2 and not has_stderr:
            raise OSError(9, "Bad file descriptor")
        moved.append(("stderr" if fd == 2 else "devnull", target))

    def setsid():
        sessions.append("new")
        raise PermissionError  # the worker already leads a session

    monkeypatch.setattr(os, "dup2", dup2)
    monkeypatch.setattr(os, "setsid", setsid)
    connection.send({"job": "stop"})
    run_main(connection)
    targets = [("devnull", 0), *([("stderr", 1)] if has_stderr else [("devnull", 1), ("devnull", 2)])]
    assert (moved, sessions) == (targets, ["new"])
    assert sys.stdout is sys.stderr


@pytest.mark.usefixtures("exits")
def test_worker_works_on_a_system_without_sessions(connection, monkeypatch):
    monkeypatch.delattr(os, "setsid")
    connection.send({"job": "stop"})
    run_main(connection)


@pytest.mark.usefixtures("exits")
def test_worker_does_not_close_the_descriptor_of_a_closed_stdin(connection, monkeypatch):
    closed = []
    monkeypatch.setattr(os, "open", lambda *_: 0)  # the lowest free descriptor
    monkeypatch.setattr(os, "close", closed.append)
    connection.send({"job": "stop"})
    run_main(connection)
    monkeypatch.undo()
    assert closed == [connection.reports]


def test_worker_without_stderr_works(connection):
    connection.send(send_job())
    connection.send({"job": "stop"})
    code = f"import sys; sys.path[:] = {sys.path!r}; from event._worker import child; "
    shell = 'exec "$0" -c "$1" 2>&-'
    args = [
        "sh",
        "-c",
        shell,
        sys.executable,
        f"{code}child.main({connection.jobs}, {connection.reports}, {os.getpid()})",
    ]
    assert subprocess.run(args, pass_fds=(connection.jobs, connection.reports), check=False, timeout=60).returncode == 0
    assert len(stored_events()) == 1


def test_process_ends_after_its_limit_if_a_handler_holds_the_interpreter_lock(connection, here, plugin):
    plugin("stuck", handler_source(HOLDS_THE_LOCK))
    connection.send(send_job(handlers=[["stuck", ""]], limit=0.5))
    process = start_worker(connection)
    process.communicate(timeout=60)
    assert process.returncode == 1


@pytest.mark.parametrize(
    ("handlers", "exits_at_once"),
    [
        pytest.param([], False, id="no event"),
        pytest.param(["file"], True, id="only built-in handlers"),
        pytest.param(["file", "good"], False, id="then a plugin"),
        pytest.param(["good", "file"], False, id="first a plugin"),
    ],
)
def test_worker_exits_at_once_unless_it_has_called_a_plugin(connection, exits, plugin, handlers, exits_at_once):
    plugin("good", handler_source())
    for number, name in enumerate(handlers):
        connection.send({**send_job(handlers=[[name, "events"]], alone=True), "id": number + 1})
    connection.send({"job": "stop", "id": 9})
    run_main(connection)
    assert exits == [0] * exits_at_once


@pytest.mark.usefixtures("exits")
def test_main_loop_ends_and_closes_its_pipe_after_a_malformed_frame(connection):
    os.write(connection.to_worker, b"\xff" * 8)
    run_main(connection)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(connection.reports)


@pytest.mark.usefixtures("exits")
def test_main_loop_ends_if_a_handler_has_closed_its_pipes(connection):
    os.close(connection.jobs)
    os.close(connection.reports)
    run_main(connection)


def test_exit_timer_runs_in_c_and_can_be_stopped(monkeypatch):
    calls = []
    monkeypatch.setattr(faulthandler, "dump_traceback_later", lambda *a, **k: calls.append((a, k["exit"])))
    monkeypatch.setattr(faulthandler, "cancel_dump_traceback_later", lambda: calls.append("off"))
    child.end_within(3.0)
    child.end_within(4.0)
    child.end_within(0)
    assert calls == [((3.0,), True), ((4.0,), True), "off"]


def test_job_runs_without_the_exit_timer_if_no_thread_can_be_started(monkeypatch):
    def refuse(*_args, **_options):
        raise RuntimeError("unable to start watchdog thread")

    monkeypatch.setattr(faulthandler, "dump_traceback_later", refuse)
    child.end_within(3.0)
