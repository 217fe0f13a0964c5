"""The configuration file: ``e3-event.toml``, or the table ``[tool.e3-event]`` of ``pyproject.toml``.

A handler's keys are converted to a handler configuration, as in E3_EVENT_HANDLERS. The rest of the package, child
processes and outboxes need only this form.
"""

from __future__ import annotations

import os

from event import _files, _handler_config, _places, _registry
from event._config_values import conditions, dotted, holds, seconds, text, texts, unknown_keys
from event.error import EventError, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

MAX_SIZE = 1 << 20  # bytes
_TOP_KEYS = ("handlers", "outbox", "timeout", "redact", "when")
_COMMON_KEYS = ("type", "on", "when", "config")


class ConfigFile:
    """The contents of a configuration file.

    A handler that cannot be read has its error in place of its configuration; see
    `event._handler_config.invalid_config`. If an error hides any number of handlers, such as a syntax error, a handler
    with the file's name replaces them. So an outbox keeps the events until the file is fixed; see `fixed_handlers`.

    :ivar path: the file's path, absolute if the working directory exists
    :ivar applies: whether the conditions of the file's own ``when`` are met. If not, no event is kept
    :ivar handlers: the name and the configuration of each handler, as in E3_EVENT_HANDLERS
    :ivar unused: the names of the handlers whose ``when`` conditions are not met
    :ivar tables: the name and the configuration of each handler, used or not, by the name of its table
    :ivar outbox: the outbox's absolute path, or ``none``; None if it is not set
    :ivar timeout: in seconds; None if it is not set
    :ivar redact: see `event.EventManager`; None if it is not set
    :ivar problems: the errors that concern no handler, one line each
    :ivar hiding: the errors that hide any number of handlers, on one line
    """

    __slots__ = ("applies", "handlers", "hiding", "outbox", "path", "problems", "redact", "tables", "timeout", "unused")

    def __init__(self, path: str) -> None:
        self.path = path
        self.handlers: list[tuple[str, str]] = []
        self.unused: list[str] = []
        self.tables: dict[str, tuple[str, str]] = {}
        self.applies = True
        self.outbox: str | None = None
        self.timeout: float | None = None
        self.redact: bool | list[str] | None = None
        self.problems: list[str] = []
        self.hiding = ""

    def __repr__(self) -> str:
        """Return the path and the names, without the configurations, which may contain secrets."""
        return f"<ConfigFile {self.path}: {', '.join(name for name, _ in self.handlers) or 'no handlers'}>"

    def add_hiding(self, reason: str) -> None:
        """Add an error that hides any number of handlers."""
        if self.applies:
            self.hiding = f"{self.hiding or self.path}{'; ' if self.hiding else ': '}{reason}"
        else:
            self.problems.append(f"{self.path}: {reason}")

    def add_hidden_handlers(self) -> None:
        """Add the handler that replaces the hidden ones, if there may be any."""
        if self.hiding:
            name = "".join("?" if character in "|=@" else character for character in os.path.basename(self.path))
            self.handlers.append((name.strip(), _handler_config.invalid_config(self.hiding, self.path)))


def read_config_file(path: str) -> ConfigFile:
    """Read a configuration file. If it has mistakes, the rest of the file is still used."""
    made = ConfigFile(_files.absolute(path))
    source = b""
    try:
        source = _source(made.path)
        content = _parsed(source, made.path)
    except Exception as error:  # a parser may raise anything for unusual input
        made.add_hiding(one_line(error))
        _find_settings(source, made)
    else:
        _read(content, made)
    made.add_hidden_handlers()
    return made


def _read(content: Mapping[str, Any], made: ConfigFile) -> None:
    try:
        made.applies = holds(content, "")
    except EventError as error:
        made.add_hiding(one_line(error))
        made.applies = False
    _read_top_keys(content, made)
    for read in (_read_outbox, _read_timeout, _read_redact):
        try:
            read(content, made)
        except EventError as error:
            made.problems.append(f"{made.path}: {one_line(error)}")
    _read_handlers(content, made)


def _find_settings(source: bytes, made: ConfigFile) -> None:
    """Read the lines ``outbox = …`` and ``redact = …`` of a file that is not TOML.

    So later events find the entries, and the entries do not contain these secrets.
    """
    readers = {"outbox": _read_outbox, "redact": _read_redact}
    is_own_table = os.path.basename(made.path) != "pyproject.toml"
    for line in source.decode("utf-8-sig", "replace").splitlines():
        if line.lstrip().startswith("["):
            is_own_table = line.strip() == "[tool.e3-event]"
        elif is_own_table and (read := readers.get(line.partition("=")[0].strip())) and "\ufffd" not in line:
            try:
                read(_toml().loads(line), made)
            except (ValueError, EventError):  # this line is wrong, or there is no parser
                pass


def fixed_handlers(config: str) -> tuple[list[tuple[str, str]], list[str]] | None:
    """Return the handlers that replace an invalid configuration, and the file's further secrets.

    If the file has not been changed, return None. If the table is not there any more, it may have another name: all
    handlers of the file are returned. The conditions of ``when`` are not checked, because they belong to the
    environment in which the event was sent.
    """
    path, table = _handler_config.source_of_invalid(config)
    if not os.path.isabs(path):  # the sender's working directory did not exist; this one may have another file
        return None
    file = read_config_file(path)
    redact = file.redact if isinstance(file.redact, list) else []
    if table in file.tables:
        return ([file.tables[table]], redact) if file.tables[table][1] != config else None
    return ([*file.tables.values()], redact) if not file.hiding else None


def _read_top_keys(content: Mapping[str, Any], made: ConfigFile) -> None:
    for key, reason in unknown_keys(content, _TOP_KEYS, "").items():
        value = content[key]
        if isinstance(value, dict) or (isinstance(value, list) and any(isinstance(item, dict) for item in value)):
            made.add_hiding(reason)  # probably a handler
        else:
            made.problems.append(f"{made.path}: {reason}")


