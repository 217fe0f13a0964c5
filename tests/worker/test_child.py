"""The worker's side, in this process: jobs, reports, and what they survive."""

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
from helpers.commands import HOLDS_THE_LOCK, handler_source, stored_events

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


def run(line, **values):
    child.run_job(job(**values), b"", line.reporter)
    return [report for report in line.heard() if report[0] != "alive"]


def kinds(reports):
    return [kind for kind, _ in reports]


def results(reports):
    return {values["handler"]: values for kind, values in reports if kind == "result"}


# The main loop.


def test_worker_runs_jobs_one_after_another_until_stop(line, here):
    for number in (1, 2):
        line.give({**job(), "id": number})
    line.give({"job": "stop"})
    worker(line).communicate(timeout=60)
    assert [kind for kind, _ in line.heard() if kind != "alive"] == ["taken", "begin", "result", "done"] * 2
    assert len(stored_events()) == 1


def test_frame_of_a_finished_job_is_ignored(monkeypatch, line, here):
    monkeypatch.setattr(child, "_detach", lambda: None)
    monkeypatch.setattr(child, "end_within", lambda seconds: None)
    monkeypatch.setattr(os, "_exit", lambda status: None)
    line.give({**job(), "id": 1})
    line.give({"job": "release", "lane": "x", "id": 1})
    line.give({"job": "stop", "id": 1})
    child.main(line.jobs, line.reports, os.getppid())
    assert kinds(report for report in line.heard() if report[0] != "alive") == ["taken", "begin", "result", "done"]


