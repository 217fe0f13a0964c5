"""Parse and format E3_EVENT_HANDLERS (``name=config|name=config|name``), and the fields of a configuration.

Values may contain characters of this syntax. Only these characters are percent-encoded (RFC 3986), so that all other
configurations have the same form as in e3-core. The escapes are ``%2C``, ``%7C`` and ``%25``. Any other ``%`` is an
ordinary character.
"""

from __future__ import annotations

from event.error import EventError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

LONGEST_TIMEOUT = 4_000_000.0  # seconds; the timers of every system accept this value
_INVALID_PREFIX = "\0"  # starts the text that replaces an invalid configuration; no configuration contains a NUL
CONDITIONS = ("always", "failure", "success", "cancel", "fixed", "changed")
# The conditions that an outcome meets if the previous outcome was different.
MET_BY_CHANGE = {"success": frozenset({"fixed", "changed"}), "failure": frozenset({"changed"})}
_ESCAPES = {"%25": "%", "%2C": ",", "%2c": ",", "%7C": "|", "%7c": "|"}  # the escape of "%" is encoded first


def parse_handlers(value: str) -> list[tuple[str, str]]:
    """Return the (name, configuration) pairs, in order. Ignore spaces around names, and blank entries."""
    pairs = (entry.partition("=")[::2] for entry in value.split("|") if entry.strip())
    return [(name.strip(), config) for name, config in pairs]


def likely_mistakes(pairs: Collection[tuple[str, str]]) -> list[str]:
    """Return a warning for each entry that is probably a mistake: a repeated name or a wrong separator."""
    names = [name for name, _ in pairs]
    lines = [
        f"{name!r} appears twice, and the last one is used; add a label to use both: {name}:other=CONFIG"
        for name in dict.fromkeys(names)
        if names.count(name) > 1
    ]
    for name, config in pairs:
        if other := swallowed_handler(name, config):
            lines.append(f"{name!r} seems to contain the handler {other!r}; separate handlers by '|'")
    return lines


def swallowed_handler(name: str, config: str) -> str:
    """Return the name of a handler that follows a ``,`` or ``|`` in a configuration; empty if there is none."""
    names = [part.partition("=")[0].strip() for part in config.replace("|", ",").split(",")[1:] if "=" in part]
    if not names:  # usually; do not import `_registry` then
        return ""
    from event import _registry

    # ``s3=`` is also an option of the handler `broker`.
    known = _registry.BUILTINS.keys() - ({"s3"} if _registry.kind(name) == "broker" else set())
    # A URL, such as ``s3://bucket/year=2026``, is no handler.
    return next((other for other in names if _registry.kind(other) in known and "://" not in other), "")


def format_handlers(pairs: list[tuple[str, str]]) -> str:
    """Format (name, configuration) pairs for `parse_handlers`.

    :raises ValueError: a name or a configuration contains an invalid character; the message explains which and why
    """
    for name, config in pairs:
        if not is_valid_name(name):
            raise ValueError(f"{name!r}: a name must not be empty, contain '|', '=' or NUL, or have spaces around it")
        if not isinstance(config, str) or "|" in config or "\0" in config:
            raise ValueError(f"{name}: its configuration must be a string without '|' and NUL")
    return "|".join(f"{name}={config}" for name, config in pairs)


def is_valid_name(name: str) -> bool:
    """Return whether a handler can have a name."""
    return bool(name) and name == name.strip() and not {"|", "=", "\0"} & {*name}


def split_conditions(name: str) -> tuple[str, frozenset[str]]:
    """Split a handler's name, such as ``smtp@failure+changed``, into the name and its conditions.

    :raises EventError: a condition is unknown
    """
    label, at, text = name.rpartition("@")
    if not at:
        return name, frozenset()
    conditions = frozenset(text.split("+"))
    for condition in sorted(conditions):
        if condition not in CONDITIONS:
            from event._text import closest

            hint = closest(condition, CONDITIONS) or f"expected one or several of {', '.join(CONDITIONS)}"
            raise EventError(f"{condition!r} is not a condition; {hint}")
    return label, conditions


