"""Encode and decode the text of an entry. These functions use neither the clock nor the disk.

The text consists of lines, each of which is a JSON object. The first line is written when the event is put (it is
wrapped here)::

    {"version": 1, "id": "…", "created": 1780000000.0,
     "event": {"data": {…}, "attachments": {"log": ["0", "<sha1>"]}, "closed": true},
     "handlers": [{"name": "smtp", "config": "…"}],
     "trace": {"traceparent": "00-…", …}}

``trace`` is the span that was active when the event was sent. It is missing if there was none. A malformed ``trace`` is
ignored.

The following lines are the journal, which is only appended to. It determines which handlers are pending::

    {"time": …, "attempt": 2}                              the second attempt starts; the first one is not journaled
    {"time": …, "handler": "smtp", "ok": true, …}          the handler has delivered the event
    {"time": …, "handler": "smtp", "ok": false, "error": "…", "permanent": false, …}
    {"time": …, "handler": "smtp", "ok": false, …, "done": ["ann@example.com"]}     these parts need no further attempt
    {"time": …, "retry": true}                             an operator retries: earlier failures are not permanent
    {"time": …, "replace": "smtp", "handlers": […]}        the configuration file was fixed: these handlers replace smtp

The last one has ``"redact": ["env:PIN"]`` if the file names further secrets to replace in the event's data.
Readers ignore unknown keys, and a line that is incomplete because of a crash.

Small entries that are put together may share a file, as hard links to it. The file contains the first line of each
entry and no journal. Before a line is appended to its journal, an entry gets its own file.
"""

from __future__ import annotations

from event import _handler_config, _json, _trace_context
from event._backoff import backoff
from event._event import Event, decode_event, redact_in

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from event._outcome import Delivery
    from event._trace_context import Span

ENTRY_VERSION = 1
BEGINNING = b'{"version": 1, '  # the start of every text that `encode_entry` returns
MAX_ENTRY_SIZE = 64 << 20  # bytes of an entry's text, without attachments; a larger one is not read
FIRST_DELAY = 60.0  # seconds
MAX_DELAY = 6 * 3600.0  # seconds
ENTRY_LIFETIME = 5 * 86400.0  # seconds after which an entry is no longer retried ...
MIN_ATTEMPTS = 10  # ... but only after this many attempts, in case the clock was wrong or the machine was off
_MAX_ERROR_LENGTH = 4000  # characters of an error in the journal
_MAX_ID_LENGTH = 128  # characters
_NONE: frozenset[str] = frozenset()


class NewerVersionError(ValueError):
    """The entry was written by a newer release. Do not change it, so that the newer release can read it."""


class Record:
    """A delivery in the journal.

    :ivar handler: the handler's name
    :ivar ok: whether the handler delivered the event
    :ivar permanent: whether the failure is permanent
    :ivar error: the reason for the failure; empty if `ok`
    :ivar time: when the delivery ended, in seconds since 1970 UTC; None if the line has no valid time
    :ivar done: the keys of the parts that need no further attempt, including those from earlier attempts
    """

    __slots__ = ("done", "error", "handler", "ok", "permanent", "time")

    def __init__(self, line: Mapping[str, Any]) -> None:
        self.handler: str = line["handler"]
        self.ok = bool(line.get("ok"))
        self.permanent = bool(line.get("permanent"))
        self.error = str(line.get("error", ""))
        self.time: float | None = line["time"] if _json.is_time(line.get("time")) else None
        done = line.get("done")
        self.done = frozenset(key for key in done if isinstance(key, str)) if isinstance(done, list) else _NONE

    def __repr__(self) -> str:
        """Return the handler and the result, without the error, which may contain a secret."""
        result = "ok" if self.ok else "permanent failure" if self.permanent else "failure"
        return f"<Record {self.handler}: {result}>"


