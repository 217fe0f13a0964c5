"""The text of an entry, both ways. Pure functions: the clock and the disk are elsewhere.

An entry is a file of lines, each of which is a JSON object. The first line is written once, when the event is put (it
is one line; it is wrapped here)::

    {"version": 1, "id": "…", "created": 1780000000.0,
     "event": {"data": {…}, "attachments": {"log": ["0", "<sha1>"]}, "closed": true},
     "handlers": [{"name": "smtp", "config": "…"}],
     "trace": {"traceparent": "00-…", …}}

``trace`` is the span that the event was sent in. It is missing if there was none, and a malformed one is ignored: no
event waits for the sake of its place in a trace.

The lines that follow are the journal. It only ever grows, and what is pending follows from it::

    {"time": …, "attempt": 2}                              the second attempt begins; the first one is the sending
    {"time": …, "handler": "smtp", "ok": true, …}          this handler has the event
    {"time": …, "handler": "smtp", "ok": false, "error": "…", "permanent": false, …}
    {"time": …, "handler": "smtp", "ok": false, …, "done": ["ann@example.com"]}     these parts need no further attempt
    {"time": …, "retry": true}                             an operator retries: no failure before is permanent

A reader ignores keys that it does not know, and a line that a crash has torn.

Entries that were put together may be names of one file, which holds the first line of each and no journal. An entry
gets a file of its own before the first line of its journal is written.
"""

from __future__ import annotations

from event import _json, _trace_context
from event._backoff import backoff
from event._event import Event, decode_event

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from event._outcome import Delivery
    from event._trace_context import Span

ENTRY_VERSION = 1
BEGINNING = b'{"version": 1, '  # of what `encode_entry` returns
MAX_ENTRY_SIZE = 64 << 20  # bytes of an entry, its attachments aside; a larger one is not read
FIRST_DELAY = 60.0  # seconds
LONGEST_DELAY = 6 * 3600.0  # seconds
ENTRY_LIFETIME = 5 * 86400.0  # seconds after which an entry is given up,
LEAST_ATTEMPTS = 10  # if it was tried so often: a clock that is wrong, or a machine that was off, gives up nothing
_LONGEST_ERROR = 4000  # characters of an error that the journal keeps
_LONGEST_ID = 128  # characters
_NONE: frozenset[str] = frozenset()


class NewerVersionError(ValueError):
    """An entry was written by a newer release. Leave it alone: that release reads it."""


class Record:
    """A line of the journal about one delivery.

    :ivar handler: the handler's name
    :ivar ok: whether it took the event
    :ivar permanent: whether its failure is permanent
    :ivar error: why it did not take the event; empty if it did
    :ivar time: when, in seconds since 1970 UTC; None if the line has no valid time
    :ivar done: the keys of the parts that need no further attempt, those of earlier attempts included
    """

    __slots__ = ("done", "error", "handler", "ok", "permanent", "time")

    def __init__(  # noqa: PLR0913  # what a line holds
        self, handler: str, *, ok: bool, permanent: bool, error: str, time: float | None, done: frozenset[str] = _NONE
    ) -> None:
        self.handler = handler
        self.ok = ok
        self.permanent = permanent
        self.error = error
        self.time = time
        self.done = done

    def __repr__(self) -> str:
        """Return the handler and the result; an error may quote a secret."""
        result = "ok" if self.ok else "permanent failure" if self.permanent else "failure"
        return f"<Record {self.handler}: {result}>"


