"""Read and write configurations: ``name=config|name=config|name`` of E3_EVENT_HANDLERS, and the fields of a config.

A value may contain a character that the syntax uses. Only such a character is percent-encoded (RFC 3986), so that all
other configurations are written as e3-core writes them. The escapes are ``%2C``, ``%7C`` and ``%25``; any other ``%``
is an ordinary character.
"""

from __future__ import annotations

from event.error import EventError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

_MISTAKE = "\0"  # begins what is kept in the place of a configuration that is wrong; no configuration holds it
CONDITIONS = ("always", "failure", "success", "cancel", "fixed", "changed")
_ESCAPES = {"2C": ",", "7C": "|", "25": "%"}


def parse_handlers(value: str) -> list[tuple[str, str]]:
    """Return the (name, configuration) pairs, in order; spaces around names and blank entries do not count."""
    pairs = (entry.partition("=")[::2] for entry in value.split("|") if entry.strip())
    return [(name.strip(), config) for name, config in pairs]


def doubtful(pairs: Collection[tuple[str, str]]) -> list[str]:
    """Return a line about each entry that was probably meant otherwise: a name that comes twice, a wrong separator."""
    names = [name for name, _ in pairs]
    lines = [
        f"{name!r} comes twice, and the last one counts; add a label to use both: {name}:other=CONFIG"
        for name in dict.fromkeys(names)
        if names.count(name) > 1
    ]
    for name, config in pairs:
        if other := swallowed_handler(name, config):
            lines.append(f"{name!r} seems to hold the handler {other!r}; separate handlers by '|'")
    return lines


def swallowed_handler(name: str, config: str) -> str:
    """Return the name of a handler that begins after a ``,`` or ``|`` in a configuration; empty if there is none."""
    for part in config.replace("|", ",").split(",")[1:]:
        other, equals, _ = part.partition("=")
        if equals and _is_builtin(other.strip(), name):
            return other.strip()
    return ""


def _is_builtin(other: str, name: str) -> bool:
    from event import _registry

    kind = _registry.kind(other)
    is_option = kind == "s3" and _registry.kind(name) == "broker"
    return kind in _registry.BUILTINS and not is_option


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


def split_conditions(name: str) -> tuple[str, frozenset[str]]:
    """Return a handler's name without its conditions, and these.

    :raises EventError: there is no such condition
    """
    label, at, text = name.rpartition("@")
    if not at:
        return name, frozenset()
    conditions = frozenset(text.split("+"))
    for condition in sorted(conditions):
        if condition not in CONDITIONS:
            from difflib import get_close_matches

            close = get_close_matches(condition, CONDITIONS, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"expected one or several of {', '.join(CONDITIONS)}"
            raise EventError(f"{condition!r} is no condition; {hint}")
    return label, conditions


def mistake(reason: str) -> str:
    """Return what takes the place of a configuration that is wrong, so that an outbox keeps the handler's events."""
    return _MISTAKE + reason


def is_mistake(config: str) -> bool:
    """Return whether a configuration is the reason why there is none."""
    return config.startswith(_MISTAKE)


def require_right(config: str) -> None:
    """Raise EventError, with the reason, if a configuration is a mistake."""
    if is_mistake(config):
        raise EventError(config.removeprefix(_MISTAKE))


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


def decode_options(
    handler: str, fields: Sequence[str], known: Collection[str], position: int, syntax: str
) -> dict[str, str]:
    """Return the options that ``key=value`` fields hold.

    :param handler: the name of the handler, for the error
    :param fields: the last fields of a configuration
    :param known: the keys that the handler has
    :param position: the position of the first field in the configuration, for the error
    :param syntax: what was expected, such as ``expected http=URL[,key=value...]``
    :raises EventError: a field is not ``key=value``, or its key is unknown
    """
    options: dict[str, str] = {}
    for number, field in enumerate(fields, position):
        key, equals, value = field.partition("=")
        if not equals or key not in known:
            # Not the field: it may be a secret in the wrong place.
            raise EventError(f"{handler}: value {number} of the configuration is not understood; {syntax}")
        options[key] = value
    return options


def positive_seconds(value: object, origin: str) -> float:
    """Return a number of seconds.

    :param value: a number, or a string that contains one
    :param origin: what the value is, for the error
    :raises EventError: it is not a positive number
    """
    try:
        number = float(value)  # type: ignore[arg-type]  # what float does not take is the error
    except (TypeError, ValueError):
        number = 0.0
    if not 0 < number < float("inf"):
        raise EventError(f"{origin} is {value!r}; expected a positive number of seconds")
    return number


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
