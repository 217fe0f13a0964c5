"""The W3C trace context: parsing, spans and sampling."""

from __future__ import annotations

import pytest

import event
from event import _trace_context

TRACE, SPAN, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", "b7ad6b7169203331"


def state_of(span):
    return span and (span.trace_id, span.span_id, span.parent_id, span.flags, span.state)


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        pytest.param(f"00-{TRACE}-{SPAN}-01", 1, id="sampled"),
        pytest.param(f"00-{TRACE}-{SPAN}-00", 0, id="not-sampled"),
        pytest.param(f"00-{TRACE}-{SPAN}-ff", 3, id="flags-of-a-later-level-are-dropped"),
        pytest.param(f" 00-{TRACE}-{SPAN}-01\n", 1, id="white-space-around"),
        pytest.param(f"cc-{TRACE}-{SPAN}-01-what-comes", 1, id="later-version"),
    ],
)
def test_a_traceparent_names_a_span(text, flags):
    span = _trace_context.parse_traceparent(text)
    assert state_of(span) == (TRACE, SPAN, "", flags, "")
    assert span.sampled is bool(flags & 1)
    assert span.traceparent == f"00-{TRACE}-{SPAN}-{flags:02x}"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(None, id="none"),
        pytest.param(17, id="not-a-string"),
        pytest.param("", id="empty"),
        pytest.param(f"00-{TRACE}-{SPAN}", id="no-flags"),
        pytest.param(f"00-{TRACE}-{SPAN}-01-more", id="more-than-version-00-has"),
        pytest.param(f"ff-{TRACE}-{SPAN}-01", id="version-ff"),
        pytest.param(f"0-{TRACE}-{SPAN}-01", id="short-version"),
        pytest.param(f"00-{TRACE.upper()}-{SPAN}-01", id="upper-case"),
        pytest.param(f"00-{TRACE[1:]}-{SPAN}-01", id="short-trace-id"),
        pytest.param(f"00-{TRACE}-{SPAN[1:]}-01", id="short-span-id"),
        pytest.param(f"00-{TRACE}-{SPAN}-1", id="short-flags"),
        pytest.param(f"00-{'0' * 32}-{SPAN}-01", id="no-trace"),
        pytest.param(f"00-{TRACE}-{'0' * 16}-01", id="no-span"),
        pytest.param(f"00-{TRACE}-{SPAN[1:]}x-01", id="not-hex"),
    ],
)
def test_invalid_traceparent_names_no_span(text):
    assert _trace_context.parse_traceparent(text) is None


def test_child_span_has_the_trace_of_its_parent():
    parent = _trace_context.parse_traceparent(f"00-{TRACE}-{PARENT}-02", state="v=1")
    span = _trace_context.new_span(parent)
    assert state_of(span) == (TRACE, span.span_id, PARENT, 2, "v=1")
    assert span.span_id != PARENT
    assert state_of(_trace_context.parse_traceparent(span.traceparent)) == (TRACE, span.span_id, "", 2, "")


def test_span_without_a_parent_is_the_root_of_a_new_trace():
    spans = [_trace_context.new_span(None) for _ in range(100)]
    assert {(span.parent_id, span.flags, span.state) for span in spans} == {("", 1, "")}
    assert len({span.trace_id for span in spans}) == len({span.span_id for span in spans}) == 100
    assert all(_trace_context.parse_traceparent(span.traceparent) for span in spans)


def test_the_same_seed_gives_the_same_span():
    assert state_of(_trace_context.new_span(None, b"s" * 24)) == state_of(_trace_context.new_span(None, b"s" * 24))


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        pytest.param({}, None, id="unset"),
        pytest.param({"TRACEPARENT": f"00-{TRACE}-{SPAN}-01"}, (TRACE, SPAN, "", 1, ""), id="traceparent"),
        pytest.param(
            {"TRACEPARENT": f"00-{TRACE}-{SPAN}-01", "TRACESTATE": "v=1"}, (TRACE, SPAN, "", 1, "v=1"), id="with-state"
        ),
        pytest.param({"TRACEPARENT": "17", "TRACESTATE": "v=1"}, None, id="malformed"),
    ],
)
def test_current_span_is_read_from_the_environment(environ, expected):
    assert state_of(_trace_context.current_span(environ)) == expected


def test_span_of_this_process_overrides_that_of_the_environment():
    inner = _trace_context.new_span(None)
    token = _trace_context.active_span.set(inner)
    try:
        assert _trace_context.current_span({"TRACEPARENT": f"00-{TRACE}-{SPAN}-01"}) is inner
    finally:
        _trace_context.active_span.reset(token)


def test_no_span_overrides_the_environment(monkeypatch):
    monkeypatch.setenv("TRACEPARENT", f"00-{TRACE}-{SPAN}-01")
    monkeypatch.setenv("TRACESTATE", "v=1")
    token = _trace_context.active_span.set(_trace_context.NO_SPAN)
    try:
        assert _trace_context.current_span() is None
        assert not {"TRACEPARENT", "TRACESTATE"} & {*_trace_context.child_environment()}
        assert _trace_context.child_environment()["PATH"]
    finally:
        _trace_context.active_span.reset(token)
    assert _trace_context.parse_traceparent(_trace_context.NO_SPAN.traceparent) is None
    assert state_of(_trace_context.current_span()) == (TRACE, SPAN, "", 1, "v=1")


