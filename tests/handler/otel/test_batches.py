"""Batches, threads, forks, and the end of a process."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import event
from event import _trace_context
from event.handler.otel import OTelHandler
from helpers.events import closed_event
from helpers.spans import SPAN, TRACE
from servers.otlp import partial_success

# Batches


def test_batch_is_one_request(receiver):
    handler = OTelHandler(receiver.endpoint)
    assert handler.send_events([closed_event(number=number) for number in range(100)]) == [True] * 100
    assert [span.attributes["number"] for span in receiver.spans] == [*range(100)]
    assert len(receiver.requests) == 1


def test_batch_without_spans_makes_no_request(receiver):
    handler = OTelHandler(receiver.endpoint)
    assert handler.send_events([]) == []
    assert handler.send_events(
        [event.Event("compile", **_trace_context.to_data(_trace_context.Span(TRACE, SPAN)))]
    ) == [True]
    assert receiver.requests == []


def test_unexportable_event_does_not_affect_the_others(receiver):
    circular = closed_event(loop=[])
    circular.loop.append(circular.loop)
    first, second, third = OTelHandler(receiver.endpoint).send_events([closed_event(), circular, closed_event()])
    assert (first, third) == (True, True)
    assert "'loop' contains itself" in str(second)
    assert len(receiver.spans) == 2


def test_failed_batch_is_a_failure_of_each_event(receiver, caplog):
    receiver.answers = [(503, {"Retry-After": "3600"}, b"")]
    events = [closed_event(), closed_event()]
    results = OTelHandler(receiver.endpoint).send_events(events)
    assert [str(result) for result in results] == [f"otel: {receiver.endpoint}: 503 Service Unavailable"] * 2
    assert not [result for result in results if isinstance(result, event.PermanentError)]
    assert len(receiver.requests) == 1
    assert caplog.text == ""


def test_unresolved_reference_is_a_failure_of_each_event(receiver):
    results = OTelHandler(receiver.endpoint, headers="env:NOT_THERE").send_events([closed_event(), closed_event()])
    assert all("env:NOT_THERE is not set" in str(result) for result in results)
    assert receiver.requests == []


@pytest.mark.parametrize(
    ("answer", "alone", "reason"),
    [
        pytest.param(partial_success(1, "too old"), partial_success(1, "too old"), "too old", id="rejected"),
        pytest.param(400, 400, "400 Bad Request", id="refused"),
    ],
)
def test_partly_refused_batch_is_sent_one_by_one(receiver, answer, alone, reason):
    receiver.answers = [answer, 200, alone, 200]
    first, second, third = OTelHandler(receiver.endpoint).send_events([closed_event(), closed_event(), closed_event()])
    assert (first, third) == (True, True)
    assert isinstance(second, event.PermanentError)
    assert reason in str(second)
    assert len(receiver.requests) == 4


def test_refused_batch_of_one_event_is_not_sent_again(receiver):
    receiver.answers = [partial_success(1, "too old")]
    (result,) = OTelHandler(receiver.endpoint).send_events([closed_event()])
    assert isinstance(result, event.PermanentError)
    assert len(receiver.requests) == 1


def test_batch_has_the_timeout_of_one_event(receiver):
    handler = OTelHandler(receiver.endpoint)
    handler.timeout = 0
    results = handler.send_events([closed_event(), closed_event()])
    assert all("the total timeout has expired" in str(result) for result in results)


# Threads, forks, and the end of a process


def test_send_leaves_no_thread(receiver):
    before = {thread for thread in threading.enumerate() if "process_request" not in thread.name}
    assert OTelHandler(receiver.endpoint).send_event(closed_event())
    assert {thread for thread in threading.enumerate() if "process_request" not in thread.name} == before


def test_threads_share_a_handler(receiver):
    handler = OTelHandler(receiver.endpoint)
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(handler.send_event, [closed_event(number=number) for number in range(20)]))
    assert {span.attributes["number"] for span in receiver.spans} == set(range(20))


ENDING = """
import atexit, os, sys, threading
import event
from event.handler.otel import OTelHandler

handler = OTelHandler(sys.argv[1])


def send(name):
    with event.Event(name) as e:
        pass
    assert handler.send_event(e)
    assert threading.enumerate() == [threading.main_thread()]


send("before")
atexit.register(send, "end")
if hasattr(os, "fork"):
    child = os.fork()
    send("child" if child == 0 else "parent")
    if child == 0:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""


def test_handler_sends_after_fork_and_at_interpreter_exit(receiver):
    run = [sys.executable, "-W", "error", "-c", ENDING, receiver.endpoint]
    finished = subprocess.run(run, capture_output=True, text=True, check=False)
    assert (finished.returncode, finished.stderr) == (0, "")
    forked = {"RUN child", "RUN parent"} if hasattr(os, "fork") else set()
    assert {span.name for span in receiver.spans} == {"RUN before", "RUN end"} | forked
    assert len({span.trace_id for span in receiver.spans}) == len(receiver.spans)
