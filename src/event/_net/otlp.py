"""Export spans to an OTLP/HTTP receiver (OTLP 1.x), with OpenTelemetry's encoder and our HTTP client.

The settings come from the OTEL_EXPORTER_OTLP_* variables, which are read for each export. A variable
OTEL_EXPORTER_OTLP_TRACES_* overrides OTEL_EXPORTER_OTLP_*.
"""

from __future__ import annotations

import gzip
import os
import re
import zlib
from dataclasses import dataclass, field, replace
from functools import lru_cache
from urllib.parse import unquote

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.sdk.version import __version__ as sdk_version
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from event import _log
from event._net.http import FAILURES, Client, Response, Target, http_reason, repeated, status_text
from event._text import on_one_line
from event.error import EventError, PermanentError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from event._net.deadline import Deadline
    from event._trace_context import Span

SCHEMA = "https://opentelemetry.io/schemas/1.44.0"

_DEFAULTS = {
    "service.name": "e3-event",
    "telemetry.sdk.language": "python",
    "telemetry.sdk.name": "opentelemetry",
    "telemetry.sdk.version": sdk_version,
}
_SCOPE = InstrumentationScope("event", schema_url=SCHEMA)
_PROTOBUF = "application/x-protobuf"
_TRACES = "/v1/traces"  # OTLP/HTTP's path for spans
_RECEIVER = "http://localhost:4318"
_GRPC_PORT = 4317
_OTLP_TIMEOUT = 10.0  # seconds
_LONGEST_TIMEOUT = 60.0  # seconds; the limit for OTEL_EXPORTER_OTLP_TIMEOUT
_MAX_RECEIVER_TEXT = 500  # characters of a receiver's message
_COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}
_REPEATED = frozenset({429, 502, 503, 504})  # the retryable statuses of OTLP
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110, 5.6.2


def make_span(  # noqa: PLR0913  # what a span has
    place: Span,
    name: str,
    times: tuple[int, int],
    attributes: Mapping[str, Any],
    resource: Mapping[str, Any],
    error: str | None,
) -> ReadableSpan:
    """Return a span that has ended.

    :param place: the ids of the span and its parent
    :param times: the start and the end, in nanoseconds since 1970 UTC
    :param resource: the attributes of the resource; they override OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME
    :param error: the reason of a failure; None if the work did not fail
    """
    # A TracerProvider is of no use here: each event has ids and a resource of its own, so each would need a new
    # provider, and every provider registers a fork hook that is never removed.
    flags, state = TraceFlags(place.flags), TraceState.from_header([place.state])
    described = _resource(os.environ.get("OTEL_RESOURCE_ATTRIBUTES"), os.environ.get("OTEL_SERVICE_NAME"))
    parent = None
    if place.parent_id:
        parent = SpanContext(int(place.trace_id, 16), int(place.parent_id, 16), True, flags, state)
    return ReadableSpan(
        name,
        context=SpanContext(int(place.trace_id, 16), int(place.span_id, 16), False, flags, state),
        parent=parent,
        kind=SpanKind.INTERNAL if parent else SpanKind.SERVER,
        resource=described.merge(Resource(resource, SCHEMA)),
        attributes=_limit_attributes(attributes),
        status=Status(StatusCode.UNSET) if error is None else Status(StatusCode.ERROR, error),
        start_time=times[0],
        end_time=times[1],
        instrumentation_scope=_SCOPE,
    )


@dataclass(slots=True)
class Settings:
    """The settings of an export.

    :ivar headers: sent with each export
    :ivar timeout: the total timeout of an export in seconds, including retries
    :ivar trust: the arguments of `Client`
    """

    target: Target
    headers: dict[str, str] = field(repr=False)
    timeout: float
    encoding: str
    trust: tuple[str, tuple[str, str]]

    @classmethod
    def read(cls, endpoint: str, headers: str, timeout: float | None) -> Settings:
        """Read the settings from the arguments, and the rest from the OTEL_EXPORTER_OTLP_* variables.

        :param endpoint: the receiver's URL, with or without a path; empty to use the variables
        :param headers: ``name=value,name=value``; they override those of the variables
        :param timeout: in seconds; None to use the variables
        :raises EventError: a setting is malformed; the message contains neither the URL nor a header
        """
        return cls(
            endpoint_target(endpoint) if endpoint else _default_target(),
            {**parse_headers(_variable("HEADERS")), **parse_headers(headers)},
            _timeout(_variable("TIMEOUT")) if timeout is None else timeout,
            _encoding(_variable("COMPRESSION")),
            (_variable("CERTIFICATE"), (_variable("CLIENT_CERTIFICATE"), _variable("CLIENT_KEY"))),
        )


def export(client: Client, spans: Sequence[ReadableSpan], settings: Settings, deadline: Deadline) -> None:
    """Send spans in one request, and wait until the receiver has confirmed them.

    :raises PermanentError: the receiver rejected some spans permanently; it does not report which
    :raises EventError: no span was accepted; the message contains neither the URL nor a header
    """
    body = encode_spans(spans).SerializeToString()
    headers = {"Content-Type": _PROTOBUF, "User-Agent": "e3-event", "Content-Encoding": settings.encoding}
    headers |= settings.headers
    if settings.encoding:
        body = _COMPRESSIONS[settings.encoding](body)
    try:
        answer = repeated(lambda: client.post(settings.target, body, headers, deadline), deadline, _REPEATED)
    except FAILURES as error:
        raise EventError(_why(error, settings.target)) from None  # its text may contain a header
    _judge(answer, len(spans))


