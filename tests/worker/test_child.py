"""The worker's side: its main loop, its reports, and the jobs `send`, `prepare` and `resume`."""

from __future__ import annotations

import faulthandler
import logging
import os
import subprocess
import sys
import threading
import time

import pytest

import event
from event._event import raw_content
from event._outbox import Outbox
from event._worker import child, reporter, send_job
from event._worker.child import Heartbeat
from event._worker.protocol import ProtocolError
from event._worker.reporter import Reporter
from helpers.commands import HOLDS_THE_LOCK, handler_source, stored_events
from helpers.waiting import wait_until

if os.name == "nt":
    pytest.skip("platform: the pipes are those of a POSIX system", allow_module_level=True)


def job(**values):
    made = event.Event("n", uid="u", a=1)
    made.close()
    defaults = {
        "job": "send",
        "event": raw_content(made),
        "handlers": [["file", "events"]],
        "sending": "s",
        "timeout": 60,
        "deadline": 1e9,
    }
    return {**defaults, **values}


def run(connection, **values):
    child.run_job(job(**values), b"", connection.reporter)
    return connection.receive()


def kinds(reports):
    return [kind for kind, _ in reports]


def results(reports):
    return {values["handler"]: values for kind, values in reports if kind == "result"}


# The main loop.


@pytest.fixture
def exits(monkeypatch):
    """Keep the worker's main loop from changing this process; return the statuses with which it would have exited."""
    statuses = []
    monkeypatch.setattr(os, "_exit", statuses.append)
    monkeypatch.setattr(os, "setsid", lambda: None)
    monkeypatch.setattr(os, "dup2", lambda fd, target: None)
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(child, "end_within", lambda seconds: None)
    return statuses


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
        connection.send({**job(), "id": number})
    connection.send({"job": "stop"})
    start_worker(connection).communicate(timeout=60)
    assert kinds(connection.receive()) == ["taken", "begin", "result", "done"] * 2
    assert len(stored_events()) == 1


@pytest.mark.usefixtures("exits")
def test_frame_of_a_finished_job_is_ignored(connection):
    connection.send({**job(), "id": 1})
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
    connection.send(job(handlers=[["chatty", ""]]))
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
    connection.send(job())
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
    connection.send(job(handlers=[["stuck", ""]], limit=0.5))
    process = start_worker(connection)
    process.communicate(timeout=60)
    assert process.returncode == 1


# Reports.


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
    monkeypatch.setattr(reporter, "_COMMAND_EXIT_TIMEOUT", 0.0)
    os.close(connection.from_worker)
    connection.reporter.report("log", text="x")
    assert exits == [1]


def test_job_goes_on_after_the_command_has_exited(connection, exits):
    os.close(connection.from_worker)
    Reporter(connection.jobs, connection.reports, command=-1).report("log", text="x")
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
        connection.send({**job(handlers=[[name, "events"]], alone=True), "id": number + 1})
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


# The job `send`.


def test_each_handler_gets_the_event_and_has_a_result(connection, here, plugin):
    plugin("down", handler_source("raise OSError('no route')"))
    reports = run(connection, handlers=[["file", "events"], ["down", ""], ["fil", ""]])
    assert kinds(reports) == ["taken", "begin", "result", "result", "result", "done"]
    found = results(reports)
    assert (found["file"]["ok"], found["file"]["error"]) == (True, "")
    assert (found["down"]["ok"], found["down"]["error"], found["down"]["loaded"]) == (False, "no route", True)
    assert (found["fil"]["ok"], found["fil"]["loaded"]) == (False, False)
    assert [data["a"] for data in stored_events()] == [1]


def test_reported_texts_hold_no_secret(connection, here, plugin):
    plugin("loud", handler_source("logging.getLogger('event').warning(self.config); raise OSError(self.config)"))
    found = results(run(connection, handlers=[["loud", "hunter2-hunter2"]]))
    assert (found["loud"]["error"], found["loud"]["said"]) == ("***", "***")


def test_event_is_stored_in_the_outbox_before_the_handlers_run(connection, here, plugin):
    plugin("down", handler_source("return False"))
    reports = run(connection, handlers=[["file", "events"], ["down", "c"]], outbox="outbox")
    assert kinds(reports) == ["taken", "kept", "begin", "result", "result", "end", "done"]
    assert dict(reports)["end"] == {"where": "waiting"}
    ((candidate, entry),) = Outbox("outbox").entries()
    assert [*entry.pending] == ["down"]
    assert dict(reports)["kept"]["entry"] == candidate.id == "s"


def test_event_delivered_by_all_handlers_is_removed_from_the_outbox(connection, here):
    reports = run(connection, outbox="outbox", alone=True)
    assert dict(reports)["end"] == {"where": "delivered"}
    assert list(Outbox("outbox").entries()) == []


def test_outbox_failure_is_reported_and_the_event_is_sent_directly(connection, here):
    (here / "file").write_text("in the way")
    reports = run(connection, outbox="file/outbox")
    assert kinds(reports) == ["taken", "not_kept", "begin", "result", "done"]
    assert "not a directory: " in dict(reports)["not_kept"]["reason"]
    assert len(stored_events()) == 1


