"""The position of an event in a trace, as defined by W3C Trace Context: in environment variables and in event data.

The variable TRACEPARENT (``00-{trace id}-{span id}-{flags}``) contains the span in which a process runs; see Trace
Context level 1, section 3.2, and OpenTelemetry's "Environment Variables as Context Propagation Carriers". TRACESTATE
contains vendor data. An event's data contains its own span in the same form, because another process may deliver the
event later.
"""

from __future__ import annotations

import os
from contextvars import ContextVar

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

KEYS = (
    "traceparent",  # the event's own span, which its child processes have in TRACEPARENT
    "parent_span_id",  # the enclosing span, 16 hexadecimal digits; missing if the event is the root of a trace
    "tracestate",  # the unchanged TRACESTATE; missing if there was none
)

# The span in which the current code runs, set by `event.track` or by the delivery of an event from an outbox. If it is
# None, the environment contains the span. If it is NO_SPAN, there is no span.
active_span: ContextVar[Span | None] = ContextVar("event.current_span", default=None)

_SAMPLED = 1
_KNOWN_FLAGS = 3  # sampled, and random-trace-id of level 2; flags of later levels are not passed on
_HEX = frozenset("0123456789abcdef")  # upper case is not allowed


class Span:
    """The position of a span in its trace. All ids are lower-case hexadecimal digits.

    :ivar trace_id: 32 digits, the same for all spans of a trace
    :ivar span_id: 16 digits
    :ivar parent_id: the span id of the enclosing span; empty if there is none
    :ivar flags: the trace flags; 1 if the trace is recorded
    :ivar state: the tracestate, which is not parsed
    """

    __slots__ = ("flags", "parent_id", "span_id", "state", "trace_id")

    def __init__(
        self, trace_id: str, span_id: str, parent_id: str = "", flags: int = _SAMPLED, state: str = ""
    ) -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.parent_id = parent_id
        self.flags = flags
        self.state = state

    @property
    def sampled(self) -> bool:
        return bool(self.flags & _SAMPLED)

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"


# The span of an event that was sent without one. Another process that delivers it must not use its own TRACEPARENT.
# The ids are invalid according to the standard, and are never published.
NO_SPAN = Span("0" * 32, "0" * 16, flags=0)


def parse_traceparent(traceparent: object, parent_id: str = "", state: str = "") -> Span | None:
    """Return the span of a traceparent and of what it does not include; None if the traceparent is invalid."""
    if not isinstance(traceparent, str):
        return None
    version, *fields = traceparent.strip().split("-")
    # Later versions may append fields. The version ff is invalid.
    if not _is_id(version, 2) or version == "ff" or len(fields) < 3 or (version == "00" and len(fields) > 3):
        return None
    trace_id, span_id, flags = fields[:3]
    are_ids = _is_id(trace_id, 32) and _is_id(span_id, 16) and _is_id(flags, 2)
    if not are_ids or not int(trace_id, 16) or not int(span_id, 16):
        return None
    return Span(trace_id, span_id, parent_id, int(flags, 16) & _KNOWN_FLAGS, state)


def current_span(environ: Mapping[str, str] = os.environ) -> Span | None:
    """Return the span of the current code, or else the span of the process; None if there is neither."""
    span = active_span.get() or parse_traceparent(environ.get("TRACEPARENT"), state=environ.get("TRACESTATE", ""))
    return None if span is NO_SPAN else span


def span_for(event: object) -> Span | None:
    """Return the span in which an event is sent. It is the event's parent, unless the event has its own span."""
    # An event whose dates are strings was loaded from a file. Another process, with another span, may have created it.
    return current_span({} if isinstance(getattr(event, "begin_time", None), str) else os.environ)


def new_span(parent: Span | None, seed: bytes = b"") -> Span:
    """Create a span in a parent span, or as the root of a new trace.

    :param seed: 24 bytes from which the ids are made; empty for random ids
    """
    ids = (seed or os.urandom(24)).hex()
    span_id, trace_id = ids[:16], ids[16:48]
    if parent is None:
        span = Span(trace_id, span_id)
    else:
        span = Span(parent.trace_id, span_id, parent.span_id, parent.flags, parent.state)
    if sampler := os.environ.get("OTEL_TRACES_SAMPLER"):
        span.flags = _sample(sampler.strip().lower(), span)
    return span


def to_data(span: Span) -> dict[str, str]:
    """Return a span as items of an event's data."""
    values = (span.traceparent, span.parent_id, span.state)
    return {key: value for key, value in zip(KEYS, values, strict=True) if value}


def from_data(data: Mapping[str, Any]) -> Span | None:
    """Return the span from an event's data, see `to_data`; None if the data has no valid span."""
    traceparent, parent_id, state = map(data.get, KEYS)
    return parse_traceparent(traceparent, str(parent_id) if _is_id(parent_id, 16) else "", _valid_state(state))


def environment(span: Span, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return a copy of the environment for child processes that run in a span, or in no span if it is `NO_SPAN`."""
    # The standard requires to drop TRACESTATE together with its TRACEPARENT.
    copy = {name: value for name, value in environ.items() if name not in {"TRACEPARENT", "TRACESTATE"}}
    if span is NO_SPAN:
        return copy
    copy["TRACEPARENT"] = span.traceparent
    return {**copy, "TRACESTATE": span.state} if span.state else copy


def child_environment() -> dict[str, str]:
    """Return a copy of the environment with the span of the enclosing `event.track` or delivery."""
    span = active_span.get()
    return environment(span) if span else {**os.environ}


def _sample(sampler: str, span: Span) -> int:
    """Return the flags of a new span according to OTEL_TRACES_SAMPLER, as OpenTelemetry's SDKs determine them."""
    if sampler.startswith("parentbased_") and span.parent_id:
        return span.flags
    kind = sampler.removeprefix("parentbased_")
    if kind not in {"always_on", "always_off", "traceidratio"}:
        return span.flags
    ratio = 0.0 if kind == "always_off" else 1.0
    if kind == "traceidratio":
        try:
            ratio = float(os.environ.get("OTEL_TRACES_SAMPLER_ARG", ""))
        except ValueError:
            pass  # the SDKs ignore an invalid value
    return span.flags & ~_SAMPLED | (int(span.trace_id[16:], 16) < ratio * 2**64)


def _valid_state(text: object) -> str:
    """Return a tracestate; empty if it can't be the value of an environment variable or a header."""
    return text if isinstance(text, str) and text.isascii() and text.replace("\t", " ").isprintable() else ""


def _is_id(text: object, length: int) -> bool:
    return isinstance(text, str) and len(text) == length and _HEX.issuperset(text)
