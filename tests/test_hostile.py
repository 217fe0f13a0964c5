"""Failures of handlers, plugins, the log and the system do not fail the build."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest

import event
from event import EventError, EventManager
from servers.http import http_server
from servers.otlp import otlp_receiver


class Recorder:
    def __init__(self):
        self.events = []

    def send_event(self, sent):
        self.events.append(sent)
        return True


class Panic(BaseException):
    """Exception that is not an Exception, as some extension modules raise."""


class Failing:
    def __init__(self, error):
        self.error = error

    def send_event(self, _event):
        raise self.error


def manager_with(first):
    manager = EventManager()
    manager.handlers = {"first": first, "second": Recorder()}
    return manager


@pytest.mark.parametrize(
    "error", [Panic("p"), GeneratorExit(), SystemExit(3), ValueError("v")], ids=lambda e: type(e).__name__
)
def test_next_handler_gets_the_event_after_any_exception(error, caplog):
    manager = manager_with(Failing(error))
    assert manager.send_event(event.Event("e")) is False
    assert len(manager.handlers["second"].events) == 1
    assert caplog.records[0].exc_info[1] is error


@pytest.mark.parametrize("timeout", [None, 60])
def test_interrupt_propagates(timeout):
    manager = EventManager(timeout=timeout)
    manager.handlers["first"] = Failing(KeyboardInterrupt())
    if timeout:  # in a thread, the exception cannot end the program
        assert not manager.send_event(event.Event("e"))
    else:
        with pytest.raises(KeyboardInterrupt):
            manager.send_event(event.Event("e"))


class RaisingLog(logging.Handler):
    def emit(self, record):
        raise RuntimeError("the log is broken")


class RaisingFilter(logging.Filter):
    def filter(self, record):
        raise RuntimeError("the filter is broken")


@pytest.mark.parametrize("broken", ["handler", "filter", "factory"])
def test_a_broken_log_does_not_stop_the_next_handler(broken, capsys, monkeypatch):
    logger = event.logger
    broken_handler, broken_filter = RaisingLog(), RaisingFilter()
    factory = logging.getLogRecordFactory()
    try:
        if broken == "handler":
            logger.addHandler(broken_handler)
        elif broken == "filter":
            logger.addFilter(broken_filter)
        else:
            logging.setLogRecordFactory(lambda *_args, **_more: 1 / 0)
        manager = manager_with(Failing(ValueError("v")))
        assert manager.send_event(event.Event("e")) is False
    finally:
        logger.removeHandler(broken_handler)
        logger.removeFilter(broken_filter)
        logging.setLogRecordFactory(factory)
    assert len(manager.handlers["second"].events) == 1
    assert "handler first failed on <Event 'e'" in capsys.readouterr().err


class BadRepr:
    def __repr__(self):
        raise RuntimeError("repr")


def test_an_event_that_cannot_be_shown_can_fail_and_be_logged(caplog):
    manager = manager_with(Failing(ValueError("v")))
    assert manager.send_event(event.Event(BadRepr(), BadRepr())) is False
    assert "BadRepr object at" in caplog.records[0].getMessage()


@pytest.mark.skipif(os.name != "posix", reason="platform: resource limits")
def test_lack_of_file_descriptors_stops_no_handler():
    script = """
import os, resource, event
class Bad:
    def send_event(self, e): open("/nonexistent/q")
class Good:
    def send_event(self, e): os.write(1, b"got it"); return True
manager = event.EventManager()
manager.handlers.update(bad=Bad(), good=Good())
e = event.Event("x")
resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))
try:
    while True: os.open("/dev/null", os.O_RDONLY)
except OSError: pass
assert manager.send_event(e) is False
os._exit(0)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "got it"), done.stderr
    assert "handler bad failed" in done.stderr


class Exiting:
    """Handler that ends the program when it is constructed or encoded."""

    def __init__(self, where=""):
        if where == "construct":
            sys.exit("no")

    @classmethod
    def decode_config(cls, config):
        if config == "decode":
            raise Panic
        return {"where": config}

    def encode_config(self):
        sys.exit("no")

    def send_event(self, _event):
        return True


@pytest.mark.parametrize("where", ["decode", "construct"])
def test_plugin_that_raises_on_import_does_not_stop_others(where, tmp_path, monkeypatch):
    manager = EventManager()
    real = manager.get_handler
    monkeypatch.setattr(manager, "get_handler", lambda name: Exiting if name == "odd" else real(name))
    monkeypatch.setenv("V", f"odd={where}|file={tmp_path}")
    with pytest.raises(EventError, match="odd: "):
        manager.load_handlers_from_env("V")
    assert list(manager.handlers) == ["file"]


