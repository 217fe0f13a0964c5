"""Convert an event to JSON: CloudEvents 1.0 (structured mode), CDEvents in a CloudEvent, or plain JSON.

CloudEvents: https://github.com/cloudevents/spec/tree/v1.0.2. CDEvents: https://cdevents.dev, its ``taskrun`` schemas
and its binding to CloudEvents. The result is the same on every attempt: it contains only the event's own times, in
whole seconds, as an outbox stores them.
"""

from __future__ import annotations

import os
import re
import time

from event import _json
from event._text import on_one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from event._event import Event


CONTENT_TYPE = "application/cloudevents+json"
SOURCE = "/e3-event"
TYPE = "e3.event.{name}"

# For each version of CDEvents: the version of the taskrun events, the key of the version of CDEvents itself, whether
# the subject has a type, and whether the outcome "cancel" exists.
_CDEVENTS = {
    "0.3.0": ("0.1.1", "version", True, False),
    "0.4.1": ("0.2.0", "version", True, False),
    "0.5.1": ("0.3.0", "specversion", False, True),
}
CDEVENTS_VERSIONS = tuple(_CDEVENTS)
CDEVENTS_DEFAULT = "0.5.1"

_OUTCOMES = frozenset({"success", "failure", "cancel", "error"})
_TIME = re.compile(r"(\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d)(\.\d+)?([Zz]|[+-]\d\d:\d\d)?", re.ASCII)
_URI_REFERENCE = re.compile(r"[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]*")  # the characters of RFC 3986
_NOT_IN_URI = re.compile(r"[^A-Za-z0-9._~-]")


def as_json(event: Event) -> str:
    """Return the event's data as JSON text.

    :raises EventError: the data contains itself
    """
    return _json.dumps(event.as_dict(), i_json=True)


def as_cloudevent(event: Event, sending: str, source: str = "", kind: str = "") -> str:
    """Return a CloudEvent as JSON text. Its data is the event's data and the list of the attachments.

    :param sending: the id of the sending, which becomes the id of the CloudEvent
    :param source: a URI reference; empty for ``/e3-event/HOST``, or ``/e3-event`` if the data contains no host
    :param kind: the type; ``{name}`` is replaced by the event's name
    :raises EventError: the data contains itself
    """
    data = event.as_dict()
    envelope: dict[str, Any] = {
        **_attributes(sending, source or _source_uri(data), (kind or TYPE).replace("{name}", str(data.get("name")))),
        "subject": _attribute_text(data.get("uid")) or None,  # it must not be empty
        "time": _time(data),
        "datacontenttype": "application/json",
        "data": _with_attachments(event, data),
    }
    return _json.dumps({key: value for key, value in envelope.items() if value is not None}, i_json=True)


def as_cdevent(event: Event, sending: str, source: str = "", version: str = CDEVENTS_DEFAULT) -> str:
    """Return a CDEvent ``taskrun``, within a CloudEvent, as JSON text.

    An event that has neither an end nor an outcome becomes ``started``, all others become ``finished``. The custom data
    contains the event's data and the list of the attachments.

    :param sending: the id of the sending, which becomes the id of the CDEvent and of the CloudEvent
    :param source: as for `as_cloudevent`
    :param version: one of `CDEVENTS_VERSIONS`
    :raises EventError: the data contains itself
    """
    data = event.as_dict()
    number, version_key, has_type, has_cancel = _CDEVENTS[version]
    finished = data.get("end_time") is not None or "outcome" in data
    kind = f"dev.cdevents.taskrun.{'finished' if finished else 'started'}.{number}"
    subject = _attribute_text(data.get("uid")) or sending
    when = _time(data) or _rfc3339(time.time())
    attributes = _attributes(sending, source or _source_uri(data), kind)
    context: dict[str, Any] = {version_key: version, "timestamp": when}
    context.update((key, value) for key, value in attributes.items() if key != "specversion")
    content = {"taskName": str(data.get("name")), **(_outcome_fields(data, has_cancel) if finished else {})}
    cdevent = {
        "context": context,
        "subject": {"id": subject, **({"type": "taskRun"} if has_type else {}), "content": content},
        "customData": _with_attachments(event, data),
        "customDataContentType": "application/json",
    }
    envelope = {"subject": subject, "time": when, "datacontenttype": "application/cdevents+json", "data": cdevent}
    return _json.dumps({**attributes, **envelope}, i_json=True)


def is_uri_reference(text: str) -> bool:
    """Return whether a text contains only characters that a URI reference (RFC 3986) may contain."""
    return bool(_URI_REFERENCE.fullmatch(text))


def _attributes(sending: str, source: str, kind: str) -> dict[str, str]:
    return {"specversion": "1.0", "id": sending, "source": source, "type": _attribute_text(kind)}


def _source_uri(data: dict[str, Any]) -> str:
    """Return the source of an event. It is never the sending machine, which may differ on each attempt."""
    host = data.get("host")
    return f"{SOURCE}/{_NOT_IN_URI.sub('-', host)}" if host and isinstance(host, str) else SOURCE


def _attribute_text(value: Any) -> str:
    """Return a value as a valid attribute, without control characters and unassigned code points."""
    return "" if value is None else on_one_line(str(value))


def _time(data: dict[str, Any]) -> str | None:
    """Return the end time of the event, or else its begin time (RFC 3339); None if the data has neither."""
    return _rfc3339(data.get("end_time")) or _rfc3339(data.get("begin_time"))


def _rfc3339(value: Any) -> str | None:
    """Return a time in the format of RFC 3339, in UTC if it has no zone; None if the value is not a time."""
    from datetime import datetime

    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(value))
        except (ValueError, OverflowError, OSError):
            return None
    match = _TIME.fullmatch(value.isoformat() if isinstance(value, datetime) else str(value))
    if match is None:
        return None
    moment = match[1].upper().replace(" ", "T")
    try:
        datetime.fromisoformat(moment)
    except ValueError:
        return None
    return f"{moment}{match[2] or ''}{(match[3] or 'Z').upper()}"


def _with_attachments(event: Event, data: dict[str, Any]) -> dict[str, Any]:
    """Return the data with the list of the attachments. A value of the event with the same name is not replaced."""
    attachments = event.get_attachments().copy()  # another thread may attach meanwhile
    if not attachments:
        return data
    listed = [{"name": name, "size": _size(path), "sha1": sha1} for name, (path, sha1) in attachments.items()]
    return {**data, "_attachments" if "attachments" in data else "attachments": listed}


def _size(path: str) -> int | None:
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):
        return None


def _outcome_fields(data: dict[str, Any], has_cancel: bool) -> dict[str, str]:
    """Return ``outcome`` and perhaps ``errors``. An outcome that CDEvents does not define becomes ``error``."""
    said = str(data.get("outcome", "success"))
    outcome = said if said in _OUTCOMES and (said != "cancel" or has_cancel) else "error"
    reasons = [] if said in {"success", "failure", outcome} else [f"outcome: {said}"]
    error = data.get("error")
    if isinstance(error, dict):
        reasons.append(": ".join(str(error[key]) for key in ("type", "message") if error.get(key)))
    elif error:
        reasons.append(str(error))
    if outcome != "success":
        reasons += [f"{key}: {data[key]}" for key in ("exit_code", "signal") if data.get(key)]
    errors = "; ".join(filter(None, reasons))
    return {"outcome": outcome, **({"errors": errors} if errors else {})}
