"""Check values of the configuration file. Each error begins with the key, such as ``handlers.mail.on``."""

from __future__ import annotations

import os

from event._text import closest
from event.error import EventError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any


def unknown_keys(table: Mapping[str, Any], known: Iterable[str], where: str) -> dict[str, str]:
    """Return the error of each unknown key.

    :param where: the table's key; empty for the file
    """
    known = sorted(known)
    errors: dict[str, str] = {}
    for key in [key for key in table if key not in known]:
        hint = closest(key, known) or f"expected one of {', '.join(known)}"
        errors[key] = f"{dotted(where, key)}: is unknown; {hint}"
    return errors


def seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise EventError(f"timeout: is {value!r}; expected a positive number of seconds")
    return float(value)


def text(table: Mapping[str, Any], key: str, where: str) -> str | None:
    """Return a text; None if the key is missing."""
    value = table.get(key)
    if value is not None and (not isinstance(value, str) or not value):
        raise EventError(f"{dotted(where, key)}: expected a text that is not empty")
    return value


def texts(table: Mapping[str, Any], key: str, where: str) -> list[str]:
    """Return a list of texts, which may be written as one text; an empty list if the key is missing."""
    value = table.get(key, [])
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(item, str) and item for item in found):
        raise EventError(f"{dotted(where, key)}: expected a text or a list of texts, none of them empty")
    return found


def conditions(table: Mapping[str, Any], key: str, where: str) -> list[str]:
    """Return the conditions ``on`` or ``when``; an empty list if the key is missing."""
    found = texts(table, key, where)
    if key in table and not found:
        raise EventError(f"{dotted(where, key)}: expected at least one condition; remove the key for no condition")
    return found


def holds(table: Mapping[str, Any], where: str) -> bool:
    """Return whether all conditions of ``when`` are met: ``NAME`` or ``NAME=PATTERN``, negated by a ``!`` before it."""
    met = [_condition_holds(item, dotted(where, "when")) for item in conditions(table, "when", where)]  # checks each
    return all(met)


def _condition_holds(condition: str, where: str) -> bool:
    is_negated = condition.startswith("!")
    name, equals, pattern = condition.removeprefix("!").partition("=")
    if not (name.isascii() and name.replace("_", "0").isalnum()) or pattern.startswith("="):
        raise EventError(
            f"{where}: {condition!r} is not a condition; expected NAME, !NAME, NAME=PATTERN or !NAME=PATTERN, in which "
            "NAME is an environment variable (letters, digits and _)"
        )
    value = os.environ.get(name, "")
    if not equals:
        return bool(value) != is_negated
    from fnmatch import fnmatchcase

    return fnmatchcase(value, pattern) != is_negated


def dotted(where: str, key: str) -> str:
    """Return the full name of a key in a table."""
    return f"{where}.{key}" if where else key
