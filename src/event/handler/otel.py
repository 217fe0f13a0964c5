"""The otel handler: export each event as a span to an OpenTelemetry receiver."""

from __future__ import annotations

import time

from event import (
    Event,
    EventError,
    EventHandler,
    PermanentError,
    _handler_config,
    _json,
    _log,
    _secrets,
    _trace_context,
    sending_id,
)
from event._handler import import_extra
from event.error import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, ClassVar

    from opentelemetry.sdk.trace import ReadableSpan

    from event._net.deadline import Deadline
    from event._net.otlp import Settings

_MAX_ATTRIBUTE_DEPTH = 8  # levels of nested objects that become attributes; deeper ones become JSON
_LARGEST_INT = 1 << 63

# The names of the semantic conventions, by the key of the data ("." separates the keys of nested objects). The
# attributes of the resource describe the machine, the pipeline run and the commit.
_RESOURCE = {
    "host": "host.name",
    "ci.build_url": "cicd.pipeline.run.url.full",
    "ci.branch": "vcs.ref.head.name",
    "ci.commit": "vcs.ref.head.revision",
}
_ATTRIBUTES = {
    "command": "process.command",
    "exit_code": "process.exit.code",
}
_RESULTS = {"cancel": "cancellation"}  # the other outcomes have the same name
_FAILED = frozenset({"failure", "error", "timeout"})
# These keys are not exported as attributes.
_ELSEWHERE = frozenset({"uid", "name", "begin_time", "end_time", "outcome", *_trace_context.KEYS})


