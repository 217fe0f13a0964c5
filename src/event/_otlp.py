"""One span to an OTLP/HTTP receiver, sent by OpenTelemetry's exporter, within a deadline.

The exporter encodes, compresses, reads the OTEL_EXPORTER_OTLP_* variables and repeats what may be repeated. What it
lacks is done by the session that it sends with: the deadline holds for each byte, no redirect is followed, the answer
is read (OTLP 1.x, "OTLP/HTTP Response"), and nothing outlives the sending: no thread, and no connection that a forked
process would share.
"""

from __future__ import annotations

import logging
import netrc  # noqa: F401  # else loaded by the first request
from _thread import get_ident
from io import BytesIO

import requests
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.sdk.version import __version__ as sdk_version
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util.ssl_ import create_urllib3_context

from event import _clocked, _log
from event.error import EventError, PermanentError, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping
    from typing import Any

    from event._clocked import Clock
    from event._trace import Span

SCHEMA = "https://opentelemetry.io/schemas/1.44.0"

_DEFAULTS = {
    "service.name": "e3-event",
    "telemetry.sdk.language": "python",
    "telemetry.sdk.name": "opentelemetry",
    "telemetry.sdk.version": sdk_version,
}
_LARGEST_ANSWER = 1 << 16  # bytes
_LONGEST_REASON = 500  # characters of what a receiver says
_RETRYABLE = frozenset({408, 425, 429})  # the 4xx that a later attempt may mend
_REPEATED = frozenset({429, 502, 503, 504})  # as OTLP says
_PROTOBUF = "application/x-protobuf"

# The exporter tells each failure in its own log as well, and a malformed header's text with it, a token perhaps.
_TALKATIVE = ("opentelemetry.exporter.otlp.proto.http.trace_exporter", "opentelemetry.util.re")
_exporting: set[int] = set()


def make_span(  # noqa: PLR0913  # what a span has
    place: Span,
    name: str,
    times: tuple[int, int],
    attributes: Mapping[str, Any],
    resource: Mapping[str, Any],
    error: str | None,
) -> ReadableSpan:
    """Return a span that is over.

    :param times: when it began and ended, in nanoseconds since 1970 UTC
    :param resource: what the span is of, beside what OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME say; these lose
    :param error: what made it fail; None where it did not
    """
    # Not by a TracerProvider, which would have to be a new one for each event, since the ids and the resource are the
    # event's own: each one leaves a fork hook behind that nothing removes.
    flags, state = TraceFlags(place.flags), TraceState.from_header([place.state])
    parent = None
    if place.parent_id:
        parent = SpanContext(int(place.trace_id, 16), int(place.parent_id, 16), True, flags, state)
    return ReadableSpan(
        name,
        context=SpanContext(int(place.trace_id, 16), int(place.span_id, 16), False, flags, state),
        parent=parent,
        kind=SpanKind.INTERNAL if parent else SpanKind.SERVER,
        resource=Resource(_DEFAULTS).merge(OTELResourceDetector().detect()).merge(Resource(resource, SCHEMA)),
        attributes=attributes,
        status=Status(StatusCode.UNSET) if error is None else Status(StatusCode.ERROR, error),
        start_time=times[0],
        end_time=times[1],
        instrumentation_scope=InstrumentationScope("event", schema_url=SCHEMA),
    )


def export(span: ReadableSpan, endpoint: str | None, headers: dict[str, str] | None, timeout: float | None) -> None:
    """Send a span.

    :param endpoint: the URL; where it is None the OTEL_EXPORTER_OTLP_* variables tell, the timeout likewise, in seconds
    :param headers: sent beside those of the variables; they win
    :raises PermanentError: the receiver has refused the span for good
    :raises EventError: it was not taken; the message says why, and holds neither the URL's query nor a header
    """
    session = _Session()
    hush = _hush()
    try:
        exporter = OTLPSpanExporter(endpoint, headers=headers, timeout=timeout, session=session)
        exporter.export([span])
    except Exception as error:
        session.problem = session.problem or EventError(_reason(error))
    finally:
        hush.discard(get_ident())
        session.close()
    if session.problem or not session.accepted:
        raise session.problem or EventError("the exporter has made no request; a header or the data is malformed")


