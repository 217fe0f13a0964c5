"""What the options, the environment variables and the configuration file say, and which of them counts."""

from __future__ import annotations

import os

from event import _handler_config, _places
from event._cli._support import terminal
from event.error import EventError, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from event._config_file import ConfigFile

DEADLINE = 30.0  # seconds for one event, if nothing else is said

Pairs = list[tuple[str, str]]


class Settings:
    """The settings of a command, each with its origin. An option wins over a variable, and a variable over the file.

    What is wrong is a line on stderr; the command goes on without it.

    :param default_outbox: whether there is an outbox if nothing names one
    :param finds_file: whether a configuration file counts that is only found, not named
    :ivar file: the configuration file; None if there is none
    :ivar handlers: the name and the configuration of each handler; a name may come twice, where the last one counts
    :ivar handlers_from: where the handlers are named
    :ivar outbox: the outbox's absolute path; None for no outbox
    :ivar timeout: in seconds
    :ivar redact: as `EventSender.redact`
    :ivar problems: the lines that were printed
    :ivar dropped: the handlers that get no event, since they are wrong and there is no outbox
    """

    def __init__(self, args: argparse.Namespace, *, default_outbox: bool = True, finds_file: bool = True) -> None:
        self.problems: list[str] = []
        self.dropped: list[str] = []
        self._args = args
        self.file = self._read_file(finds_file=finds_file)
        self.outbox, self.outbox_from = self._find_outbox(default=default_outbox)
        self.handlers, self.handlers_from = self._find_handlers()
        self.timeout, self.timeout_from = self._find_timeout()
        self.redact: tuple[str, ...] | None = ()
        if self.file and self.file.redact is not None:
            from event._manager import further_secrets

            self.redact = further_secrets(self.file.redact)

    def no_handler_line(self) -> str:
        """Return what to do about an event that has nowhere to go."""
        variable = getattr(self._args, "env", "E3_EVENT_HANDLERS")
        return (
            f"nothing is sent: {self.handlers_from} names no handler; "
            f"set it, as in {variable}=file=events, or give --handler file=events"
        )

    def rows(self) -> list[tuple[str, str, str]]:
        """Return the name, the value and the origin of each setting, without the handlers' configurations."""
        redact = "off" if self.redact is None else f"on, {len(self.redact)} more" if self.redact else "on"
        file = self.file
        unused = f"; {', '.join(file.unused)}: when does not hold" if file and file.unused else ""
        return [
            ("config file", file.path if file else "none", "E3_EVENT_CONFIG, --config or found" if file else ""),
            ("handlers", (", ".join(dict(self.handlers)) or "none") + unused, self.handlers_from),
            ("outbox", self.outbox or "none", self.outbox_from),
            ("timeout", f"{self.timeout:g} s", self.timeout_from),
            ("redact", redact, file.path if file and file.redact is not None else "default"),
        ]

    def print_origins(self) -> None:
        """Print each setting, and where it comes from, to stderr."""
        for name, value, origin in self.rows():
            terminal.print_err(f"{self._args.parser.prog}: {name}: {value}{f' ({origin})' if origin else ''}")

    def _read_file(self, *, finds_file: bool) -> ConfigFile | None:
        named = getattr(self._args, "config", None) or os.environ.get("E3_EVENT_CONFIG")
        if named == "none" or not (named or finds_file):
            return None
        path = named or _places.config_file()
        if not path:
            return None
        from event._config_file import read_config_file

        try:
            file = read_config_file(path)
        except Exception as error:  # also what a parser raises for what nobody writes
            self._report(one_line(error) if isinstance(error, EventError) else f"{path}: {one_line(error)}")
            return None
        for problem in file.problems:
            self._report(problem)
        return file

    def _find_handlers(self) -> tuple[Pairs, str]:
        pairs, where = self._named_handlers()
        if self.outbox is not None or not any("@" in name for name, _ in pairs):
            return pairs, where  # the outbox keeps the events for a handler whose conditions are wrong
        from event._conditions import require_memory

        usable = []
        for name, config in pairs:
            try:
                require_memory(name, None)
                usable.append((name, config))
            except EventError as error:
                self.dropped.append(name)
                self._report(f"{name}: {one_line(error)} (in {where}); lost")
        return usable, where

    def _named_handlers(self) -> tuple[Pairs, str]:
        if options := getattr(self._args, "handlers", ()):
            return self._handlers_of_options(options), "--handler"
        variable = getattr(self._args, "env", "E3_EVENT_HANDLERS")
        value = os.environ.get(variable, "")
        if self.file and not value and variable == "E3_EVENT_HANDLERS":
            return self.file.handlers, self.file.path
        pairs = _handler_config.parse_handlers(value)
        for line in _handler_config.likely_mistakes(pairs):
            self._print(f"{variable}: {line}")
        return pairs, terminal.printable_line(variable)

    def _handlers_of_options(self, options: list[str]) -> Pairs:
        pairs = [(name.strip(), config) for name, _, config in (text.partition("=") for text in options)]
        names = [name for name, _ in pairs]
        for name in names:
            if not name:
                self._args.parser.error("--handler: the name is missing; expected --handler NAME=CONFIG")
            if names.count(name) > 1:
                self._args.parser.error(f"--handler: {name!r} is given twice; add a label, as in {name}:other=CONFIG")
        for name, config in pairs:
            if other := _handler_config.swallowed_handler(name, config):
                self._args.parser.error(
                    f"--handler: {name!r} seems to contain the handler {other!r}; give each its own option: "
                    f"--handler {name}=CONFIG --handler {other}{':other' * (other == name)}=CONFIG"
                )
        return pairs

    def _find_outbox(self, *, default: bool) -> tuple[str | None, str]:
        from event._manager import named_outbox

        option = getattr(self._args, "outbox", None)
        if option == "":
            self._args.parser.error("--outbox: expected a directory, or none")
        # The path is made absolute now: a command may remove the working directory.
        if option:
            return named_outbox(option), "--outbox"
        if value := os.environ.get("E3_EVENT_OUTBOX"):
            return named_outbox(value), "E3_EVENT_OUTBOX"
        if self.file and self.file.outbox:
            return named_outbox(self.file.outbox), self.file.path
        if not default:
            return None, "default"
        try:
            return _places.default_outbox(), "default"
        except EventError as error:
            self._report(f"no outbox is used: {one_line(error)}")
            return None, "default"

    def _find_timeout(self) -> tuple[float, str]:
        option: float | None = getattr(self._args, "timeout", None)
        if option is not None:
            return option, "--timeout"
        from event import default_manager
        from event._manager import seconds

        if default_manager.timeout:  # a wrong value of the variable was reported when it was read
            return default_manager.timeout, "E3_EVENT_TIMEOUT"
        if self.file and self.file.timeout:
            return seconds(self.file.timeout, "timeout"), self.file.path
        return DEADLINE, "default"

    def _report(self, text: str) -> None:
        self.problems.append(self._print(text))

    def _print(self, text: str) -> str:
        from event._redact import redact_text

        text = redact_text(text)  # the name of a key may be a configuration by mistake, with a password
        terminal.print_err(f"{self._args.parser.prog}: {text}")
        return text
