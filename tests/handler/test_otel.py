"""The otel handler with a local OTLP receiver, and servers that misbehave."""

from __future__ import annotations

import base64
import logging
import os
import pickle
import re
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Message
from opentelemetry.proto.trace.v1.trace_pb2 import Status as SpanStatus

import event
from event import _trace_context
from event._outbox import Outbox
from event.handler.otel import OTelHandler
from helpers.attributes import public_attributes
from helpers.delivering import deliver
from servers.otlp import LOST, PROTOBUF, otlp_receiver, partial_success
from servers.raw import raw_server
from servers.tls import Authority

TRACE, SPAN, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", "b7ad6b7169203331"
TOKEN = "s3cr3t-of-the-tests"
OTEL_VARIABLES = re.compile(
    r"OTEL_.*|TRACEPARENT|TRACESTATE|(HTTPS?|ALL|NO)_PROXY|(REQUESTS|CURL)_CA_BUNDLE", re.IGNORECASE
)


@pytest.fixture(autouse=True)
def no_telemetry(monkeypatch):
    for name in filter(OTEL_VARIABLES.fullmatch, [*os.environ]):
        monkeypatch.delenv(name)


@pytest.fixture
def receiver():
    with otlp_receiver() as receiver:
        yield receiver


@pytest.fixture
def send(receiver):
    """Return a function that sends an event with the given data and returns the received span."""

    def send(**data):
        assert OTelHandler(receiver.endpoint).send_event(closed(**data))
        return receiver.spans[-1]

    return send


def closed(name="compile", **data):
    with event.Event(name, **data) as made:
        pass
    return made


def reloaded(made, directory):
    """Return an event after a dump and a load, as another process reads it."""
    return event.Event.load(made.dump(directory))


# Spans


def test_event_is_a_span_from_begin_to_end(receiver):
    with event.Event("compile", uid="42", target="arm") as made:
        pass
    assert OTelHandler(receiver.endpoint).send_event(made)
    (span,) = receiver.spans
    assert span.times == tuple(round(date * 1e6) * 1000 for date in (made.begin_time, made.end_time))
    assert (span.attributes["target"], span.parent_id, span.scope) == ("arm", "", "event")
    assert receiver.requests[0][0] == "/v1/traces"
    assert receiver.requests[0][1]["Content-Type"] == PROTOBUF


def test_event_without_a_trace_is_a_pipeline_run(send):
    span = send(name="nightly", uid="42", outcome="success")
    assert (span.name, span.pb.kind, span.parent_id) == ("RUN nightly", Message.SPAN_KIND_SERVER, "")
    assert span.attributes == {"cicd.pipeline.action.name": "RUN", "cicd.pipeline.result": "success"}
    assert (span.resource["cicd.pipeline.name"], span.resource["cicd.pipeline.run.id"]) == ("nightly", "42")


def test_event_in_a_trace_is_a_task_run(send, monkeypatch):
    monkeypatch.setenv("TRACEPARENT", f"00-{TRACE}-{PARENT}-01")
    monkeypatch.setenv("TRACESTATE", "v=1")
    span = send(uid="42", outcome="success")
    assert (span.name, span.pb.kind) == ("compile", Message.SPAN_KIND_INTERNAL)
    assert (span.trace_id, span.parent_id, span.pb.trace_state) == (TRACE, PARENT, "v=1")
    assert span.attributes == {
        "cicd.pipeline.task.name": "compile",
        "cicd.pipeline.task.run.id": "42",
        "cicd.pipeline.task.run.result": "success",
    }
    assert "cicd.pipeline.name" not in span.resource