class Entry:
    """An event in an outbox, with its handlers and its journal.

    :ivar id: the id of the sending, the same on every attempt
    :ivar created: when the event was put, in seconds since 1970 UTC
    :ivar event: the event; the paths of its attachments are file names within the entry
    :ivar handlers: the configuration of each handler of the event, by name
    :ivar span: the span in which the event was sent; `_trace_context.NO_SPAN` if there was none
    :ivar attempts: the number of attempts so far, including a running one
    :ivar last_start: when the last attempt started, in seconds since 1970 UTC
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
        """Return the id, the event and the pending handlers, without configurations, which may contain secrets."""
        return f"<Entry {self.id} {self.event!r}; pending: {', '.join(self.pending) or 'none'}>"

    @property
    def finished(self) -> set[str]:
        """The handlers that have delivered the event or failed permanently."""
        return {record.handler for record in self.journal if record.ok or record.permanent}

    @property
    def delivered(self) -> set[str]:
        """The handlers that have delivered the event."""
        return {record.handler for record in self.journal if record.ok}

    @property
    def pending(self) -> dict[str, str]:
        """The configuration of each pending handler, by name."""
        finished = self.finished
        return {name: config for name, config in self.handlers.items() if name not in finished}

    @property
    def is_delivered(self) -> bool:
        """Whether every handler has delivered the event."""
        return self.handlers.keys() <= self.delivered

    @property
    def has_invalid_handlers(self) -> bool:
        """Whether a handler has an error in place of its configuration."""
        return any(map(_handler_config.is_invalid_config, self.handlers.values()))

    def delivered_parts(self, handler: str) -> frozenset[str]:
        """Return the keys of the parts that a handler has delivered; see `event.PartialDeliveryError`."""
        return next(
            (record.done for record in reversed(self.journal) if record.handler == handler and record.done), _NONE
        )

    @property
    def last_error(self) -> str:
        """The error of the last failure; empty if there was none."""
        return next((record.error for record in reversed(self.journal) if not record.ok), "")

    def add(self, text: bytes) -> None:
        """Add a line of the journal. Ignore an invalid line."""
        try:
            line = _json.loads(text)
        except ValueError:
            return  # an empty or incomplete line; if it was a delivery, it is repeated
        if isinstance(line, dict):
            self.apply(line)

    def apply(self, line: Mapping[str, Any]) -> None:
        """Change the entry as a decoded line of the journal requires. Ignore an invalid line."""
        if isinstance(line.get("handler"), str):
            self.journal.append(Record(line))
        elif isinstance(attempt := line.get("attempt"), int) and attempt > 0 and _json.is_time(line.get("time")):
            self.attempts, self.last_start = attempt, line["time"]
        elif line.get("retry"):
            for record in self.journal:
                record.permanent = False
        elif isinstance(name := line.get("replace"), str):
            self._replace(name, line)

    def _replace(self, name: str, line: Mapping[str, Any]) -> None:
        try:
            others = _handlers(line.get("handlers"))
        except ValueError:
            return
        self.handlers.pop(name, None)
        self.handlers = {**others, **self.handlers}
        redact = line.get("redact")
        if isinstance(redact, list) and all(isinstance(reference, str) for reference in redact):
            redact_in(self.event, tuple(redact))

    def delay(self, chance: float | None = None) -> float:
        """Return the back-off in seconds, counted from the start of the last attempt.

        :param chance: a number from 0 to 1 that determines the random part of the delay; random by default
        """
        return backoff(self.attempts - 1, FIRST_DELAY, MAX_DELAY, chance)

    def is_expired(self, now: float) -> bool:
        """Return whether to stop retrying: the entry is older than `ENTRY_LIFETIME` and had `MIN_ATTEMPTS`."""
        return self.attempts >= MIN_ATTEMPTS and now - self.created > ENTRY_LIFETIME


def is_id(text: str) -> bool:
    """Return whether a text is a valid entry id, which is safe as the first part of a file name."""
    return 0 < len(text) <= _MAX_ID_LENGTH and text.isascii() and text.replace("-", "").replace("_", "").isalnum()


def text_of_entry(content: bytes, entry_id: str) -> bytes:
    """Return the part of a file that belongs to one entry. This is the entire file unless entries share it.

    :raises ValueError: the shared file does not contain the entry
    """
    if not content.partition(b"\n")[2].startswith(BEGINNING):
        return content
    beginning = b'%b"id": "%b"' % (BEGINNING, entry_id.encode())
    for line in content.splitlines(keepends=True):
        if line.startswith(beginning):
            return line
    raise ValueError("it is missing from its shared file")


def encode_entry(entry: Entry, event: dict[str, Any]) -> bytes:
    """Return the first line of an entry's text.

    :param event: the event as a dict, as in a dump
    :raises EventError: the event's data can't be encoded as JSON
    """
    content = {
        "version": ENTRY_VERSION,
        "id": entry.id,
        "created": entry.created,
        "event": event,
        "handlers": handler_list(entry.handlers),
    }
    if entry.span is not _trace_context.NO_SPAN:
        content["trace"] = _trace_context.to_data(entry.span)
    return encode_line(content)


def decode_entry(text: bytes) -> Entry:
    """Decode the text of an entry.

    :raises NewerVersionError: a newer release wrote the entry
    :raises ValueError: the text is not a valid entry; the message explains why
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
    event = decode_event(content.get("event"), Event, id_)
    if not all(_is_file_name(file) for file, _ in event.get_attachments().values()):
        raise ValueError("an attachment must be a file of the entry itself")
    entry = Entry(id_, created, event, _handlers(content.get("handlers")), span=_entry_span(content.get("trace")))
    for line in journal:
        entry.add(line)
    return entry


def delivery_line(time: float, delivery: Delivery) -> dict[str, Any]:
    """Return the journal line for the result of a handler."""
    line: dict[str, Any] = {"time": time, "handler": delivery.handler, "ok": delivery.ok}
    line["seconds"] = round(delivery.seconds, 3)
    if not delivery.ok:
        from event._redact import redact_text

        line["error"] = redact_text(delivery.reason)[:_MAX_ERROR_LENGTH]
        line["permanent"] = delivery.permanent
    if delivery.done:
        line["done"] = sorted(delivery.done)
    return line


def encode_line(content: Mapping[str, Any]) -> bytes:
    """Return the text of a line."""
    return _json.dumps(content).encode("ascii") + b"\n"


def handler_list(handlers: Mapping[str, str]) -> list[dict[str, str]]:
    """Return handlers in the form of a line, from the configuration of each by name."""
    return [{"name": name, "config": config} for name, config in handlers.items()]


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
