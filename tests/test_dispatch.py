"""One event, several handlers: sequential without a timeout, parallel with one."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import logging
import os
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace
from unittest.mock import MagicMock, Mock

import pytest

import event
from event import EventManager, _dispatch, _log


class Handler:
    """Handler that calls a function, and records the threads of the calls."""

    def __init__(self, act):
        self.act = act
        self.threads = []

    def send_event(self, e):
        self.threads.append(threading.current_thread())
        return self.act(e)


def raises(error):
    def act(e):
        raise error

    return act


def yes(e):
    return True


def manager(timeout=None, **acts):
    made = EventManager(timeout=timeout)
    made.handlers.update({name: Handler(act) for name, act in acts.items()})
    return made


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_thread_is_started_without_a_timeout():
    code = """
import sys
before = set(sys.modules)
import event
m = event.EventManager()
m.handlers["a"] = m.handlers["b"] = type("H", (), {"send_event": lambda self, e: True})()
assert m.dispatch(event.Event("x")) and m.send_event(event.Event("x"))
print({"threading", "queue", "logging"} & set(sys.modules) - before)
"""
    assert run(code) == "set()\n"


def test_every_handler_has_its_own_thread_with_a_timeout():
    together = threading.Barrier(3)  # passes only if all three run at once
    m = manager(30, **dict.fromkeys("abc", lambda e: together.wait(20) is not None))
    outcome = m.dispatch(event.Event("x"))
    assert [(d.handler, d.ok) for d in outcome] == [("a", True), ("b", True), ("c", True)]
    threads = [handler.threads[0] for handler in m.handlers.values()]
    assert len(set(threads)) == 3
    assert threading.current_thread() not in threads
    assert all(thread.daemon for thread in threads)


@pytest.mark.parametrize("timeout", [None, 30])
def test_outcome_is_the_same_sequentially_and_in_parallel(timeout, caplog):
    error = ValueError("no")
    m = manager(timeout, a=yes, b=lambda e: 0, c=raises(error), d=yes)
    outcome = m.dispatch(event.Event("x"))
    assert not outcome
    assert [(d.handler, d.ok, d.error) for d in outcome] == [
        ("a", True, None),
        ("b", False, None),
        ("c", False, error),
        ("d", True, None),
    ]
    assert caplog.records == []
    assert m.send_event(event.Event("x")) is False
    assert [r.exc_info[1] for r in caplog.records] == [error]
    assert manager(timeout).send_event(event.Event("x")) is True
    assert manager(timeout, a=yes).send_event(event.Event("x")) is True


def test_handler_that_times_out_has_failed(caplog):
    hold = threading.Event()
    m = manager(0.05, hung=lambda e: hold.wait(30), quick=yes)
    try:
        outcome = m.dispatch(event.Event("x"))
        assert [(d.handler, d.ok) for d in outcome] == [("hung", False), ("quick", True)]
        assert isinstance(outcome.deliveries[0].error, TimeoutError)
        assert outcome.deliveries[0].reason == "not done within 0.05 s"
        assert m.send_event(event.Event("x")) is False
        assert "handler hung failed on" in caplog.text
    finally:
        hold.set()


def test_hung_handler_does_not_block_process_exit():
    code = """