def invalid_config(reason: str, path: str, table: str = "") -> str:
    """Return a text that replaces an invalid configuration, so that an outbox keeps the handler's events.

    :param reason: why the configuration is invalid
    :param path: the configuration file
    :param table: the name of the handler's table in the file; empty for all tables
    """
    return f"{_INVALID_PREFIX}{path}\0{table}\0{reason}"


def is_invalid_config(config: str) -> bool:
    """Return whether a configuration is a text from `invalid_config`."""
    return config.startswith(_INVALID_PREFIX)


def source_of_invalid(config: str) -> tuple[str, str]:
    """Return the arguments ``path`` and ``table`` of `invalid_config`."""
    path, _, rest = config.removeprefix(_INVALID_PREFIX).partition("\0")
    return path, rest.partition("\0")[0]


def require_valid_config(config: str) -> None:
    """Raise EventError with the reason if a configuration is a text from `invalid_config`."""
    if is_invalid_config(config):
        raise EventError(config.rpartition("\0")[2])


def split_fields(config: str, most: int = -1) -> list[str]:
    """Split a configuration at its commas, and decode ``%2C``, ``%7C`` and ``%25`` in each value.

    :param most: the maximum number of values; further commas are part of the last value. By default, there is no limit.
    """
    return [unquote(field) for field in config.split(",", most - 1 if most > 0 else -1)]


def join_fields(fields: list[str], *, last_whole: bool = False) -> str:
    """Join values to a configuration, which `split_fields` splits into the same values again.

    :param fields: the values; commas and vertical bars in them are encoded
    :param last_whole: do not encode the commas of the last value; for `split_fields` with `most`
    """
    quoted = [quote(field) for field in fields]
    if last_whole:
        quoted[-1] = quote(fields[-1], comma=False)
    return ",".join(quoted)


def decode_options(
    handler: str, fields: Sequence[str], known: Collection[str], position: int, syntax: str
) -> dict[str, str]:
    """Parse the last fields of a configuration, which are ``key=value``.

    :param known: the valid keys
    :param position: the position of the first field in the configuration, for the error
    :param syntax: the expected syntax, for the error, such as ``expected http=URL[,key=value...]``
    :raises EventError: a field is not ``key=value``, or its key is unknown
    """
    options: dict[str, str] = {}
    for number, field in enumerate(fields, position):
        key, equals, value = field.partition("=")
        if not equals or key not in known:
            # Do not quote the field, which may be a secret in the wrong place.
            raise EventError(f"{handler}: value {number} of the configuration is not understood; {syntax}")
        options[key] = value
    return options


def positive_seconds(value: object, origin: str) -> float:
    """Convert a number, or a string with a number, to a positive number of seconds, at most `LONGEST_TIMEOUT`.

    :param origin: the name of the value, for the error
    :raises EventError: the value is not a positive number
    """
    try:
        number = float(value)  # type: ignore[arg-type]  # other types raise TypeError
    except (TypeError, ValueError):
        number = 0.0
    if not 0 < number < float("inf"):
        raise EventError(f"{origin} is {value!r}; expected a positive number of seconds")
    return min(number, LONGEST_TIMEOUT)


def quote(value: str, *, comma: bool = True) -> str:
    """Percent-encode each ``|``, each ``,`` if `comma` is true, and each ``%`` that would be the start of an escape."""
    for escape in _ESCAPES:
        value = value.replace(escape, f"%25{escape[1:]}")
    value = value.replace("|", "%7C")
    return value.replace(",", "%2C") if comma else value


def unquote(value: str) -> str:
    """Decode a value that `quote` has encoded."""
    for escape, character in reversed(_ESCAPES.items()):
        value = value.replace(escape, character)
    return value
