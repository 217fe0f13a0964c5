"""The otel handler: each event becomes a span of a trace, at an OpenTelemetry receiver."""

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
    from event._net.otlp import Exporter, Settings

_MAX_ATTRIBUTE_DEPTH = 8  # objects in objects that become attributes; what is deeper is JSON
_LARGEST_INT = 1 << 63

# What the conventions have a name for, by the key of the data ("." between an object's key and its member's). Those of
# the resource tell what the span is of: the machine, the pipeline's run, the commit.
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
_RESULTS = {"cancel": "cancellation"}  # the others have the same name there
_FAILED = frozenset({"failure", "error", "timeout"})
# What is said in another way, and no attribute.
_ELSEWHERE = frozenset({"uid", "name", "begin_time", "end_time", "outcome", *_trace_context.KEYS})


class OTelHandler(EventHandler):
    """Exports each event as a span from begin_time to end_time, with OTLP over HTTP.

    The span is the one that `event.track` and ``e3-event run`` have named in the event's data, so that what they
    started is beneath it; any other event is part of the span that it was sent in, also where an outbox delivers it
    later. An open event whose span is named is left for its finished form to tell; an open one of another kind is a
    moment.

    What is not given is what the OTEL_EXPORTER_OTLP_* variables say.

    :param endpoint: the receiver, ``http://localhost:4318`` or the whole URL of its traces, or a reference to it,
        ``env:NAME`` or ``file:PATH``
    :param service: the resource's ``service.name``; where it is empty OTEL_SERVICE_NAME, else ``e3-event``
    :param headers: a reference to the headers to send, ``env:NAME`` or ``file:PATH``; their form is that of
        OTEL_EXPORTER_OTLP_HEADERS, ``name=value,name=value``, the values percent-encoded
    :ivar timeout: seconds for a sending, its repetitions included; None for OTEL_EXPORTER_OTLP_TIMEOUT, or else 10
    :raises EventError: the extra is not installed, or the endpoint is no URL
    """

    # What `e3-event check` looks for: modules, and attributes that may hold secret references.
    requires: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("opentelemetry.sdk", "opentelemetry.proto", "opentelemetry.exporter.otlp.proto.common", "idna"),
        "e3-event[otel]",
    )
    references: ClassVar[tuple[str, ...]] = ("endpoint", "headers")

    timeout: float | None = None

    # A class attribute, so that a copy and an unpickled handler start without one.
    _exporter: Exporter | None = None

    def __init__(self, endpoint: str = "", service: str = "", headers: str = "") -> None:
        for module, requirement in self.requires.items():
            import_extra(module, requirement)
        # Loaded now, not in the middle of a sending: while one thread imports, another may fork.
        from event._net import otlp

        if endpoint and not _secrets.is_reference(endpoint) and otlp.endpoint_target(endpoint).has_secret:
            _secrets.warn_if_clear(endpoint, "otel: the endpoint's password or token")
        _secrets.warn_if_clear(headers, "otel: the headers' content")
        self.endpoint = endpoint
        self.service = service
        self.headers = headers

    def __getstate__(self) -> dict[str, Any]:
        """Return what copy and pickle keep: all but the connections."""
        return {name: value for name, value in self.__dict__.items() if name != "_exporter"}

    @classmethod
    def decode_config(cls, _config_str: str) -> dict[str, Any]:
        """Return the constructor's arguments from ``endpoint,service,headers``, each of which may be left out.

        The headers take the commas that are left.
        """
        return dict(zip(("endpoint", "service", "headers"), _handler_config.split_fields(_config_str, 3), strict=False))

    def encode_config(self) -> str:
        """Return ``endpoint,service,headers``, without what is empty at its end."""
        return self._encoded(self.endpoint, self.headers)

    def config_for_outbox(self) -> str:
        """Return the configuration with absolute paths: an outbox may be delivered from another directory."""
        return self._encoded(_secrets.absolute_reference(self.endpoint), _secrets.absolute_reference(self.headers))

    def _encoded(self, endpoint: str, headers: str) -> str:
        fields = [endpoint, self.service, headers]
        while fields and not fields[-1]:
            fields.pop()
        return _handler_config.join_fields(fields, last_whole=len(fields) == 3) if fields else ""

    def send_event(self, event: Event) -> bool:
        """Export an event's span, and wait for the receiver to have it.

        :return: whether the receiver has it, or there is nothing to export: the trace is not recorded, the OTEL_*
            variables switch it off, or the event is open and its span ends later. If not, the log says why at WARNING
        :raises PermanentError: the receiver has refused the span for good
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

        If the receiver refuses some of them without saying which, each is exported on its own. All of it takes no
        longer than one sending may.

        :return: for each event what `send_event` returns, or the exception that says why it is not delivered
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
        """Export spans; return by number why one was not taken."""
        from event._net.deadline import Deadline

        try:
            settings = self._settings()
        except EventError as error:
            return dict.fromkeys(spans, error)
        deadline = Deadline(settings.timeout)
        problem = self._problem([*spans.values()], settings, deadline)
        if not isinstance(problem, PermanentError) or len(spans) == 1:
            return dict.fromkeys(spans, problem) if problem else {}
        each = {number: self._problem([span], settings, deadline) for number, span in spans.items()}
        return {number: problem for number, problem in each.items() if problem}

    def _problem(self, spans: Sequence[ReadableSpan], settings: Settings, deadline: Deadline) -> EventError | None:
        try:
            self._connected().export(spans, settings, deadline)
        except EventError as error:
            where = self.endpoint if _secrets.is_reference(self.endpoint) else settings.target.shown
            return type(error)(f"otel: {where}: {one_line(error)}")
        return None

    def _settings(self) -> Settings:
        from event._net.otlp import Settings

        endpoint = _secrets.resolve_secret(self.endpoint, "otel: the endpoint") if self.endpoint else ""
        headers = _secrets.resolve_secret(self.headers, "otel: the headers") if self.headers else ""
        return Settings.read(endpoint, headers, self.timeout)

    def _connected(self) -> Exporter:
        """Return what keeps the connections, which all sendings and threads share."""
        from event._net.otlp import Exporter

        if self._exporter is None:
            self._exporter = Exporter()
        return self._exporter

    def _span_of(self, event: Event) -> ReadableSpan | None:
        """Return an event's span; None if there is none to export.

        :raises EventError: the data contains itself
        """
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

    An object's members become attributes of their own, ``error.type``. An array of one kind of value stays an array;
    any other one is its JSON, as is what is nested too deeply. Null is left out, and an integer of more than 64 bits is
    its digits.

    :param prefix: what stands before each key
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
    """Return text as UTF-8 can hold it, and protobuf: a file's name may have surrogates."""
    return text.encode("utf-8", "backslashreplace").decode()


