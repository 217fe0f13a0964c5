"""The class `Event`: named data with attachments."""

from __future__ import annotations

import os
import sys
import time

from event.error import EventError, shown, visible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from types import TracebackType
    from typing import Any

    from typing_extensions import Self, TypeVar

    E = TypeVar("E", bound="Event")


# Tests may replace `event.unique_id` and `event.time`, so look them up there at each call.
_package: Any = sys.modules["event"]


def unique_id() -> str:
    """Return a new random UUID (RFC 9562, version 4), as 36 characters.

    It does not depend on the machine or the clock. Forked processes get different UUIDs.
    """
    number = bytearray(os.urandom(16))
    number[6] = number[6] & 0x0F | 0x40
    number[8] = number[8] & 0x3F | 0x80
    digits = number.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


class Event:
    """Something that happened in a build: named data, with optional attached files.

    Every attribute that you set becomes part of the data, in that order, and every handler receives it::

        with Event("compile", target="arm") as event:
            event.status = "ok"
            event.attach_file("build.log")

    A new event has the data `uid`, `name`, `begin_time` (seconds since 1970 UTC) and `end_time` (None). The keyword
    arguments follow; they may replace the two times. At the end of the ``with`` block, the event is closed.

    :param name: what happened
    :param uid: a unique id of the event; None for a random UUID
    :param kwargs: further data
    """

    __slots__ = ("__weakref__", "_attachments", "_closed", "_data", "_delivered", "_formatters", "_redact", "_sending")

    _attachments: dict[str, tuple[str, str]]
    _closed: bool
    _data: dict[str, Any]
    _delivered: frozenset[str]  # set when a part has been delivered
    _formatters: dict[str, Callable[[str, Any], dict[str, Any]]]
    _redact: tuple[str, ...] | None  # secrets that the sending manager replaces, see `redact_in`
    _sending: str | None

    def __init__(self, /, name: str, uid: str | None = None, **kwargs: Any) -> None:
        uid = _package.unique_id() if uid is None else uid
        _set_data(self, {"uid": uid, "name": name, "begin_time": _package.time.time(), "end_time": None, **kwargs})
        _set_attachments(self, {})
        _set_closed(self, False)
        _set_redact(self, None)
        _set_sending(self, None)
        _set_formatters(self, _dates(self))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _val: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self.close()

    def set_formatter(self, key: str, fun: Callable[[str, Any], dict[str, Any]]) -> None:
        """Set a function that formats a value for `as_dict`, also for a closed event.

        :param key: the attribute
        :param fun: called with the key and the value; the items of the dict that it returns replace the value
        """
        _set_formatters(self, {**self._formatters, key: fun})

    def __setattr__(self, name: str, value: Any) -> None:
        """Set a value of the data. Raise EventError if the event is closed."""
        self._require_open()
        self._data[name] = value

    def __delattr__(self, name: str) -> None:
        """Remove a value from the data. Raise EventError if the event is closed."""
        self._require_open()
        if self._data.pop(name, _UNSET) is _UNSET:
            raise self._no_attribute(name)

    def __getattr__(self, name: str) -> Any:
        if name not in _INTERNALS:  # copy and pickle ask for these before the instance has its state
            try:
                return self._data[name]
            except KeyError:
                pass
        raise self._no_attribute(name)

    def __dir__(self) -> Iterable[str]:
        return [*super().__dir__(), *self._data]

    def __repr__(self) -> str:
        """Return the name, uid, state, and the names of data and attachments; no values, which may be secret."""
        data = self._data
        title = f"{visible(shown(data.get('name')))} {visible(shown(data.get('uid'))).strip(chr(39))}"
        parts = [title, "closed" if self._closed else "open"]
        if extra := [key for key in data if key not in _FRESH]:
            parts.append(f"data: {visible(', '.join(map(str, extra)))}")
        if self._attachments:
            parts.append(f"attachments: {visible(', '.join(self._attachments))}")
        return self._without_secrets(f"<{type(self).__name__} {'; '.join(parts)}>")

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for copy and pickle, also that of a subclass. Its dicts are copies."""
        state = dict(_attributes(self))
        state["_data"], state["_attachments"] = self._data.copy(), self._attachments.copy()
        # None for the default formatters, so that the copy shares their dict.
        state["_formatters"] = None if self._formatters is _DATES else self._formatters.copy()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, value)
        _set_formatters(self, self._formatters or _dates(self))

    def get_attachments(self) -> dict[str, tuple[str, str]]:
        """Return the attachments: name -> (absolute path, SHA-1 in hex), with secrets replaced in the names."""
        if self._redact is None or not self._attachments:
            return self._attachments
        from event import _redact

        return _redact.redact_keys(self._attachments, self._redact)

    def attach_file(self, path: str | os.PathLike[str], name: str = "log") -> None:
        """Attach a file. It is read now for its checksum, and again by each handler when the event is sent.

        :param path: a regular file; a relative path is made absolute now
        :param name: the attachment's name; replaces an attachment of the same name, with a warning in the log
        :raises EventError: the event is closed, the file is missing, not regular or not readable, or the name is empty
            or contains a NUL
        """
        from event import _files

        self._require_open()
        if not isinstance(name, str) or not name or "\0" in name:
            raise EventError(f"cannot attach {path!r} as {name!r}: a name is a non-empty string without NUL")
        try:
            absolute = os.path.abspath(os.fsdecode(path))
            digest = _files.sha1(absolute)
        except (OSError, ValueError) as error:
            is_missing = isinstance(error, FileNotFoundError)
            reason = "no such file" if is_missing else getattr(error, "strerror", None) or error
            raise EventError(f"cannot attach {os.fsdecode(path)!r} to {self._title()}: {reason}") from error
        if name in self._attachments:
            from event import _log

            _log.warning("%s: attachment %r is replaced by %s", self._title(), name, absolute)
        self._attachments[name] = (absolute, digest)

    def close(self) -> None:
        """Set `end_time`, and make the data and the attachments read-only. Closing again has no effect."""
        if not self._closed:
            self._data["end_time"] = _package.time.time()
            _set_closed(self, True)

    @staticmethod
    def format_date(key: str, value: Any) -> dict[str, Any]:
        """Format a point in time.

        :param key: the attribute
        :param value: seconds since 1970 UTC, as from `time.time`; a value that is not a float is returned unchanged
        :return: the key with ``YYYY-MM-DDTHH:MM:SS`` in UTC (ISO 8601)
        """
        if isinstance(value, float):
            try:
                return {key: _in_utc(value // 1)}
            except (ValueError, OverflowError, OSError):
                pass  # NaN, infinity, or outside of the range that this system supports
        return {key: value}

    def as_dict(self) -> dict[str, Any]:
        """Return the data for a destination: a new dict, with formatted dates and without secrets."""
        result = {}
        formatters = self._formatters
        for key, value in self._data.copy().items():
            if key in formatters:
                result.update(formatters[key](key, value))
            else:
                result[key] = value
        if self._redact is None:
            return result
        from event import _redact

        return _redact.redact_data(result, self._redact)

    def dump(self, event_dir: str | os.PathLike[str]) -> str:
        """Write the event to a new JSON file, atomically.

        The file contains one object: ``data`` (from `as_dict`), ``attachments`` (name -> [path, SHA-1]) and ``closed``.

        :param event_dir: the directory; it is created if it does not exist
        :return: the file's path
        :raises EventError: the data contains itself
        :raises OSError: the file can't be written
        """
        from event import _files, _json

        content = encode_event(self, self.get_attachments())
        stem = _files.safe_name(str(self._data.get("uid")), limit=_files.STEM_MAX)
        path = os.path.join(os.fsdecode(event_dir), f"{stem}-{unique_id()}.json")
        _files.write_atomically(path, _json.dumps(content).encode("ascii"))
        return path

    @classmethod
    def load(cls, json_filename: str | os.PathLike[str]) -> Self:
        """Load an event from a file that `dump` wrote. Dates are strings then.

        Unknown keys of the file are ignored. The attached files are not read.

        :param json_filename: the path that `dump` returned
        :raises EventError: the content of the file is not an event; the message explains why
        :raises OSError: the file can't be read
        """
        from event import _files, _json

        path = os.fsdecode(json_filename)
        try:
            content = _files.read_regular(path)
            return decode_event(_json.loads(content.decode()), cls)
        except ValueError as error:
            raise EventError(f"{path} is not a dumped event: {error}") from error

    def _title(self) -> str:
        name, uid = (x if isinstance(x, str) else shown(x) for x in map(self._data.get, ("name", "uid")))
        return self._without_secrets(visible(f"event {name} ({uid})"))

    def _without_secrets(self, text: str) -> str:
        if self._redact is None:
            return text
        try:
            from event import _redact
        except (ImportError, OSError):  # no file descriptor is free
            return f"<{type(self).__name__}>"
        return _redact.redact_text(text, self._redact)

    def _require_open(self) -> None:
        if self._closed:
            raise EventError(f"{self._title()} closed")

    def _no_attribute(self, name: str) -> AttributeError:
        return AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)


def _dates(event: Event) -> Any:
    formatter = event.format_date
    return _DATES if formatter is _DATES["begin_time"] else dict.fromkeys(_DATES, formatter)


def _attributes(event: Event) -> Iterator[tuple[str, Any]]:
    """Yield the name and the value of each slot and, if a subclass has a ``__dict__``, of each item in it."""
    for kind in type(event).__mro__:
        for name, member in vars(kind).items():
            if name == "__dict__":
                yield from object.__getattribute__(event, name).items()
            elif type(member) is _Slot:
                try:
                    yield name, member.__get__(event)
                except AttributeError:
                    pass  # not set


def _in_utc(second: float) -> str:
    text = _SECONDS.get(second)
    if text is None:
        year, month, day, hour, minute, whole = time.gmtime(second)[:6]
        text = f"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{whole:02}"
        if len(_SECONDS) >= 64:
            _SECONDS.clear()
        _SECONDS[second] = text
    return text


def sending_id(event: Event) -> str:
    """Return the id of the current sending, which a handler can use in the name of a file or an object.

    With an outbox, the id is the same on every attempt, so that a repeated delivery can replace an earlier one. Without
    an outbox, every call returns a new id.
    """
    sending: str = getattr(event, "_sending", None) or _package.unique_id()  # an event of e3-core has no id
    return sending


def already_delivered(event: Event) -> frozenset[str]:
    """Return the keys of the parts that the handler has delivered in earlier attempts.

    A handler with several destinations reports the finished ones with `PartialDeliveryError`. Without an outbox, and on
    the first attempt, the set is empty.
    """
    delivered = getattr(event, "_delivered", None)  # an event of e3-core has none
    return delivered if isinstance(delivered, frozenset) else frozenset()


def redact_in(event: Event, references: tuple[str, ...]) -> None:
    """Make `Event.as_dict` and `Event.dump` replace secrets from now on, without changing the data itself.

    :param references: secrets in addition to the usual ones, see `event._redact`
    """
    if isinstance(event, Event):  # an event of e3-core does not support this
        _set_redact(event, references)


def encode_event(event: Event, attachments: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return the content of an event's dump; also works for an event of e3-core."""
    return {"data": event.as_dict(), "attachments": attachments, "closed": getattr(event, "_closed", True)}


