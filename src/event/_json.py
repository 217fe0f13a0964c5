"""Encode any event data as JSON (RFC 8259): the one encoder, for dumps and for all handlers.

The standard library's C encoder handles most events alone. If it refuses a value (a NaN, a key that is not a string,
a cycle, deep nesting), this module converts the value to plain JSON types first.
"""

from __future__ import annotations

import json
from collections import UserString, abc
from enum import Enum
from itertools import islice
from operator import index

from event.error import EventError, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# The str() of these modules' objects is their usual notation, without loss.
_WRITTEN_AS_STR = frozenset({"decimal", "fractions", "ipaddress", "uuid", "_pydecimal"})


# json.dumps makes an encoder at each call that has options.
_ENCODERS: dict[tuple[str | int | None, bool], Callable[[Any], str]] = {}

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
    try:
        if indent and type(value) is dict and value and _SCALARS.issuperset(map(type, value.values())):
            # The fast encoder of the standard library knows no indentation, but any separator.
            separator = f",\n{' ' * indent}"
            return f"{{{separator[1:]}{_encoder(separator, sort_keys)(value)[1:-1]}\n}}"
        return _encoder(indent, sort_keys)(value)
    except Exception:  # what JSON does not know, or a value whose own code fails
        plain = _plain(value, "", ())
    try:
        return json.dumps(plain, indent=indent, sort_keys=sort_keys)
    except RecursionError as error:  # pragma: no cover  # before Python 3.12, _plain is the first to give up
        raise EventError("event data is nested too deeply for JSON") from error


def _encoder(layout: str | int | None, sort_keys: bool) -> Callable[[Any], str]:
    """Return an encoder.

    :param layout: the number of spaces for each level, or what separates the values of an object; None for one line
    """
    key = (layout, sort_keys)
    if key not in _ENCODERS:
        separators, indent = ((layout, ": "), None) if isinstance(layout, str) else (None, layout)
        _ENCODERS[key] = json.JSONEncoder(
            default=natural, allow_nan=False, indent=indent, separators=separators, sort_keys=sort_keys
        ).encode
    return _ENCODERS[key]


def loads(text: str | bytes) -> Any:
    """Return the value that JSON text holds.

    :raises ValueError: the text is no JSON, is no UTF-8, or is nested too deeply; the message says where
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def is_time(value: Any) -> bool:
    """Return whether a value that was read is a point in time: seconds since 1970 UTC, at most about 5000."""
    return type(value) in {int, float} and 0 <= value < _END_OF_TIME  # True is an int too


def natural(value: Any) -> Any:
    """Return the natural form, one level deep, of a value that JSON does not know."""
    try:
        return _natural(value)
    except Exception:  # a value's own code failed: the event must still go out
        return shown(value)


def _natural(value: Any) -> Any:
    kind = type(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).decode("utf-8", "backslashreplace")
    if isinstance(value, UserString):
        return str(value)  # a sequence, whose items are such sequences without end
    if isinstance(value, abc.Set):
        return _in_order(value)
    if isinstance(value, abc.Mapping):
        return dict(value.items())
    if isinstance(value, (abc.Sequence, abc.ValuesView)):
        return list(islice(value, len(value)))  # not list(value): one that never ends would fill the memory
    if hasattr(kind, "__dataclass_fields__"):
        # Not dataclasses.asdict: it deep-copies, which fails for a lock or an open file.
        return {name: getattr(value, name) for name in kind.__dataclass_fields__ if hasattr(value, name)}
    if isinstance(value, BaseException):
        return f"{kind.__name__}: {str(value).strip()}".removesuffix(": ")
    return _scalar(value, kind)


def _scalar(value: Any, kind: type) -> Any:
    if hasattr(kind, "__fspath__"):
        return kind.__fspath__(value)
    if hasattr(kind, "isoformat"):
        return value.isoformat()
    if hasattr(kind, "total_seconds"):
        return value.total_seconds()
    if kind.__module__ in _WRITTEN_AS_STR:
        return str(value)
    if hasattr(kind, "__index__"):
        return index(value)
    if hasattr(kind, "__float__"):
        return float(value)
    return shown(value)


def _in_order(values: Any) -> list[Any]:
    try:
        return sorted(values)
    except TypeError:
        return list(values)


def _plain(value: Any, key: str, above: tuple[int, ...]) -> Any:
    """Return value made of what JSON knows alone.

    :param key: where value stands, for the error
    :param above: the ids of the containers around value
    """
    if id(value) in above:
        raise EventError(f"event data {key!r} holds itself, which JSON cannot express; leave the inner reference out")
    try:
        return _plain_of(value, key, (*above, id(value)))
    except EventError:
        raise
    except RecursionError as error:
        # The path is as deep as the value; its beginning tells enough.
        raise EventError(f"event data {'.'.join(key.split('.')[:3])!r} is nested too deeply for JSON") from error
    except Exception:  # the value's own code failed: the others must still go out
        return shown(value)


def _plain_of(value: Any, key: str, above: tuple[int, ...]) -> Any:
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, int):
        return _encode_integer(value)
    if isinstance(value, dict):
        return {_key(k): _plain(v, f"{key}.{_key(k)}".lstrip("."), above) for k, v in list(value.items())}
    if isinstance(value, (list, tuple)):
        return [_plain(v, key, above) for v in value]
    return _plain(natural(value), key, above)


def _encode_integer(value: int) -> int | str:
    try:
        int.__repr__(value)
    except ValueError:  # more digits than sys.get_int_max_str_digits() allows
        return hex(value)
    return value


def _key(key: Any) -> str:
    """Return an object's key as a string: as `json.dumps` writes it, or else the key's text."""
    if isinstance(key, str):
        return str.__str__(key)  # the text of a str that is an Enum too
    if key is None or isinstance(key, (bool, float)):
        return json.dumps(key)
    form = _encode_integer(key) if isinstance(key, int) else natural(key)
    return form if isinstance(form, str) else shown(form)