def test_a_file_is_attached(connection, here):
    (here / "build.log").write_text("all well")
    run(connection, attach=[["log", str(here / "build.log")]])
    assert (here / "events/n-u/log").read_text() == "all well"


def test_file_that_disappears_before_it_is_kept_is_omitted(connection):
    content = {"data": {"uid": "u", "name": "n"}, "attachments": {"log": ["gone.log", "digest"]}, "closed": True}
    reports = run(connection, event=content, outbox="outbox")
    assert kinds(reports) == ["taken", "log", "kept", "not_attached", "begin", "result", "end", "done"]
    assert "attachment 'log' of <Event" in dict(reports)["log"]["text"]
    assert {key: value for key, value in dict(reports)["not_attached"].items() if key in {"name", "text"}} == {
        "name": "log",
        "text": "",
    }
    assert [each["not_attached"] for each in stored_events()] == [["log"]]


def test_unreadable_file_is_omitted(connection):
    reports = run(connection, attach=[["log", "gone.log"]])
    assert kinds(reports) == ["taken", "not_attached", "begin", "result", "done"]
    assert dict(reports)["not_attached"]["name"] == "log"
    assert "cannot attach 'gone.log' to event n (u): no such file" in dict(reports)["not_attached"]["text"]
    assert [each["not_attached"] for each in stored_events()] == [["log"]]


def test_timeout_in_the_report_is_that_of_the_job(connection, here, plugin):
    plugin("slow", handler_source("__import__('threading').Event().wait(60)"))
    found = results(run(connection, handlers=[["slow", ""]], deadline=0.0, timeout=7))
    assert (found["slow"]["timed_out"], found["slow"]["error"]) == (True, "not done within 7 s")


def test_handler_without_a_thread_is_left_to_a_separate_worker(connection, here, monkeypatch):
    start = threading.Thread.start

    def refuse(thread):
        if thread.name.startswith("event file"):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    reports = run(connection, outbox="outbox")
    assert results(reports)["file"]["retry"] is True
    assert "end" not in kinds(reports)
    ((candidate, _),) = Outbox("outbox").entries()
    assert candidate.state == "claimed"


def test_log_outside_a_delivery_is_reported_without_secrets(connection, here, plugin, monkeypatch):
    plugin("good", handler_source())
    put = Outbox.put

    def put_and_log(self, *args, **kwargs):
        event.logger.warning("a word: hunter2-hunter2")
        return put(self, *args, **kwargs)

    monkeypatch.setattr(Outbox, "put", put_and_log)
    for names in (["good"], ["file"]):
        reports = run(connection, handlers=[[name, "hunter2-hunter2"] for name in names], outbox="outbox")
        text = "a word: ***" if names == ["good"] else "a word: hunter2-hunter2"
        assert ("log", {"text": text}) in reports


def test_logging_is_not_imported_for_handlers_that_log_nothing(connection, monkeypatch):
    monkeypatch.delitem(sys.modules, "logging")
    with send_job.Log(connection.reporter, {"file": "events"}):
        assert "logging" not in sys.modules


def test_log_of_other_libraries_during_a_send_has_no_traceback(connection, here, plugin, capfd, monkeypatch):
    send = """log = logging.getLogger("acme")
        logging.basicConfig(force=True)
        log.warning("%d", "x")
        try: 1 / 0
        except Exception: log.exception("oops", stack_info=True)
        logging.getLogger("event").warning("%d", "y")
        import threading
        other = threading.Thread(target=logging.getLogger("event").warning, args=("%d", "z"))
        other.start(); other.join()
        return True"""
    plugin("noisy", handler_source(send))
    with monkeypatch.context() as patch:
        patch.setattr(logging.getLogger(), "handlers", [])  # else the plugin's handler would stay for other tests
        reports = run(connection, handlers=[["noisy", ""]])
    assert results(reports)["noisy"]["said"] == "%d"
    assert ("log", {"text": "%d"}) in reports
    err = capfd.readouterr().err
    assert "ERROR:acme:oops: ZeroDivisionError: division by zero" in err
    assert "Traceback" not in err


def test_prepare_imports_built_in_handlers_and_no_plugin(connection, here, plugin):
    plugin("quits", "raise SystemExit")
    child.run_job({"job": "prepare", "handlers": ["file:a", "quits", "smtp"], "outbox": True}, b"", connection.reporter)
    child.run_job({"job": "prepare", "handlers": [], "outbox": False, "alone": True}, b"", connection.reporter)
    assert {"event.handler.smtp", "event._outbox.store"} <= set(sys.modules)


