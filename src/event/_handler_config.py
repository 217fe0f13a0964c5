"""The variable's syntax, both ways: ``name=config|name=config|name``. Pure functions.

A value of a built-in handler may hold what the syntax uses. Such a character is percent-encoded (as RFC 3986 does it),
and only such a one, so that any other configuration is written as e3-core writes it. An escape is ``%2C``, ``%7C`` or
``%25``; any other ``%`` stands for itself.
"""

from __future__ import annotations

_ESCAPES = {"2C": ",", "7C": "|", "25": "%"}


def parse_handlers(value: str) -> list[tuple[str, str]]:
    """Return the (name, configuration) pairs, in order; spaces around names and blank entries do not count."""
    pairs = (entry.partition("=")[::2] for entry in value.split("|") if entry.strip())
    return [(name.strip(), config) for name, config in pairs]


def format_handlers(pairs: list[tuple[str, str]]) -> str:
    """Return what `parse_handlers` reads as pairs.

    :raises ValueError: a name or a configuration holds what the syntax uses, or cannot stand in a variable; the
        message says which and why
    """
    for name, config in pairs:
        if not name.strip() or name != name.strip() or "|" in name or "=" in name or "\0" in name:
            raise ValueError(f"{name!r}: a name is not empty, holds no '|', '=' or NUL, and no spaces around it")
        if not isinstance(config, str) or "|" in config or "\0" in config:
            raise ValueError(f"{name}: its configuration must be a string without '|' and NUL")
    return "|".join(f"{name}={config}" for name, config in pairs)


def split_fields(config: str, most: int = -1) -> list[str]:
    """Return the comma-separated values of a configuration, decoded.

    ``%2C``, ``%7C`` and ``%25`` stand for a comma, a vertical bar and a percent sign.

    :param most: the number of values, at most; further commas belong to the last one. Without it, all commas count.
    """
    return [unquote(field) for field in config.split(",", most - 1 if most > 0 else -1)]


def join_fields(fields: list[str], *, last_whole: bool = False) -> str:
    """Return a configuration that `split_fields` turns into these values again.

    :param fields: the values; commas and vertical bars in them are encoded
    :param last_whole: leave the commas of the last value as they are, for `split_fields` with `most`
    """
    quoted = [quote(field) for field in fields]
    if last_whole:
        quoted[-1] = quote(fields[-1], comma=False)
    return ",".join(quoted)


def quote(value: str, *, comma: bool = True) -> str:
    """Return value with its ``|``, its ``,`` and each ``%`` that would read as an escape percent-encoded.

    :param comma: whether the comma means something in the value's place
    """
    head, *rest = value.split("%")
    value = head + "".join(("%25" if part[:2].upper() in _ESCAPES else "%") + part for part in rest)
    value = value.replace("|", "%7C")
    return value.replace(",", "%2C") if comma else value


def unquote(value: str) -> str:
    """Return what quote was given."""
    head, *rest = value.split("%")
    return head + "".join(
        _ESCAPES[part[:2].upper()] + part[2:] if part[:2].upper() in _ESCAPES else f"%{part}" for part in rest
    )