def is_off() -> bool:
    """Return whether the variables disable the export."""
    disabled = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    return disabled or os.environ.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none"


def endpoint_target(endpoint: str) -> Target:
    """Return the target of a receiver's URL. If the URL has no path, the target has ``/v1/traces``.

    :raises EventError: it is not a valid http or https URL; the message does not contain it
    """
    target = Target.parse(endpoint, "otel: the endpoint")
    path, question, query = target.path.partition("?")
    return replace(target, path=f"{_TRACES}{question}{query}") if path == "/" else target


def parse_headers(text: str) -> dict[str, str]:
    """Parse headers of the form ``name=value,name=value`` with percent-encoded values.

    :raises EventError: the text is malformed; the message does not contain it
    """
    headers = {}
    for item in filter(None, map(str.strip, text.split(","))):
        name, equals, value = item.partition("=")
        name, value = name.strip().lower(), unquote(value.strip())
        if not equals or not _HEADER_NAME.fullmatch(name) or not value.isascii() or not value.isprintable():
            raise EventError(
                "otel: the headers are malformed; expected name=value,name=value with percent-encoded values"
            )
        headers[name] = value
    return headers


def _judge(answer: Response, count: int) -> None:
    is_protobuf = answer.headers.get("Content-Type", "").partition(";")[0].strip() == _PROTOBUF
    if not answer.taken:
        said = _status_message(answer.body) if is_protobuf else answer.body.decode("utf-8", "replace")
        permanent = 400 <= answer.status < 500 and not answer.temporary
        text = f"{status_text(answer.status)}: {_receiver_text(said, answer)}".rstrip(": ")
        raise (PermanentError if permanent else EventError)(text)
    try:
        partial = ExportTraceServiceResponse.FromString(answer.body if is_protobuf else b"").partial_success
    except Exception:  # a malformed answer with a status of success: the spans were accepted
        return
    if partial.rejected_spans:
        # OTLP forbids sending the same request again.
        which = "the span" if count == 1 else f"{partial.rejected_spans} of {count} spans"
        raise PermanentError(f"the receiver rejected {which}: {_receiver_text(partial.error_message, answer)}")
    if partial.error_message:
        _log.warning("otel: the receiver warns: %s", _receiver_text(partial.error_message, answer))


def _why(error: BaseException, target: Target) -> str:
    # A server for gRPC closes the connection, or resets it, when it gets a request of HTTP/1.1.
    may_be_grpc = target.port == _GRPC_PORT or isinstance(error, (ConnectionResetError, BrokenPipeError))
    hint = "; this port may speak OTLP over gRPC, the one for HTTP is usually 4318" if may_be_grpc else ""
    return on_one_line(http_reason(error)[:_MAX_RECEIVER_TEXT]) + hint


def _status_message(body: bytes) -> str:
    # The body is a google.rpc.Status. Its first two fields, a number and a text, have the same types as those of
    # ExportTracePartialSuccess, so no other package is needed.
    try:
        message: str = ExportTracePartialSuccess.FromString(body).error_message
    except Exception:  # it is another message
        return ""
    return message


def _receiver_text(text: str, answer: Response) -> str:
    return on_one_line(answer.masked(text[: 10 * _MAX_RECEIVER_TEXT])[:_MAX_RECEIVER_TEXT])


def _variable(name: str) -> str:
    prefix = "OTEL_EXPORTER_OTLP_"
    return (os.environ.get(f"{prefix}TRACES_{name}") or os.environ.get(prefix + name, "")).strip()


def _default_target() -> Target:
    if url := os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "").strip():
        return Target.parse(url, "otel: OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    target = Target.parse(_variable("ENDPOINT") or _RECEIVER, "otel: OTEL_EXPORTER_OTLP_ENDPOINT")
    return replace(target, path=target.path.partition("?")[0].rstrip("/") + _TRACES)


def _timeout(text: str) -> float:
    if not text:
        return _OTLP_TIMEOUT
    try:
        return min(float(text) / 1000, _LONGEST_TIMEOUT)
    except ValueError:
        raise EventError(
            "otel: OTEL_EXPORTER_OTLP_TIMEOUT is not a number; expected milliseconds, such as 10000"
        ) from None


def _encoding(name: str) -> str:
    if name not in {"", "none", *_COMPRESSIONS}:
        raise EventError("otel: OTEL_EXPORTER_OTLP_COMPRESSION is unknown; expected gzip, deflate or none")
    return name.removeprefix("none")


@lru_cache(1)
def _resource(_attributes: str | None, _service: str | None) -> Resource:
    """Return the resource that the two variables describe. It is cached: creating it takes longer than a span."""
    return Resource(_DEFAULTS).merge(OTELResourceDetector().detect())


def _limit_attributes(attributes: Mapping[str, Any]) -> BoundedAttributes:
    count, length = (_limit(name) for name in ("COUNT", "VALUE_LENGTH"))
    kept = list(attributes.items())[:count]
    bounded = BoundedAttributes(None, dict(kept), immutable=False, max_value_len=length)
    bounded.dropped = len(attributes) - len(kept)
    return bounded


def _limit(name: str) -> int | None:
    text = os.environ.get(f"OTEL_SPAN_ATTRIBUTE_{name}_LIMIT") or os.environ.get(f"OTEL_ATTRIBUTE_{name}_LIMIT", "")
    return int(text) if text.strip().isdecimal() else None
