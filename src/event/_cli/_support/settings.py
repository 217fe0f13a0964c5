"""Read the settings of a command from its options, the environment variables and the configuration file."""

from __future__ import annotations

import os

from event import _handler_config, _places
from event._cli._support import terminal
from event.error import EventError, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from event import EventHandler
    from event._config_file import ConfigFile
    from event._worker import EventSender

DEADLINE = 30.0  # seconds for one event, by default

Pairs = list[tuple[str, str]]


class Settings:
    """The settings of a command, each with its source.

    Options override environment variables, which override the configuration file. Each invalid setting is printed to
    stderr and ignored.

    :param default_outbox: whether to use the default outbox if none is configured
    :param finds_file: whether to search for a configuration file if none is named
    :param uses_handlers: whether the command uses the handlers, and so reports their errors
    :ivar file: the configuration file; None if there is none
    :ivar handlers: the name and the configuration of each handler; of several with one name, the last is used
    :ivar handlers_from: the source of the handlers
    :ivar outbox: the outbox's absolute path; None for no outbox
    :ivar timeout: in seconds
    :ivar redact: see `EventSender.redact`
    :ivar problems: the lines that were printed
    :ivar dropped: handlers that get no event, since their conditions are invalid and there is no outbox
    """

    def __init__(
        self,
        args: argparse.Namespace,
        *,
        default_outbox: bool = True,
        finds_file: bool = True,
        uses_handlers: bool = True,
    ) -> None:
        self.problems: list[str] = []
        self.dropped: list[str] = []
        self._args = args
        self.redact: tuple[str, ...] | None = ()
        self.file = self._read_file(finds_file=finds_file)
        self.outbox, self.outbox_from = self._find_outbox(default=default_outbox)
        self.handlers, self.handlers_from = self._find_handlers()
        if self.file and self.file.hiding and not (uses_handlers and self._uses_file()):
            self._report(self.file.hiding)
        self.timeout, self.timeout_from = self._find_timeout()
        self._missing: list[str] = []  # of the references in `redact`
        if self.file and self.file.redact is not None:
            from event._manager import further_secrets

            self.redact = further_secrets(self.file.redact)

    def masked(self, text: str) -> str:
        """Return a line for stderr without secrets, which the name of a file may contain. Never raise an error."""
        try:
            from event._redact import redact_text

            return redact_text(text, self.redact or ())
        except (ImportError, OSError) as error:  # the command has removed this package, or used up all descriptors
            return f"a line is not shown, because secrets in it cannot be masked: {one_line(error)}"

    def report_missing_secrets(self) -> None:
        """Report each reference in `redact` that cannot be read. The secret may then be in an event's data."""
        if not (self.redact and self.file):
            return
        from event import _secrets

        for reference in self.redact:
            try:
                _secrets.resolve_secret(reference, "redact")
            except EventError as error:
                self._missing.append(reference)
                self._report(f"{self.file.path}: {one_line(error)}")

    @property
    def is_unused_here(self) -> bool:
        """Whether the file has handlers, but the conditions of ``when`` are not met for any of them."""
        return bool(self._uses_file() and self.file and self.file.unused and not self.handlers)

    def sender(self, log: Callable[[str], None]) -> EventSender:
        """Return a sender for the handlers; see `EventSender`."""
        from event._worker import EventSender

        sender = EventSender(self.handlers, outbox=self.outbox, timeout=self.timeout, log=log, worker=self._args.worker)
        sender.redact = self.redact
        return sender

    def load(self, *, plugins: bool) -> tuple[dict[str, EventHandler], dict[str, str]]:
        """Return the handlers that could be constructed, and the errors of the others, both by name.

        :param plugins: whether to load plugins; a long-running command runs their code only in its worker
        """
        from event import _registry
        from event._lazy_handler import LazyHandler
        from event._redact import without_secrets
        from event._worker.capture import Capture

        loaded: dict[str, EventHandler] = {}
        broken: dict[str, str] = {}
        with Capture():
            left_out = () if plugins else _registry.plugins()
            for name, config in dict(self.handlers).items():
                if _registry.kind(name) not in left_out:
                    try:
                        loaded[name] = LazyHandler(name, config).load()
                    except (Exception, SystemExit) as error:
                        broken[name] = without_secrets(one_line(error), {name: config})
        return loaded, broken

    def no_handler_line(self) -> str:
        if self.is_unused_here:
            return f"nothing is sent: 'when' in {self.handlers_from} is not met"
        variable = getattr(self._args, "env", "E3_EVENT_HANDLERS")
        return (
            f"nothing is sent: {self.handlers_from} names no handler; "
            f"set it, as in {variable}=file=events, or give --handler file=events"
        )

    def rows(self) -> list[tuple[str, str, str]]:
        """Return the name, value and source of each setting. The handlers' configurations are not included."""
        redact = "off" if self.redact is None else f"on, {len(self.redact)} more" if self.redact else "on"
        redact += f"; missing: {', '.join(self._missing)}" if self._missing else ""
        file = self.file
        unused = f"; {', '.join(file.unused)}: 'when' is not met" if file and file.unused else ""
        return [
            ("config file", file.path if file else "none", "E3_EVENT_CONFIG, --config or found" if file else ""),
            ("handlers", (", ".join(dict(self.handlers)) or "none") + unused, self.handlers_from),
            ("outbox", self.outbox or "none", self.outbox_from),
            ("timeout", f"{self.timeout:g} s", self.timeout_from),
            ("redact", redact, file.path if file and file.redact is not None else "default"),
        ]

    def print_origins(self) -> None:
        for name, value, origin in self.rows():
            terminal.print_err(f"{self._args.parser.prog}: {name}: {value}{f' ({origin})' if origin else ''}")

    def _uses_file(self) -> bool:
        return self.file is not None and self.handlers_from == self.file.path

    def _read_file(self, *, finds_file: bool) -> ConfigFile | None:
        path = _places.config_file(getattr(self._args, "config", None), search=finds_file)
        if not path:
            return None
        from event._config_file import read_config_file

        file = read_config_file(path)
        for problem in file.problems:
            self._report(problem)
        return file

    def _find_handlers(self) -> tuple[Pairs, str]:
        pairs, where = self._named_handlers()
        if self.outbox is not None or not any("@" in name for name, _ in pairs):
            return pairs, where  # the outbox keeps the events of a handler whose conditions are invalid
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
                    f"--handler: {name!r} seems to contain the handler {other!r}; use one option per handler: "
                    f"--handler {name}=CONFIG --handler {other}{':other' * (other == name)}=CONFIG"
                )
        return pairs

    def _find_outbox(self, *, default: bool) -> tuple[str | None, str]:
        from event._manager import named_outbox

        option = getattr(self._args, "outbox", None)
        if option == "":
            self._args.parser.error("--outbox: expected a directory, or none")
        in_file = (self.file.outbox, self.file.path) if self.file else (None, "")
        for value, source in ((option, "--outbox"), (os.environ.get("E3_EVENT_OUTBOX"), "E3_EVENT_OUTBOX"), in_file):
            if value:  # the path is made absolute now: a command may remove the working directory
                return named_outbox(value), source
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

        if default_manager.timeout:  # an invalid value of the variable has been reported already
            return default_manager.timeout, "E3_EVENT_TIMEOUT"
        if self.file and self.file.timeout:
            return _handler_config.positive_seconds(self.file.timeout, "timeout"), self.file.path
        return DEADLINE, "default"

    def _report(self, text: str) -> None:
        self.problems.append(self._print(text))

    def _print(self, text: str) -> str:
        text = self.masked(text)  # by mistake, a key may be a configuration with a password
        terminal.print_err(f"{self._args.parser.prog}: {text}")
        return text
