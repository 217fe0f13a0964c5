"""The jobs `send` and `prepare`, in this process."""

from __future__ import annotations

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
from event._worker import child
from event._worker import send_job as send_job_module
from helpers.commands import handler_source, stored_events
from worker.jobs import kinds, results, run, send_job

if os.name == "nt":
    pytest.skip("platform: the pipes are those of a POSIX system", allow_module_level=True)


def test_each_handler_gets_the_event_and_has_a_result(connection, here, plugin):
    plugin("down", handler_source("raise OSError('no route')"))
    reports = run(connection, send_job(handlers=[["file", "events"], ["down", ""], ["fil", ""]]))
    assert kinds(reports) == ["taken", "begin", "result", "result", "result", "done"]
    found = results(reports)
    assert (found["file"]["ok"], found["file"]["error"]) == (True, "")
    assert (found["down"]["ok"], found["down"]["error"], found["down"]["loaded"]) == (False, "no route", True)
    assert (found["fil"]["ok"], found["fil"]["loaded"]) == (False, False)
    assert [data["a"] for data in stored_events()] == [1]


def test_reported_texts_hold_no_secret(connection, here, plugin):
    plugin("loud", handler_source("logging.getLogger('event').warning(self.config); raise OSError(self.config)"))
    found = results(run(connection, send_job(handlers=[["loud", "hunter2-hunter2"]])))
    assert (found["loud"]["error"], found["loud"]["said"]) == ("***", "***")


def test_long_texts_are_reported_in_part(connection, here, plugin):
    plugin("loud", handler_source("logging.getLogger('event').warning('x' * 9000); raise OSError('x' * 9000)"))
    found = results(run(connection, send_job(handlers=[["loud", ""]])))
    assert (found["loud"]["error"], found["loud"]["said"]) == ("x" * 1500, "x" * 1500)


def test_event_is_stored_in_the_outbox_before_the_handlers_run(connection, here, plugin):
    plugin("down", handler_source("return False"))
    reports = run(connection, send_job(handlers=[["file", "events"], ["down", "c"]], outbox="outbox"))
    assert kinds(reports) == ["taken", "kept", "begin", "result", "result", "end", "done"]
    assert dict(reports)["end"] == {"where": "waiting"}
    ((candidate, entry),) = Outbox("outbox").entries()
    assert [*entry.pending] == ["down"]
    assert dict(reports)["kept"]["entry"] == candidate.id == "s"


def test_event_delivered_by_all_handlers_is_removed_from_the_outbox(connection, here):
    reports = run(connection, send_job(outbox="outbox", alone=True))
    assert dict(reports)["end"] == {"where": "delivered"}
    assert list(Outbox("outbox").entries()) == []


def test_outbox_failure_is_reported_and_the_event_is_sent_directly(connection, here):
    (here / "file").write_text("in the way")
    reports = run(connection, send_job(outbox="file/outbox"))
    assert kinds(reports) == ["taken", "not_kept", "begin", "result", "done"]
    assert "not a directory: " in dict(reports)["not_kept"]["reason"]
    assert len(stored_events()) == 1


def test_a_file_is_attached(connection, here):
    (here / "build.log").write_text("all well")
    run(connection, send_job(attach=[["log", str(here / "build.log")]]))
    assert (here / "events/n-u/log").read_text() == "all well"


def test_file_that_disappears_before_it_is_kept_is_omitted(connection):
    content = {"data": {"uid": "u", "name": "n"}, "attachments": {"log": ["gone.log", "digest"]}, "closed": True}
    reports = run(connection, send_job(event=content, outbox="outbox"))
    assert kinds(reports) == ["taken", "log", "kept", "not_attached", "begin", "result", "end", "done"]
    assert "attachment 'log' of <Event" in dict(reports)["log"]["text"]
    assert {key: value for key, value in dict(reports)["not_attached"].items() if key in {"name", "text"}} == {
        "name": "log",
        "text": "",
    }
    assert [each["not_attached"] for each in stored_events()] == [["log"]]


def test_unreadable_file_is_omitted(connection):
    reports = run(connection, send_job(attach=[["log", "gone.log"]]))
    assert kinds(reports) == ["taken", "not_attached", "begin", "result", "done"]
    assert dict(reports)["not_attached"]["name"] == "log"
    assert "cannot attach 'gone.log' to event n (u): no such file" in dict(reports)["not_attached"]["text"]
    assert [each["not_attached"] for each in stored_events()] == [["log"]]


def test_timeout_in_the_report_is_that_of_the_job(connection, here, plugin):
    plugin("slow", handler_source("__import__('threading').Event().wait(60)"))
    found = results(run(connection, send_job(handlers=[["slow", ""]], deadline=0.0, timeout=7)))
    assert (found["slow"]["timed_out"], found["slow"]["error"]) == (True, "not done within 7 s")


def test_handler_without_a_thread_is_left_to_a_separate_worker(connection, here, monkeypatch):
    start = threading.Thread.start

    def refuse(thread):
        if thread.name.startswith("event file"):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    reports = run(connection, send_job(outbox="outbox"))
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
        reports = run(connection, send_job(handlers=[[name, "hunter2-hunter2"] for name in names], outbox="outbox"))
        text = "a word: ***" if names == ["good"] else "a word: hunter2-hunter2"
        assert ("log", {"text": text}) in reports


def test_logging_is_not_imported_for_handlers_that_log_nothing(connection, monkeypatch):
    monkeypatch.delitem(sys.modules, "logging")
    with send_job_module.Log(connection.reporter, {"file": "events"}):
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
        reports = run(connection, send_job(handlers=[["noisy", ""]]))
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
    reports = run(connection, send_job(handlers=[["file@failure", "events"]], first=True))
    assert results(reports) == {"file@failure": {"handler": "file@failure", "ok": True, "skipped": True}}
    assert not (here / "events").exists()


@pytest.mark.parametrize(("redact", "shown"), [([], "***"), (None, "hush-hush-hush")])
def test_secrets_are_replaced_unless_redaction_is_off(connection, here, monkeypatch, redact, shown):
    monkeypatch.setenv("MY_TOKEN", "hush-hush-hush")
    made = event.Event("n", x="hush-hush-hush")
    run(connection, send_job(event=raw_content(made), redact=redact))
    assert [data["x"] for data in stored_events()] == [shown]


def test_backlog_of_a_handler_is_delivered_after_the_event(connection, here):
    Outbox("outbox").put(event.Event("before"), {"file": str(here / "events")}).postpone(0.0)
    reports = run(connection, send_job(outbox="outbox", backlog=True))
    assert ("backlog", {"delivered": {"file": 1}}) in reports
    assert {data["name"] for data in stored_events()} == {"before", "n"}


def test_error_while_reading_the_backlog_is_logged(connection, here, monkeypatch):
    def fail(self, deadline):
        raise OSError("gone")

    monkeypatch.setattr("event._outbox.backlog.Backlog.deliver", fail)
    reports = run(connection, send_job(outbox="outbox", backlog=True))
    assert ("log", {"text": "the outbox outbox cannot be read: gone"}) in reports
