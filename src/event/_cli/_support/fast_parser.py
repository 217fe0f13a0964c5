"""Parse the usual command lines of `send`, `run` and `check` without argparse.

A command declares its options once, for both parsers. argparse parses all other command lines, including the invalid
ones: it has the error messages and the help. A test compares the two parsers.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, NoReturn


class FastParser:
    """Replacement of argparse.ArgumentParser, with only the members that the commands use."""

    def __init__(self, prog: str) -> None:
        self.prog = prog
        self._options: dict[str, dict[str, Any]] = {}  # the arguments of `add_argument` for each option
        self._defaults: dict[str, Any] = {}
        self._exclusive: list[_ExclusiveGroup] = []

    def add_argument(self, *names: str, **details: Any) -> str:
        """Add an option; return the name of its value."""
        dest: str = details.setdefault("dest", names[-1].lstrip("-"))
        missing: Any = [] if details.get("nargs") == "*" else False if details.get("action") == "store_true" else None
        self._defaults[dest] = details.get("default", missing)
        self._options |= dict.fromkeys(names, details)
        return dest

    def add_argument_group(self, _title: str) -> FastParser:
        """Return this parser. Groups matter only for the help."""
        return self

    def add_mutually_exclusive_group(self) -> _ExclusiveGroup:
        """Return a group of options of which a command line may have only one."""
        self._exclusive.append(_ExclusiveGroup(self))
        return self._exclusive[-1]

    def set_defaults(self, **values: Any) -> None:
        self._defaults |= values

    def error(self, message: str) -> NoReturn:
        """Print an error about the command line, and exit with status 2."""
        from event._cli._support import terminal

        terminal.print_err(f"{self.prog}: {message}; see {self.prog} --help")
        raise SystemExit(2)

    def parse(self, head: list[str], tail: list[str]) -> dict[str, Any]:
        """Return the arguments, as argparse does. Raise any exception if argparse must parse them.

        :param tail: the arguments after ``--``
        """
        values = {dest: [*value] if isinstance(value, list) else value for dest, value in self._defaults.items()}
        used: set[str] = set()
        rest = iter(head)
        for word in rest:
            if not word.startswith("-"):
                values["words"] = [*values["words"], word]
                continue
            option, equals, text = word.partition("=")
            details = self._options[option]
            dest = details["dest"]
            used.add(dest)
            values[dest] = _value(details, values[dest], text if equals else None, rest)
        if any(len(group.dests & used) > 1 for group in self._exclusive):
            raise ValueError("these options exclude each other")
        if "command_line" in values:
            values["command_line"] = tail
        elif tail:
            values["words"] = [*values["words"], *tail]
        return values


class _ExclusiveGroup:
    def __init__(self, parser: FastParser) -> None:
        self._parser = parser
        self.dests: set[str] = set()

    def add_argument(self, *names: str, **details: Any) -> None:
        self.dests.add(self._parser.add_argument(*names, **details))


def _value(details: dict[str, Any], before: Any, text: str | None, rest: Iterator[str]) -> Any:
    """Return an option's value: the text after ``=``, or else the next argument."""
    action = details.get("action")
    if action == "store_true" and text is None:
        return True
    if text is None and (text := next(rest)).startswith("-"):
        raise ValueError(text)
    if action == "append":
        return [*before, text]
    if action:
        raise ValueError(action)
    return details.get("type", str)(text)


class Arguments:
    """The arguments of a command, as attributes. It replaces argparse.Namespace."""

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)


def parse_fast(argv: list[str]) -> Any:
    """Return the arguments, as argparse does; None if argparse must parse them."""
    command = __import__(f"event._cli.{argv[0]}", fromlist=["run"])
    parser = FastParser(f"e3-event {argv[0]}")
    command.add_options(parser)
    try:
        values = parser.parse(*split_at_dashes(argv[1:]))
    except Exception:
        return None
    return Arguments(command=argv[0], parser=parser, run=command.run, **values)


def split_at_dashes(argv: list[str]) -> tuple[list[str], list[str]]:
    where = argv.index("--") if "--" in argv else len(argv)
    return argv[:where], argv[where + 1 :]
