"""The worker's side of the connection: reports, heartbeats, and the wait for the next job."""

from __future__ import annotations

import os
import threading

import pytest

from event._worker import child, reporter
from event._worker.child import Heartbeat
from event._worker.protocol import ProtocolError
from event._worker.reporter import Reporter
from helpers.waiting import wait_until

if os.name == "nt":
    pytest.skip("platform: the pipes are those of a POSIX system", allow_module_level=True)


def test_long_text_is_shortened(connection):
    connection.reporter.report("log", text="x" * 99_999, count=3)
    assert connection.receive() == [("log", {"text": "x" * 20_000, "count": 3})]


def test_report_above_the_size_limit_is_an_error(connection):
    with pytest.raises(ValueError, match="a report of "):
        connection.reporter.report("log", lines=[f"{number:01000}" for number in range(2000)])


def test_forked_process_sends_no_reports_and_gets_no_job(connection, monkeypatch):
    def leave(status):
        raise ZeroDivisionError(status)  # `os._exit` does not return

    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    connection.reporter.report("log", text="x")
    with pytest.raises(ZeroDivisionError, match="0"):
        connection.reporter.next_job()
    monkeypatch.undo()
    assert connection.receive() == []


def test_worker_exits_if_its_pipe_for_reports_is_closed(connection, exits, monkeypatch):
    monkeypatch.setattr(reporter, "_COMMAND_EXIT_TIMEOUT", 0.2)
    os.close(connection.from_worker)
    connection.reporter.report("log", text="x")
    assert exits == [1]


def test_job_goes_on_after_the_command_has_exited(connection, exits, monkeypatch):
    os.close(connection.from_worker)
    parents = iter([2, 1])  # the command's pipes are closed before it has exited
    monkeypatch.setattr(os, "getppid", lambda: next(parents))
    Reporter(connection.jobs, connection.reports, command=2).report("log", text="x")
    assert exits == []


def test_worker_waits_a_limited_time_for_the_next_job(connection):
    with pytest.raises(TimeoutError):
        connection.reporter.next_job(0.01)
    connection.send({"job": "x", "id": 7}, b"blob")
    assert connection.reporter.next_job(60) == ({"job": "x", "id": 7}, b"blob")
    os.write(connection.to_worker, b"\xff" * 8)
    with pytest.raises(ProtocolError):
        connection.reporter.next_job()


def test_worker_waits_for_a_job_as_long_as_the_command_runs(connection, monkeypatch):
    checks, getppid = [], os.getppid

    def send_a_job_at_the_second_check():
        checks.append(1)
        if len(checks) == 2:
            connection.send({"job": "stop"})
        return getppid()

    monkeypatch.setattr(reporter, "_PARENT_CHECK_INTERVAL", 0.0)
    monkeypatch.setattr(os, "getppid", send_a_job_at_the_second_check)
    assert connection.reporter.next_job() == ({"job": "stop"}, b"")
    assert len(checks) == 2


def test_worker_gets_no_job_after_the_command_died(connection, monkeypatch):
    monkeypatch.setattr(reporter, "_PARENT_CHECK_INTERVAL", 0.0)
    assert Reporter(connection.jobs, connection.reports, command=-1).next_job() is None


def test_worker_gets_no_job_if_its_pipe_is_closed(connection):
    os.close(connection.jobs)
    assert connection.reporter.next_job() is None


def test_heartbeat_reports_memory_and_threads(connection):
    with Heartbeat(connection.reporter, 0.01):
        assert connection.reporter.has_heartbeat
        kind, values = wait_until(connection.receive_all)[0]
    assert kind == "alive"
    assert sorted(values) == ["memory", "threads"]
    assert values["threads"] >= 2


def test_heartbeat_of_an_earlier_job_does_not_count_for_a_later_one(connection):
    """A job with a single handler has no heartbeat, so its silence must not count as a hang."""
    with Heartbeat(connection.reporter, 60):
        pass
    assert not connection.reporter.has_heartbeat


def test_each_heartbeat_postpones_the_exit_timer(connection, monkeypatch):
    limits = []
    monkeypatch.setattr(child, "end_within", limits.append)
    others = {*threading.enumerate()}
    with Heartbeat(connection.reporter, 0.01, guard=30.0):
        (thread,) = {*threading.enumerate()} - others
        wait_until(lambda: limits)
    thread.join()  # else it might set a real timer after this test
    assert limits[0] == 30.0


def test_no_heartbeat_is_sent_if_no_thread_can_be_started(connection, monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with Heartbeat(connection.reporter, 0.01):
        assert not connection.reporter.has_heartbeat