def raw_content(event: Event) -> dict[str, Any]:
    """Return the content of a dump with dates as numbers, for another process of this package."""
    attachments = {name: [*attachment] for name, attachment in event.get_attachments().items()}
    return {"data": raw_data(event).copy(), "attachments": attachments, "closed": getattr(event, "_closed", True)}


def decode_event(content: Any, kind: type[E], sending: str | None = None) -> E:
    """Create an event from the content of a dump.

    :param kind: the event's class
    :param sending: the id of the sending, see `sending_id`; None for none
    :raises ValueError: the content is invalid; the message explains why
    """
    if not isinstance(content, dict):
        raise ValueError("it is not a JSON object")
    data, attachments, closed = map(content.get, ("data", "attachments", "closed"))
    if not isinstance(data, dict) or "uid" not in data or "name" not in data:
        raise ValueError("'data' must be an object with a 'uid' and a 'name'")
    if not isinstance(attachments, dict) or not all(map(_is_attachment, attachments.items())):
        raise ValueError("'attachments' must be an object of name: [path, SHA-1], all non-empty strings without NUL")
    if not isinstance(closed, bool):
        raise ValueError("'closed' must be true or false")
    event = kind.__new__(kind)
    _set_data(event, data)
    _set_attachments(event, {name: (path, digest) for name, (path, digest) in attachments.items()})
    _set_closed(event, closed)
    _set_formatters(event, _dates(event))
    _set_redact(event, None)
    _set_sending(event, sending)
    return event