class OTelHandler(EventHandler):
    """Exports each event as a span from begin_time to end_time, with OTLP over HTTP.

    `event.track` and ``e3-event run`` store a span in the event's data. The event is exported as that span, when it is
    closed. Every other event becomes a new child of the span in which it was sent, even if an outbox delivers it
    later. If such an event is open, its span starts and ends at begin_time.

    For an argument that is not set, the handler uses the OTEL_EXPORTER_OTLP_* variables.

    :param endpoint: the receiver, such as ``http://localhost:4318``, or the full URL for traces, or a secret reference
        to it (``env:NAME``, ``file:PATH``)
    :param service: the resource's ``service.name``; if it is empty, OTEL_SERVICE_NAME, or else ``e3-event``
    :param headers: a secret reference to the headers to send. Their format is that of OTEL_EXPORTER_OTLP_HEADERS:
        ``name=value,name=value`` with percent-encoded values
    :ivar timeout: the total timeout of a sending in seconds, including retries; None for OTEL_EXPORTER_OTLP_TIMEOUT, or
        else 10
    :raises EventError: the extra is not installed, or the endpoint is not a URL
    """

    requires: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("opentelemetry.sdk", "opentelemetry.proto", "opentelemetry.exporter.otlp.proto.common"),
        "e3-event[otel]",
    )
    references: ClassVar[tuple[str, ...]] = ("endpoint", "headers")

    timeout: float | None = None

    def __init__(self, endpoint: str = "", service: str = "", headers: str = "") -> None:
        for module, requirement in self.requires.items():
            import_extra(module, requirement)
        # Imported now, not during a sending: while one thread imports, another may fork.
        from event._net import http, otlp

        if endpoint and not _secrets.is_reference(endpoint) and otlp.endpoint_target(endpoint).has_secret:
            _secrets.warn_if_clear(endpoint, "otel: the endpoint's password or token")
        _secrets.warn_if_clear(headers, "otel: the headers' content")
        self.endpoint = endpoint
        self.service = service
        self.headers = headers
        self._client = http.Client()  # all sendings and threads share it

    @classmethod
    def decode_config(cls, _config_str: str) -> dict[str, Any]:
        """Return the constructor's arguments from ``endpoint,service,headers``. Each may be left out.

        Further commas are part of the headers.
        """
        return dict(zip(("endpoint", "service", "headers"), _handler_config.split_fields(_config_str, 3), strict=False))

    def encode_config(self) -> str:
        """Return ``endpoint,service,headers``, without empty values at the end."""
        return self._encoded(self.endpoint, self.headers)

    def config_for_outbox(self) -> str:
        """Return the configuration with absolute paths, for a process in another directory."""
        return self._encoded(_secrets.absolute_reference(self.endpoint), _secrets.absolute_reference(self.headers))

    def _encoded(self, endpoint: str, headers: str) -> str:
        fields = [endpoint, self.service, headers]
        while fields and not fields[-1]:
            fields.pop()
        return _handler_config.join_fields(fields, last_whole=len(fields) == 3) if fields else ""

    def send_event(self, event: Event) -> bool:
        """Export an event's span and wait until the receiver confirms it.

        Nothing is exported if the trace is not sampled, or if the OTEL_* variables disable the export. The same applies
        if the event is open and contains its own span, which is not finished.

        :return: True if the receiver has the span, or if there is nothing to export. Otherwise False; the reason is
            logged as a warning
        :raises PermanentError: the receiver has refused the span permanently
        :raises EventError: the data contains itself
        """
        span = self._span_of(event)
        problem = self._export_all({0: span}).get(0) if span else None
        if isinstance(problem, PermanentError):
            raise problem
        if problem:
            _log.not_delivered(event, one_line(problem))
        return problem is None

    def send_events(self, events: Sequence[Event]) -> list[bool | BaseException]:
        """Export the spans of several events in one request.

        If the receiver refuses the request, each span is exported on its own. The timeout applies to all requests
        together.

        :return: for each event, the return value or the exception of `send_event`
        """
        spans: dict[int, ReadableSpan] = {}
        results: list[bool | BaseException] = [True for _ in events]
        for number, event in enumerate(events):
            try:
                if span := self._span_of(event):
                    spans[number] = span
            except Exception as error:
                results[number] = error
        if spans:
            for number, problem in self._export_all(spans).items():
                results[number] = problem
        return results

    def _export_all(self, spans: Mapping[int, ReadableSpan]) -> dict[int, EventError]:
        """Export spans; return the errors of those that failed, by number."""
        from event._net.deadline import Deadline
        from event._net.otlp import Settings

        try:
            endpoint = _secrets.resolve_secret(self.endpoint, "otel: the endpoint")
            headers = _secrets.resolve_secret(self.headers, "otel: the headers")
            settings = Settings.read(endpoint, headers, self.timeout)
        except EventError as error:
            return dict.fromkeys(spans, error)
        deadline = Deadline(settings.timeout)
        problem = self._problem([*spans.values()], settings, deadline)
        if not isinstance(problem, PermanentError) or len(spans) == 1:
            return dict.fromkeys(spans, problem) if problem else {}
        each = {number: self._problem([span], settings, deadline) for number, span in spans.items()}
        return {number: problem for number, problem in each.items() if problem}

    def _problem(self, spans: Sequence[ReadableSpan], settings: Settings, deadline: Deadline) -> EventError | None:
        from event._net import http, otlp

        if self._client.trust != settings.trust:
            self._client = http.Client(*settings.trust)
        try:
            otlp.export(self._client, spans, settings, deadline)
        except EventError as error:
            where = self.endpoint if _secrets.is_reference(self.endpoint) else settings.target.shown
            return type(error)(f"otel: {where}: {one_line(error)}")
        return None

    def _span_of(self, event: Event) -> ReadableSpan | None:
        from event._net.otlp import is_off

        data: dict[str, Any] = _json.loads(_json.dumps(event.as_dict()))
        named = _trace_context.from_data(data)
        place = named or _place(event)
        if not place.sampled or (named and data.get("end_time") is None) or is_off():
            return None
        return self._span(event, data, place)

    def _span(self, event: Event, data: dict[str, Any], place: _trace_context.Span) -> ReadableSpan:
        from event._net.otlp import make_span

        flat = flatten({key: value for key, value in data.items() if key not in _ELSEWHERE})
        resource = {"service.name": self.service} if self.service else {}
        resource |= {_RESOURCE[key]: flat.pop(key) for key in [*flat] if key in _RESOURCE}
        attributes = {_ATTRIBUTES.get(key, key): value for key, value in flat.items()}
        name, uid = _utf8_text(str(data.get("name"))), _utf8_text(str(data.get("uid")))
        if place.parent_id:
            ours = {"cicd.pipeline.task.name": name, "cicd.pipeline.task.run.id": uid}
            result = "cicd.pipeline.task.run.result"
        else:
            resource = {"cicd.pipeline.name": name, "cicd.pipeline.run.id": uid, **resource}
            ours, result, name = {"cicd.pipeline.action.name": "RUN"}, "cicd.pipeline.result", f"RUN {name}"
        error = None
        if isinstance(outcome := data.get("outcome"), str):
            ours[result] = _RESULTS.get(outcome, _utf8_text(outcome))
            if outcome in _FAILED:
                ours["error.type"] = str(data.get("signal") or data.get("exit_code") or "_OTHER")
                error = str(attributes.get("error.message") or attributes.get("error") or "")
        return make_span(
            place, name, _times(event, data), {**ours, **_attachment_attributes(event), **attributes}, resource, error
        )


