"""Encode event data of any type as JSON (RFC 8259), for dumps and for all handlers.

Most events are encoded by the standard library's C encoder. It rejects NaN, keys that are not strings,
cycles and deep nesting. For such a value, `event._json_plain` first converts the value to plain JSON types.

Importing `json` takes longer than sending an event from the command line. So if `json` is not imported yet, events of
simple texts and numbers are encoded without it.
"""

from __future__ import annotations

import sys

from event.error import EventError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# A cache: json.dumps would create an encoder at each call with options.
_ENCODERS: dict[tuple[str | int | None, bool], Callable[[Any], str]] = {}

_CONSTANTS = {None: "null", True: "true", False: "false"}

_SCALARS = frozenset({str, int, float, bool, type(None)})

_END_OF_TIME = 1e11  # seconds since 1970 UTC; arithmetic with smaller times does not overflow

# An escaped backslash; a pair of surrogates, which is one character; or (group 1) a lone surrogate.
_SURROGATES = r"\\\\|\\ud[89ab]..\\ud[c-f]..|(\\ud[89a-f])"


def dumps(value: Any, *, indent: int | None = None, sort_keys: bool = False, i_json: bool = False) -> str:
    """Encode a value as JSON text, in ASCII. The page "Formats" lists the forms of types that JSON does not have.

    :param indent: spaces for each level; None for a single line
    :param sort_keys: whether to sort the keys of each object
    :param i_json: whether to replace lone surrogates, which file names may contain, by the text of their escape, for
        data that other programs read: strict parsers reject lone surrogates (RFC 7493, 2.1)
    :raises EventError: a value contains itself, or is nested too deeply; the message names its key
    """
    text = _encode_value(value, indent, sort_keys)
    if i_json and "\\ud" in text:
        import re

        return re.sub(_SURROGATES, lambda found: f"\\{found[0]}" if found[1] else found[0], text)
    return text


def _encode_value(value: Any, indent: int | None, sort_keys: bool) -> str:
    if "json" not in sys.modules:
        step = " " * (indent or 0)
        try:
            return _write_simple(value, step, "\n" if step else "", sort_keys)
        except (ValueError, RecursionError):
            pass
    try:
        if indent and type(value) is dict and value and _SCALARS.issuperset(map(type, value.values())):
            # The C encoder does not support indentation, but accepts any separator.
            separator = f",\n{' ' * indent}"
            return f"{{{separator[1:]}{_encoder(separator, sort_keys)(value)[1:-1]}\n}}"
        return _encoder(indent, sort_keys)(value)
    except Exception:  # an unsupported type, or an error in a value's own code
        return _encode_unusual(value, indent, sort_keys)


def _encode_unusual(value: Any, indent: int | None, sort_keys: bool) -> str:
    import json

    from event._json_plain import to_plain

    plain = to_plain(value)
    try:
        return json.dumps(plain, indent=indent, sort_keys=sort_keys)
    except RecursionError as error:  # pragma: no cover  # before Python 3.12, to_plain raises first
        raise EventError("event data is nested too deeply for JSON") from error


def _write_simple(value: Any, step: str, newline: str, sort_keys: bool) -> str:
    """Encode a simple value as `json.dumps` would, without importing `json`. Raise ValueError for other values.

    :param step: the indentation of a level
    :param newline: the separator of lines on this level; empty for a single line
    """
    kind = type(value)
    if kind is str:
        return _quote_simple(value)
    if value is None or kind is bool:
        return _CONSTANTS[value]
    if kind is int or (kind is float and value - value == 0):
        return repr(value)
    inner = newline + step
    if kind is dict:
        pairs = sorted(value.items()) if sort_keys else value.items()
        items = [f"{_quote_simple(key)}: {_write_simple(item, step, inner, sort_keys)}" for key, item in pairs]
    elif kind is list or kind is tuple:
        items = [_write_simple(item, step, inner, sort_keys) for item in value]
    else:
        raise ValueError
    separator = f",{inner}" if newline else ", "
    begin, end = "{}" if kind is dict else "[]"
    return f"{begin}{inner}{separator.join(items)}{newline}{end}" if items else begin + end


def _quote_simple(text: str) -> str:
    if type(text) is not str or not text.isascii() or not text.isprintable() or '"' in text or "\\" in text:
        raise ValueError
    return f'"{text}"'


def _encoder(layout: str | int | None, sort_keys: bool) -> Callable[[Any], str]:
    """Return the encoder of a layout: a number of spaces for each level, or the separator of an object's values."""
    key = (layout, sort_keys)
    if key not in _ENCODERS:
        import json

        separators, indent = ((layout, ": "), None) if isinstance(layout, str) else (None, layout)
        _ENCODERS[key] = json.JSONEncoder(
            default=_natural, allow_nan=False, indent=indent, separators=separators, sort_keys=sort_keys
        ).encode
    return _ENCODERS[key]


def _natural(value: Any) -> Any:
    from event._json_plain import natural  # rarely needed

    return natural(value)


def loads(text: str | bytes) -> Any:
    """Decode JSON text.

    :raises ValueError: the text is not valid JSON or not UTF-8, or is nested too deeply
    """
    import json

    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def is_time(value: Any) -> bool:
    """Return whether a decoded value is a time: a number of seconds since 1970 UTC, up to about the year 5100."""
    return type(value) in {int, float} and 0 <= value < _END_OF_TIME  # type(), because isinstance accepts True