def _is_attachment(item: tuple[str, Any]) -> bool:
    name, value = item
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(isinstance(text, str) and text and "\0" not in text for text in (name, *value))
    )


def raw_data(event: Event) -> dict[str, Any]:
    """Return the data itself, not a copy. Changing it changes the event, even a closed one."""
    data: dict[str, Any] = _get_data(event)
    return data


# Shared by all events without their own formatters: a dict for each would need a third of an event's memory.
_DATES = {"begin_time": Event.format_date, "end_time": Event.format_date}
# A cache: both dates of a short event are often the same second, and each handler formats them.
_SECONDS: dict[float, str] = {}
_UNSET = object()
_FRESH = frozenset({"uid", "name", "begin_time", "end_time"})

_Slot = type(Event.__dict__["_data"])
# Setting an attribute of an event changes its data, so use these functions to access the slots.
_get_data = Event.__dict__["_data"].__get__
_set_data = Event.__dict__["_data"].__set__
_set_attachments = Event.__dict__["_attachments"].__set__
_set_closed = Event.__dict__["_closed"].__set__
_set_formatters = Event.__dict__["_formatters"].__set__
_set_redact = Event.__dict__["_redact"].__set__
_set_sending = Event.__dict__["_sending"].__set__
_INTERNALS = frozenset(Event.__slots__)
