"""Convert event data of other types to plain JSON types. Most events do not need this."""

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

# For the types of these modules, str() returns the usual notation without loss.
_WRITTEN_AS_STR = frozenset({"decimal", "fractions", "ipaddress", "uuid", "_pydecimal"})


def to_plain(value: Any, key: str = "", above: tuple[int, ...] = ()) -> Any:
    """Convert a value to plain JSON types.

    :param key: the path of keys to the value, for the error
    :param above: the ids of the containers that contain the value
    :raises EventError: a value contains itself, or is nested too deeply; the message names its key
    """
    if id(value) in above:
        raise EventError(f"event data {key!r} contains itself, which JSON cannot express; remove the inner reference")
    try:
        return _plain(value, key, (*above, id(value)))
    except EventError:
        raise
    except RecursionError as error:
        # Name only the start of the path, which is as long as the value is deep.
        raise EventError(f"event data {'.'.join(key.split('.')[:3])!r} is nested too deeply for JSON") from error
    except Exception:  # an error in the value's own code must not prevent sending the other values
        return shown(value)


def _plain(value: Any, key: str, above: tuple[int, ...]) -> Any:
    kind = type(value)  # isinstance would trust the __class__ of a mock
    if value is None or issubclass(kind, (str, bool)):
        return value
    if issubclass(kind, float):
        return value if value - value == 0 else None
    if issubclass(kind, int):
        return _encode_integer(value)
    if isinstance(value, dict):
        return {_key(k): to_plain(v, f"{key}.{_key(k)}".lstrip("."), above) for k, v in list(value.items())}
    if isinstance(value, (list, tuple)):
        return [to_plain(v, key, above) for v in value]
    return to_plain(natural(value), key, above)


def natural(value: Any) -> Any:
    """Convert a value of another type, one level deep."""
    kind = type(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).decode("utf-8", "backslashreplace")
    if isinstance(value, UserString):
        return str(value)  # as a sequence, its items would again be UserStrings, endlessly
    if isinstance(value, abc.Set):
        return _in_order(value)
    if isinstance(value, abc.Mapping):
        return dict(value.items())
    if isinstance(value, (abc.Sequence, abc.ValuesView)):
        return list(islice(value, len(value)))  # not list(value), which may be endless
    if hasattr(kind, "__dataclass_fields__"):
        # dataclasses.asdict makes deep copies, which fails for a lock or an open file.
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


def _encode_integer(value: int) -> int | str:
    try:
        int.__repr__(value)
    except ValueError:  # more digits than sys.get_int_max_str_digits() allows
        return hex(value)
    return value


def _key(key: Any) -> str:
    """Convert a dict's key to a string, as `json.dumps` does. Keys of other types become their text."""
    if isinstance(key, str):
        return str.__str__(key)  # also for a member of an Enum that is a str
    if key is None or isinstance(key, (bool, float)):
        return json.dumps(key)
    form = to_plain(key)
    return form if isinstance(form, str) else shown(form)
