"""An entry of the outbox as text, both ways. Pure functions: the clock and the disk stay outside.

``entry.json`` is written once, when the event is put::

    {"version": 1, "id": "…", "created": 1780000000.0,
     "event": {"data": {…}, "attachments": {"log": ["0", "<sha1>"]}, "closed": true},
     "handlers": [{"name": "smtp", "config": "…"}],
     "trace": {"traceparent": "00-…", …}}

The last key, the span that the event was sent in, is missing where there was none. Its form is that of an event's data.
What is malformed there counts as missing: no event waits in vain for the sake of its place in a trace.

``journal`` grows by one JSON object a line, and what an entry still owes follows from it:

    {"time": …, "attempt": 2}                              the second attempt began; the first is the putting
    {"time": …, "handler": "smtp", "ok": true, …}          that handler has the event
    {"time": …, "handler": "smtp", "ok": false, "error": "…", "permanent": false, …}
    {"time": …, "retry": true}                             a person asks for more: nothing before is permanent

A reader ignores keys that it does not know, and a line that a power cut has torn.
"""

from __future__ import annotations

from event import _json, _trace
from event._event import Event, decode_event, encode_event

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from event._outcome import Delivery
    from event._trace import Span

VERSION = 1
BEGINNING = b'{"version": 1, '  # of what encode returns
FIRST_DELAY = 60.0  # seconds
LONGEST_DELAY = 6 * 3600.0  # seconds
LIFETIME = 5 * 86400.0  # seconds
_END_OF_TIME = 1e11  # seconds since 1970 UTC; arithmetic with what is less does not overflow


class NewerVersionError(ValueError):
    """An entry was written by a newer release. Leave it alone: that release reads it."""


class Entry:
    """What an entry holds, and what has become of it so far.

    :ivar id: the sending's id, the same on every attempt
    :ivar created: when the event was put, in seconds since 1970 UTC
    :ivar event: the event; its attachments' paths are file names inside the entry
    :ivar handlers: the configuration of each handler that the event was put for, by name
    :ivar span: the span that the event was sent in, `_trace.NOWHERE` where there was none
    :ivar attempts: how often its delivery began
    :ivar last_start: when the last attempt began, in seconds since 1970 UTC
    :ivar history: the journal's lines about handlers, oldest first; a retry has taken ``permanent`` from them
    """

    def __init__(
        self,
        id: str,  # noqa: A002
        created: float,
        event: Event,
        handlers: dict[str, str],
        *,
        span: Span = _trace.NOWHERE,
    ) -> None:
        self.id = id
        self.created = created
        self.event = event
        self.handlers = handlers
        self.span = span
        self.attempts = 1
        self.last_start = created
        self.history: list[dict[str, Any]] = []

    @property
    def settled(self) -> set[str]:
        """The handlers that have the event, or never will."""
        return {line["handler"] for line in self.history if line.get("ok") or line.get("permanent")}

    @property
    def owing(self) -> dict[str, str]:
        """The configuration of each handler that is still to get the event, by name."""
        settled = self.settled
        return {name: config for name, config in self.handlers.items() if name not in settled}

    @property
    def refused(self) -> bool:
        """Whether a handler has failed in a way that trying again does not mend."""
        taken = {line["handler"] for line in self.history if line.get("ok")}
        return not self.handlers.keys().isdisjoint(self.settled - taken)

    @property
    def last_error(self) -> str:
        """What the last handler that failed said; empty where none failed."""
        return next((str(line.get("error", "")) for line in reversed(self.history) if not line.get("ok")), "")

    def add(self, text: bytes) -> None:
        """Take a line of the journal into account."""
        try:
            line = _json.loads(text)
        except ValueError:
            return  # an empty line, or a torn one: the delivery that it told of is made again
        if not isinstance(line, dict):
            return
        if isinstance(line.get("handler"), str):
            self.history.append(line)
        elif isinstance(attempt := line.get("attempt"), int) and attempt > 0 and _is_time(line.get("time")):
            self.attempts, self.last_start = attempt, line["time"]
        elif line.get("retry"):
            for earlier in self.history:
                earlier.pop("permanent", None)

    def delay(self, chance: float) -> float:
        """Return how long to wait after the last attempt began, in seconds.

        It doubles from a minute to six hours, and varies by a quarter either way, so that what failed together does
        not come again together.

        :param chance: a random number from 0 to 1
        """
        doubled = FIRST_DELAY * float(1 << min(self.attempts - 1, 20))
        return min(doubled, LONGEST_DELAY) * (0.75 + chance / 2)