@pytest.mark.parametrize(
    ("date", "current", "expected"),
    [
        pytest.param(1.5, None, (TRACE, SPAN, "", 1, ""), id="made here"),
        pytest.param("1970-01-01T00:00:01", None, None, id="read from a file"),
        pytest.param(1.5, _trace_context.Span(TRACE, PARENT), (TRACE, PARENT, "", 1, ""), id="made here, in a track"),
        pytest.param("1970", _trace_context.Span(TRACE, PARENT), (TRACE, PARENT, "", 1, ""), id="read, in a track"),
        pytest.param(1.5, _trace_context.NO_SPAN, None, id="made elsewhere"),
    ],
)
def test_dumped_event_ignores_the_span_of_the_environment(monkeypatch, date, current, expected):
    monkeypatch.setenv("TRACEPARENT", f"00-{TRACE}-{SPAN}-01")
    token = _trace_context.active_span.set(current)
    try:
        assert state_of(_trace_context.span_for(event.Event("compile", begin_time=date))) == expected
    finally:
        _trace_context.active_span.reset(token)


def test_event_of_another_library_is_sent_in_the_current_span(monkeypatch):
    monkeypatch.setenv("TRACEPARENT", f"00-{TRACE}-{SPAN}-01")
    assert state_of(_trace_context.span_for(object())) == (TRACE, SPAN, "", 1, "")


@pytest.mark.parametrize(
    "span",
    [
        pytest.param(_trace_context.Span(TRACE, SPAN), id="root"),
        pytest.param(_trace_context.Span(TRACE, SPAN, PARENT, 0, "v=1,w=2"), id="child"),
    ],
)
def test_an_event_s_data_holds_its_span(span):
    data = {"target": "arm", **_trace_context.to_data(span)}
    assert state_of(_trace_context.from_data(data)) == state_of(span)


def test_data_of_a_root_span_is_only_its_traceparent():
    assert _trace_context.to_data(_trace_context.Span(TRACE, SPAN)) == {"traceparent": f"00-{TRACE}-{SPAN}-01"}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param({}, None, id="none"),
        pytest.param({"traceparent": "mine"}, None, id="traceparent-of-another-kind"),
        pytest.param(
            {"traceparent": f"00-{TRACE}-{SPAN}-01", "parent_span_id": ["x"]},
            (TRACE, SPAN, "", 1, ""),
            id="no-parent-id",
        ),
        *(
            pytest.param(
                {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": state}, (TRACE, SPAN, "", 1, ""), id=f"{state!a}"
            )
            for state in (17, ["v=1"], "v=1\n", "v=\0", "v=\xe9", "v=\udcff")
        ),
        pytest.param(
            {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "v=1,\tw=2"},
            (TRACE, SPAN, "", 1, "v=1,\tw=2"),
            id="state-with-a-tab",
        ),
    ],
)
def test_invalid_trace_data_is_ignored(data, expected):
    assert state_of(_trace_context.from_data(data)) == expected


def test_children_run_in_the_span_by_a_copy_of_the_environment():
    environ = {"PATH": "bin", "TRACEPARENT": "old", "TRACESTATE": "old=1"}
    root = _trace_context.environment(_trace_context.Span(TRACE, SPAN), environ)
    assert root == {"PATH": "bin", "TRACEPARENT": f"00-{TRACE}-{SPAN}-01"}
    child = _trace_context.environment(_trace_context.Span(TRACE, SPAN, PARENT, 1, "v=1"), environ)
    assert child == {"PATH": "bin", "TRACEPARENT": f"00-{TRACE}-{SPAN}-01", "TRACESTATE": "v=1"}
    assert environ == {"PATH": "bin", "TRACEPARENT": "old", "TRACESTATE": "old=1"}


LOW = "0" * 16 + "3" + "0" * 15  # a trace ID that the ratio 0.25 samples and the ratio 0.1 does not


@pytest.mark.parametrize("parent_flags", [None, 0, 1], ids=["root", "parent-not-recorded", "parent-recorded"])
@pytest.mark.parametrize(
    ("sampler", "argument", "expected"),
    [
        pytest.param("", "", (1, 0, 1), id="none"),
        pytest.param("always_on", "", (1, 1, 1), id="on"),
        pytest.param("always_off", "", (0, 0, 0), id="off"),
        pytest.param(" Always_Off ", "", (0, 0, 0), id="off-in-another-spelling"),
        pytest.param("parentbased_always_on", "", (1, 0, 1), id="parent-or-on"),
        pytest.param("parentbased_always_off", "", (0, 0, 1), id="parent-or-off"),
        pytest.param("traceidratio", "0.25", (1, 1, 1), id="ratio"),
        pytest.param("traceidratio", "0.1", (0, 0, 0), id="smaller-ratio"),
        pytest.param("traceidratio", "some", (1, 1, 1), id="no-ratio"),
        pytest.param("parentbased_traceidratio", "0.1", (0, 0, 1), id="parent-or-ratio"),
        pytest.param("jaeger_remote", "", (1, 0, 1), id="unknown"),
    ],
)
def test_the_sampler_decides_what_is_recorded(monkeypatch, sampler, argument, expected, parent_flags):
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", argument)
    parent = None if parent_flags is None else _trace_context.Span(LOW, "0" * 15 + "1", flags=parent_flags)
    span = _trace_context.new_span(parent, bytes.fromhex("1" * 16 + LOW))
    assert span.flags == expected[0 if parent_flags is None else 1 + parent_flags]


def test_ratio_sampler_agrees_with_the_sdk(monkeypatch):
    sampling = pytest.importorskip("opentelemetry.sdk.trace.sampling")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "traceidratio")
    for ratio in ("0", "0.25", "0.7", "1"):
        monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", ratio)
        sampler = sampling.TraceIdRatioBased(float(ratio))
        for _ in range(50):
            span = _trace_context.new_span(None)
            theirs = sampler.should_sample(None, int(span.trace_id, 16), "x").decision.is_sampled()
            assert span.sampled == theirs