def test_file_handler_needs_no_further_module_of_this_package_after_prepare(here):
    """The build's command may have removed the package by then."""
    (here / "log").write_text("x")
    one = {"data": {"name": "n", "uid": "u", "x": {"y": ["a\nb"]}}, "attachments": {}, "closed": True}
    job = {
        "event": one,
        "attach": [("log", "log")],
        "sending": "s",
        "handlers": [("file", "ev"), ("file:x@fixed", "x")],
    }
    job |= {"outbox": "ob", "timeout": 60, "deadline": time.monotonic() + 60, "backlog": True, "first": True}
    code = f"""
import sys, types
from event._worker import send_job
reporter = types.SimpleNamespace(report=lambda *a, **k: None, exits_at_once=None, has_heartbeat=False)
send_job.prepare({{"handlers": ["file", "file:x@fixed"], "outbox": True}}, b"", reporter)
before = set(sys.modules)
send_job.run_send_job({job!r}, b"", reporter)
print(sorted(name for name in set(sys.modules) - before if name.startswith("event")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")
    assert len(stored_events("ev")) == 1


def test_prepare_ignores_a_built_in_handler_that_cannot_be_imported(connection, monkeypatch):
    monkeypatch.setitem(sys.modules, "event.handler.smtp", None)
    child.run_job({"job": "prepare", "handlers": ["smtp"], "outbox": False}, b"", connection.reporter)


# Conditions, redaction and the backlog.


def test_a_handler_whose_condition_is_not_met_is_skipped(connection, here):
    reports = run(connection, handlers=[["file@failure", "events"]], first=True)
    assert results(reports) == {"file@failure": {"handler": "file@failure", "ok": True, "skipped": True}}
    assert not (here / "events").exists()


@pytest.mark.parametrize(("redact", "shown"), [([], "***"), (None, "hush-hush-hush")])
def test_secrets_are_replaced_unless_redaction_is_off(connection, here, monkeypatch, redact, shown):
    monkeypatch.setenv("MY_TOKEN", "hush-hush-hush")
    made = event.Event("n", x="hush-hush-hush")
    run(connection, event=raw_content(made), redact=redact)
    assert [data["x"] for data in stored_events()] == [shown]


def test_backlog_of_a_handler_is_delivered_after_the_event(connection, here):
    Outbox("outbox").put(event.Event("before"), {"file": str(here / "events")}).postpone(0.0)
    reports = run(connection, outbox="outbox", backlog=True)
    assert ("backlog", {"delivered": {"file": 1}}) in reports
    assert {data["name"] for data in stored_events()} == {"before", "n"}


def test_error_while_reading_the_backlog_is_logged(connection, here, monkeypatch):
    def fail(self, deadline):
        raise OSError("gone")

    monkeypatch.setattr("event._outbox.backlog.Backlog.deliver", fail)
    reports = run(connection, outbox="outbox", backlog=True)
    assert ("log", {"text": "the outbox outbox cannot be read: gone"}) in reports


# The job `resume`.


def result(name, **values):
    return {"handler": name, "ok": False, "error": "no", "seconds": 0.0, "said": "", "permanent": False, **values}


def resume(connection, claim, **values):
    values = {"timeout": 60, "deadline": 1e9, **values}
    child.run_job({"job": "resume", "outbox": "outbox", "claim": claim, **values}, b"", connection.reporter)
    return connection.receive()


@pytest.fixture
def claimed(here):
    made = event.Event("n", uid="u")
    made.close()
    return Outbox("outbox").put(made, {"file": "events", "down": "c"})


def test_known_results_are_journaled_and_other_handlers_stay_pending(connection, claimed):
    reports = resume(connection, claimed.name, results=[result("file", ok=True), result("down"), result("other")])
    assert kinds(reports) == ["begin", "end", "done"]
    ((_, entry),) = Outbox("outbox").entries("waiting")
    assert ([*entry.pending], entry.last_error) == (["down"], "no")
    assert not os.path.exists("events")


def test_permanent_failure_is_journaled_as_permanent(connection, claimed):
    reports = resume(connection, claimed.name, results=[result("file", ok=True), result("down", permanent=True)])
    assert dict(reports)["end"] == {"where": "failed"}


@pytest.mark.parametrize("alone", [True, False])
def test_only_pending_handlers_get_the_event(connection, claimed, alone):
    reports = resume(connection, claimed.name, results=[result("down")], handlers=["file", "unknown"], alone=alone)
    assert [*results(reports)] == ["file"]
    assert results(reports)["file"]["ok"]
    assert len(stored_events()) == 1


def test_held_claim_journals_one_delivery_for_the_next_job(connection, claimed):
    reports = resume(connection, claimed.name, handlers=["file"], hold=True)
    assert kinds(reports) == ["begin", "result", "done"]
    resume(connection, dict(reports)["begin"]["claim"], results=[result("down")])
    ((_, entry),) = Outbox("outbox").entries("waiting")
    assert [*entry.pending] == ["down"]


def test_held_claim_is_released_when_every_handler_has_delivered_the_event(connection, claimed):
    """The last delivery is not journaled, because the entry is removed. So a held claim would lose it."""
    reports = resume(connection, claimed.name, results=[result("down", ok=True)], handlers=["file"], hold=True)
    assert kinds(reports) == ["begin", "result", "end", "done"]
    assert dict(reports)["end"] == {"where": "delivered"}
    assert [*Outbox("outbox").entries()] == []


def test_missing_claim_is_not_adopted(connection, claimed):
    assert kinds(resume(connection, claimed.name + "x")) == ["not_adopted", "done"]
