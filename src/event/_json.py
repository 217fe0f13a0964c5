"""Encode any event data as JSON (RFC 8259): the one encoder, for dumps and for all handlers.

The standard library's C encoder handles most events alone. If it refuses a value (a NaN, a key that is not a string,
a cycle, deep nesting), `event._json_plain` converts the value to plain JSON types first.

To import `json` takes longer than all else that sends an event from the command line. A process that has not imported
it writes an event of plain texts and numbers without it.
"""

from __future__ import annotations

import sys

from event.error import EventError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# json.dumps makes an encoder at each call that has options.
_ENCODERS: dict[tuple[str | int | None, bool], Callable[[Any], str]] = {}

_CONSTANTS = {None: "null", True: "true", False: "false"}

_SCALARS = frozenset({str, int, float, bool, type(None)})

_END_OF_TIME = 1e11  # seconds since 1970 UTC; arithmetic with smaller times does not overflow

# An escaped backslash, which begins no other escape; a pair of surrogates, which is one character; a surrogate alone.
_SURROGATES = r"\\\\|\\ud[89ab]..\\ud[c-f]..|(\\ud[89a-f])"


def dumps(value: Any, *, indent: int | None = None, sort_keys: bool = False, i_json: bool = False) -> str:
    r"""Return value as JSON text, ASCII only.

    Values that JSON does not know take their natural form:

    ========================================  ==================================================
    set, frozenset, other sets                array, sorted where the elements can be
    deque, range and other sequences          array
    other mappings                            object
    dataclass instance                        object of its fields
    Enum                                      its value
    path                                      string
    bytes, bytearray, memoryview              string: UTF-8, other bytes as ``\xNN``
    date, time, datetime                      string, ISO 8601
    timedelta                                 number of seconds
    Decimal, Fraction, UUID, IP address       string
    exception                                 string, ``Type: message``
    NaN, infinities                           null
    anything else                             string, its ``repr()``
    ========================================  ==================================================

    :param value: what to encode
    :param indent: spaces for each level; None is one line
    :param sort_keys: write the keys of each object in order
    :param i_json: write a lone surrogate, which a file's name can have and strict readers refuse (RFC 7493, 2.1), as
        the text of its escape; for what leaves this package
    :raises EventError: a value holds itself, or is nested too deeply; the message names its key
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
            # The fast encoder of the standard library knows no indentation, but any separator.
            separator = f",\n{' ' * indent}"
            return f"{{{separator[1:]}{_encoder(separator, sort_keys)(value)[1:-1]}\n}}"
        return _encoder(indent, sort_keys)(value)
    except Exception:  # what JSON does not know, or a value whose own code fails
        return _encode_unusual(value, indent, sort_keys)


def _encode_unusual(value: Any, indent: int | None, sort_keys: bool) -> str:
    import json

    from event._json_plain import to_plain

    plain = to_plain(value)
    try:
        return json.dumps(plain, indent=indent, sort_keys=sort_keys)
    except RecursionError as error:  # pragma: no cover  # before Python 3.12, to_plain is the first to give up
        raise EventError("event data is nested too deeply for JSON") from error


def _write_simple(value: Any, step: str, newline: str, sort_keys: bool) -> str:
    """Return value as `json.dumps` writes it.

    :param step: what indents a level
    :param newline: what separates lines of this level; empty for one line
    :raises ValueError: it needs an encoder
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
    """Return an encoder.

    :param layout: the number of spaces for each level, or what separates the values of an object; None for one line
    """
    key = (layout, sort_keys)
    if key not in _ENCODERS:
        import json

        from event._json_plain import natural

        separators, indent = ((layout, ": "), None) if isinstance(layout, str) else (None, layout)
        _ENCODERS[key] = json.JSONEncoder(
            default=natural, allow_nan=False, indent=indent, separators=separators, sort_keys=sort_keys
        ).encode
    return _ENCODERS[key]


def loads(text: str | bytes) -> Any:
    """Return the value that JSON text holds.

    :raises ValueError: the text is no JSON, is no UTF-8, or is nested too deeply; the message says where
    """
    import json

    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def is_time(value: Any) -> bool:
    """Return whether a value that was read is a point in time: seconds since 1970 UTC, at most about 5000."""
    return type(value) in {int, float} and 0 <= value < _END_OF_TIME  # True is an int too