@pytest.mark.parametrize(
    ("data", "result", "status", "message", "kind"),
    [
        pytest.param({}, None, SpanStatus.STATUS_CODE_UNSET, "", None, id="no-outcome"),
        pytest.param({"outcome": 1}, None, SpanStatus.STATUS_CODE_UNSET, "", None, id="outcome-that-is-not-text"),
        pytest.param({"outcome": "success"}, "success", SpanStatus.STATUS_CODE_UNSET, "", None, id="success"),
        pytest.param({"outcome": "cancel"}, "cancellation", SpanStatus.STATUS_CODE_UNSET, "", None, id="cancel"),
        pytest.param(
            {"outcome": "skip"}, "skip", SpanStatus.STATUS_CODE_UNSET, "", None, id="outcome-of-the-conventions"
        ),
        pytest.param(
            {"outcome": "flaky\ud800"}, "flaky\\ud800", SpanStatus.STATUS_CODE_UNSET, "", None, id="unknown-outcome"
        ),
        pytest.param(
            {"outcome": "failure", "error": {"type": "ValueError", "message": "no"}, "exit_code": 1},
            "failure",
            SpanStatus.STATUS_CODE_ERROR,
            "no",
            "ValueError",
            id="failure-with-an-error",
        ),
        pytest.param(
            {"outcome": "failure", "error": "no"}, "failure", SpanStatus.STATUS_CODE_ERROR, "no", "_OTHER", id="text"
        ),
        pytest.param(
            {"outcome": "failure", "exit_code": 2}, "failure", SpanStatus.STATUS_CODE_ERROR, "", "2", id="exit-code"
        ),
        pytest.param(
            {"outcome": "failure", "exit_code": 137, "signal": "SIGKILL"},
            "failure",
            SpanStatus.STATUS_CODE_ERROR,
            "",
            "SIGKILL",
            id="signal",
        ),
        pytest.param({"outcome": "timeout"}, "timeout", SpanStatus.STATUS_CODE_ERROR, "", "_OTHER", id="timeout"),
    ],
)
def test_the_outcome_is_the_result_and_the_status(send, data, result, status, message, kind):  # noqa: PLR0913
    span = send(**data)
    assert span.attributes.get("cicd.pipeline.result") == result
    assert (span.pb.status.code, span.pb.status.message) == (status, message)
    assert span.attributes.get("error.type") == kind


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param("arm", {"x": "arm"}, id="text"),
        pytest.param("", {"x": ""}, id="empty-text"),
        pytest.param("a\ud800b", {"x": "a\\ud800b"}, id="surrogate"),
        pytest.param(True, {"x": True}, id="bool"),
        pytest.param(17, {"x": 17}, id="int"),
        pytest.param(-(1 << 63), {"x": -(1 << 63)}, id="smallest-int"),
        pytest.param(1 << 63, {"x": "9223372036854775808"}, id="int-beyond-64-bits"),
        pytest.param(0.5, {"x": 0.5}, id="float"),
        pytest.param(float("nan"), {}, id="nan"),
        pytest.param(None, {}, id="none"),
        pytest.param(["a", "b"], {"x": ["a", "b"]}, id="texts"),
        pytest.param([1, 2], {"x": [1, 2]}, id="ints"),
        pytest.param([], {"x": []}, id="empty-array"),
        pytest.param({"b", "a"}, {"x": ["a", "b"]}, id="set"),
        pytest.param([1, "a"], {"x": '[1, "a"]'}, id="mixed"),
        pytest.param([1, True], {"x": "[1, true]"}, id="int-and-bool"),
        pytest.param([None], {"x": "[null]"}, id="array-of-none"),
        pytest.param([[1]], {"x": "[[1]]"}, id="array-of-arrays"),
        pytest.param({"a": 1, "b": {"c": "d"}}, {"x.a": 1, "x.b.c": "d"}, id="object"),
        pytest.param({}, {}, id="empty-object"),
        pytest.param({"\ud800": 1}, {"x.\\ud800": 1}, id="odd-key"),
    ],
)
def test_a_value_becomes_an_attribute(send, value, expected):
    span = send(x=value)
    assert {name: value for name, value in span.attributes.items() if name.startswith("x")} == expected


def test_an_object_nested_too_deeply_is_json(send):
    value = "end"
    for _ in range(500):
        value = {"a": value}
    (name,) = set(send(x=value).attributes) - {"cicd.pipeline.action.name"}
    assert name == "x" + ".a" * 7  # eight levels


def test_empty_key_is_no_attribute(send):
    assert set(send(**{"": 1}).attributes) == {"cicd.pipeline.action.name"}


def test_attributes_use_the_names_of_the_conventions(send):
    span = send(
        command="make", exit_code=3, host="h1", ci={"build_url": "https://ci/1", "branch": "main", "commit": "abc"}
    )
    assert span.attributes == {
        "cicd.pipeline.action.name": "RUN",
        "process.command": "make",
        "process.exit.code": 3,
    }
    assert span.resource["host.name"] == "h1"
    assert span.resource["cicd.pipeline.run.url.full"] == "https://ci/1"
    assert (span.resource["vcs.ref.head.name"], span.resource["vcs.ref.head.revision"]) == ("main", "abc")


def test_data_override_automatic_attributes(send):
    assert send(outcome="success", **{"cicd.pipeline.result": "mine"}).attributes["cicd.pipeline.result"] == "mine"


def test_every_attribute_name_is_in_the_conventions(send, monkeypatch):
    from importlib import import_module

    known = set()
    for group in ("cicd", "vcs", "host", "process", "error", "service", "telemetry"):
        module = import_module(f"opentelemetry.semconv._incubating.attributes.{group}_attributes")
        known |= {value for value in vars(module).values() if isinstance(value, str)}
    data = {"outcome": "failure", "exit_code": 1, "command": "c", "host": "h"}
    data["ci"] = {"build_url": "u", "branch": "b", "commit": "c"}
    spans = [send(**data)]
    monkeypatch.setenv("TRACEPARENT", f"00-{TRACE}-{PARENT}-01")
    spans.append(send(**data))
    for span in spans:
        assert {*span.attributes, *span.resource} <= known
        assert span.schema == "https://opentelemetry.io/schemas/1.44.0"


