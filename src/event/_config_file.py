"""The configuration file: ``e3-event.toml``, or the table ``[tool.e3-event]`` of ``pyproject.toml``.

A handler's keys are converted to a handler configuration, as in E3_EVENT_HANDLERS. The rest of the package, child
processes and outboxes need only this form.
"""

from __future__ import annotations

import os

from event import _handler_config, _places
from event.error import EventError, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

MAX_SIZE = 1 << 20  # bytes
_TOP_KEYS = ("handlers", "outbox", "timeout", "redact", "when")
_COMMON_KEYS = ("type", "on", "when", "config")


class ConfigFile:
    """The contents of a configuration file.

    :ivar path: the file's absolute path
    :ivar applies: whether the conditions of the file's own ``when`` are met, or are invalid
    :ivar handlers: the name and the configuration of each handler, as in E3_EVENT_HANDLERS
    :ivar unused: the names of the handlers whose ``when`` conditions are not met
    :ivar outbox: the outbox's absolute path, or ``none``; None if it is not set
    :ivar timeout: in seconds; None if it is not set
    :ivar redact: see `event.EventManager`; None if it is not set
    :ivar problems: the errors outside of the handlers, one line each. An invalid handler has its error in place of its
        configuration; see `event._handler_config.invalid_config`
    """

    __slots__ = ("applies", "handlers", "outbox", "path", "problems", "redact", "timeout", "unused")

    def __init__(self, path: str) -> None:
        self.path = path
        self.handlers: list[tuple[str, str]] = []
        self.unused: list[str] = []
        self.applies = True
        self.outbox: str | None = None
        self.timeout: float | None = None
        self.redact: bool | list[str] | None = None
        self.problems: list[str] = []

    def __repr__(self) -> str:
        """Return the path and the names, without the configurations, which may contain secrets."""
        return f"<ConfigFile {self.path}: {', '.join(name for name, _ in self.handlers) or 'no handlers'}>"


def read_config_file(path: str) -> ConfigFile:
    """Read a configuration file. If a key is invalid, the rest of the file is still used.

    :raises EventError: the file cannot be read, other users can change it, or it is not TOML
    """
    path = os.path.abspath(path)
    try:
        content = _parsed(_content(path), path)
    except EventError as error:
        raise EventError(f"{path}: {one_line(error)}") from error
    made = ConfigFile(path)
    for read in (_refuse_unknown_top, _read_outbox, _read_timeout, _read_redact, _read_when, _read_handlers):
        try:
            read(content, made)
        except EventError as error:
            made.problems.append(f"{path}: {one_line(error)}")
    return made


def _refuse_unknown_top(content: Mapping[str, Any], _made: ConfigFile) -> None:
    _refuse_unknown(content, _TOP_KEYS, "")


def _read_outbox(content: Mapping[str, Any], made: ConfigFile) -> None:
    if (outbox := _text(content, "outbox", "")) is not None:
        directory = os.path.dirname(made.path)
        made.outbox = outbox if outbox.lower() == "none" else os.path.join(directory, _places.expand_home(outbox))


def _read_timeout(content: Mapping[str, Any], made: ConfigFile) -> None:
    if "timeout" in content:
        made.timeout = _seconds(content["timeout"])


def _read_redact(content: Mapping[str, Any], made: ConfigFile) -> None:
    if "redact" in content:
        redact = content["redact"]
        made.redact = redact if isinstance(redact, bool) else _texts(content, "redact", "")


def _read_when(content: Mapping[str, Any], made: ConfigFile) -> None:
    made.applies = _holds(content, "")


def _read_handlers(content: Mapping[str, Any], made: ConfigFile) -> None:
    handlers = content.get("handlers", {})
    if not isinstance(handlers, dict):
        raise EventError("handlers: expected tables, as in [handlers.mail]")
    for name, table in handlers.items():
        where = f"handlers.{name}"
        try:
            if not isinstance(table, dict):
                raise EventError(f"{where}: expected a table, as in [{where}]")
            full_name, config = _handler(name, table, where, os.path.dirname(made.path))
            is_used = _holds(table, where) and made.applies
        except EventError as error:
            _add_mistake(made, _name_of_invalid(name, table), f"{made.path}: {one_line(error)}")
            continue
        if is_used:
            made.handlers.append((full_name, config))
        else:
            made.unused.append(full_name)


# Reading.


