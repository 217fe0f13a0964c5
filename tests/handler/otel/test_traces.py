"""The trace that a span belongs to, also across processes and retries."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Message

import event
from event import _trace_context
from event._outbox import Outbox
from event.handler.otel import OTelHandler
from helpers.delivering import deliver
from helpers.events import closed_event
from helpers.spans import PARENT, SPAN, TRACE
from servers.otlp import LOST


def reloaded(made, directory):
    """Dump and load an event, as if another process did it."""
    return event.Event.load(made.dump(directory))


def test_span_in_the_data_is_exported(send, monkeypatch):
    monkeypatch.setenv("TRACEPARENT", f"00-{'1' * 32}-{'2' * 16}-01")
    span = send(**_trace_context.to_data(_trace_context.Span(TRACE, SPAN, PARENT, 1, "v=1")), target="arm")
    assert (span.trace_id, span.span_id, span.parent_id, span.pb.trace_state) == (TRACE, SPAN, PARENT, "v=1")
    assert not set(_trace_context.KEYS) & set(span.attributes)
    assert span.pb.flags & 0x300 == 0x300  # the parent belongs to another process
    root = send(**_trace_context.to_data(_trace_context.Span(TRACE, SPAN)))
    assert (root.trace_id, root.span_id, root.parent_id) == (TRACE, SPAN, "")


def test_event_within_an_active_span_is_its_child(send, monkeypatch):
    monkeypatch.setenv("TRACEPARENT", f"00-{'1' * 32}-{'2' * 16}-01")
    token = _trace_context.active_span.set(_trace_context.Span(TRACE, SPAN))
    try:
        span = send()
    finally:
        _trace_context.active_span.reset(token)
    assert (span.trace_id, span.parent_id) == (TRACE, SPAN)


def test_events_without_a_trace_start_their_own_traces(send):
    one, two = send(), send()
    assert one.trace_id != two.trace_id
    assert one.span_id != two.span_id


def test_unsampled_trace_exports_no_span(receiver, monkeypatch):
    handler = OTelHandler(receiver.endpoint)
    assert handler.send_event(closed_event(traceparent=f"00-{TRACE}-{SPAN}-00"))
    monkeypatch.setenv("TRACEPARENT", f"00-{TRACE}-{PARENT}-00")
    assert handler.send_event(closed_event())
    assert receiver.requests == []


def test_open_event_with_a_span_is_exported_when_finished(receiver, tmp_path):
    handler = OTelHandler(receiver.endpoint)
    made = event.Event("compile", **_trace_context.to_data(_trace_context.Span(TRACE, SPAN)))
    assert handler.send_event(made)
    assert handler.send_event(reloaded(made, tmp_path))
    assert receiver.requests == []
    made.close()
    assert handler.send_event(made)
    assert [span.span_id for span in receiver.spans] == [SPAN]


def test_event_of_another_process_ignores_this_environment(receiver, monkeypatch, tmp_path):
    monkeypatch.setenv("TRACEPARENT", f"00-{TRACE}-{PARENT}-01")
    assert OTelHandler(receiver.endpoint).send_event(reloaded(closed_event(), tmp_path))
    assert receiver.spans[0].trace_id != TRACE
    assert receiver.spans[0].parent_id == ""


# Retries


@pytest.mark.parametrize(
    "data",
    [
        pytest.param({}, id="no-span"),
        pytest.param({"begin_time": 100}, id="no-span-and-an-int-as-date"),
        pytest.param({"begin_time": "1970-01-01T00:01:40"}, id="read-from-a-file"),
        pytest.param({"traceparent": f"00-{TRACE}-{SPAN}-01", "parent_span_id": PARENT}, id="span"),
    ],
)
@pytest.mark.parametrize("sender", ["", f"00-{TRACE}-{PARENT}-01"], ids=["sent-without-a-span", "sent-in-a-span"])
@pytest.mark.parametrize(
    "deliverer", ["", f"00-{'1' * 32}-{'2' * 16}-01"], ids=["delivered-without-a-span", "delivered-in-another"]
)
def test_retry_from_the_outbox_exports_the_same_span(receiver, monkeypatch, tmp_path, data, sender, deliverer):  # noqa: PLR0913
    manager = event.EventManager(outbox=tmp_path / "outbox")
    manager.add_handler("otel", receiver.endpoint)
    receiver.answers = [LOST]  # the receiver has the span, but the handler must retry
    monkeypatch.setenv("TRACEPARENT", sender)
    assert not manager.send_event(closed_event(**data))
    monkeypatch.setenv("TRACEPARENT", deliverer)
    ((_, outcome),) = deliver(Outbox(str(tmp_path / "outbox")), everything=True)
    assert outcome
    one, two = receiver.spans
    assert (one.trace_id, one.span_id, one.parent_id) == (two.trace_id, two.span_id, two.parent_id)
    if sender and not isinstance(data.get("begin_time"), str):
        assert (two.trace_id, two.parent_id) == (TRACE, PARENT)


@pytest.mark.parametrize(
    "deliverer", ["", f"00-{'1' * 32}-{'2' * 16}-01"], ids=["delivered-without-a-span", "delivered-in-another"]
)
def test_retried_span_keeps_the_parent_of_its_sending(receiver, tmp_path, deliverer):
    def command(*args, **environ):
        environ = {**os.environ, "E3_EVENT_OUTBOX": str(tmp_path / "outbox"), **environ}
        command = [sys.executable, "-m", "event", *args]
        return subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=120)

    sending = {"TRACEPARENT": f"00-{TRACE}-{PARENT}-01", "TRACESTATE": "v=1"}
    with socket.socket() as down:
        down.bind(("127.0.0.1", 0))  # bound, but nothing listens
        unreachable = f"http://127.0.0.1:{down.getsockname()[1]}"
        done = command("send", "compile", "--handler", "otel=env:COLLECTOR", COLLECTOR=unreachable, **sending)
    assert (done.returncode, done.stderr.count("; kept\n")) == (0, 1)
    assert receiver.requests == []
    done = command("deliver", "--all", COLLECTOR=receiver.endpoint, TRACEPARENT=deliverer)
    assert done.returncode == 0, done.stderr
    (span,) = receiver.spans
    assert (span.name, span.pb.kind) == ("compile", Message.SPAN_KIND_INTERNAL)
    assert (span.trace_id, span.parent_id, span.pb.trace_state) == (TRACE, PARENT, "v=1")


# Processes

NESTED = """
import subprocess, sys
import event
from event import _trace_context
from event.handler.otel import OTelHandler

depth = int(sys.argv[2])
span = _trace_context.new_span(_trace_context.current_span())
with event.Event(f"level {depth}", **_trace_context.to_data(span)) as e:
    if depth:
        inner = [sys.executable, __file__, sys.argv[1], str(depth - 1)]
        subprocess.run(inner, env=_trace_context.environment(span), check=True)
assert OTelHandler(sys.argv[1]).send_event(e)
"""


def test_nested_scripts_are_one_trace(receiver, tmp_path):
    (tmp_path / "nested.py").write_text(NESTED)
    subprocess.run([sys.executable, tmp_path / "nested.py", receiver.endpoint, "2"], check=True)
    inner, middle, outer = receiver.spans
    assert {span.trace_id for span in receiver.spans} == {outer.trace_id}
    assert (outer.parent_id, middle.parent_id, inner.parent_id) == ("", outer.span_id, middle.span_id)
    assert [span.name for span in receiver.spans] == ["level 0", "level 1", "RUN level 2"]
    assert outer.times[0] <= middle.times[0] <= inner.times[0] <= inner.times[1] <= middle.times[1] <= outer.times[1]