def test_the_attachments_are_named_with_their_checksums(send, receiver, tmp_path):
    (tmp_path / "log").write_bytes(b"done\n")
    made = event.Event("compile")
    made.attach_file(tmp_path / "log")
    made.attach_file(tmp_path / "log", "again")
    made.close()
    assert OTelHandler(receiver.endpoint).send_event(made)
    digest = "7907f662aaf128f6b9ac688863857008a89df19c"
    assert receiver.spans[0].attributes["attachments.names"] == ["log", "again"]
    assert receiver.spans[0].attributes["attachments.sha1"] == [digest, digest]


def test_circular_data_is_refused(receiver):
    made = event.Event("compile", loop=[])
    made.loop.append(made.loop)
    with pytest.raises(event.EventError, match="'loop' contains itself"):
        OTelHandler(receiver.endpoint).send_event(made)


# The resource


@pytest.mark.parametrize(
    ("service", "environ", "expected"),
    [
        pytest.param("", {}, "e3-event", id="default"),
        pytest.param("", {"OTEL_RESOURCE_ATTRIBUTES": "service.name=r,team=x"}, "r", id="resource-variable"),
        pytest.param("", {"OTEL_SERVICE_NAME": "n", "OTEL_RESOURCE_ATTRIBUTES": "service.name=r"}, "n", id="variable"),
        pytest.param("mine", {"OTEL_SERVICE_NAME": "n"}, "mine", id="configured"),
    ],
)
def test_the_service_is_named(receiver, monkeypatch, service, environ, expected):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert OTelHandler(receiver.endpoint, service).send_event(closed())
    resource = receiver.spans[0].resource
    assert resource["service.name"] == expected
    assert resource.get("team") == ("x" if "team" in str(environ) else None)
    assert (resource["telemetry.sdk.name"], resource["telemetry.sdk.language"]) == ("opentelemetry", "python")


# Dates


@pytest.mark.parametrize(
    ("begin", "end", "expected"),
    [
        pytest.param(100.0, 101.5, (100.0, 101.5), id="floats"),
        pytest.param(100, 101, (100, 101), id="ints"),
        pytest.param("1970-01-01T00:01:40", "1970-01-01T00:01:41", (100, 101), id="dumped-dates"),
        pytest.param("1970-01-01T01:01:40+01:00", 101.0, (100, 101), id="zone"),
        pytest.param(102.0, 101.0, (101, 101), id="clock-set-back"),
        pytest.param("yesterday", 101.0, (101, 101), id="invalid-date"),
        pytest.param(100.0, "tomorrow", (100, 100), id="invalid-end"),
        pytest.param(None, 101.0, (101, 101), id="no-beginning"),
        pytest.param(-5.0, 101.0, (101, 101), id="before-1970"),
        pytest.param(float("nan"), 101.0, (101, 101), id="nan"),
        pytest.param(1e12, 1e12, None, id="beyond-64-bits"),
    ],
)
def test_invalid_date_is_replaced_by_the_other_one(receiver, begin, end, expected):
    before = time.time_ns() - 1000
    assert OTelHandler(receiver.endpoint).send_event(event.Event("compile", begin_time=begin, end_time=end))
    times = receiver.spans[0].times
    if expected:
        assert times == tuple(round(seconds * 1e9) for seconds in expected)
    else:
        assert before <= times[0] == times[1] <= time.time_ns()


@pytest.mark.parametrize(
    ("duration", "expected"),
    [
        pytest.param(0.25, 100.25, id="shorter-than-the-dates"),
        pytest.param(1.75, 101.75, id="longer"),
        pytest.param(60.0, 101, id="of-another-period"),
        pytest.param("long", 101, id="not-a-number"),
    ],
)
def test_duration_restores_fractions_of_dates(send, duration, expected):
    made = event.Event("compile", begin_time="1970-01-01T00:01:40", end_time="1970-01-01T00:01:41", duration=duration)
    with otlp_receiver() as receiver:
        assert OTelHandler(receiver.endpoint).send_event(made)
        assert receiver.spans[0].times == (100 * 10**9, round(expected * 1e9))


# The trace


def test_span_in_the_data_is_exported(send, monkeypatch):
    monkeypatch.setenv("TRACEPARENT", f"00-{'1' * 32}-{'2' * 16}-01")
    span = send(**_trace_context.to_data(_trace_context.Span(TRACE, SPAN, PARENT, 1, "v=1")), target="arm")
    assert (span.trace_id, span.span_id, span.parent_id, span.pb.trace_state) == (TRACE, SPAN, PARENT, "v=1")
    assert not set(_trace_context.KEYS) & set(span.attributes)
    assert span.pb.flags & 0x300 == 0x300  # the parent belongs to another process
    root = send(**_trace_context.to_data(_trace_context.Span(TRACE, SPAN)))
    assert (root.trace_id, root.span_id, root.parent_id) == (TRACE, SPAN, "")