def test_interrupt_while_a_plugin_is_loaded_or_encoded_propagates(monkeypatch):
    class Interrupted(Exiting):
        @classmethod
        def decode_config(cls, config):
            raise KeyboardInterrupt

        def encode_config(self):
            raise KeyboardInterrupt

    manager = EventManager()
    monkeypatch.setattr(manager, "get_handler", lambda name: Interrupted)
    monkeypatch.setenv("V", "odd=x")
    with pytest.raises(KeyboardInterrupt):
        manager.load_handlers_from_env("V")
    manager.handlers["odd"] = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        manager.handler_config_as_env("V")


def test_plugin_that_raises_on_encode_is_named():
    manager = EventManager()
    manager.handlers["odd"] = Exiting()
    with pytest.raises(EventError, match="handler odd: its configuration cannot be written"):
        manager.handler_config_as_env("V")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="platform: FIFOs")
def test_dump_that_is_not_a_regular_file_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "x.json")
    for odd in (tmp_path / "x.json", "/dev/zero"):
        with pytest.raises(OSError, match="is not a regular file"):
            event.Event.load(odd)
    with pytest.raises(EventError, match="is not a dumped event"):
        event.Event.load("a\0b")


@pytest.mark.parametrize("key", ["uid", "name"])
def test_an_event_without_its_name_or_uid_is_still_stored(key, tmp_path):
    e = event.Event("e")
    delattr(e, key)
    event.add_handler("file", tmp_path)
    assert event.send_event(e)
    assert len([*tmp_path.glob("*.json")]) == 1


@pytest.mark.parametrize("variables", [{}, {"E3_EVENT_OUTBOX": "outbox"}], ids=["plain", "outbox"])
def test_modules_for_sending_are_loaded_by_add_handler(variables, tmp_path):
    """If one thread imports while another one forks, an import in the child process blocks forever."""
    script = f"""
import sys, event
event.add_handler("file", {str(tmp_path)!r})
event.add_handler("smtp", "s", "a@example.com", "b@example.com", "127.0.0.1:1")
event.add_handler("logging")
open("log", "w").close()
before = set(sys.modules)
e = event.Event("e", odd={{1, object()}})
e.attach_file("log")
event.send_event(e)
print(*sorted(m for m in set(sys.modules) - before if not m.startswith("encodings.")))
"""
    env = {**os.environ, **variables}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path, env=env
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


@pytest.mark.server
@pytest.mark.parametrize("variables", [{}, {"E3_EVENT_OUTBOX": "outbox"}], ids=["plain", "outbox"])
@pytest.mark.parametrize(
    ("handler", "server"),
    [
        pytest.param("http", lambda: http_server(), id="http"),
        pytest.param("apprise", lambda: http_server(), id="apprise"),
        pytest.param("otel", lambda: otlp_receiver(), id="otel"),
    ],
)
def test_modules_of_a_further_handler_are_loaded_when_added(handler, server, variables, tmp_path):
    script = f"""
import sys, event
event.add_handler({handler!r}, sys.argv[1])
open("log", "w").close()
e = event.Event("e", odd={{1, object()}})
e.attach_file("log")
before = set(sys.modules)
assert event.send_event(e)
print(*sorted(m for m in set(sys.modules) - before if not m.startswith("encodings.")))
"""
    with server() as running:
        url = {"http": "url", "otel": "endpoint"}.get(handler)
        address = getattr(running, url) if url else f"json://127.0.0.1:{running.port}/"
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", script, address],
            capture_output=True, text=True, check=False, cwd=tmp_path, env={**os.environ, **variables},
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_no_password_in_a_server_reaches_a_message():
    with pytest.raises(EventError, match=r"a server without a scheme contains an '@'") as caught:
        event.add_handler("smtp", "s", "a@example.com", "b@example.com", "user:hunter2@mail.example.com")
    assert "hunter2" not in str(caught.value)


def test_invalid_level_of_a_configuration_is_not_shown(monkeypatch):
    monkeypatch.setenv("E3_EVENT_HANDLERS", "logging=x,hunter2")
    with pytest.raises(EventError) as caught:
        event.load_handlers_from_env()
    assert "hunter2" not in "".join(caught.value.messages)
