"""The words of a command line that make an event: ``NAME [key=value | key:=json]...``."""

from __future__ import annotations

from event.error import EventError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, NoReturn

DEFAULT_TAIL = 30  # lines of a command's output
_MAX_FILE_SIZE = 1 << 20  # bytes of a file whose content is data
_MAX_JSON_DEPTH = 100  # levels; every encoder of every version of Python manages these


def line_count(text: str) -> int:
    """Return a number of lines.

    :raises EventError: it is no whole number, or negative
    """
    if not (text.isascii() and text.isdigit()):
        raise EventError(f"{text!r} is no number of lines; expected 0 or more")
    return int(text[:9])


def name_and_data(
    words: list[str], reserved: Mapping[str, str], fail: Callable[[str], NoReturn]
) -> tuple[str, dict[str, Any]]:
    """Return an event's name and data.

    :param reserved: keys that cannot be given, and why
    :param fail: called with what is wrong; it does not return
    """
    name = words[0] if words else ""
    if not name or "=" in name:
        fail("the event's NAME is missing; expected NAME [key=value | key:=json]...")
    return name, _data_from_args(words[1:], reserved, fail)


def _data_from_args(words: list[str], reserved: Mapping[str, str], fail: Callable[[str], NoReturn]) -> dict[str, Any]:
    """Return the event's data from key=value and key:=json. No message quotes a value: it may be secret."""
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
        data["begin_time"] = float(begin)  # what $(date +%s) gives; a float is written as a date
    return data


def _content_of(key: str, path: str, fail: Callable[[str], NoReturn]) -> str:
    """Return the text of a file; bytes that are not UTF-8 are replaced."""
    from event import _files

    try:
        with open(_files.open_regular(path), "rb") as file:
            content = file.read(_MAX_FILE_SIZE + 1)
    except OSError as error:
        reason = getattr(error, "strerror", None) or error
        fail(f"{key!r}: the file {path!r} cannot be read ({reason}); a text that begins with @ is given as {key}:=JSON")
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
        fail(f"{key!r}: what follows := is not JSON ({reason}); a string is given as {key}=...")
    return value


def _require_shallow(value: Any) -> None:
    """Raise RecursionError for what some handlers could not write: it would be sent by the others alone."""
    level: list[Any] = [value]
    for _ in range(_MAX_JSON_DEPTH + 1):
        level = [item for item in level if isinstance(item, (dict, list))]
        if not level:
            return
        level = [item for items in level for item in (items.values() if isinstance(items, dict) else items)]
    raise RecursionError


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")