def test_an_event_within_a_span_of_this_process_is_part_of_it(send, monkeypatch):
    monkeypatch.setenv("TRACEPARENT", f"00-{'1' * 32}-{'2' * 16}-01")
    token = _trace_context.active_span.set(_trace_context.Span(TRACE, SPAN))
    try:
        span = send()
    finally:
        _trace_context.active_span.reset(token)
    assert (span.trace_id, span.parent_id) == (TRACE, SPAN)


def test_two_events_are_spans_of_two_traces(send):
    one, two = send(), send()
    assert one.trace_id != two.trace_id
    assert one.span_id != two.span_id


def test_unsampled_trace_exports_no_span(receiver, monkeypatch):
    handler = OTelHandler(receiver.endpoint)
    assert handler.send_event(closed(traceparent=f"00-{TRACE}-{SPAN}-00"))
    monkeypatch.setenv("TRACEPARENT", f"00-{TRACE}-{PARENT}-00")
    assert handler.send_event(closed())
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


def test_open_event_without_a_span_has_no_duration(receiver):
    made = event.Event("released")
    assert OTelHandler(receiver.endpoint).send_event(made)
    begin = round(made.begin_time * 1e6) * 1000
    assert receiver.spans[0].times == (begin, begin)


def test_event_of_another_process_ignores_this_environment(receiver, monkeypatch, tmp_path):
    monkeypatch.setenv("TRACEPARENT", f"00-{TRACE}-{PARENT}-01")
    assert OTelHandler(receiver.endpoint).send_event(reloaded(closed(), tmp_path))
    assert receiver.spans[0].trace_id != TRACE
    assert receiver.spans[0].parent_id == ""


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
def test_a_retry_from_the_outbox_is_the_same_span(receiver, monkeypatch, tmp_path, data, sender, deliverer):  # noqa: PLR0913
    manager = event.EventManager(outbox=tmp_path / "outbox")
    manager.add_handler("otel", receiver.endpoint)
    receiver.answers = [LOST]  # so that the span is delivered twice
    monkeypatch.setenv("TRACEPARENT", sender)
    assert not manager.send_event(closed(**data))
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


# Endpoint, headers and settings


@pytest.mark.parametrize(
    ("environ", "path"),
    [
        pytest.param({"OTEL_EXPORTER_OTLP_ENDPOINT": "{}"}, "/v1/traces", id="base"),
        pytest.param({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "{}/mine"}, "/mine", id="traces"),
    ],
)
def test_endpoint_is_set_by_environment_variables(receiver, monkeypatch, environ, path):
    for name, value in environ.items():
        monkeypatch.setenv(name, value.format(receiver.endpoint))
    assert OTelHandler().send_event(closed())
    assert receiver.requests[0][0] == path


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        pytest.param("", "/v1/traces", id="base"),
        pytest.param("/", "/v1/traces", id="slash"),
        pytest.param("/otlp/v1/traces", "/otlp/v1/traces", id="whole"),
        pytest.param("?key=1", "/v1/traces?key=1", id="query"),
    ],
)
def test_endpoint_without_a_path_gets_the_default_path(receiver, path, expected):
    assert OTelHandler(receiver.endpoint + path).send_event(closed())
    assert receiver.requests[0][0] == expected


def test_endpoint_can_be_a_secret_reference(receiver, monkeypatch, caplog):
    monkeypatch.setenv("COLLECTOR", f"{receiver.endpoint}/{TOKEN}")
    handler = OTelHandler("env:COLLECTOR")
    assert handler.send_event(closed())
    assert receiver.requests[0][0] == f"/{TOKEN}"
    monkeypatch.setenv("COLLECTOR", f"gopher://{TOKEN}")
    assert not handler.send_event(closed())
    assert "the endpoint is not a valid http:// or https:// URL" in caplog.text
    assert TOKEN not in caplog.text


def test_headers_are_read_from_a_file_and_the_environment(receiver, monkeypatch, tmp_path, caplog):
    (tmp_path / "headers").write_text(f"Authorization=Bearer%20{TOKEN}, x-tenant=a%2Cb\n")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-more=1")
    assert OTelHandler(receiver.endpoint, headers=f"file:{tmp_path}/headers").send_event(closed())
    headers = receiver.requests[0][1]
    assert (headers["authorization"], headers["x-tenant"]) == (f"Bearer {TOKEN}", "a,b")
    assert OTelHandler(receiver.endpoint).send_event(closed())
    assert receiver.requests[1][1]["x-more"] == "1"
    assert caplog.text == ""


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(TOKEN, id="no-value"),
        pytest.param(f"a b={TOKEN}", id="no-name"),
        pytest.param(f"a={TOKEN}%0d%0aX: y", id="line-break"),
        pytest.param(f"a=é{TOKEN}", id="not-ascii"),
    ],
)
def test_malformed_headers_are_not_sent_and_not_shown(receiver, monkeypatch, caplog, text):
    monkeypatch.setenv("HEADERS", text)
    assert not OTelHandler(receiver.endpoint, headers="env:HEADERS").send_event(closed())
    assert "the headers are malformed" in caplog.text
    assert TOKEN not in caplog.text
    assert receiver.requests == []


