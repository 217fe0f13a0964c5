"""Parse an event's name and data from a command line: ``NAME [key=value | key:=json]...``."""

from __future__ import annotations

from event.error import EventError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, NoReturn

DEFAULT_TAIL = 30  # lines of a command's output
_MAX_FILE_SIZE = 1 << 20  # bytes of a file whose content is data
_MAX_JSON_DEPTH = 100  # levels; every JSON encoder of every Python version supports these


def line_count(text: str) -> int:
    """Return a number of lines.

    :raises EventError: it is not a whole number of at least 0
    """
    if not (text.isascii() and text.isdigit()):
        raise EventError(f"{text!r} is not a number of lines; expected 0 or more")
    return int(text[:9])


def name_and_data(
    words: list[str], reserved: Mapping[str, str], fail: Callable[[str], NoReturn]
) -> tuple[str, dict[str, Any]]:
    """Return an event's name and data.

    :param reserved: keys that must not be used, and the reason
    :param fail: called with an error message; it does not return
    """
    name = words[0] if words else ""
    if not name or "=" in name:
        fail("the event's NAME is missing; expected NAME [key=value | key:=json]...")
    return name, _data_from_args(words[1:], reserved, fail)


def _data_from_args(words: list[str], reserved: Mapping[str, str], fail: Callable[[str], NoReturn]) -> dict[str, Any]:
    """Return the event's data from key=value and key:=json. Error messages do not show values, which may be secret."""
    data: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        is_json = key.endswith(":")
        key = key.removesuffix(":")
        if not equals or not key:
            fail(f"{key!r}: expected key=value or key:=json")
        if key in reserved:
            fail(f"{key!r} cannot be set as data; {reserved[key]}")
        if key in data:
            fail(f"{key!r} is given twice")
        if text.startswith("@"):
            text = _content_of(key, text[1:], fail)
        data[key] = _value(key, text, fail) if is_json else text
    begin = data.get("begin_time")
    if type(begin) is int:
        data["begin_time"] = float(begin)  # as from $(date +%s); handlers format only a float as a date
    return data


def _content_of(key: str, path: str, fail: Callable[[str], NoReturn]) -> str:
    """Return the text of a file. Invalid UTF-8 is replaced."""
    from event import _files

    try:
        with open(_files.open_regular(path), "rb") as file:
            content = file.read(_MAX_FILE_SIZE + 1)
    except OSError as error:
        reason = getattr(error, "strerror", None) or error
        fail(f"{key!r}: the file {path!r} cannot be read ({reason}); for text that begins with @, use {key}:=JSON")
    if len(content) > _MAX_FILE_SIZE:
        fail(f"{key!r}: the file {path!r} is larger than {_MAX_FILE_SIZE} bytes; attach it instead")
    return content.decode("utf-8", "replace")


def _value(key: str, text: str, fail: Callable[[str], NoReturn]) -> Any:
    import json

    try:
        value = json.loads(text, parse_constant=_refuse)
        _require_shallow(value)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        fail(f"{key!r}: the value after := is not JSON ({reason}); to pass a string, use {key}=...")
    return value


def _require_shallow(value: Any) -> None:
    """Raise RecursionError if a value is nested too deeply for some handlers."""
    level: list[Any] = [value]
    for _ in range(_MAX_JSON_DEPTH + 1):
        level = [item for item in level if isinstance(item, (dict, list))]
        if not level:
            return
        level = [item for items in level for item in (items.values() if isinstance(items, dict) else items)]
    raise RecursionError


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")