class _Session(requests.Session):
    """The session that the exporter sends with; it keeps what became of the last request.

    :ivar accepted: whether the receiver has the span
    :ivar problem: why it has not
    """

    def __init__(self) -> None:
        super().__init__()
        self.accepted = False
        self.problem: EventError | None = None
        self._clock: Clock | None = None

    def request(self, *args: Any, **kwargs: Any) -> requests.Response:
        """Send a request until the deadline, which is the first request's timeout."""
        timeout = kwargs.pop("timeout")
        self.problem = None
        try:
            clock = self._started(timeout)
            options = {"timeout": clock.left(), "stream": True, "allow_redirects": False}
            response = super().request(*args, **{**kwargs, **options})
            self.problem = self._judge(response)
        except Exception as error:
            self.problem = EventError(_reason(error))
        else:
            if not self.problem or _may_be_repeated(response, clock):
                return response
        # Of a class that the exporter does not take for a stale connection, which it would try again at once.
        raise RuntimeError(str(self.problem)) from None

    def _started(self, timeout: float) -> Clock:
        if self._clock is None:
            self._clock = _clocked.Clock(timeout, timeout)
            for scheme in ("http://", "https://"):
                self.mount(scheme, _Adapter(self._clock))
        return self._clock

    def _judge(self, response: requests.Response) -> EventError | None:
        """Read the answer; return why the span was not taken."""
        raw = response.raw
        body = raw.read(_LARGEST_ANSWER, decode_content=True)
        raw.close()
        response.raw = BytesIO(body)  # for the exporter
        is_protobuf = response.headers.get("Content-Type", "").partition(";")[0].strip() == _PROTOBUF
        status = response.status_code
        if 200 <= status < 300:
            self.accepted = True
            return _partly_refused(body if is_protobuf else b"")
        kind = PermanentError if 400 <= status < 500 and status not in _RETRYABLE else EventError
        said = _status_message(body) if is_protobuf else body.decode("utf-8", "replace")
        return kind(_printable(f"{status} {response.reason}: {said}", response.request).rstrip(": "))


def _partly_refused(body: bytes) -> EventError | None:
    try:
        partial = ExportTraceServiceResponse.FromString(body).partial_success
    except Exception:  # the span was taken, whatever the words
        return None
    if partial.rejected_spans:
        # Not to be sent again, the protocol says.
        return PermanentError(f"the receiver has rejected the span: {_printable(partial.error_message)}")
    if partial.error_message:
        _log.warning("otel: the receiver warns: %s", _printable(partial.error_message))
    return None


def _may_be_repeated(response: requests.Response, clock: Clock) -> bool:
    """Return whether the exporter is to see a failure: releases of it differ in which ones they repeat, and when."""
    pause = response.headers.get("Retry-After", "")
    return response.status_code in _REPEATED and not (pause.isdecimal() and float(pause) > clock.left())


class _Adapter(HTTPAdapter):
    """Makes connections each of whose waits ends with the clock: requests' timeout bounds a single wait alone."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        super().__init__(pool_connections=1, pool_maxsize=1)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs, ssl_context=self._context())
        self.poolmanager.pool_classes_by_scheme = _pools(self._clock)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs, ssl_context=self._context())
        manager.pool_classes_by_scheme = _pools(self._clock)
        return manager

    def _context(self) -> ssl.SSLContext:
        context: ssl.SSLContext = create_urllib3_context()
        context.sslsocket_class = type("_TLSSocket", (_clocked.TLSSocket,), {"clock": self._clock})
        return context


def _pools(clock: Clock) -> dict[str, Any]:
    """Return urllib3's pools by scheme, with their connections made here."""

    def connect(connection: Any) -> Any:
        return _clocked.connected(connection._dns_host, connection.port, clock, None)

    pools: dict[str, Any] = {}
    for scheme, pool, kind in (
        ("http", HTTPConnectionPool, HTTPConnection),
        ("https", HTTPSConnectionPool, HTTPSConnection),
    ):
        pools[scheme] = type("_Pool", (pool,), {"ConnectionCls": type("_Connection", (kind,), {"_new_conn": connect})})
    return pools


def _hush() -> set[int]:
    """Keep the exporter's log silent while this thread exports; return what the thread is to be taken from again."""
    for name in _TALKATIVE:
        logger = logging.getLogger(name)
        if _is_loud not in logger.filters:
            logger.addFilter(_is_loud)
    _exporting.add(get_ident())
    return _exporting


def _is_loud(_record: logging.LogRecord) -> bool:
    return get_ident() not in _exporting


def _reason(error: BaseException) -> str:
    """Return why a request failed: its first cause, where that is the system's or TLS's; else only the error's kind.

    What requests and urllib3 say themselves holds the URL, a header's value at times.
    """
    first = error
    while cause := first.__cause__ or first.__context__:
        first = cause
    if isinstance(first, OSError) and not isinstance(first, requests.RequestException):
        return _printable(one_line(first))
    return type(error).__name__


def _status_message(body: bytes) -> str:
    from google.rpc.status_pb2 import Status as Refusal  # type: ignore[import-untyped]

    try:
        message: str = Refusal.FromString(body).message
    except Exception:  # no such message
        return ""
    return message


def _printable(text: str, request: requests.PreparedRequest | None = None) -> str:
    """Return a receiver's words as they may stand in a log: without what we have sent in a header."""
    for value in request.headers.values() if request else ():
        secret = str(value).rpartition(" ")[2]  # without "Bearer"
        if len(secret) > 7:
            text = text.replace(secret, "***")
    return " ".join("".join(c if c.isprintable() else " " for c in text[:_LONGEST_REASON]).split())