def test_a_malformed_header_of_the_variable_is_not_shown(receiver, monkeypatch, caplog):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"authorization {TOKEN}")
    OTelHandler(receiver.endpoint).send_event(closed())
    assert TOKEN not in caplog.text


def test_unresolved_reference_is_the_reason(receiver, caplog):
    assert not OTelHandler(receiver.endpoint, headers="env:NOT_THERE").send_event(closed())
    assert "otel: the headers: env:NOT_THERE is not set" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        pytest.param({"headers": f"authorization={TOKEN}"}, "the headers' content", id="headers"),
        pytest.param({"endpoint": f"https://u:{TOKEN}@h"}, "the endpoint's password", id="password"),
        pytest.param({"endpoint": f"http://h?k={TOKEN}"}, "the endpoint's password or token", id="token"),
    ],
)
def test_plain_secret_is_a_warning_that_hides_it(caplog, arguments, what):
    OTelHandler(**arguments)
    assert what in caplog.text
    assert "use env:NAME or file:PATH" in caplog.text
    assert TOKEN not in caplog.text


@pytest.mark.parametrize(("name", "encoding"), [("gzip", "gzip"), ("deflate", "deflate"), ("none", None)])
def test_compression_is_set_by_environment_variables(receiver, monkeypatch, name, encoding):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", name)
    assert OTelHandler(receiver.endpoint).send_event(closed())
    assert receiver.requests[0][1]["Content-Encoding"] == encoding
    assert len(receiver.spans) == 1


def test_unknown_compression_is_a_failure(receiver, monkeypatch, caplog):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd")
    assert not OTelHandler(receiver.endpoint).send_event(closed())
    assert "OTEL_EXPORTER_OTLP_COMPRESSION is unknown; expected gzip, deflate or none" in caplog.text


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        pytest.param("OTEL_EXPORTER_OTLP_TIMEOUT", "", 10, id="unset"),
        pytest.param("OTEL_EXPORTER_OTLP_TIMEOUT", "3000", 3, id="milliseconds"),
        pytest.param("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "1500", 1.5, id="traces"),
        pytest.param("OTEL_EXPORTER_OTLP_TIMEOUT", "3000000", 60, id="ceiling"),
    ],
)
def test_timeout_is_in_milliseconds_and_limited(monkeypatch, name, text, expected):
    from event._net.otlp import Settings

    monkeypatch.setenv(name, text)
    assert Settings.read("", "", None).timeout == expected
    assert Settings.read("", "", 2.0).timeout == 2


