"""Parse the usual command lines of `send`, `run` and `check` without argparse.

argparse parses all other command lines, including the invalid ones: it has the error messages and the help. A test
compares the two parsers.
"""

from __future__ import annotations

from event._cli._support.arguments import DEFAULT_TAIL, line_count
from event.error import EventError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn


class Prog:
    """Replacement of an argparse parser, with only the members that the commands use.

    :ivar prog: the command's name, for messages
    """

    def __init__(self, prog: str) -> None:
        self.prog = prog

    def error(self, message: str) -> NoReturn:
        """Print an error about the command line, and exit with status 2."""
        from event._cli._support import terminal

        terminal.print_err(f"{self.prog}: {message}; see {self.prog} --help")
        raise SystemExit(2)


class Arguments:
    """The arguments of a command, as attributes. It replaces argparse.Namespace."""

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)


def parse_fast(argv: list[str]) -> Any:
    """Return the arguments, as argparse does; None if argparse must parse them."""
    head, tail, has_tail = argv[1:], [], "--" in argv
    if has_tail:
        where = argv.index("--")
        head, tail = argv[1:where], argv[where + 1 :]
    table = TABLES[argv[0]]
    values: dict[str, Any] = {dest: [] if kind == _LIST else default for dest, kind, default in table.values()}
    words = _read_options(head, table, values)
    if words is None or (values["handlers"] and values["env"] != _ENV):
        return None
    if values.get("quiet") and values.get("verbose"):
        return None
    if argv[0] == "run":
        values.update(words=words, command_line=tail)
    elif argv[0] == "check":
        if words or has_tail:
            return None
    else:
        values.update(words=[*words, *tail], files=[])
    return Arguments(command=argv[0], parser=Prog(f"e3-event {argv[0]}"), **values)


def _read_options(head: list[str], table: dict[str, tuple[str, str, Any]], values: dict[str, Any]) -> list[str] | None:
    """Store the options in `values`; return the other words, or None if argparse must parse them."""
    words = []
    rest = iter(head)
    for word in rest:
        if not word.startswith("-"):
            words.append(word)
            continue
        option, equals, value = word.partition("=")
        if option not in table or (equals and table[option][1] == _FLAG):
            return None
        dest, kind, _ = table[option]
        if kind != _FLAG and not equals:
            value = next(rest, "-")
            if value.startswith("-"):
                return None
        try:
            values[dest] = _KINDS[kind](values[dest], value)
        except EventError:
            return None
    return words


def _timeout_value(_before: object, text: str) -> float:
    from event._handler_config import positive_seconds

    return positive_seconds(text, "the timeout")


_FLAG, _TEXT, _LIST, _SECONDS, _LINES = "flag", "text", "list", "seconds", "lines"
_KINDS: dict[str, Callable[[Any, str], Any]] = {
    _FLAG: lambda _before, _text: True,
    _TEXT: lambda _before, text: text,
    _LIST: lambda before, text: [*before, text],
    _SECONDS: _timeout_value,
    _LINES: lambda _before, text: line_count(text),
}
_ENV = "E3_EVENT_HANDLERS"
_BOTH: dict[str, tuple[str, str, Any]] = {
    "--handler": ("handlers", _LIST, ()),
    "--config": ("config", _TEXT, None),
    "--env": ("env", _TEXT, _ENV),
    "--outbox": ("outbox", _TEXT, None),
    "--timeout": ("timeout", _SECONDS, None),
}
_OUTPUT: dict[str, tuple[str, str, Any]] = {
    "--quiet": ("quiet", _FLAG, False),
    "-q": ("quiet", _FLAG, False),
    "--verbose": ("verbose", _FLAG, False),
    "-v": ("verbose", _FLAG, False),
}
TABLES: dict[str, dict[str, tuple[str, str, Any]]] = {
    "send": {
        **_BOTH,
        **_OUTPUT,
        "--attach": ("attachments", _LIST, ()),
        "--uid": ("uid", _TEXT, None),
        "--strict": ("strict", _FLAG, False),
        "--json": ("json", _FLAG, False),
    },
    "run": {
        **_BOTH,
        **_OUTPUT,
        "--log": ("log", _TEXT, None),
        "--tail": ("tail", _LINES, DEFAULT_TAIL),
        "--junit": ("junit", _TEXT, None),
        "--arguments": ("arguments", _FLAG, False),
        "--start": ("start", _FLAG, False),
        "--strict": ("strict", _FLAG, False),
    },
    "check": {**_BOTH, "--send": ("send", _FLAG, False), "--json": ("json", _FLAG, False)},
}
