"""The exported span: its attributes, resource, times and status."""

from __future__ import annotations

import time

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Message
from opentelemetry.proto.trace.v1.trace_pb2 import Status as SpanStatus

import event
from event.handler.otel import OTelHandler
from helpers.events import closed_event
from helpers.spans import PARENT, TRACE
from servers.otlp import PROTOBUF

# Names and attributes


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
def test_outcome_sets_the_result_and_the_status(send, data, result, status, message, kind):  # noqa: PLR0913
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
        pytest.param({"\ud800": 1}, {"x.\\ud800": 1}, id="surrogate-in-a-key"),
    ],
)
def test_value_becomes_an_attribute(send, value, expected):
    span = send(x=value)
    assert {name: value for name, value in span.attributes.items() if name.startswith("x")} == expected


def test_names_of_nested_objects_have_eight_levels_at_most(send):
    value = "end"
    for _ in range(500):
        value = {"a": value}
    (name,) = set(send(x=value).attributes) - {"cicd.pipeline.action.name"}
    assert name == "x" + ".a" * 7


def test_value_with_an_empty_key_is_omitted(send):
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
    assert send(outcome="success", **{"cicd.pipeline.result": "own"}).attributes["cicd.pipeline.result"] == "own"


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


def test_attachments_are_listed_with_their_checksums(send, receiver, tmp_path):
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


@pytest.mark.parametrize("prefix", ["OTEL_SPAN_ATTRIBUTE", "OTEL_ATTRIBUTE"])
def test_attribute_limits_are_respected(receiver, monkeypatch, prefix):
    monkeypatch.setenv(f"{prefix}_COUNT_LIMIT", "2")
    monkeypatch.setenv(f"{prefix}_VALUE_LENGTH_LIMIT", "3")
    assert OTelHandler(receiver.endpoint).send_event(closed_event(a="long text", b=1, c=2))
    (span,) = receiver.spans
    assert span.attributes == {"cicd.pipeline.action.name": "RUN", "a": "lon"}
    assert span.pb.dropped_attributes_count == 2


def test_no_attribute_is_dropped_without_a_limit(send):
    span = send(**{f"key{number}": number for number in range(300)})
    assert len(span.attributes) == 301
    assert span.pb.dropped_attributes_count == 0


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
def test_service_name_is_configured_or_in_the_environment(receiver, monkeypatch, service, environ, expected):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert OTelHandler(receiver.endpoint, service).send_event(closed_event())
    resource = receiver.spans[0].resource
    assert resource["service.name"] == expected
    assert resource.get("team") == ("x" if "team" in str(environ) else None)
    assert (resource["telemetry.sdk.name"], resource["telemetry.sdk.language"]) == ("opentelemetry", "python")


# Times


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
        pytest.param(1.75, 101.75, id="longer-than-the-dates"),
        pytest.param(60.0, 101, id="different-from-the-dates"),
        pytest.param("long", 101, id="not-a-number"),
    ],
)
def test_duration_restores_fractions_of_dates(receiver, duration, expected):
    made = event.Event("compile", begin_time="1970-01-01T00:01:40", end_time="1970-01-01T00:01:41", duration=duration)
    assert OTelHandler(receiver.endpoint).send_event(made)
    assert receiver.spans[0].times == (100 * 10**9, round(expected * 1e9))


def test_open_event_without_a_span_has_no_duration(receiver):
    made = event.Event("released")
    assert OTelHandler(receiver.endpoint).send_event(made)
    begin = round(made.begin_time * 1e6) * 1000
    assert receiver.spans[0].times == (begin, begin)