def test_timeout_that_is_no_number_is_a_failure(receiver, monkeypatch, caplog):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "10s")
    assert not OTelHandler(receiver.endpoint).send_event(closed())
    assert "OTEL_EXPORTER_OTLP_TIMEOUT is not a number; expected milliseconds" in caplog.text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("OTEL_SDK_DISABLED", "True", id="disabled"),
        pytest.param("OTEL_TRACES_EXPORTER", "none", id="no-exporter"),
        pytest.param("OTEL_TRACES_SAMPLER", "always_off", id="sampled-out"),
    ],
)
def test_environment_variables_can_disable_the_export(receiver, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    handler = OTelHandler(receiver.endpoint)
    assert handler.send_event(closed())
    assert handler.send_events([closed(), closed()]) == [True, True]
    assert receiver.requests == []


@pytest.mark.parametrize("prefix", ["OTEL_SPAN_ATTRIBUTE", "OTEL_ATTRIBUTE"])
def test_attribute_limits_are_respected(receiver, monkeypatch, prefix):
    monkeypatch.setenv(f"{prefix}_COUNT_LIMIT", "2")
    monkeypatch.setenv(f"{prefix}_VALUE_LENGTH_LIMIT", "3")
    assert OTelHandler(receiver.endpoint).send_event(closed(a="long text", b=1, c=2))
    (span,) = receiver.spans
    assert span.attributes == {"cicd.pipeline.action.name": "RUN", "a": "lon"}
    assert span.pb.dropped_attributes_count == 2


def test_without_a_limit_no_attribute_is_dropped(send):
    span = send(**{f"key{number}": number for number in range(300)})
    assert len(span.attributes) == 301
    assert span.pb.dropped_attributes_count == 0


def test_a_proxy_of_the_environment_is_used(receiver, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", receiver.endpoint)
    assert OTelHandler("http://collector.test").send_event(closed())
    assert receiver.requests[0][0] == "http://collector.test/v1/traces"


def test_private_certificate_authority_is_trusted_if_configured(monkeypatch, tmp_path, caplog):
    authority = Authority(tmp_path)
    with otlp_receiver(authority.context("127.0.0.1")) as receiver:
        assert not OTelHandler(receiver.endpoint).send_event(closed())
        assert "certificate verify failed" in caplog.text
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", authority.path)
        assert OTelHandler(receiver.endpoint).send_event(closed())
        assert len(receiver.spans) == 1


def test_a_certificate_for_another_host_is_not_trusted(monkeypatch, tmp_path, caplog):
    authority = Authority(tmp_path)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", authority.path)
    with otlp_receiver(authority.context("elsewhere.test")) as receiver:
        assert not OTelHandler(receiver.endpoint).send_event(closed())
        assert receiver.requests == []
    assert "IP address mismatch" in caplog.text


# Failures


def test_busy_receiver_is_retried(receiver, caplog):
    receiver.answers = [(503, {"Retry-After": "0"}, b"")]
    assert OTelHandler(receiver.endpoint).send_event(closed())
    assert len(receiver.requests) == 2
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        pytest.param(500, "500 Internal Server Error", id="500"),
        pytest.param((503, {"Retry-After": "3600"}, b""), "503 Service Unavailable", id="503-for-an-hour"),
        pytest.param(408, "408 Request Timeout", id="408"),
        pytest.param(
            (500, {"Content-Type": "text/plain"}, b"out\n of\x00disk"),
            "500 Internal Server Error: out of disk",
            id="text",
        ),
        pytest.param(
            (500, {}, b"\x08\x0d\x12\x04full"),  # google.rpc.Status: code 13, message "full"
            "500 Internal Server Error: full",
            id="status-message",
        ),
        pytest.param((500, {}, b"\xff\xff"), "500 Internal Server Error", id="malformed-message"),
        pytest.param((302, {"Location": "/elsewhere"}, b""), "302 Found", id="redirect"),
    ],
)
def test_temporary_failure_returns_false_and_logs_one_warning(receiver, caplog, answer, reason):
    receiver.answers = [answer]
    made = closed()
    assert not OTelHandler(receiver.endpoint).send_event(made)
    ((name, level, text),) = caplog.record_tuples
    assert (name, level) == ("event", logging.WARNING)
    assert text == f"otel: {receiver.endpoint}: {reason}; {made!r} is not delivered"
    assert len(receiver.requests) == 1


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        pytest.param(400, "400 Bad Request", id="400"),
        pytest.param((401, {"Content-Type": "text/plain"}, b"no"), "401 Unauthorized: no", id="401"),
        pytest.param(partial_success(1, "too old"), "the receiver rejected the span: too old", id="rejected"),
    ],
)
def test_permanent_refusal_is_a_permanent_error(receiver, caplog, answer, reason):
    receiver.answers = [answer]
    with pytest.raises(event.PermanentError, match=re.escape(f"otel: {receiver.endpoint}: {reason}") + "$"):
        OTelHandler(receiver.endpoint).send_event(closed())
    assert len(receiver.requests) == 1
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("answer", "messages"),
    [
        pytest.param(partial_success(0, "slow\ndown"), ["otel: the receiver warns: slow down"], id="warning"),
        pytest.param(partial_success(0, ""), [], id="empty"),
        pytest.param((200, {}, b"\xff"), [], id="malformed-message"),
        pytest.param((200, {"Content-Type": "application/json"}, b"{}"), [], id="json"),
        pytest.param(202, [], id="202"),
    ],
)
def test_success_status_is_success_with_any_body(receiver, caplog, answer, messages):
    receiver.answers = [answer]
    assert OTelHandler(receiver.endpoint).send_event(closed())
    assert [record.getMessage() for record in caplog.records] == messages


def test_a_token_that_the_receiver_repeats_is_not_shown(receiver, monkeypatch, caplog):
    monkeypatch.setenv("HEADERS", f"authorization=Bearer {TOKEN}")
    receiver.answers = [(500, {"Content-Type": "text/plain"}, f"no such token {TOKEN}".encode())]
    assert not OTelHandler(receiver.endpoint, headers="env:HEADERS").send_event(closed())
    assert "no such token ***" in caplog.text
    assert TOKEN not in caplog.text


def test_no_credential_that_the_receiver_echoes_is_shown(receiver, monkeypatch, caplog):
    monkeypatch.setenv("WHERE", f"http://u:{TOKEN}1@x.localhost/v1/traces?key={TOKEN}2")
    monkeypatch.setenv("HEADERS", f"cookie=id={TOKEN}3;authorization=none")
    monkeypatch.setenv("HTTP_PROXY", receiver.endpoint.replace("://", f"://p:{TOKEN}4@"))
    receiver.echo = True
    with pytest.raises(event.PermanentError) as caught:
        OTelHandler("env:WHERE", headers="env:HEADERS").send_event(closed())
    _, sent = receiver.requests[0]
    account, proxy = (sent[name].split()[1] for name in ("Authorization", "Proxy-Authorization"))
    assert [base64.b64decode(text).decode() for text in (account, proxy)] == [f"u:{TOKEN}1", f"p:{TOKEN}4"]
    assert "Host: x.localhost" in str(caught.value)
    assert not [secret for secret in (account[4:], proxy[4:], TOKEN) if secret in f"{caught.value} {caplog.text}"]


