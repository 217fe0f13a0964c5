"""The otel handler: each event becomes a span of a trace, at an OpenTelemetry receiver."""

from __future__ import annotations

import time

from event import Event, EventError, EventHandler, PermanentError, _config, _json, _log, _secret, _trace, sending_id
from event._handler import import_extra
from event.error import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from opentelemetry.sdk.trace import ReadableSpan

_EXPECTED = "expected otel=ENDPOINT,SERVICE,HEADERS, the endpoint as http(s)://HOST:PORT; each may be left out"
_TRACES = "/v1/traces"  # OTLP/HTTP's path for spans
_DEEPEST = 8  # objects in objects that become attributes; what is deeper is JSON
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
_ELSEWHERE = frozenset({"uid", "name", "begin_time", "end_time", "outcome", *_trace.KEYS})


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
    :ivar timeout: seconds that a whole sending may take; None for what OTEL_EXPORTER_OTLP_TIMEOUT says, else 10
    :raises EventError: the SDK or the exporter is not installed, or the endpoint is no URL
    """

    # The extra, and what it brings, and what may be given by reference: `e3-event check` looks for both.
    _requires = ("otel", ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"))
    _references = ("endpoint", "headers")

    timeout: float | None = None

    def __init__(self, endpoint: str = "", service: str = "", headers: str = "") -> None:
        for module in self._requires[1]:
            import_extra(module, self._requires[0])
        # Loaded now, not in the middle of a sending: while one thread imports, another may fork.
        from event import _otlp  # noqa: F401

        if endpoint and not _secret.is_reference(endpoint) and _holds_secret(_url(endpoint)):
            _secret.warn_if_clear(endpoint, "otel: the endpoint's password or token")
        _secret.warn_if_clear(headers, "otel: the headers' content")
        self.endpoint = endpoint
        self.service = service
        self.headers = headers

    @classmethod
    def decode_config(cls, _config_str: str) -> dict[str, Any]:
        """Return the constructor's arguments from ``endpoint,service,headers``, each of which may be left out.

        The headers take the commas that are left.
        """
        return dict(zip(("endpoint", "service", "headers"), _config.split_fields(_config_str, 3), strict=False))

    def encode_config(self) -> str:
        """Return ``endpoint,service,headers``, without what is empty at its end."""
        return self._encoded(self.endpoint, self.headers)

    def _config_elsewhere(self) -> str:
        """Return the configuration with absolute paths: an outbox may be delivered from another directory."""
        return self._encoded(_secret.absolute(self.endpoint), _secret.absolute(self.headers))

    def _encoded(self, endpoint: str, headers: str) -> str:
        fields = [endpoint, self.service, headers]
        while fields and not fields[-1]:
            fields.pop()
        return _config.join_fields(fields, last_whole=len(fields) == 3) if fields else ""

    def send_event(self, event: Event) -> bool:
        """Export an event's span, and wait for the receiver to have it.

        :return: whether the receiver has it, or there is nothing for it to have: the trace is not to be recorded, or
            the event is open and its span ends later. Where it has not, the log tells the reason at WARNING
        :raises PermanentError: the receiver has refused the span for good
        :raises EventError: the data holds itself
        """
        data: dict[str, Any] = _json.loads(_json.dumps(event.as_dict()))
        named = _trace.of_data(data)
        place = named or _place(event)
        if not place.sampled or (named and data.get("end_time") is None):
            return True
        try:
            self._export(self._span(event, data, place))
        except PermanentError as error:
            raise PermanentError(f"otel: {event!r} is refused: {one_line(error)}") from error
        except EventError as error:
            _log.warning("otel: %r is not delivered: %s", event, one_line(error))
            return False
        return True

    def _span(self, event: Event, data: dict[str, Any], place: _trace.Span) -> ReadableSpan:
        from event import _otlp

        flat = flatten({key: value for key, value in data.items() if key not in _ELSEWHERE})
        resource = {"service.name": self.service} if self.service else {}
        resource |= {_RESOURCE[key]: flat.pop(key) for key in [*flat] if key in _RESOURCE}
        attributes = {_ATTRIBUTES.get(key, key): value for key, value in flat.items()}
        name, uid = _text(str(data.get("name"))), _text(str(data.get("uid")))
        if place.parent_id:
            ours = {"cicd.pipeline.task.name": name, "cicd.pipeline.task.run.id": uid}
            result = "cicd.pipeline.task.run.result"
        else:
            resource = {"cicd.pipeline.name": name, "cicd.pipeline.run.id": uid, **resource}
            ours, result, name = {"cicd.pipeline.action.name": "RUN"}, "cicd.pipeline.result", f"RUN {name}"
        error = None
        if isinstance(outcome := data.get("outcome"), str):
            ours[result] = _RESULTS.get(outcome, _text(outcome))
            if outcome in _FAILED:
                ours["error.type"] = str(data.get("signal") or data.get("exit_code") or "_OTHER")
                error = str(attributes.get("error.message") or attributes.get("error") or "")
        return _otlp.make_span(
            place, name, _times(event, data), {**ours, **_attachments(event), **attributes}, resource, error
        )

    def _export(self, span: ReadableSpan) -> None:
        from event import _otlp

        endpoint = _secret.resolve(self.endpoint, "otel: the endpoint") if self.endpoint else ""
        headers = _secret.resolve(self.headers, "otel: the headers") if self.headers else ""
        _otlp.export(span, _url(endpoint) if endpoint else None, _parse_headers(headers), self.timeout)


def flatten(data: dict[str, Any], prefix: str = "", depth: int = 1) -> dict[str, Any]:
    """Return plain JSON data as OpenTelemetry's attributes.

    An object's members become attributes of their own, ``error.type``. An array of one kind of value stays an array;
    any other one is its JSON, as is what is nested too deeply. Null is left out, and an integer of more than 64 bits is
    its digits.

    :param prefix: what stands before each key
    """
    flat: dict[str, Any] = {}
    for key, value in data.items():
        name = prefix + _text(key)
        if isinstance(value, dict) and depth < _DEEPEST:
            flat |= flatten(value, f"{name}.", depth + 1)
        elif name and value is not None:
            flat[name] = _attribute(value)
    return flat


def _attribute(value: Any) -> Any:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, (bool, float)):
        return value
    if isinstance(value, int):
        return value if -_LARGEST_INT <= value < _LARGEST_INT else str(value)
    if isinstance(value, list):
        items = [_attribute(item) if isinstance(item, (str, bool, float, int)) else None for item in value]
        if len({type(item) for item in items}) < 2 and None not in items:
            return items
    return _json.dumps(value)


def _attachments(event: Event) -> dict[str, list[str]]:
    attachments = event.get_attachments().copy()  # another thread may attach meanwhile
    if not attachments:
        return {}
    names, digests = [_text(name) for name in attachments], [digest for _, digest in attachments.values()]
    return {"attachments.names": names, "attachments.sha1": digests}


def _text(text: str) -> str:
    """Return text as UTF-8 can hold it, and protobuf: a file's name may have surrogates."""
    return text.encode("utf-8", "backslashreplace").decode()