def _content(path: str) -> str:
    from event import _files

    try:
        with open(_files.open_regular(path), "rb") as file:
            _refuse_foreign(os.fstat(file.fileno()))
            content = file.read(MAX_SIZE + 1)
    except OSError as error:
        raise EventError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(content) > MAX_SIZE:
        raise EventError(f"is larger than {MAX_SIZE} bytes")
    try:
        return content.decode()
    except ValueError as error:
        raise EventError(f"is not UTF-8: {error}") from error


def _refuse_foreign(status: os.stat_result) -> None:
    """Raise EventError if other users can change the file, and thus send the build's data elsewhere."""
    if os.name != "posix":  # pragma: no cover  # platform: Windows has other permissions
        return
    user = os.geteuid()
    if status.st_uid not in {user, 0}:
        raise EventError(f"belongs to user {status.st_uid}; expected user {user} or root to own it")
    is_own_group = status.st_gid == user  # a group with only this user, as most Linux systems create for each user
    if status.st_mode & 0o002 or (status.st_mode & 0o020 and not is_own_group):
        raise EventError("can be changed by other users; run chmod go-w on it")


def _parsed(text: str, path: str) -> dict[str, Any]:
    try:
        content: dict[str, Any] = _toml().loads(text)
    except ValueError as error:  # the base class of both libraries' errors
        raise EventError(f"is not TOML: {error}") from error
    if os.path.basename(path) != "pyproject.toml":
        return content
    tool = content.get("tool", {})
    table = tool.get("e3-event", {}) if isinstance(tool, dict) else {}
    if not isinstance(table, dict):
        raise EventError("tool.e3-event: expected a table")
    return table


def _toml() -> Any:
    from importlib import import_module

    for name in ("tomllib", "tomli"):  # the first one is in the standard library, from 3.11 on
        try:
            return import_module(name)
        except ImportError:
            pass
    raise EventError('cannot be read with this Python; run: pip install "e3-event[toml]"')


# Handlers.


class _Keys:
    """The keys of a built-in handler, in the order of the values in its configuration.

    :ivar required: the keys that must be set
    :ivar values: the keys with a fixed position, and their defaults
    :ivar several: the key of the list at the end of the configuration; empty if there is none
    :ivar options: the keys that are written as ``key=value`` after the others
    :ivar whole: whether the last value may contain commas
    """

    __slots__ = ("options", "required", "several", "values", "whole")

    def __init__(
        self,
        required: tuple[str, ...],
        values: dict[str, str],
        *,
        several: str = "",
        options: tuple[str, ...] = (),
        whole: bool = False,
    ) -> None:
        self.required = required
        self.values = values
        self.several = several
        self.options = options
        self.whole = whole

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.values, *([self.several] if self.several else []), *self.options)


_HTTP_OPTIONS = ("source", "event_type", "cdevents", "timeout")
_JOINED = {"to": ", ", "urls": " ", "headers": ","}  # the separator of the items, if the key's value is a list
BUILTIN_KEYS = {
    "file": _Keys(("directory",), {"directory": ""}, whole=True),
    "logging": _Keys((), {"logger": "", "level": ""}),
    "smtp": _Keys(
        ("subject", "from", "to", "server"),
        {"subject": "", "from": "", "to": ""},
        several="server",
        options=("title", "body"),
    ),
    "s3": _Keys(("event_url", "log_url"), {"event_url": "", "log_url": "", "sse": "AES256", "profile": ""}, whole=True),
    "http": _Keys(("url",), {"url": "", "format": "", "secret": ""}, options=_HTTP_OPTIONS),
    "apprise": _Keys(("urls",), {"urls": "", "title": "", "body": ""}, whole=True),
    "otel": _Keys((), {"endpoint": "", "service": "", "headers": ""}, whole=True),
    "broker": _Keys(("url",), {"url": "", "queue": ""}, options=("limit", "s3", "profile", "sse", "timeout")),
}
HANDLER_NAMES = {"event_type": "type"}  # key in the file -> option of the handler, because `type` is the kind there


def _handler(name: str, table: Mapping[str, Any], where: str, directory: str) -> tuple[str, str]:
    """Return a handler's name and configuration, as in E3_EVENT_HANDLERS."""
    kind, full_name = _full_name(name, table, where)
    keys = BUILTIN_KEYS.get(kind)
    _refuse_unknown(table, (*_COMMON_KEYS, *(keys.names if keys else ())), where)
    config = _text(table, "config", where)
    if config is None and keys:
        config = _encoded(keys, {key: value for key, value in table.items() if key in keys.names}, where, directory)
    elif config is not None and keys and any(key in table for key in keys.names):
        raise EventError(f"{where}: expected either config or named keys, not both")
    try:
        _handler_config.format_handlers([(full_name, config or "")])
    except ValueError as error:
        raise EventError(f"{where}: {error}") from error
    return full_name, config or ""


