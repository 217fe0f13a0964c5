"""Templates for titles and bodies: ``{key}`` is a value of an event's data."""

from __future__ import annotations

import re
from dataclasses import dataclass

from event import _json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_FIELD = re.compile(r"\{\{|\}\}|\{([^{}]+)\}")


@dataclass(frozen=True, slots=True)
class Templates:
    """What replaces the title and the body of a notice; an empty one, or one that is filled with nothing, does not."""

    title: str = ""
    body: str = ""


def fill(template: str, data: Mapping[str, Any]) -> str:
    """Return a template with its fields filled in.

    ``{key}`` is a value, ``{key.inner}`` one inside of it, and ``{build_url}`` is ``{ci.build_url}`` if the data has no
    ``build_url``. ``{{`` and ``}}`` are braces. An unknown field stays as it is.

    Not `str.format`, which reaches into objects, stops at a missing key, and takes the width of a field from it: a
    gigabyte of spaces, say.

    :param data: made of what JSON knows
    """
    return _FIELD.sub(lambda found: _fill_field(found, data), template)


def as_text(value: Any) -> str:
    """Return a value of JSON for a person: a string as it is, null as nothing."""
    if value is None:
        return ""
    return value if isinstance(value, str) else _json.dumps(value)


def _fill_field(found: re.Match[str], data: Mapping[str, Any]) -> str:
    key = found[1]
    if key is None:
        return found[0][0]
    for path in ([key], key.split("."), ["ci", key]):
        value: Any = data
        for part in path:
            value = value.get(part, _MISSING) if isinstance(value, dict) else _MISSING
        if value is not _MISSING:
            return as_text(value)
    return found[0]


_MISSING = object()