def test_missing_receiver_is_tried_once_without_a_pause(monkeypatch, caplog):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("COLLECTOR", f"http://u:{TOKEN}@127.0.0.1:{port}/{TOKEN}?k={TOKEN}")
    waits = []
    monkeypatch.setattr(threading.Event, "wait", lambda self, timeout=None: waits.append(timeout))
    assert not OTelHandler("env:COLLECTOR").send_event(closed())
    (record,) = caplog.records
    assert ": connection refused; " in record.getMessage()
    assert TOKEN not in caplog.text
    assert waits == []


def test_dropped_connection_is_a_failure(caplog):
    with raw_server(lambda connection, stopped: connection.close()) as port:
        assert not OTelHandler(f"http://127.0.0.1:{port}").send_event(closed())
    assert re.search(r": (Remote end closed|connection reset|broken pipe).*may speak OTLP", caplog.text)


def test_malformed_http_response_is_a_failure(caplog):
    def serve(connection, stopped):
        connection.recv(1 << 16)
        connection.sendall(b"220 mail.test ESMTP\r\n\r\n")
        connection.close()

    with raw_server(serve) as port:
        assert not OTelHandler(f"http://127.0.0.1:{port}").send_event(closed())
    assert ": the server's answer is not valid HTTP; " in caplog.text


def dripping(lead=b""):
    """Return a server that sends a byte at a time, so that only the total timeout ends the response."""

    def serve(connection, stopped):
        connection.sendall(lead)
        while not stopped.wait(0.02):
            connection.sendall(b"x")

    return raw_server(serve)


def test_stalled_response_body_does_not_change_the_result(monkeypatch, caplog):
    monkeypatch.setattr("event._net.connection._BODY_TIMEOUT", 0.05)
    with dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n") as port:
        assert OTelHandler(f"http://127.0.0.1:{port}").send_event(closed())
    assert caplog.text == ""


def test_dripping_receiver_does_not_block_the_send(caplog):
    handler = OTelHandler()
    handler.timeout = 0.3
    with dripping() as port:
        handler.endpoint = f"http://127.0.0.1:{port}"
        assert not handler.send_event(closed())
    assert re.search(r": .*(the total timeout has expired|timed out)", caplog.text)


def test_an_endless_answer_is_not_read_to_its_end(receiver):
    receiver.answers = [(200, {"Content-Type": "text/plain"}, b"x" * (1 << 20))]
    assert OTelHandler(receiver.endpoint).send_event(closed())


@pytest.mark.parametrize("timeout", [pytest.param("0", id="zero"), pytest.param("-1", id="negative")])
def test_timeout_without_time_left_is_a_failure(receiver, monkeypatch, caplog, timeout):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", timeout)
    assert not OTelHandler(receiver.endpoint).send_event(closed())
    assert ": the total timeout has expired" in caplog.text


def test_missing_certificate_is_a_failure(receiver, monkeypatch, caplog):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", "not/there")
    assert not OTelHandler(receiver.endpoint.replace("http:", "https:")).send_event(closed())
    assert re.search(r": the certificates cannot be loaded .*not/there", caplog.text)


def test_invalid_header_in_the_environment_is_a_failure(receiver, monkeypatch, caplog):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"authorization={TOKEN}%0D%0Ax")
    assert not OTelHandler(receiver.endpoint).send_event(closed())
    assert "otel: the headers are malformed" in caplog.text
    assert TOKEN not in caplog.text


def test_grpc_port_is_a_failure(caplog):
    def serve(connection, stopped):
        connection.sendall(bytes.fromhex("000006040000000000000500004000"))
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1 << 16):  # closing with unread data would reset the connection
            pass
        connection.close()

    with raw_server(serve) as port:
        assert not OTelHandler(f"http://127.0.0.1:{port}").send_event(closed())
    assert ": the port speaks HTTP/2, as gRPC does; expected HTTP/1.1" in caplog.text


def test_failure_at_the_grpc_port_is_explained(monkeypatch, caplog):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setattr("event._net.otlp._GRPC_PORT", port)
    assert not OTelHandler(f"http://127.0.0.1:{port}").send_event(closed())
    assert "this port may speak OTLP over gRPC, the one for HTTP is usually 4318" in caplog.text


def test_netrc_password_is_not_sent_to_the_receiver(receiver, home):
    netrc = home / ".netrc"
    netrc.write_text("default login ci password passw0rd\n")
    netrc.chmod(0o600)
    assert OTelHandler(receiver.endpoint).send_event(closed())
    assert "Authorization" not in receiver.requests[0][1]


