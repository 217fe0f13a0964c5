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
    """The templates of a notice's title and body. An empty template, or one with a blank result, is not used."""

    title: str = ""
    body: str = ""


def fill(template: str, data: Mapping[str, Any]) -> str:
    """Return a template with its fields filled in.

    ``{key}`` is replaced by a value, ``{key.inner}`` by a value in an object. If the data has no ``build_url``,
    ``{build_url}`` is ``{ci.build_url}``. ``{{`` and ``}}`` are braces. An unknown field remains unchanged.

    `str.format` is not used: it reads attributes of objects, and raises an exception for a missing key. It also accepts
    any field width, such as a gigabyte of spaces.

    :param data: plain JSON values
    """
    return _FIELD.sub(lambda found: _fill_field(found, data), template)


def as_text(value: Any) -> str:
    """Return a JSON value as readable text: a string unchanged, null as an empty text."""
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