def _read_outbox(content: Mapping[str, Any], made: ConfigFile) -> None:
    if (outbox := text(content, "outbox", "")) is not None:
        directory = os.path.dirname(made.path)
        made.outbox = outbox if outbox.lower() == "none" else os.path.join(directory, _places.expand_home(outbox))


def _read_timeout(content: Mapping[str, Any], made: ConfigFile) -> None:
    if "timeout" in content:
        made.timeout = seconds(content["timeout"])


def _read_redact(content: Mapping[str, Any], made: ConfigFile) -> None:
    redact = content.get("redact")
    if redact is None or isinstance(redact, bool):
        made.redact = redact
        return
    items = redact if isinstance(redact, list) else [redact]
    usable = [item for item in items if isinstance(item, str) and item]
    made.redact = [_absolute(item, os.path.dirname(made.path)) for item in usable]
    texts(content, "redact", "")  # raises the error of the other items


def _read_handlers(content: Mapping[str, Any], made: ConfigFile) -> None:
    handlers = content.get("handlers", {})
    if not isinstance(handlers, dict):
        made.add_hiding("handlers: expected tables, as in [handlers.mail]")
        return
    for name, table in handlers.items():
        where = f"handlers.{name}"
        is_used = made.applies
        problems: list[str] = []
        try:
            if not isinstance(table, dict):
                raise EventError(f"{where}: expected a table, as in [{where}]")
            is_used = holds(table, where) and made.applies
            handler = _handler(name, table, where, os.path.dirname(made.path))
        except EventError as error:
            problems = [f"{made.path}: {one_line(error)}"]
            handler = (_name_of_invalid(name, table), _handler_config.invalid_config(problems[0], made.path, name))
            if not _handler_config.is_valid_name(handler[0]):
                made.add_hiding(one_line(error))
                continue
        made.tables[name] = handler
        if is_used:
            made.handlers.append(handler)
        else:
            made.unused.append(handler[0])
            made.problems += problems


def _name_of_invalid(name: str, table: Any) -> str:
    try:
        return _full_name(name, table, "")[1]
    except (EventError, AttributeError):  # AttributeError: it is not a table
        return name


# Reading.


def _source(path: str) -> bytes:
    try:
        with open(_files.open_regular(path), "rb") as file:
            _refuse_foreign(os.fstat(file.fileno()))
            content = file.read(MAX_SIZE + 1)
    except OSError as error:
        raise EventError(_unreadable(path) or f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(content) > MAX_SIZE:
        raise EventError(f"is larger than {MAX_SIZE} bytes")
    return content


def _unreadable(path: str) -> str:
    """Return what a path is that is not a file, such as a directory; empty if it is a file or does not exist."""
    if os.path.islink(path) and not os.path.exists(path):
        return f"is a symbolic link to {os.readlink(path)!r}, which does not exist"
    if os.path.isdir(path):
        return "is a directory; expected a file"
    return "is not a regular file" if os.path.exists(path) and not os.path.isfile(path) else ""


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


def _parsed(source: bytes, path: str) -> dict[str, Any]:
    try:
        content: dict[str, Any] = _toml().loads(source.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise EventError(f"is not UTF-8: {error}") from error
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
    kind, full_name = _full_name(name, table, where)
    if not _registry.is_installed(kind):
        raise EventError(f"{dotted(where, 'type') if 'type' in table else where}: {_registry.unknown(kind)}")
    keys = BUILTIN_KEYS.get(kind)
    if errors := unknown_keys(table, (*_COMMON_KEYS, *(keys.names if keys else ())), where):
        raise EventError([*errors.values()])
    config = text(table, "config", where)
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
    kind = text(table, "type", where) or name
    full_name = kind if kind == name else f"{kind}:{name}"
    if wanted := conditions(table, "on", where):
        full_name = f"{full_name}@{'+'.join(wanted)}"
        try:
            _handler_config.split_conditions(full_name)
        except EventError as error:
            raise EventError(f"{where}.on: {one_line(error)}") from error
    return kind, full_name


def _encoded(keys: _Keys, table: Mapping[str, Any], where: str, directory: str) -> str:
    for key in keys.required:
        if not table.get(key):
            raise EventError(f"{where}.{key}: is missing")
    values = {key: _value(table[key], key, where, directory) for key in table if key != keys.several}
    fields = [values.get(key, default) for key, default in keys.values.items()]
    if keys.several:
        fields += [_absolute(item, directory) for item in texts(table, keys.several, where)]
    options = [f"{HANDLER_NAMES.get(key, key)}={values[key]}" for key in keys.options if key in values]
    if not options:
        while len(fields) > 1 and not fields[-1]:
            fields.pop()
    is_whole = keys.whole and len(fields) == len(keys.values)
    return _handler_config.join_fields([*fields, *options], last_whole=is_whole)


def _value(value: Any, key: str, where: str, directory: str) -> str:
    if isinstance(value, list) and key in _JOINED:
        return _JOINED[key].join(_absolute(item, directory) for item in texts({key: value}, key, where))
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        expected = "a text or a list of texts" if key in _JOINED else "a text or a number"
        raise EventError(f"{where}.{key}: expected {expected}")
    if key == "directory":
        return os.path.join(directory, _places.expand_home(str(value)))
    return _absolute(str(value), directory)


def _absolute(value: str, directory: str) -> str:
    """Return a reference ``file:PATH`` with an absolute path; any other text unchanged."""
    kind, colon, path = value.partition(":")
    if kind != "file" or not colon:
        return value
    return f"file:{os.path.join(directory, _places.expand_home(path))}"