def flatten(data: dict[str, Any], prefix: str = "", depth: int = 1) -> dict[str, Any]:
    """Return plain JSON data as OpenTelemetry's attributes.

    Each member of an object becomes an attribute, such as ``error.type``. An array remains an array if all its values
    have one type. Other arrays, and objects that are nested too deeply, become JSON text. Null is left out. An integer
    of more than 64 bits becomes text.

    :param prefix: the prefix of each key
    """
    flat: dict[str, Any] = {}
    for key, value in data.items():
        name = prefix + _utf8_text(key)
        if isinstance(value, dict) and depth < _MAX_ATTRIBUTE_DEPTH:
            flat |= flatten(value, f"{name}.", depth + 1)
        elif name and value is not None:
            flat[name] = _attribute(value)
    return flat


def _attribute(value: Any) -> Any:
    if isinstance(value, str):
        return _utf8_text(value)
    if isinstance(value, (bool, float)):
        return value
    if isinstance(value, int):
        return value if -_LARGEST_INT <= value < _LARGEST_INT else str(value)
    if isinstance(value, list):
        items = [_attribute(item) if isinstance(item, (str, bool, float, int)) else None for item in value]
        if len({type(item) for item in items}) < 2 and None not in items:
            return items
    return _json.dumps(value)


def _attachment_attributes(event: Event) -> dict[str, list[str]]:
    attachments = event.get_attachments().copy()  # another thread may attach meanwhile
    if not attachments:
        return {}
    names, digests = [_utf8_text(name) for name in attachments], [digest for _, digest in attachments.values()]
    return {"attachments.names": names, "attachments.sha1": digests}


def _utf8_text(text: str) -> str:
    """Return text with surrogates escaped: a file name may contain them, but protobuf accepts only UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def _place(event: Event) -> _trace_context.Span:
    """Return a span for an event whose data contains none. Every attempt to deliver the event gets the same span."""
    from hashlib import sha256

    return _trace_context.new_span(_trace_context.span_for(event), sha256(sending_id(event).encode()).digest()[:24])


def _times(event: Event, data: dict[str, Any]) -> tuple[int, int]:
    """Return the begin and end times of an event, in nanoseconds since 1970 UTC. They are equal for an open event."""
    begin, end = (_seconds_since_epoch(getattr(event, key, None), data.get(key)) for key in ("begin_time", "end_time"))
    known = [seconds for seconds in (begin, end) if seconds is not None] or [time.time()]
    begin, end = min(known), known[-1]
    duration = data.get("duration")
    if begin % 1 == end % 1 == 0 and isinstance(duration, float) and abs(begin + duration - end) <= 1:
        end = begin + duration  # dates that were stored as strings have lost their fractions
    # The precision of a float is about a microsecond.
    return round(begin * 1_000_000) * 1000, round(end * 1_000_000) * 1000


def _seconds_since_epoch(value: Any, written: Any) -> float | None:
    """Return a date in seconds since 1970 UTC; None if it is invalid. `written` is the date as text."""
    if not isinstance(value, (int, float)):
        from datetime import datetime, timezone

        try:
            date = datetime.fromisoformat(written)
        except (TypeError, ValueError):
            return None
        value = date.replace(tzinfo=date.tzinfo or timezone.utc).timestamp()
    return value if 0 <= value < _LARGEST_INT / 1e9 else None
