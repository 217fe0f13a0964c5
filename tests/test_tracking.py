"""`event.track` sends an event however its block ends, and never disturbs the block."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import inspect
import os
import signal
import sys
import threading

import pytest

import event


class OddError(Exception):
    def __str__(self):
        raise ValueError("no text")


class Interrupted(KeyboardInterrupt):  # named like Python's own
    pass


class Recorder(event.EventHandler):
    def __init__(self):
        self.events = []

    def send_event(self, e):
        self.events.append(e)
        return True


@pytest.fixture
def recorder():
    event.default_manager.handlers["recorder"] = made = Recorder()
    return made


def the_event(recorder):
    (sent,) = recorder.events
    return sent


def test_the_event_is_closed_and_sent_with_its_data(recorder):
    with event.track("compile", target="arm") as e:
        assert recorder.events == []
        assert isinstance(e, event.Event)
        e.warnings = 3
    sent = the_event(recorder)
    assert (sent.name, sent.target, sent.warnings, sent.outcome) == ("compile", "arm", 3, "success")
    assert sent.end_time is not None
    assert not hasattr(sent, "error")
    with pytest.raises(event.EventError, match="closed"):
        e.late = 1


@pytest.mark.parametrize(
    ("error", "outcome", "data"),
    [
        pytest.param(ValueError("a b"), "failure", {"type": "ValueError", "message": "a b"}, id="an error"),
        pytest.param(OddError(), "failure", {"type": "OddError", "message": ""}, id="an error without a text"),
        pytest.param(SystemExit(3), "failure", {"type": "SystemExit", "message": "3"}, id="an exit with a status"),
        pytest.param(SystemExit("x"), "failure", {"type": "SystemExit", "message": "x"}, id="an exit with a message"),
        pytest.param(SystemExit(""), "failure", {"type": "SystemExit", "message": ""}, id="an exit with status 1"),
        pytest.param(SystemExit(0), "success", None, id="an exit with status 0"),
        pytest.param(SystemExit(), "success", None, id="an exit"),
        pytest.param(KeyboardInterrupt(), "cancel", None, id="an interrupt"),
        pytest.param(Interrupted(), "cancel", None, id="an interrupt of another class"),
        pytest.param(asyncio.CancelledError(), "cancel", None, id="a task that is cancelled"),
        pytest.param(concurrent.futures.CancelledError(), "cancel", None, id="a future that is cancelled"),
        pytest.param(GeneratorExit(), "cancel", None, id="a generator that is closed"),
    ],
)
def test_outcome_follows_the_exception_which_propagates(recorder, error, outcome, data):
    with pytest.raises(type(error)) as raised, event.track("compile"):
        raise error
    assert raised.value is error
    sent = the_event(recorder)
    assert sent.outcome == outcome
    assert getattr(sent, "error", None) == data


TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "b7ad6b7169203331"


def test_nested_track_belongs_to_the_trace_of_the_outer(recorder):
    with event.track("build") as outer, event.track("compile") as inner:
        pass
    version, trace, span, flags = outer.traceparent.split("-")
    assert (version, flags) == ("00", "01")
    assert not hasattr(outer, "parent_span_id")
    assert inner.traceparent.split("-")[1] == trace
    assert inner.parent_span_id == span
    with event.track("other") as other:
        pass
    assert other.traceparent.split("-")[1] != trace
    assert len(recorder.events) == 3


def test_a_track_is_part_of_the_trace_of_its_process(recorder, monkeypatch):
    monkeypatch.setenv("TRACEPARENT", f"00-{TRACE}-{PARENT}-00")
    monkeypatch.setenv("TRACESTATE", "v=1")
    with event.track("build") as e:
        pass
    assert e.traceparent.startswith(f"00-{TRACE}-")
    assert e.traceparent.endswith("-00")
    assert (e.parent_span_id, e.tracestate) == (PARENT, "v=1")


def test_child_environment_has_the_current_track(recorder, monkeypatch):
    monkeypatch.setenv("TRACEPARENT", f"00-{TRACE}-{PARENT}-01")
    monkeypatch.setenv("TRACESTATE", "v=1")
    assert event.child_environment() == dict(os.environ)
    with event.track("build") as outer:
        with event.track("compile") as inner:
            assert event.child_environment() == {**os.environ, "TRACEPARENT": inner.traceparent}
        assert event.child_environment()["TRACEPARENT"] == outer.traceparent
    assert event.child_environment() == dict(os.environ)
    event.child_environment()["TRACEPARENT"] = "of the copy"
    assert os.environ["TRACEPARENT"] == f"00-{TRACE}-{PARENT}-01"


def test_parallel_tasks_are_children_of_their_starter(recorder):
    async def fetch(name):
        with event.track(name) as e:
            await asyncio.sleep(0)  # the other task begins
            return e.parent_span_id, event.child_environment()["TRACEPARENT"] == e.traceparent

    async def build():
        with event.track("build") as e:
            found = await asyncio.gather(fetch("a"), fetch("b"))
        return e.traceparent.split("-")[2], found

    span, found = asyncio.run(build())
    assert found == [(span, True)] * 2


def test_generator_closed_in_another_context_sends_its_event(recorder, caplog):
    def work():
        with event.track("compile"):
            yield

    running = work()
    contextvars.copy_context().run(next, running)
    running.close()
    assert the_event(recorder).outcome == "cancel"
    assert caplog.records == []


@pytest.mark.parametrize("timeout", [None, 60])
def test_handler_runs_in_the_context_of_the_sender(timeout):
    class Asks(event.EventHandler):
        def send_event(self, _event):
            self.found = event.child_environment().get("TRACEPARENT")
            return True

    manager = event.EventManager(timeout=timeout)
    manager.handlers["asks"] = asks = Asks()
    with event.track("build") as e:
        assert manager.send_event(event.Event("compile"))
    assert asks.found == e.traceparent


@pytest.mark.parametrize("close", [True, False])
def test_outcome_set_by_the_body_is_kept_if_it_does_not_fail(recorder, close):
    with event.track("compile") as e:
        e.outcome = "unknown"
        if close:
            e.close()
    assert the_event(recorder).outcome == "unknown"


def test_event_closed_by_the_body_has_an_outcome(recorder):
    def close_and_fail(e):
        e.close()
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"), event.track("compile") as e:
        close_and_fail(e)
    assert the_event(recorder).outcome == "failure"


@pytest.mark.parametrize("error", [SystemExit(0), KeyboardInterrupt()], ids=lambda e: type(e).__name__)
def test_exception_of_a_handler_does_not_hide_that_of_the_body(error):
    class Quits:
        def send_event(self, sent):
            raise error

    event.default_manager.handlers["quits"] = Quits()
    with pytest.raises(LookupError, match="body"), event.track("compile"):
        raise LookupError("body")


def test_interrupt_during_the_send_of_a_success_propagates():
    class Interrupted:
        def send_event(self, sent):
            raise KeyboardInterrupt

    event.default_manager.handlers["interrupted"] = Interrupted()
    with pytest.raises(KeyboardInterrupt), event.track("compile"):
        pass


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="platform: Windows has no SIGUSR1")
def test_exit_of_the_scripts_signal_handler_during_the_send_propagates():
    class Interrupted:
        def send_event(self, sent):
            os.kill(os.getpid(), signal.SIGUSR1)

    event.default_manager.handlers["interrupted"] = Interrupted()
    previous = signal.signal(signal.SIGUSR1, lambda *_: sys.exit("stopped"))
    try:
        with pytest.raises(SystemExit, match="stopped"), event.track("compile"):
            pass
    finally:
        signal.signal(signal.SIGUSR1, previous)


def test_tracker_nested_in_itself_sends_both_events(recorder):
    tracker = event.track("compile")
    with tracker as outer, tracker as inner:
        pass
    assert [e.uid for e in recorder.events] == [inner.uid, outer.uid]


def test_a_generator_is_tracked_until_its_end(recorder):
    @event.track("lines")
    def lines():
        yield 1
        raise ValueError("no more")

    produced = lines()
    assert next(produced) == 1
    assert not recorder.events
    with pytest.raises(ValueError, match="no more"):
        next(produced)
    assert the_event(recorder).outcome == "failure"


def test_partials_and_callable_objects_are_tracked(recorder):
    async def work(_arg):
        raise ValueError("async")

    class Worker:
        async def __call__(self):
            raise ValueError("async")

    for function in (functools.partial(functools.partial(work), 1), Worker()):
        with pytest.raises(ValueError, match="async"):
            asyncio.run(event.track("work")(function)())
    assert [e.outcome for e in recorder.events] == ["failure"] * 2
    assert event.track("count")(len)([1, 2]) == 2


def test_untrackable_object_is_refused_at_once():
    async def stream():
        yield 1

    for function in (stream, classmethod(len)):
        with pytest.raises(TypeError, match="cannot track"):
            event.track("x")(function)


def test_a_function_is_tracked_on_each_call(recorder):
    @event.track("deploy", to="site")
    def deploy(where, *, fast=False):
        """Put it there."""
        if not fast:
            raise ValueError(where)
        return where

    assert deploy.__name__ == "deploy"
    assert deploy.__doc__ == "Put it there."
    assert deploy("here", fast=True) == "here"
    with pytest.raises(ValueError, match="there"):
        deploy("there")
    assert [sent.outcome for sent in recorder.events] == ["success", "failure"]
    assert [sent.to for sent in recorder.events] == ["site", "site"]
    assert len({sent.uid for sent in recorder.events}) == 2


def test_a_function_that_calls_itself_sends_an_event_for_each_call(recorder):
    @event.track("count")
    def count(number):
        return number and 1 + count(number - 1)

    assert count(3) == 3
    assert [sent.outcome for sent in recorder.events] == ["success"] * 4


def test_a_coroutine_function_is_tracked_until_it_is_done(recorder):
    @event.track("fetch")
    async def fetch(how):
        await asyncio.sleep(0)
        assert len(recorder.events) == before
        if how == "fail":
            raise ValueError(how)
        if how == "hang":
            await asyncio.Event().wait()
        return how

    async def cancelled():
        task = asyncio.ensure_future(fetch("hang"))
        for _ in range(5):
            await asyncio.sleep(0)
        task.cancel()
        await task

    assert inspect.iscoroutinefunction(fetch)
    before = 0
    assert asyncio.run(fetch("well")) == "well"
    before = 1
    with pytest.raises(ValueError, match="fail"):
        asyncio.run(fetch("fail"))
    before = 2
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled())
    assert [sent.outcome for sent in recorder.events] == ["success", "failure", "cancel"]


def test_built_in_function_is_tracked(recorder):
    assert event.track("length")(len)("abc") == 3
    assert the_event(recorder).outcome == "success"


class Failing(event.EventHandler):
    def __init__(self, error):
        self.error = error

    def send_event(self, e):
        if self.error:
            raise self.error
        return False


@pytest.mark.parametrize("error", [ValueError("no"), None])
def test_a_delivery_that_fails_is_never_raised(error):
    event.default_manager.handlers["failing"] = Failing(error)
    with event.track("compile"):
        pass
    with pytest.raises(OSError, match="the body's"), event.track("compile"):
        raise OSError("the body's")


def test_a_sending_that_raises_is_logged(monkeypatch, caplog):
    class Manager:
        def send_event(self, e):
            raise RuntimeError("no manager")

    monkeypatch.setattr(event, "default_manager", Manager())
    with event.track("compile"):
        pass
    (record,) = caplog.records
    assert record.getMessage() == "event compile could not be sent"
    assert str(record.exc_info[1]) == "no manager"


def test_interrupt_during_the_send_propagates():
    event.default_manager.handlers["failing"] = Failing(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt), event.track("compile"):
        pass


def test_tasks_that_share_a_tracker_have_separate_events(recorder):
    tracker = event.track("t")

    async def work(number, error, turn, following):
        with tracker as e:
            e.number = number
            await turn.wait()
            following.set()
            if error:
                raise error

    async def main():
        turns = [asyncio.Event() for _ in range(3)]
        works = [
            work(0, None, turns[0], turns[1]),
            work(1, ValueError("v"), turns[1], turns[2]),
            work(2, None, turns[2], asyncio.Event()),
        ]
        tasks = [asyncio.create_task(one) for one in works]
        await asyncio.sleep(0)  # each has begun
        turns[0].set()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())
    assert [(e.number, e.outcome) for e in recorder.events] == [(0, "success"), (1, "failure"), (2, "success")]


class Waits(event.EventHandler):
    """Handler that blocks until the event loop has run other code."""

    def __init__(self):
        self.loop_runs = threading.Event()
        self.held = []

    def send_event(self, e):
        self.held.append(self.loop_runs.wait(60))
        return True


@pytest.fixture
def waits():
    event.default_manager.handlers["waits"] = made = Waits()
    return made


async def with_block():
    async with event.track("t"):
        pass


@event.track("t")
async def decorated():
    pass


async def sent():
    assert await event.default_manager.send_event_async(event.Event("e"))


@pytest.mark.parametrize("work", [with_block, decorated, sent])
def test_sending_does_not_block_the_event_loop(waits, work):
    async def main():
        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        waits.loop_runs.set()
        await task

    asyncio.run(main())
    assert waits.held == [True]


@pytest.mark.parametrize("work", [with_block, decorated, sent])
def test_event_loop_without_threads_sends(recorder, work):
    async def main():
        await asyncio.get_running_loop().shutdown_default_executor()
        await work()

    asyncio.run(main())
    assert len(recorder.events) == 1


def test_coroutine_outside_asyncio_sends(recorder):
    with pytest.raises(StopIteration):
        with_block().send(None)
    assert the_event(recorder).outcome == "success"


def test_task_cancelled_during_the_send_ends_cancelled(waits):
    async def main():
        task = asyncio.create_task(with_block())
        while not waits.held and not task.done():
            await asyncio.sleep(0)
            task.cancel()
            waits.loop_runs.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_a_failure_of_an_asynchronous_sending_is_logged(monkeypatch, caplog):
    monkeypatch.setattr(event.default_manager, "send_event", lambda _event: 1 / 0)
    asyncio.run(with_block())
    assert "event t could not be sent" in caplog.text