def _place(event: Event) -> _trace.Span:
    """Return a place for an event that names none: the same one on every attempt to deliver it."""
    from hashlib import sha256

    return _trace.begin(_trace.around_event(event), sha256(sending_id(event).encode()).digest()[:24])


def _times(event: Event, data: dict[str, Any]) -> tuple[int, int]:
    """Return when an event began and ended, in nanoseconds since 1970 UTC; an open one is the moment it began."""
    begin, end = (_seconds(getattr(event, key, None), data.get(key)) for key in ("begin_time", "end_time"))
    known = [seconds for seconds in (begin, end) if seconds is not None] or [time.time()]
    begin, end = min(known), known[-1]
    duration = data.get("duration")
    if begin % 1 == end % 1 == 0 and isinstance(duration, float) and abs(begin + duration - end) <= 1:
        end = begin + duration  # dates that were kept as strings have lost their fractions
    # A float holds microseconds, and no more.
    return round(begin * 1_000_000) * 1000, round(end * 1_000_000) * 1000


def _seconds(value: Any, written: Any) -> float | None:
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


def _url(endpoint: str) -> str:
    """Return the URL that takes spans; one without a path is the receiver's, as in OTEL_EXPORTER_OTLP_ENDPOINT.

    :raises EventError: it is none; it is not shown, since it may hold a password or a token
    """
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(endpoint)
        if parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0:
            return parts._replace(path=_TRACES).geturl() if parts.path in {"", "/"} else endpoint
    except ValueError:
        pass
    raise EventError(f"otel: the endpoint is no URL of http or https; {_EXPECTED}")


def _holds_secret(url: str) -> bool:
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    return "@" in parts.netloc or bool(parts.query)


def _parse_headers(text: str) -> dict[str, str]:
    """Return the headers that ``name=value,name=value`` tells.

    :raises EventError: it does not; it is not shown
    """
    from urllib.parse import unquote

    headers = {}
    for item in filter(None, map(str.strip, text.split(","))):
        name, equals, value = item.partition("=")
        name, value = name.strip().lower(), unquote(value.strip())
        if (
            not equals
            or not name.replace("-", "").replace("_", "").isalnum()
            or not (name + value).isascii()
            or not value.isprintable()
        ):
            raise EventError("otel: the headers are not as expected: name=value,name=value, the values percent-encoded")
        headers[name] = value
    return headers
