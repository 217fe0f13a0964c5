"""Convert event data that JSON does not know to plain JSON types. Most events need none of this."""

from __future__ import annotations

import json
from collections import UserString, abc
from enum import Enum
from itertools import islice
from operator import index

from event.error import EventError, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# The str() of these modules' objects is their usual notation, without loss.
_WRITTEN_AS_STR = frozenset({"decimal", "fractions", "ipaddress", "uuid", "_pydecimal"})


def to_plain(value: Any) -> Any:
    """Return value made of plain JSON types.

    :raises EventError: a value holds itself, or is nested too deeply; the message names its key
    """
    return _plain(value, "", ())


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