import event, threading
m = event.EventManager(timeout=0.05)
m.handlers["hung"] = type("H", (), {"send_event": lambda self, e: threading.Event().wait()})()
print(m.dispatch(event.Event("x")))
"""
    assert run(code) == "hung: not delivered: not done within 0.05 s\n"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (SystemExit(3), "SystemExit: 3"),
        (KeyboardInterrupt(), "RuntimeError: the handler raised KeyboardInterrupt()"),
    ],
)
def test_an_exit_in_a_thread_is_a_failure(error, reason):
    (delivery,) = manager(30, a=raises(error)).dispatch(event.Event("x"))
    assert not delivery
    assert delivery.reason == reason


def test_interrupt_in_a_sequential_delivery_propagates():
    with pytest.raises(KeyboardInterrupt):
        manager(a=raises(KeyboardInterrupt())).dispatch(event.Event("x"))


def test_exit_of_a_handler_in_a_sequential_delivery_is_a_failure():
    first, second = manager(a=raises(SystemExit(0)), b=yes).dispatch(event.Event("x"))
    assert (first.reason, bool(second)) == ("SystemExit: 0", True)


class Stop:
    """Signal handlers of scripts, in various forms."""

    def method(self, number, frame):
        sys.exit(f"stopped by {number}")

    def nested(self, *arguments):
        self.method(*arguments)

    def __call__(self, number, frame):
        signal.signal(number, signal.SIG_DFL)
        sys.exit(f"stopped by {number}")


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="platform: Windows has no SIGUSR1")
@pytest.mark.parametrize(
    "signal_handler",
    [
        pytest.param(Stop().method, id="method"),
        pytest.param(Stop().nested, id="nested call"),
        pytest.param(Stop(), id="object"),
        pytest.param(functools.partial(lambda text, *_: sys.exit(text), "stopped by it"), id="partial"),
    ],
)
@pytest.mark.parametrize("send", [EventManager.send_event, EventManager.dispatch])
def test_exit_of_the_scripts_signal_handler_propagates(signal_handler, send, monkeypatch):
    def interrupted(e):
        os.kill(os.getpid(), signal.SIGUSR1)
        return True

    previous = signal.signal(signal.SIGUSR1, signal_handler)
    try:
        with pytest.raises(SystemExit, match="stopped by"):
            send(manager(a=interrupted), event.Event("x"))
    finally:
        signal.signal(signal.SIGUSR1, previous)


def test_a_delivery_for_which_no_thread_can_start_has_failed(monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)  # using up all threads would starve the machine
    outcome = manager(30, a=yes, b=yes).dispatch(event.Event("x"))
    assert [d.reason for d in outcome] == [
        "not tried: no thread can be started (RuntimeError: can't start new thread)"
    ] * 2


def test_the_number_of_threads_that_hang_is_bounded(monkeypatch):
    monkeypatch.setattr(_dispatch, "HUNG_LIMIT", 2)
    monkeypatch.setattr(_dispatch, "_hung", set())
    release = threading.Event()
    hung = manager(0.05, a=lambda e: release.wait(60), b=lambda e: release.wait(60))
    assert all(delivery.timed_out for delivery in hung.dispatch(event.Event("x")))
    threads = [handler.threads[0] for handler in hung.handlers.values()]
    (refused,) = manager(30, c=yes).dispatch(event.Event("x"))
    assert refused.reason == "not tried: 2 earlier deliveries of this process hang; restart it"
    release.set()
    for thread in threads:
        thread.join(60)
    assert manager(30, c=yes).send_event(event.Event("x"))


def test_huge_timeout_means_no_deadline():
    assert manager(1e300, a=yes).send_event(event.Event("x"))


@pytest.mark.parametrize("timeout", [None, 30])
def test_log_of_a_handler_is_the_reason_of_its_failure(timeout):
    def act(e):
        event.logger.info("trying")
        event.logger.warning("%s is full", "the mailbox")
        event.logger.error("really")
        return False

    m = manager(timeout, a=act, b=lambda e: False)
    a, b = m.dispatch(event.Event("x"))
    assert a.reason == "the mailbox is full; really"
    assert b.reason == "the handler returned False"


def test_each_parallel_handler_has_its_own_reason():
    together = threading.Barrier(2)

    def act(what):
        def send(e):
            together.wait(20)
            event.logger.warning(what)
            together.wait(20)
            return False

        return send

    assert [d.reason for d in manager(30, a=act("one"), b=act("two")).dispatch(event.Event("x"))] == ["one", "two"]


def test_deliveries_are_returned_as_they_finish():
    first = threading.Event()
    handlers = {"late": Handler(lambda e: first.wait(30)), "early": Handler(yes)}
    done = _dispatch.deliveries(handlers, event.Event("x"), 30)
    assert next(done).handler == "early"
    first.set()
    assert next(done).handler == "late"
    assert list(done) == []


@pytest.mark.parametrize("value", [0, -1, "soon", float("nan"), float("inf"), []])
def test_a_timeout_is_a_positive_number(value):
    with pytest.raises(event.EventError, match="expected a positive number of seconds"):
        EventManager(timeout=value)


def test_environment_variable_sets_the_timeout(monkeypatch, caplog):
    monkeypatch.setenv("E3_EVENT_TIMEOUT", "2.5")
    assert EventManager().timeout == 2.5
    assert EventManager(timeout=1).timeout == 1.0
    monkeypatch.setenv("E3_EVENT_TIMEOUT", "soon")
    assert EventManager().timeout is None
    assert "E3_EVENT_TIMEOUT is 'soon'; expected a positive number of seconds; it is ignored" in caplog.text
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


@pytest.mark.parametrize("timeout", ["1e10", "1e300"])
def test_timeout_above_the_timer_limit_still_delivers(timeout, tmp_path, monkeypatch):
    monkeypatch.setenv("E3_EVENT_TIMEOUT", timeout)
    manager = EventManager()
    assert 1e6 < manager.timeout < 4_294_967  # the limit of timers on Windows
    manager.add_handler("file", str(tmp_path))
    assert manager.send_event(event.Event("compile"))
    command = [sys.executable, "-m", "event", "send", "compile", "--handler", f"file={tmp_path}"]
    subprocess.run(command, check=True, timeout=60)


async def coroutine(e):
    return True


def generator(e):
    yield True


async def async_generator(e):
    yield True


class Awaitable:
    def __await__(self):
        yield


def asyncio_future(e):
    loop = asyncio.new_event_loop()
    loop.close()
    return asyncio.Future(loop=loop)


UNFINISHED = [
    pytest.param(coroutine, "an awaitable; it must deliver the event before it returns", id="coroutine"),
    pytest.param(lambda e: Awaitable(), "an awaitable; it must deliver", id="awaitable"),
    pytest.param(generator, "a generator; it must deliver", id="generator"),
    pytest.param(async_generator, "an async generator; it must deliver", id="async generator"),
    pytest.param(lambda e: concurrent.futures.Future(), "a future; it must deliver", id="future"),
    pytest.param(asyncio_future, "a future; it must deliver", id="future of asyncio"),
    pytest.param(lambda e: NotImplemented, "NotImplemented; it must return True", id="NotImplemented"),
]


@pytest.mark.parametrize("timeout", [None, 30.0])
@pytest.mark.parametrize(("send", "message"), UNFINISHED)
def test_a_handler_that_returns_unfinished_work_has_not_delivered(caplog, timeout, send, message):
    manager = EventManager(timeout=timeout)
    manager.handlers["h"] = SimpleNamespace(send_event=send)
    assert manager.send_event(event.Event("n")) is False
    assert f"send_event returned {message}" in caplog.text


@pytest.mark.parametrize("answer", [1, "yes", [0], Mock(), MagicMock(), 0, "", []], ids=lambda x: type(x).__name__)
def test_other_results_count_by_their_truth(answer):
    manager = EventManager()
    manager.handlers["h"] = SimpleNamespace(send_event=lambda e: answer)
    assert manager.send_event(event.Event("n")) is bool(answer)


def warn(text, result):
    _log.warning("%s", text)
    return result


def test_failed_event_of_a_batch_has_its_own_reason():
    _log.start_capture()
    results = [_dispatch.result_in_batch(lambda text=text: warn(text, False)) for text in ("one", "two")]
    assert [str(result) for result in results] == ["one", "two"]
    assert _dispatch.result_in_batch(lambda: False) is False
    assert isinstance(_dispatch.result_in_batch(lambda: 1 // 0), ZeroDivisionError)
    assert _log.stop_capture() == ""


def test_log_of_a_successful_batch_delivery_belongs_to_the_batch():
    assert _dispatch.result_in_batch(lambda: warn("not complete", True)) is True
    _log.start_capture()
    assert _dispatch.result_in_batch(lambda: warn("not complete", True)) is True
    assert _log.stop_capture() == "not complete"