def test_logs_do_not_contain_the_url(receiver, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("COLLECTOR", f"{receiver.endpoint}/{TOKEN}?k={TOKEN}")
    assert OTelHandler("env:COLLECTOR").send_event(closed())
    assert TOKEN not in caplog.text


# Batches


def test_a_batch_is_one_request(receiver):
    handler = OTelHandler(receiver.endpoint)
    assert handler.send_events([closed(number=number) for number in range(100)]) == [True] * 100
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
    looped = closed(loop=[])
    looped.loop.append(looped.loop)
    first, second, third = OTelHandler(receiver.endpoint).send_events([closed(), looped, closed()])
    assert (first, third) == (True, True)
    assert "'loop' contains itself" in str(second)
    assert len(receiver.spans) == 2


def test_failed_batch_is_a_failure_of_each_event(receiver, caplog):
    receiver.answers = [(503, {"Retry-After": "3600"}, b"")]
    events = [closed(), closed()]
    results = OTelHandler(receiver.endpoint).send_events(events)
    assert [str(result) for result in results] == [f"otel: {receiver.endpoint}: 503 Service Unavailable"] * 2
    assert not [result for result in results if isinstance(result, event.PermanentError)]
    assert len(receiver.requests) == 1
    assert caplog.text == ""


def test_unresolved_reference_fails_the_whole_batch(receiver):
    results = OTelHandler(receiver.endpoint, headers="env:NOT_THERE").send_events([closed(), closed()])
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
    first, second, third = OTelHandler(receiver.endpoint).send_events([closed(), closed(), closed()])
    assert (first, third) == (True, True)
    assert isinstance(second, event.PermanentError)
    assert reason in str(second)
    assert len(receiver.requests) == 4


def test_refused_batch_of_one_is_not_sent_again(receiver):
    receiver.answers = [partial_success(1, "too old")]
    (result,) = OTelHandler(receiver.endpoint).send_events([closed()])
    assert isinstance(result, event.PermanentError)
    assert len(receiver.requests) == 1


def test_batch_has_the_timeout_of_one_event(receiver):
    handler = OTelHandler(receiver.endpoint)
    handler.timeout = 0
    results = handler.send_events([closed(), closed()])
    assert all("the total timeout has expired" in str(result) for result in results)


# Threads, forks and exit


def test_send_leaves_no_thread(receiver):
    before = {thread for thread in threading.enumerate() if "process_request" not in thread.name}
    assert OTelHandler(receiver.endpoint).send_event(closed())
    assert {thread for thread in threading.enumerate() if "process_request" not in thread.name} == before


def test_threads_share_a_handler(receiver):
    handler = OTelHandler(receiver.endpoint)
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(handler.send_event, [closed(number=number) for number in range(20)]))
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


# Configuration


@pytest.mark.parametrize(
    ("config", "arguments"),
    [
        pytest.param("", {}, id="empty"),
        pytest.param("http://h:4318", {"endpoint": "http://h:4318"}, id="endpoint"),
        pytest.param(",nightly", {"service": "nightly"}, id="service"),
        pytest.param("http://h,a%2Cb%7C", {"endpoint": "http://h", "service": "a,b|"}, id="escapes"),
        pytest.param(
            "http://h,s,file:/a,b", {"endpoint": "http://h", "service": "s", "headers": "file:/a,b"}, id="all"
        ),
        pytest.param(",,env:H", {"headers": "env:H"}, id="headers"),
    ],
)
def test_configuration_round_trips(config, arguments):
    handler = OTelHandler(**arguments)
    assert handler.encode_config() == config
    for again in OTelHandler(**OTelHandler.decode_config(config)), pickle.loads(pickle.dumps(handler)):
        assert public_attributes(again) == public_attributes(handler)


def test_outbox_configuration_has_absolute_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    handler = OTelHandler("file:collector", headers="env:H")
    assert handler.config_for_outbox() == f"file:{tmp_path / 'collector'},,env:H"


@pytest.mark.parametrize(
    "endpoint",
    [
        pytest.param("localhost:4318", id="no-scheme"),
        pytest.param("grpc://localhost:4317", id="grpc"),
        pytest.param("http://", id="no-host"),
        pytest.param("http://h:0", id="port-0"),
        pytest.param("http://h:x", id="invalid-port"),
        pytest.param("http://[::1", id="invalid-address"),
    ],
)
def test_invalid_endpoint_is_refused(endpoint):
    with pytest.raises(event.EventError, match="otel: the endpoint is not a valid http:// or https:// URL"):
        OTelHandler(endpoint)


def test_missing_extra_is_reported_when_the_handler_is_added(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk", None)
    with pytest.raises(event.EventError, match=r'pip install "e3-event\[otel\]"'):
        OTelHandler()
