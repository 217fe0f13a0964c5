"""The span of the sender: deliveries by other processes run in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import event
from event import Event, EventManager, _trace_context
from helpers.delivering import deliver
from helpers.entries import count_by_state, journal_of, path_of, put_in_span
from helpers.plugins import Site

TRACE, SPAN, OTHER_SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", f"00-{'1' * 32}-{'2' * 16}-01"

# A handler that appends its own span, and the span for its child processes, to the file `spans`.
RECORDER = """
import os, event
from event import _trace_context

class Handler(event.EventHandler):
    def send_event(self, e):
        span, child = _trace_context.current_span(), event.child_environment()
        values = span and span.traceparent, span and span.state, child.get("TRACEPARENT"), child.get("TRACESTATE")
        with open("spans", "a") as file:
            print(*values, file=file)
        return os.path.exists("up")
"""


@pytest.fixture
def spans(tmp_path, monkeypatch, box):
    """Install the handler `recorder`, which fails unless a file `up` exists; return a function that reads its file."""
    Site(tmp_path / "site", monkeypatch).plugin("recorder", RECORDER)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.chdir(tmp_path)
    return lambda: [line.split() for line in Path("spans").read_text().splitlines()]


def send_from_another_process(box, traceparent="", tracestate=""):
    code = """
import sys, event
m = event.EventManager(outbox=sys.argv[1])
m.add_handler("recorder")
assert not m.send_event(event.Event("build"))
"""
    trace = {"TRACEPARENT": traceparent, "TRACESTATE": tracestate} if traceparent else {}
    subprocess.run([sys.executable, "-c", code, box.path], env={**os.environ, **trace}, check=True)


OWN_SPAN = pytest.mark.parametrize(
    "own_span", [pytest.param("", id="without a span"), pytest.param(OTHER_SPAN, id="in another span")]
)


@OWN_SPAN
def test_delivery_by_another_process_runs_in_the_span_of_the_sender(box, spans, monkeypatch, own_span):
    send_from_another_process(box, f"00-{TRACE}-{SPAN}-01", "v=1")
    if own_span:
        monkeypatch.setenv("TRACEPARENT", own_span)
        monkeypatch.setenv("TRACESTATE", "w=2")
    ((_, outcome),) = deliver(box, everything=True)
    assert not outcome
    assert spans() == [[f"00-{TRACE}-{SPAN}-01", "v=1"] * 2] * 2


@OWN_SPAN
def test_event_sent_without_a_span_is_delivered_without_one(box, spans, monkeypatch, own_span):
    send_from_another_process(box)
    if own_span:
        monkeypatch.setenv("TRACEPARENT", own_span)
        monkeypatch.setenv("TRACESTATE", "w=2")
    with event.track("delivering"):
        deliver(box, everything=True)
    assert spans() == [["None"] * 4] * 2


def test_event_sent_in_a_track_is_delivered_in_its_span(box, spans, monkeypatch):
    monkeypatch.setenv("TRACEPARENT", f"00-{TRACE}-{SPAN}-01")
    m = EventManager(outbox=box.path)
    m.add_handler("recorder")
    with event.track("build") as span:
        m.send_event(Event("compile"))
    with event.track("delivering"):
        deliver(box, everything=True)
    assert span.traceparent.startswith(f"00-{TRACE}-")
    assert [values[0] for values in spans()] == [span.traceparent] * 2


def test_each_entry_is_delivered_in_its_own_span(box, spans):
    senders = [_trace_context.new_span(None) for _ in range(3)]
    for span in (*senders, _trace_context.NO_SPAN):
        put_in_span(box, Event("build"), {"recorder": ""}, span).release()
    deliver(box, everything=True)
    assert sorted(values[0] for values in spans()) == sorted([*(span.traceparent for span in senders), "None"])


def test_deliverer_keeps_its_own_span(box):
    for _ in range(2):
        put_in_span(box, Event("build"), {"file": "events"}, _trace_context.new_span(None)).release()
    with event.track("delivering") as span:
        assert len(deliver(box, everything=True)) == 2
        assert event.child_environment()["TRACEPARENT"] == span.traceparent


def test_entry_with_a_malformed_span_is_delivered_without_one(box, spans, monkeypatch):
    monkeypatch.setenv("TRACEPARENT", OTHER_SPAN)
    claim = put_in_span(box, Event("build"), {"recorder": ""}, _trace_context.new_span(None))
    claim.postpone(time.time() + 1000)
    path = journal_of(path_of(box, claim.entry.id))
    content, *journal = path.read_text().split("\n")
    content = json.dumps({**json.loads(content), "trace": {"traceparent": "damaged"}})
    path.write_text("\n".join([content, *journal]))
    Path("up").touch()
    ((_, outcome),) = deliver(box, everything=True)
    assert outcome
    assert spans() == [["None"] * 4]
    assert count_by_state(box) == {}
