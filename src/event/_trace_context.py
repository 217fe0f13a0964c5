"""Where an event stands in a trace: W3C Trace Context, as a variable, as an event's data, and back. No third parties.

The variable TRACEPARENT, ``00-{trace id}-{span id}-{flags}``, tells a process which span it runs in (Trace Context
level 1, section 3.2; OpenTelemetry's "Environment Variables as Context Propagation Carriers"). TRACESTATE goes with it.
An event's data holds its own span in the same form, since its delivery may be another process's work, on another day:

==================  ====================================================================================
``traceparent``     the event's own span: what its children find in TRACEPARENT
``parent_span_id``  the span that it is part of, 16 hexadecimal digits; missing where the event is the root
``tracestate``      TRACESTATE as it was; missing where there was none
==================  ====================================================================================
"""

from __future__ import annotations

import os
from contextvars import ContextVar

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

KEYS = ("traceparent", "parent_span_id", "tracestate")

# The span that the running code is in, where `event.track` has begun one in this process, or an outbox delivers what
# was sent in one. Where it is None, the environment tells; where it is NO_SPAN, there is none.
active_span: ContextVar[Span | None] = ContextVar("event.current_span", default=None)

_SAMPLED = 1
_KNOWN_FLAGS = 3  # sampled, and level 2's random-trace-id; those that a later level defines are not handed on
_HEX = frozenset("0123456789abcdef")  # upper case is not allowed


class Span:
    """A span's place in its trace; all ids are lower-case hexadecimal digits.

    :ivar trace_id: 32 digits, the same for all spans of a trace
    :ivar span_id: 16 digits
    :ivar parent_id: the span around it; empty where there is none
    :ivar flags: the trace flags, 1 where the trace is recorded
    :ivar state: the tracestate, not looked into
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
        """Whether who began the trace wants it recorded."""
        return bool(self.flags & _SAMPLED)

    @property
    def traceparent(self) -> str:
        """The span as TRACEPARENT names it."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"


# What was sent in no span and is delivered by another process runs in none: the deliverer's TRACEPARENT is not the
# sender's, and None would have it asked. The ids are those that the standard calls invalid; they never leave us.
NO_SPAN = Span("0" * 32, "0" * 16, flags=0)


def parse_traceparent(traceparent: object, parent_id: str = "", state: str = "") -> Span | None:
    """Return the span that a traceparent names; None where it is none, as the standard wants it ignored then.

    :param parent_id: what the span has, as a traceparent does not tell it; the state likewise
    """
    if not isinstance(traceparent, str):
        return None
    version, *fields = traceparent.strip().split("-")
    # A later version may append fields; ff is no version.
    if not _is_id(version, 2) or version == "ff" or len(fields) < 3 or (version == "00" and len(fields) > 3):
        return None
    trace_id, span_id, flags = fields[:3]
    if not (_is_id(trace_id, 32) and _is_id(span_id, 16) and _is_id(flags, 2)) or not int(trace_id, 16) * int(
        span_id, 16
    ):
        return None
    return Span(trace_id, span_id, parent_id, int(flags, 16) & _KNOWN_FLAGS, state)


def current_span(environ: Mapping[str, str] = os.environ) -> Span | None:
    """Return the span that the running code is in, else the one that the process is in; None where there is none."""
    span = active_span.get() or parse_traceparent(environ.get("TRACEPARENT"), state=environ.get("TRACESTATE", ""))
    return None if span is NO_SPAN else span


def span_for(event: object) -> Span | None:
    """Return the span that an event is sent in, which is what it is part of where it names none itself.

    The date of an event that was read from a file is a string: our environment need not be the one that it was made in,
    and is not asked.
    """
    return current_span({} if isinstance(getattr(event, "begin_time", None), str) else os.environ)


def new_span(parent: Span | None, seed: bytes = b"") -> Span:
    """Return a new span in its parent, or as the root of a new trace.

    :param seed: 24 bytes that the ids are made of; random ones where it is empty
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
    """Return what an event's data holds of its span."""
    values = (span.traceparent, span.parent_id, span.state)
    return {key: value for key, value in zip(KEYS, values, strict=True) if value}


def from_data(data: Mapping[str, Any]) -> Span | None:
    """Return the span that an event's data holds, as `to_data` wrote it; None where it holds none."""
    traceparent, parent_id, state = map(data.get, KEYS)
    return parse_traceparent(traceparent, str(parent_id) if _is_id(parent_id, 16) else "", _valid_state(state))


def environment(span: Span, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return a copy of the environment for child processes: they run in the span, or in none where it is NO_SPAN."""
    # The standard: a state without the traceparent that it came with is dropped.
    copy = {name: value for name, value in environ.items() if name not in {"TRACEPARENT", "TRACESTATE"}}
    if span is NO_SPAN:
        return copy
    copy["TRACEPARENT"] = span.traceparent
    return {**copy, "TRACESTATE": span.state} if span.state else copy


def child_environment() -> dict[str, str]:
    """Return a copy of the environment, with the span of the track or the delivery around us."""
    span = active_span.get()
    return environment(span) if span else {**os.environ}


def _sample(sampler: str, span: Span) -> int:
    """Return the flags of a span that begins, as the OTEL_TRACES_SAMPLER of OpenTelemetry's SDKs decides."""
    if sampler.startswith("parentbased_") and span.parent_id:
        return span.flags
    recorded = True
    kind = sampler.removeprefix("parentbased_")
    if kind == "always_off":
        recorded = False
    elif kind == "traceidratio":
        try:
            ratio = float(os.environ.get("OTEL_TRACES_SAMPLER_ARG", ""))
        except ValueError:
            ratio = 1.0  # the default; the SDKs ignore what they cannot read
        recorded = int(span.trace_id[16:], 16) < ratio * 2**64
    elif kind != "always_on":
        return span.flags
    return span.flags & ~_SAMPLED | recorded


def _valid_state(text: object) -> str:
    """Return a tracestate; empty where it is none, as what no environment and no header could hold."""
    return text if isinstance(text, str) and text.isascii() and text.replace("\t", " ").isprintable() else ""


def _is_id(text: object, length: int) -> bool:
    return isinstance(text, str) and len(text) == length and _HEX.issuperset(text)