def _full_name(name: str, table: Mapping[str, Any], where: str) -> tuple[str, str]:
    """Return a handler's kind, and its name with label and conditions."""
    kind = _text(table, "type", where) or name
    full_name = kind if kind == name else f"{kind}:{name}"
    if conditions := _texts(table, "on", where):
        full_name = f"{full_name}@{'+'.join(conditions)}"
        try:
            _handler_config.split_conditions(full_name)
        except EventError as error:
            raise EventError(f"{where}.on: {one_line(error)}") from error
    return kind, full_name


def _add_mistake(made: ConfigFile, name: str, reason: str) -> None:
    try:
        _handler_config.format_handlers([(name, "")])
    except ValueError:  # no handler can have that name
        made.problems.append(reason)
    else:
        made.handlers.append((name, _handler_config.invalid_config(reason)))


def _name_of_invalid(name: str, table: Any) -> str:
    """Return the name of a handler whose table is invalid, with as many of its parts as are valid."""
    try:
        return _full_name(name, table, "")[1]
    except (EventError, AttributeError):  # AttributeError: it is not a table
        return name


def _encoded(keys: _Keys, table: Mapping[str, Any], where: str, directory: str) -> str:
    for key in keys.required:
        if not table.get(key):
            raise EventError(f"{where}.{key}: is missing")
    values = {key: _value(table[key], key, where, directory) for key in table if key != keys.several}
    fields = [values.get(key, default) for key, default in keys.values.items()]
    if keys.several:
        fields += [_absolute(text, directory) for text in _texts(table, keys.several, where)]
    options = [f"{HANDLER_NAMES.get(key, key)}={values[key]}" for key in keys.options if key in values]
    if not options:
        while len(fields) > 1 and not fields[-1]:
            fields.pop()
    is_whole = keys.whole and len(fields) == len(keys.values)
    return _handler_config.join_fields([*fields, *options], last_whole=is_whole)


def _value(value: Any, key: str, where: str, directory: str) -> str:
    if isinstance(value, list) and key in _JOINED:
        return _JOINED[key].join(_absolute(text, directory) for text in _texts({key: value}, key, where))
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        expected = "a text or a list of texts" if key in _JOINED else "a text or a number"
        raise EventError(f"{where}.{key}: expected {expected}")
    if key == "directory":
        return os.path.join(directory, _places.expand_home(str(value)))
    return _absolute(str(value), directory)


def _absolute(text: str, directory: str) -> str:
    """Return a reference ``file:PATH`` with an absolute path; any other text unchanged."""
    kind, colon, path = text.partition(":")
    if kind != "file" or not colon:
        return text
    return f"file:{os.path.join(directory, _places.expand_home(path))}"


# Conditions on the environment.


def _holds(table: Mapping[str, Any], where: str) -> bool:
    """Return whether all conditions of ``when`` are met: ``NAME`` or ``NAME=PATTERN``, negated by a ``!`` before it."""
    return all(_condition_holds(text) for text in _texts(table, "when", where))


def _condition_holds(text: str) -> bool:
    is_negated = text.startswith("!")
    name, equals, pattern = text.removeprefix("!").partition("=")
    value = os.environ.get(name.strip(), "")
    if not equals:
        return bool(value) != is_negated
    from fnmatch import fnmatchcase

    return fnmatchcase(value, pattern.strip()) != is_negated


# Values.


def _refuse_unknown(table: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    known = [*known]
    for key in table:
        if key not in known:
            from difflib import get_close_matches

            close = get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(sorted(known))}"
            raise EventError(f"{_dotted(where, key)}: is unknown; {hint}")


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise EventError(f"timeout: is {value!r}; expected a positive number of seconds")
    return float(value)


def _text(table: Mapping[str, Any], key: str, where: str) -> str | None:
    value = table.get(key)
    if value is not None and (not isinstance(value, str) or not value):
        raise EventError(f"{_dotted(where, key)}: expected a text that is not empty")
    return value


def _texts(table: Mapping[str, Any], key: str, where: str) -> list[str]:
    value = table.get(key, [])
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
        raise EventError(f"{_dotted(where, key)}: expected a text or a list of texts, none of them empty")
    return texts


def _dotted(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key