class Entry:
    """An event that an outbox keeps, and what has become of it so far.

    :ivar id: the sending's id, the same on every attempt
    :ivar created: when the event was put, in seconds since 1970 UTC
    :ivar event: the event; its attachments' paths are file names within the entry
    :ivar handlers: the configuration of each handler that the event was put for, by name
    :ivar span: the span that the event was sent in, `_trace_context.NO_SPAN` if there was none
    :ivar attempts: how often its delivery began
    :ivar last_start: when the last attempt began, in seconds since 1970 UTC
    :ivar journal: a `Record` for each delivery, oldest first
    """

    __slots__ = ("attempts", "created", "event", "handlers", "id", "journal", "last_start", "span")

    def __init__(
        self,
        id: str,  # noqa: A002
        created: float,
        event: Event,
        handlers: Mapping[str, str],
        *,
        span: Span = _trace_context.NO_SPAN,
    ) -> None:
        self.id = id
        self.created = created
        self.event = event
        self.handlers = dict(handlers)
        self.span = span
        self.attempts = 1
        self.last_start = created
        self.journal: list[Record] = []

    def __repr__(self) -> str:
        """Return the id, the event and the pending handlers; no configuration, which may hold a secret."""
        return f"<Entry {self.id} {self.event!r}; pending: {', '.join(self.pending) or 'none'}>"

    @property
    def finished(self) -> set[str]:
        """The handlers that have the event, or have failed permanently."""
        return {record.handler for record in self.journal if record.ok or record.permanent}

    @property
    def delivered(self) -> set[str]:
        """The handlers that have the event."""
        return {record.handler for record in self.journal if record.ok}

    @property
    def pending(self) -> dict[str, str]:
        """The configuration of each handler that must still get the event, by name."""
        finished = self.finished
        return {name: config for name, config in self.handlers.items() if name not in finished}

    @property
    def has_permanent_failure(self) -> bool:
        """Whether another attempt cannot help one of the handlers."""
        return not self.handlers.keys().isdisjoint(self.finished - self.delivered)

    def delivered_parts(self, handler: str) -> frozenset[str]:
        """Return the keys of the parts that a handler has finished; see `event.PartialDeliveryError`."""
        return next(
            (record.done for record in reversed(self.journal) if record.handler == handler and record.done), _NONE
        )

    @property
    def last_error(self) -> str:
        """The error of the last failure; empty if there was none."""
        return next((record.error for record in reversed(self.journal) if not record.ok), "")

    def add(self, text: bytes) -> None:
        """Take a line of the journal into account."""
        try:
            line = _json.loads(text)
        except ValueError:
            return  # an empty line, or a torn one: that delivery is made again
        if not isinstance(line, dict):
            return
        if isinstance(line.get("handler"), str):
            self.journal.append(_record(line))
        elif isinstance(attempt := line.get("attempt"), int) and attempt > 0 and _json.is_time(line.get("time")):
            self.attempts, self.last_start = attempt, line["time"]
        elif line.get("retry"):
            for record in self.journal:
                record.permanent = False

    def delay(self, chance: float | None = None) -> float:
        """Return how long to wait after the last attempt began, in seconds.

        :param chance: a number from 0 to 1 that selects the variation; random by default
        """
        return backoff(self.attempts - 1, FIRST_DELAY, LONGEST_DELAY, chance)

    def is_expired(self, now: float) -> bool:
        """Return whether the entry is old enough, and was tried often enough, to be given up."""
        return self.attempts >= LEAST_ATTEMPTS and now - self.created > ENTRY_LIFETIME


def is_id(text: str) -> bool:
    """Return whether text can be an entry's id, which becomes a file name with more after a dot."""
    return 0 < len(text) <= _LONGEST_ID and text.isascii() and text.replace("-", "").replace("_", "").isalnum()


def own_text(content: bytes, entry_id: str) -> bytes:
    """Return the part of a file that is about one entry: all of it, unless entries share the file.

    :raises ValueError: the entry is not among those that share it
    """
    if not content.partition(b"\n")[2].startswith(BEGINNING):
        return content
    beginning = b'%b"id": "%b"' % (BEGINNING, entry_id.encode())
    for line in content.splitlines(keepends=True):
        if line.startswith(beginning):
            return line
    raise ValueError("it is not among the entries of its file")


