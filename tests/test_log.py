"""The log, and its capture: the warnings of a handler are the reason of its failure."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading

import event
from event import _log
from event.error import LONGEST_TEXT


def test_warnings_and_errors_are_captured_on_one_line():
    _log.start_capture()
    event.logger.info("quiet")
    event.logger.warning("a\n  b %s", "c")
    event.logger.error("d", exc_info=ValueError("e\nf"))
    assert _log.stop_capture() == "a b c; d: ValueError: e f"


def test_nothing_is_captured_without_a_capture():
    event.logger.warning("before")
    _log.start_capture()
    assert _log.stop_capture() == ""
    event.logger.warning("after")
    assert not _log.is_capturing()


def test_logs_of_another_thread_are_not_captured():
    _log.start_capture()
    thread = threading.Thread(target=event.logger.warning, args=("elsewhere",))
    thread.start()
    thread.join()
    assert _log.stop_capture() == ""


def test_message_is_kept_if_its_arguments_do_not_fit(monkeypatch):
    monkeypatch.setattr(logging, "raiseExceptions", False)
    _log.start_capture()
    event.logger.warning("%d of %d", "one")
    assert _log.stop_capture() == "%d of %d"


def test_missing_exception_is_omitted():
    _log.start_capture()
    event.logger.warning("a", exc_info=True)
    assert _log.stop_capture() == "a"


def test_logger_gets_one_capture_handler():
    assert _log.get_logger() is _log.get_logger() is logging.getLogger("event")
    assert len(logging.getLogger("event").filters) == 1


class Broken(logging.Handler):
    def emit(self, record):
        raise OSError("the log's disk is full")


def test_failing_log_handler_is_reported_on_stderr(capsys):
    broken = Broken()
    event.logger.addHandler(broken)
    try:
        _log.error("%s failed", "a", cause=ValueError("why"))
        _log.warning("%s failed", "b")
    finally:
        event.logger.removeHandler(broken)
    assert capsys.readouterr().err == "".join(
        f"event: {name} failed (and logging failed: the log's disk is full)\n" for name in "ab"
    )


def test_failing_log_handler_without_stderr_is_ignored(monkeypatch):
    broken = Broken()
    event.logger.addHandler(broken)
    monkeypatch.setattr("sys.stderr", None)
    try:
        _log.error("a")
    finally:
        event.logger.removeHandler(broken)


def test_log_record_has_its_level_and_traceback(caplog):
    error = ValueError("why")
    _log.error("%s", "a", cause=error)
    _log.warning("b")
    assert [(r.getMessage(), r.levelno) for r in caplog.records] == [("a", logging.ERROR), ("b", logging.WARNING)]
    assert caplog.records[0].exc_info[1] is error


def test_before_first_use_is_called_on_the_first_log(monkeypatch):
    calls = []
    monkeypatch.setattr(_log, "before_first_use", lambda: calls.append("first"))
    _log.warning("x")
    assert calls == ["first"]


def test_start_capture_does_not_import_logging(monkeypatch):
    monkeypatch.delitem(sys.modules, "logging")
    _log.start_capture()
    assert "logging" not in sys.modules
    assert _log.stop_capture() == ""


FORGED = "one\n::add-path::/x\x1b[2J"


def test_external_text_cannot_begin_a_log_line_or_control_the_terminal(capfd):
    code = (
        f"import event; from event import _log; text = {FORGED!r}\n"
        "class Raising:\n"
        "    def send_event(self, _event):\n"
        "        raise OSError(text) from ValueError(text)\n"
        "e = event.Event(text, text, **{text: 1}); e.attach_file(__import__('os').__file__, text)\n"
        "event.default_manager.handlers[text] = Raising(); event.send_event(e); print(repr(e))\n"
        "_log.warning('%s %s', text, OSError(text))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    out, err = capfd.readouterr()
    assert "\x1b" not in out + err
    assert not [line for line in (out + err).splitlines() if line.startswith("::")]
    assert r"OSError: one\n::add-path::/x\x1b[2J" in err


def test_traceback_of_an_error_that_quotes_all_that_it_has_read_is_cut(caplog):
    _log.error("no", cause=ValueError("v" * 1_000_000))
    assert LONGEST_TEXT <= len(caplog.text) < 2 * LONGEST_TEXT


def test_a_traceback_that_cannot_be_shown_is_left_to_logging(monkeypatch, caplog):
    monkeypatch.setattr("traceback.format_exception", lambda _error: 1 / 0)
    _log.error("no", cause=ValueError("v"))
    assert caplog.records[0].exc_text is None or "ValueError" in caplog.records[0].exc_text


def test_nested_capture_is_not_part_of_the_outer_one():
    _log.start_capture()
    _log.warning("before")
    _log.start_capture()
    _log.warning("apart")
    assert _log.stop_capture() == "apart"
    _log.warning("after")
    assert _log.stop_capture() == "before; after"
    assert not _log.is_capturing()


def test_log_has_the_event_and_the_result_only_the_reason(caplog):
    _log.start_capture()
    _log.not_delivered("EVENT", "smtp: no\x1b room")
    _log.not_delivered("EVENT", "smtp: nobody took it", is_logged=True)
    assert _log.stop_capture() == r"smtp: no\x1b room"
    assert caplog.messages == [
        r"smtp: no\x1b room; 'EVENT' is not delivered",
        "smtp: nobody took it; 'EVENT' is not delivered",
    ]