def _place(event: Event) -> _trace_context.Span:
    """Return a place for an event that names none: the same one on every attempt to deliver it."""
    from hashlib import sha256

    return _trace_context.new_span(_trace_context.span_for(event), sha256(sending_id(event).encode()).digest()[:24])


def _times(event: Event, data: dict[str, Any]) -> tuple[int, int]:
    """Return when an event began and ended, in nanoseconds since 1970 UTC; an open one is the moment it began."""
    begin, end = (_seconds_since_epoch(getattr(event, key, None), data.get(key)) for key in ("begin_time", "end_time"))
    known = [seconds for seconds in (begin, end) if seconds is not None] or [time.time()]
    begin, end = min(known), known[-1]
    duration = data.get("duration")
    if begin % 1 == end % 1 == 0 and isinstance(duration, float) and abs(begin + duration - end) <= 1:
        end = begin + duration  # dates that were kept as strings have lost their fractions
    # A float holds microseconds, and no more.
    return round(begin * 1_000_000) * 1000, round(end * 1_000_000) * 1000


def _seconds_since_epoch(value: Any, written: Any) -> float | None:
    """Return a date in seconds since 1970 UTC; None where it is none.

    :param written: how the date is written, where it is no number
    """
    if not isinstance(value, (int, float)):
        from datetime import datetime, timezone

        try:
            date = datetime.fromisoformat(written)
        except (TypeError, ValueError):
            return None
        value = date.replace(tzinfo=date.tzinfo or timezone.utc).timestamp()
    return value if 0 <= value < _LARGEST_INT / 1e9 else None