def encode_entry(entry: Entry, event: dict[str, Any]) -> bytes:
    """Return the first line of an entry.

    :param event: the event's dump
    :raises EventError: the data cannot be written as JSON
    """
    content = {
        "version": ENTRY_VERSION,
        "id": entry.id,
        "created": entry.created,
        "event": event,
        "handlers": [{"name": name, "config": config} for name, config in entry.handlers.items()],
    }
    if entry.span is not _trace_context.NO_SPAN:
        content["trace"] = _trace_context.to_data(entry.span)
    return _json.dumps(content).encode("ascii") + b"\n"


def decode_entry(text: bytes) -> Entry:
    """Return the entry that a text describes.

    :raises NewerVersionError: a newer release wrote it
    :raises ValueError: it is not an entry; the message says why
    """
    first, *journal = text.split(b"\n")
    content = _json.loads(first)
    if not isinstance(content, dict) or not isinstance(version := content.get("version"), int):
        raise ValueError("it is not an object with a version")
    if version > ENTRY_VERSION:
        raise NewerVersionError(f"its version is {version}; this release reads {ENTRY_VERSION}")
    created: Any = content.get("created")
    id_ = content.get("id")
    if not _json.is_time(created) or not isinstance(id_, str):
        raise ValueError("'created' must be a time and 'id' a string")
    event = decode_event(content.get("event"), Event)
    if not all(_is_file_name(file) for file, _ in event.get_attachments().values()):
        raise ValueError("an attachment must be a file of the entry itself")
    entry = Entry(id_, created, event, _handlers(content.get("handlers")), span=_entry_span(content.get("trace")))
    for line in journal:
        entry.add(line)
    return entry


def encode_attempt(time: float, attempt: int) -> bytes:
    """Return the journal's line for the beginning of an attempt."""
    return _json_line({"time": time, "attempt": attempt})


def encode_delivery(time: float, delivery: Delivery) -> bytes:
    """Return the journal's line for the result of one handler."""
    line: dict[str, Any] = {"time": time, "handler": delivery.handler, "ok": delivery.ok}
    line["seconds"] = round(delivery.seconds, 3)
    if not delivery.ok:
        line["error"] = delivery.reason[:_LONGEST_ERROR]
        line["permanent"] = delivery.permanent
    if delivery.done:
        line["done"] = sorted(delivery.done)
    return _json_line(line)


def encode_retry(time: float) -> bytes:
    """Return the journal's line for an operator's retry."""
    return _json_line({"time": time, "retry": True})


def record_of(time: float, delivery: Delivery) -> Record:
    """Return what `Entry.add` makes of the line for the result of one handler."""
    error = delivery.reason[:_LONGEST_ERROR]
    return Record(
        delivery.handler, ok=delivery.ok, permanent=delivery.permanent, error=error, time=time, done=delivery.done
    )


def _json_line(content: dict[str, Any]) -> bytes:
    return _json.dumps(content).encode("ascii") + b"\n"


def _record(line: dict[str, Any]) -> Record:
    return Record(
        line["handler"],
        ok=bool(line.get("ok")),
        permanent=bool(line.get("permanent")),
        error=str(line.get("error", "")),
        time=line["time"] if _json.is_time(line.get("time")) else None,
        done=_keys(line.get("done")),
    )


def _keys(content: Any) -> frozenset[str]:
    return frozenset(key for key in content if isinstance(key, str)) if isinstance(content, list) else _NONE


def _is_file_name(file: str) -> bool:
    return file not in {".", ".."} and not {"/", "\\", ":"} & {*file}


def _entry_span(content: Any) -> Span:
    return (_trace_context.from_data(content) if isinstance(content, dict) else None) or _trace_context.NO_SPAN


def _handlers(content: Any) -> dict[str, str]:
    try:
        pairs = {item["name"]: item["config"] for item in content}
    except (TypeError, KeyError) as error:
        raise ValueError("'handlers' must be a list of objects with a name and a config") from error
    if not all(isinstance(text, str) for pair in pairs.items() for text in pair):
        raise ValueError("a handler's name and config must be strings")
    return pairs
