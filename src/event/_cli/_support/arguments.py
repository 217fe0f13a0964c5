"""Parse an event's name and data from a command line: ``NAME [key=value | key:=json]...``."""

from __future__ import annotations

from event.error import EventError, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, NoReturn

_MAX_FILE_SIZE = 1 << 20  # bytes of a file whose content is data
_MAX_JSON_DEPTH = 100  # levels; every JSON encoder of every Python version supports these


def name_and_data(
    words: list[str], reserved: Mapping[str, str], fail: Callable[[str], NoReturn]
) -> tuple[str, dict[str, Any], list[str]]:
    """Return an event's name and data, and a line for each value that cannot be read.

    Such a value depends on the machine, not on the words. So a key whose file cannot be read is left out, and text that
    is not JSON remains text. The lines do not show values, which may be secret.

    :param reserved: keys that must not be used, and the reason
    :param fail: called with an error message if a word is malformed; it does not return
    """
    name = words[0] if words else ""
    if not name or "=" in name:
        fail("the event's NAME is missing; expected NAME [key=value | key:=json]...")
    data: dict[str, Any] = {}
    problems: list[str] = []
    for key, (text, is_json) in _values_by_key(words[1:], reserved, fail).items():
        try:
            content = _content_of(text[1:]) if text.startswith("@") else text
        except EventError as error:
            problems.append(f"{key!r} is not sent: {one_line(error)}; for text that begins with @, use {key}:=JSON")
            continue
        try:
            data[key] = _json_value(content) if is_json else content
        except EventError as error:
            data[key] = content
            problems.append(f"{key!r} is sent as text: {one_line(error)}; to pass text, use {key}=...")
    begin = data.get("begin_time")
    if type(begin) is int:
        data["begin_time"] = float(begin)  # as from $(date +%s); handlers format only a float as a date
    return name, data, problems


def _values_by_key(
    words: list[str], reserved: Mapping[str, str], fail: Callable[[str], NoReturn]
) -> dict[str, tuple[str, bool]]:
    """Return the text of each key=value and key:=json, and whether it is JSON."""
    values: dict[str, tuple[str, bool]] = {}
    for word in words:
        key, equals, text = word.partition("=")
        is_json = key.endswith(":")
        key = key.removesuffix(":")
        if not equals or not key:
            fail(f"{key!r}: expected key=value or key:=json")
        if key in reserved:
            fail(f"{key!r} cannot be set as data; {reserved[key]}")
        if key in values:
            fail(f"{key!r} is given twice")
        values[key] = text, is_json
    return values


def _content_of(path: str) -> str:
    """Return the text of a file. Invalid UTF-8 is replaced.

    :raises EventError: it cannot be read, or is too large
    """
    from event import _files

    try:
        with open(_files.open_regular(path), "rb") as file:
            content = file.read(_MAX_FILE_SIZE + 1)
    except OSError as error:
        reason = getattr(error, "strerror", None) or error
        raise EventError(f"the file {path!r} cannot be read ({reason})") from error
    if len(content) > _MAX_FILE_SIZE:
        raise EventError(f"the file {path!r} is larger than {_MAX_FILE_SIZE} bytes; attach it instead")
    return content.decode("utf-8", "replace")


def _json_value(text: str) -> Any:
    """Return the value of a JSON text.

    :raises EventError: it is not JSON, or nested too deeply
    """
    import json

    try:
        value = json.loads(text, parse_constant=_refuse)
        _require_shallow(value)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise EventError(f"the value after := is not JSON ({reason})") from error
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