def encode(entry: Entry) -> bytes:
    """Return what stands in ``entry.json``."""
    content = {
        "version": VERSION,
        "id": entry.id,
        "created": entry.created,
        "event": encode_event(entry.event, entry.event.get_attachments()),
        "handlers": [{"name": name, "config": config} for name, config in entry.handlers.items()],
    }
    if entry.span is not _trace.NOWHERE:
        content["trace"] = _trace.as_data(entry.span)
    return _json.dumps(content).encode("ascii")


def decode(text: bytes, journal: Iterable[bytes] = ()) -> Entry:
    """Return the entry that ``entry.json`` and the lines of its ``journal`` describe.

    :raises NewerVersionError: a newer release wrote it
    :raises ValueError: it is no entry; the message says why
    """
    content = _json.loads(text)
    if not isinstance(content, dict) or not isinstance(version := content.get("version"), int):
        raise ValueError("it is no object with a version")
    if version > VERSION:
        raise NewerVersionError(f"its version is {version}; this release reads {VERSION}")
    created: Any = content.get("created")
    id_ = content.get("id")
    if not _is_time(created) or not isinstance(id_, str):
        raise ValueError("'created' must be a time and 'id' a string")
    event = decode_event(content.get("event"), Event)
    if not all(_is_name(file) for file, _ in event.get_attachments().values()):
        raise ValueError("an attachment must be a file of the entry itself")
    entry = Entry(id_, created, event, _handlers(content.get("handlers")), span=_span(content.get("trace")))
    for line in journal:
        entry.add(line)
    return entry


def encode_attempt(time: float, attempt: int) -> bytes:
    """Return the journal's line for the beginning of an attempt."""
    return _line({"time": time, "attempt": attempt})


def encode_delivery(time: float, delivery: Delivery) -> bytes:
    """Return the journal's line for what one handler did."""
    line: dict[str, Any] = {"time": time, "handler": delivery.handler, "ok": delivery.ok}
    line["seconds"] = round(delivery.seconds, 3)
    if not delivery.ok:
        line["error"] = delivery.reason
        line["permanent"] = delivery.permanent
    return _line(line)


def encode_retry(time: float) -> bytes:
    """Return the journal's line for a person's wish that it be tried again."""
    return _line({"time": time, "retry": True})


def _line(content: dict[str, Any]) -> bytes:
    # The line feed before it ends a line that was torn.
    return b"\n" + _json.dumps(content).encode("ascii") + b"\n"


def _is_time(value: Any) -> bool:
    return isinstance(value, (int, float)) and 0 <= value < _END_OF_TIME


def _is_name(file: str) -> bool:
    return file not in {".", ".."} and not {"/", "\\", ":"} & {*file}


def _span(content: Any) -> Span:
    return (_trace.of_data(content) if isinstance(content, dict) else None) or _trace.NOWHERE


def _handlers(content: Any) -> dict[str, str]:
    try:
        pairs = {item["name"]: item["config"] for item in content}
    except (TypeError, KeyError) as error:
        raise ValueError("'handlers' must be a list of objects with a name and a config") from error
    if not all(isinstance(text, str) for pair in pairs.items() for text in pair):
        raise ValueError("a handler's name and config must be strings")
    return pairs