def worker(line):
    """Start a worker at the ends of this connection."""
    code = f"import sys; sys.path[:] = {sys.path!r}; from event._worker import child"
    return subprocess.Popen(
        [sys.executable, "-c", f"{code}; child.main({line.jobs}, {line.reports}, {os.getpid()})"],
        pass_fds=(line.jobs, line.reports),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_worker_ends_when_the_command_closes_the_connection(line):
    process = worker(line)
    os.close(line.to_worker)
    os.close(line.jobs)
    assert process.communicate(timeout=60) == (b"", b"")
    assert process.returncode == 0


def test_worker_ends_if_no_frame_arrives(line):
    process = worker(line)
    os.write(line.to_worker, b"\xff" * 16)
    assert process.communicate(timeout=60) == (b"", b"")
    assert process.returncode == 0


def test_worker_of_a_killed_command_ends_on_an_open_connection(line):
    """Another process holds an end of it, such as the witness of `run`."""
    code = (
        "import os, sys\n"
        f"sys.path[:] = {sys.path!r}\n"
        "from event._worker import child\n"
        "from event._worker import reporter\n"
        "reporter._PARENT_CHECK_INTERVAL = 0.05\n"
        "pid = os.fork()\n"
        "if pid: os._exit(0)\n"
        f"child.main({line.jobs}, {line.reports}, {os.getpid()})\n"
    )
    fds = (line.jobs, line.reports)
    assert subprocess.run([sys.executable, "-c", code], pass_fds=fds, check=False, timeout=60).returncode == 0
    os.close(line.reports)
    assert os.read(line.from_worker, 1) == b""  # the last one that could write has ended


def test_worker_writes_stdout_to_stderr_and_has_an_empty_stdin(line, here, plugin):
    plugin("chatty", handler_source("print('out'); print(repr(sys.stdin.read())); return True"))
    line.give(job(handlers=[["chatty", ""]]))
    line.give({"job": "stop"})
    out, err = worker(line).communicate(timeout=60)
    assert out == b""
    assert err.split() == [b"out", b"''"]


@pytest.mark.parametrize("has_stderr", [True, False])
def test_worker_leaves_the_streams_and_session_of_the_command(monkeypatch, has_stderr):
    moved, asked = [], []

    def dup2(fd, target):
        if fd == 2 and not has_stderr:
            raise OSError(9, "Bad file descriptor")
        moved.append(("stderr" if fd == 2 else "nowhere", target))

    def refuse():
        asked.append("session")
        raise PermissionError

    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(os, "dup2", dup2)
    monkeypatch.setattr(os, "setsid", refuse)  # it leads one already
    child._detach()
    rest = [("stderr", 1)] if has_stderr else [("nowhere", 1), ("nowhere", 2)]
    assert (moved, asked) == ([("nowhere", 0), *rest], ["session"])
    assert sys.stdout is sys.stderr
    monkeypatch.delattr(os, "setsid")
    child._detach()


def test_worker_keeps_its_connection_on_the_descriptor_of_a_closed_stdin(monkeypatch):
    closed = []
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(os, "setsid", lambda: None)
    monkeypatch.setattr(os, "open", lambda *_: 0)  # the lowest that is free
    monkeypatch.setattr(os, "dup2", lambda *_: None)
    monkeypatch.setattr(os, "close", closed.append)
    child._detach()
    monkeypatch.undo()
    assert closed == []


def test_a_worker_without_stderr_works(line, here):
    line.give(job())
    line.give({"job": "stop"})
    code = f"import sys; sys.path[:] = {sys.path!r}; from event._worker import child; "
    shell = 'exec "$0" -c "$1" 2>&-'
    args = ["sh", "-c", shell, sys.executable, f"{code}child.main({line.jobs}, {line.reports}, {os.getpid()})"]
    assert subprocess.run(args, pass_fds=(line.jobs, line.reports), check=False, timeout=60).returncode == 0
    assert len(stored_events()) == 1


def test_process_ends_after_its_limit_if_a_handler_holds_the_interpreter(line, here, plugin):
    plugin("stuck", handler_source(HOLDS_THE_LOCK))
    line.give(job(handlers=[["stuck", ""]], limit=0.5))
    process = worker(line)
    process.communicate(timeout=60)
    assert process.returncode == 1


# Reports.


def test_long_text_is_shortened(line):
    line.reporter.report("log", text="x" * 99_999, count=3)
    assert line.heard() == [("log", {"text": "x" * 20_000, "count": 3})]


def test_report_above_the_size_limit_is_an_error(line):
    with pytest.raises(ValueError, match="a report of "):
        line.reporter.report("log", lines=[f"{number:01000}" for number in range(2000)])


def test_forked_process_sends_no_reports_and_gets_no_job(line, monkeypatch):
    left = []
    monkeypatch.setattr(os, "_exit", lambda status: left.append(status) or 1 / 0)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    line.reporter.report("log", text="x")
    with pytest.raises(ZeroDivisionError):
        line.reporter.next_job()
    monkeypatch.undo()
    assert (line.heard(), left) == ([], [0])


def test_worker_ends_if_a_handler_closed_its_connection(line, monkeypatch):
    left = []
    monkeypatch.setattr(os, "_exit", left.append)
    os.close(line.from_worker)
    line.reporter.report("log", text="x")
    assert left == [1]
    monkeypatch.setattr(os, "getppid", lambda: -1)
    line.reporter.report("log", text="x")  # the command is gone: the job is done all the same
    assert left == [1]


def test_worker_waits_a_limited_time_for_the_next_job(line):
    with pytest.raises(TimeoutError):
        line.reporter.next_job(0.01)
    line.give({"job": "x", "id": 7}, b"blob")
    assert line.reporter.next_job(60) == ({"job": "x", "id": 7}, b"blob")
    os.write(line.to_worker, b"\xff" * 8)
    with pytest.raises(ProtocolError):
        line.reporter.next_job()


def test_worker_waits_as_long_as_the_command_runs(line, monkeypatch):
    looks = []

    def is_readable(fd, seconds):
        looks.append(seconds)
        if len(looks) == 2:
            line.give({"job": "stop"})
        return len(looks) > 1

    monkeypatch.setattr(reporter, "_readable", is_readable)
    assert line.reporter.next_job() == ({"job": "stop"}, b"")
    assert len(looks) == 2


def test_worker_gets_no_job_after_the_command_died(line, monkeypatch):
    monkeypatch.setattr(reporter, "_PARENT_CHECK_INTERVAL", 0.01)
    monkeypatch.setattr(line.reporter, "_command", -1)
    assert line.reporter.next_job() is None
    os.close(line.jobs)
    assert line.reporter.next_job() is None


def test_a_heartbeat_reports_memory_and_threads(line):
    with Heartbeat(line.reporter, 0.01):
        assert line.reporter.has_heartbeat
        while not (heard := line.heard()):
            pass
    kind, values = heard[0]
    assert kind == "alive"
    assert sorted(values) == ["memory", "threads"]
    assert values["threads"] >= 2


def test_heartbeat_of_an_earlier_job_does_not_count_for_a_later_one(line):
    """A handler alone has no heartbeat. Reported as one, its silence would end it long before its timeout."""
    with Heartbeat(line.reporter, 60):
        pass
    assert not line.reporter.has_heartbeat


def test_each_heartbeat_postpones_the_exit_timer(line, monkeypatch):
    limits = []
    monkeypatch.setattr(child, "end_within", limits.append)
    heart = Heartbeat(line.reporter, 0.01, guard=30.0)
    with heart:
        while not limits:
            pass
    heart._thread.join()
    assert limits[0] == 30.0


def test_no_heartbeat_is_sent_if_no_thread_can_be_started(line, monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with Heartbeat(line.reporter, 0.01):
        assert not line.reporter.has_heartbeat


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


def test_worker_without_plugins_exits_at_once_and_others_do_not(monkeypatch, line, here, plugin):
    left = []
    monkeypatch.setattr(os, "_exit", left.append)
    monkeypatch.setattr(child, "_detach", lambda: None)
    monkeypatch.setattr(child, "end_within", lambda seconds: None)
    plugin("good", handler_source())
    plain, other = job(), job(handlers=[["good", ""]], alone=True)
    for jobs in ([], [plain], [plain, other], [other, plain]):
        made = type(line)()
        for number, each in enumerate([*jobs, {"job": "stop"}]):
            made.give({**each, "id": number + 1})
        child.main(made.jobs, made.reports, os.getppid())
        left.append("-")
        made.close()
    assert left == ["-", 0, "-", "-", "-"]


def test_malformed_frame_ends_a_worker(monkeypatch, line):
    monkeypatch.setattr(child, "_detach", lambda: None)
    monkeypatch.setattr(child, "end_within", lambda seconds: None)
    os.write(line.to_worker, b"\xff" * 8)
    child.main(line.jobs, line.reports, os.getppid())
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(line.reports)


def test_connection_closed_meanwhile_ends_a_worker(monkeypatch, line):
    monkeypatch.setattr(child, "_detach", lambda: None)
    monkeypatch.setattr(child, "end_within", lambda seconds: None)
    os.close(line.jobs)
    os.close(line.reports)
    child.main(line.jobs, line.reports, os.getppid())


# The job `send`.


def test_each_handler_gets_the_event_and_has_a_result(line, here, plugin):
    plugin("down", handler_source("raise OSError('no route')"))
    reports = run(line, handlers=[["file", "events"], ["down", ""], ["fil", ""]])
    assert kinds(reports) == ["taken", "begin", "result", "result", "result", "done"]
    found = results(reports)
    assert (found["file"]["ok"], found["file"]["error"]) == (True, "")
    assert (found["down"]["ok"], found["down"]["error"], found["down"]["loaded"]) == (False, "no route", True)
    assert (found["fil"]["ok"], found["fil"]["loaded"]) == (False, False)
    assert [data["a"] for data in stored_events()] == [1]


def test_texts_hold_no_secret(line, here, plugin):
    plugin("loud", handler_source("logging.getLogger('event').warning(self.config); raise OSError(self.config)"))
    found = results(run(line, handlers=[["loud", "hunter2-hunter2"]]))
    assert (found["loud"]["error"], found["loud"]["said"]) == ("***", "***")


def test_event_is_stored_in_the_outbox_before_the_handlers_run(line, here, plugin):
    plugin("down", handler_source("return False"))
    reports = run(line, handlers=[["file", "events"], ["down", "c"]], outbox="outbox")
    assert kinds(reports) == ["taken", "kept", "begin", "result", "result", "end", "done"]
    assert dict(reports)["end"] == {"where": "waiting"}
    ((candidate, entry),) = Outbox("outbox").entries()
    assert [*entry.pending] == ["down"]
    assert dict(reports)["kept"]["entry"] == candidate.id == "s"


def test_event_delivered_by_all_handlers_is_removed_from_the_outbox(line, here):
    reports = run(line, outbox="outbox", alone=True)
    assert dict(reports)["end"] == {"where": "delivered"}
    assert list(Outbox("outbox").entries()) == []


def test_outbox_failure_is_reported_and_the_event_is_sent_directly(line, here):
    (here / "file").write_text("in the way")
    reports = run(line, outbox="file/outbox")
    assert kinds(reports) == ["taken", "not_kept", "begin", "result", "done"]
    assert "not a directory: " in dict(reports)["not_kept"]["reason"]
    assert len(stored_events()) == 1


def test_a_file_is_attached(line, here):
    (here / "build.log").write_text("all well")
    run(line, attach=[["log", str(here / "build.log")]])
    assert (here / "events/n-u/log").read_text() == "all well"


def test_file_that_disappears_before_it_is_kept_is_omitted(line):
    content = {"data": {"uid": "u", "name": "n"}, "attachments": {"log": ["gone.log", "digest"]}, "closed": True}
    reports = run(line, event=content, outbox="outbox")
    assert kinds(reports) == ["taken", "log", "kept", "not_attached", "begin", "result", "end", "done"]
    assert "attachment 'log' of <Event" in dict(reports)["log"]["text"]
    assert {key: value for key, value in dict(reports)["not_attached"].items() if key in {"name", "text"}} == {
        "name": "log",
        "text": "",
    }
    assert [each["not_attached"] for each in stored_events()] == [["log"]]


def test_unreadable_file_is_omitted(line):
    reports = run(line, attach=[["log", "gone.log"]])
    assert kinds(reports) == ["taken", "not_attached", "begin", "result", "done"]
    assert dict(reports)["not_attached"]["name"] == "log"
    assert "cannot attach 'gone.log' to event n (u): no such file" in dict(reports)["not_attached"]["text"]
    assert [each["not_attached"] for each in stored_events()] == [["log"]]


def test_handler_that_times_out_is_reported_with_the_total_timeout(line, here, plugin):
    plugin("slow", handler_source("__import__('threading').Event().wait(60)"))
    found = results(run(line, handlers=[["slow", ""]], deadline=0.0, timeout=7))
    assert (found["slow"]["timed_out"], found["slow"]["error"]) == (True, "not done within 7 s")


def test_handler_without_a_thread_is_left_to_another_worker(line, here, monkeypatch):
    start = threading.Thread.start

    def refuse(thread):
        if thread.name.startswith("event file"):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    reports = run(line, outbox="outbox")
    assert results(reports)["file"]["retry"] is True
    assert "end" not in kinds(reports)
    ((candidate, _),) = Outbox("outbox").entries()
    assert candidate.state == "claimed"


def test_log_outside_a_delivery_is_reported_without_secrets(line, here, plugin, monkeypatch):
    plugin("good", handler_source())
    put = Outbox.put

    def loud(self, *args, **kwargs):
        event.logger.warning("a word: hunter2-hunter2")
        return put(self, *args, **kwargs)

    monkeypatch.setattr(Outbox, "put", loud)
    for names in (["good"], ["file"]):
        reports = run(line, handlers=[[name, "hunter2-hunter2"] for name in names], outbox="outbox")
        text = "a word: ***" if names == ["good"] else "a word: hunter2-hunter2"
        assert ("log", {"text": text}) in reports


def test_logging_is_not_imported_for_handlers_that_log_nothing(line, monkeypatch):
    monkeypatch.delitem(sys.modules, "logging")
    with send_job.Log(line.reporter, {"file": "events"}):
        assert "logging" not in sys.modules


def test_log_of_other_libraries_during_a_send_has_no_traceback(line, here, plugin, capfd, monkeypatch):
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
        patch.setattr(logging.getLogger(), "handlers", [])  # the plugin's would stay, and write in other tests
        reports = run(line, handlers=[["noisy", ""]])
    assert results(reports)["noisy"]["said"] == "%d"
    assert ("log", {"text": "%d"}) in reports
    err = capfd.readouterr().err
    assert "ERROR:acme:oops: ZeroDivisionError: division by zero" in err
    assert "Traceback" not in err


def test_prepare_imports_built_in_handlers_and_no_plugin(line, here, plugin):
    plugin("quits", "raise SystemExit")
    child.run_job({"job": "prepare", "handlers": ["file:a", "quits", "smtp"], "outbox": True}, b"", line.reporter)
    child.run_job({"job": "prepare", "handlers": [], "outbox": False, "alone": True}, b"", line.reporter)
    assert {"event.handler.smtp", "event._outbox.store"} <= set(sys.modules)


def test_file_handler_needs_no_further_module_of_this_package_after_prepare(here):
    """The command may have removed it by then."""
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


def test_prepare_ignores_a_built_in_handler_that_cannot_be_imported(line, monkeypatch):
    monkeypatch.setitem(sys.modules, "event.handler.smtp", None)
    child.run_job({"job": "prepare", "handlers": ["smtp"], "outbox": False}, b"", line.reporter)


# What `send` does beyond that.


def test_a_handler_whose_condition_is_not_met_is_skipped(line, here):
    reports = run(line, handlers=[["file@failure", "events"]], first=True)
    assert results(reports) == {"file@failure": {"handler": "file@failure", "ok": True, "skipped": True}}
    assert not (here / "events").exists()


@pytest.mark.parametrize(("redact", "shown"), [([], "***"), (None, "hush-hush-hush")])
def test_secrets_are_replaced_unless_redaction_is_off(line, here, monkeypatch, redact, shown):
    monkeypatch.setenv("MY_TOKEN", "hush-hush-hush")
    made = event.Event("n", x="hush-hush-hush")
    run(line, event=raw_content(made), redact=redact)
    assert [data["x"] for data in stored_events()] == [shown]


def test_backlog_of_a_handler_is_delivered_after_the_event(line, here):
    Outbox("outbox").put(event.Event("before"), {"file": str(here / "events")}).postpone(0.0)
    reports = run(line, outbox="outbox", backlog=True)
    assert ("backlog", {"delivered": {"file": 1}}) in reports
    assert {data["name"] for data in stored_events()} == {"before", "n"}


def test_unsearchable_outbox_is_logged(line, here, monkeypatch):
    def fail(self, deadline):
        raise OSError("gone")

    monkeypatch.setattr("event._outbox.backlog.Backlog.deliver", fail)
    reports = run(line, outbox="outbox", backlog=True)
    assert ("log", {"text": "the outbox outbox cannot be read: gone"}) in reports


# The job `resume`.


def result(name, **values):
    return {"handler": name, "ok": False, "error": "no", "seconds": 0.0, "said": "", "permanent": False, **values}


def resume(line, claim, **values):
    values = {"timeout": 60, "deadline": 1e9, **values}
    child.run_job({"job": "resume", "outbox": "outbox", "claim": claim, **values}, b"", line.reporter)
    return [report for report in line.heard() if report[0] != "alive"]


@pytest.fixture
def claimed(here):
    made = event.Event("n", uid="u")
    made.close()
    return Outbox("outbox").put(made, {"file": "events", "down": "c"})


def test_known_results_are_journaled_and_other_handlers_stay_pending(line, claimed):
    reports = resume(line, claimed.name, results=[result("file", ok=True), result("down"), result("other")])
    assert kinds(reports) == ["begin", "end", "done"]
    ((_, entry),) = Outbox("outbox").entries("waiting")
    assert ([*entry.pending], entry.last_error) == (["down"], "no")
    assert not os.path.exists("events")


def test_permanent_failure_is_journaled_as_permanent(line, claimed):
    reports = resume(line, claimed.name, results=[result("file", ok=True), result("down", permanent=True)])
    assert dict(reports)["end"] == {"where": "failed"}


@pytest.mark.parametrize("alone", [True, False])
def test_only_pending_handlers_get_the_event(line, claimed, alone):
    reports = resume(line, claimed.name, results=[result("down")], handlers=["file", "unknown"], alone=alone)
    assert [*results(reports)] == ["file"]
    assert results(reports)["file"]["ok"]
    assert len(stored_events()) == 1


def test_held_claim_keeps_the_delivery_of_one_handler_for_the_next(line, claimed):
    reports = resume(line, claimed.name, handlers=["file"], hold=True)
    assert kinds(reports) == ["begin", "result", "done"]
    resume(line, dict(reports)["begin"]["claim"], results=[result("down")])
    ((_, entry),) = Outbox("outbox").entries("waiting")
    assert [*entry.pending] == ["down"]


def test_held_claim_is_released_when_every_handler_has_delivered_the_event(line, claimed):
    """The last delivery is not journaled, because the entry is removed: a held claim would lose it."""
    reports = resume(line, claimed.name, results=[result("down", ok=True)], handlers=["file"], hold=True)
    assert kinds(reports) == ["begin", "result", "end", "done"]
    assert dict(reports)["end"] == {"where": "delivered"}
    assert [*Outbox("outbox").entries()] == []


def test_missing_claim_is_not_adopted(line, claimed):
    assert kinds(resume(line, claimed.name + "x")) == ["not_adopted", "done"]
