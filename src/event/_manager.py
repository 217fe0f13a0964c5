"""The manager: it holds the handlers and gives each event to all of them."""

from __future__ import annotations

import os
import sys

from event import _log
from event._event import Event, redact_in
from event._outcome import is_delivered
from event.error import EventError, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from event._config_file import ConfigFile
    from event._handler import EventHandler
    from event._outcome import Outcome

LONGEST_TIMEOUT = 4_000_000.0  # seconds; the timers of every system take that many, not any number


class EventManager:
    """Holds handlers and sends events to them.

    :param outbox: a directory that keeps each event until every handler has taken it, or ``none``; the variable
        E3_EVENT_OUTBOX where it is None
    :param timeout: how long a sending may take, in seconds; with one, the handlers run side by side, in threads, and
        one that is not done in time has failed. The variable E3_EVENT_TIMEOUT where it is None
    :param redact: whether secrets in an event's data are replaced by ``***`` where the data is written; or further
        secrets to replace: ``env:NAME``, ``file:PATH`` or the text itself
    :ivar handlers: the handlers by name, in the order in which they get an event
    :ivar redact: the further secrets; None if nothing is replaced
    :raises EventError: the timeout is no positive number
    """

    def __init__(
        self,
        *,
        outbox: str | os.PathLike[str] | None = None,
        timeout: float | None = None,
        redact: bool | Iterable[str] = True,
    ) -> None:
        self.handlers: dict[str, EventHandler] = {}
        self.outbox = named_outbox(outbox or os.environ.get("E3_EVENT_OUTBOX"))
        self.timeout: float | None = _seconds_of_environment() if timeout is None else seconds(timeout, "the timeout")
        self.redact: tuple[str, ...] | None = further_secrets(redact)
        # The configuration of each handler that the variable names but that could not be loaded: an outbox keeps the
        # events for it.
        self._unloaded: dict[str, str] = {}
        self._config_path = ""  # of the configuration file that was loaded

    def use_outbox(self, path: str | os.PathLike[str] | None = None) -> None:
        """Keep each event on disk until every handler has it.

        If the outbox cannot be used, this is logged, and events are sent without it.

        :param path: the outbox's directory; None for the outbox of the command ``e3-event``: the one that
            E3_EVENT_OUTBOX names, or else the one in the user's home directory
        """
        from event import _places

        named = path or os.environ.get("E3_EVENT_OUTBOX")
        try:
            self.outbox = named_outbox(named or _places.default_outbox())
        except EventError as error:
            _log.warning("events are sent without an outbox: %s", one_line(error))
            return
        self._preload()

    def send_event(self, event: Event) -> bool:
        """Give an event to every handler, in order.

        A handler that raises has failed: its name and the traceback are logged, and the next handler gets the event.

        :return: whether all handlers delivered it; True if there are no handlers
        """
        if self.outbox is not None or self.timeout is not None:
            return self._send_with_care(event)
        if self.redact is not None:
            redact_in(event, self.redact)
        delivered = True
        for name, handler in self._recipients(self.handlers, event).items():
            try:
                if not is_delivered(handler.send_event(event)):
                    delivered = False
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:
                delivered = False
                _log.error("handler %s failed on %r", name, event, cause=error)
        return delivered

    async def send_event_async(self, event: Event) -> bool:
        """Do as `send_event`, in a thread, so that the event loop of asyncio is not blocked."""
        from event._tracking import in_thread

        return await in_thread(self.send_event, event)

    def dispatch(self, event: Event) -> Outcome:
        """Give an event to every handler, as `send_event` does, and return the result of each handler.

        Nothing is logged: the outcome contains the exceptions.
        """
        if self.redact is not None:
            redact_in(event, self.redact)
        if self.outbox is None:
            from event import _dispatch

            return _dispatch.dispatch(self._recipients(self.handlers, event), event, self.timeout)
        from event._outbox import delivery

        wanted = self._recipients({**self._unloaded, **self.handlers}, event)
        handlers = {name: handler for name, handler in self.handlers.items() if name in wanted}
        unloaded = {name: config for name, config in self._unloaded.items() if name in wanted}
        return delivery.send_through_outbox(event, handlers, unloaded, self.outbox, self.timeout)

    def _recipients(self, handlers: dict[str, Any], event: Event) -> dict[str, Any]:
        """Return a copy of handlers, without those whose conditions the event does not meet."""
        if not any("@" in name for name in handlers):
            return handlers.copy()
        from event._conditions import skipped

        left_out = skipped(handlers, getattr(event, "_data", {}), self.outbox)
        return {name: handler for name, handler in handlers.items() if name not in left_out}

    def send_event_from_file(self, filename: str | os.PathLike[str]) -> bool:
        """Send the event that dump wrote to a file.

        Each attachment must still be a regular file with the recorded checksum. Otherwise nothing is sent, and the
        reason is logged.

        :return: as `send_event`; False if nothing was sent
        :raises EventError: the file's content is not an event
        :raises OSError: the file could not be read
        """
        from event._verified import verified_copy

        event = Event.load(filename)
        try:
            with verified_copy(event) as copy:
                return self.send_event(copy)
        except EventError as error:
            _log.error("%s is not sent: %s", os.fsdecode(filename), one_line(error))
            return False

    def get_handler(self, name: str) -> Any:
        """Return the class of a handler.

        :param name: the kind, such as ``file``; a label, as in ``file:nightly``, does not count
        :raises EventError: there is no such handler, it fails to import, it is no handler, or two distributions
            register different ones under the name
        """
        from event import _registry

        return _registry.get_handler(name)

    def add_handler(self, name: str, *args: Any, **kwargs: Any) -> None:
        """Add a handler, or replace the one of the same name.

        :param name: the kind, such as ``file``, or a kind and a label, such as ``file:nightly``; then, after ``@``,
            which events it gets, such as ``smtp@failure+fixed``
        :param args: for the handler's constructor
        :param kwargs: for the handler's constructor
        :raises EventError: as get_handler, or the handler does not accept its arguments, or its conditions are wrong
        :raises TypeError: the constructor takes other arguments
        """
        self._add(name, self.get_handler(name), args, kwargs)

    def load_handlers_from_env(self, var_name: str = "E3_EVENT_HANDLERS") -> None:
        """Add the handlers that an environment variable names: ``name=config|name=config|name``.

        If a name occurs twice, the last entry counts, and a warning is logged. Existing handlers stay. A wrong entry
        does not prevent the others from being loaded. A variable that is unset or empty adds none.

        :raises EventError: entries could not be loaded; it has a message for each
        """
        from event import _handler_config

        pairs = _handler_config.parse_handlers(os.environ.get(var_name, ""))
        for line in _handler_config.likely_mistakes(pairs):
            _log.warning("%s: %s", var_name, line)
        self._load(pairs, var_name)

    def load_handlers_from_config(self, filename: str | os.PathLike[str] | None = None) -> None:
        """Add the handlers of a configuration file, and use the outbox, timeout and redaction that it names.

        If E3_EVENT_HANDLERS is set, its handlers are added instead of the file's. Likewise, E3_EVENT_OUTBOX and
        E3_EVENT_TIMEOUT win. If there is no file, nothing else happens. A wrong key does not prevent the rest of the
        file from being used; an outbox keeps the events for the handler that has it.

        :param filename: the file; None for the one that the command ``e3-event`` uses: the one that E3_EVENT_CONFIG
            names, or else e3-event.toml or pyproject.toml in the working directory or one above it
        :raises EventError: the file cannot be used, or handlers could not be loaded
        """
        from event import _places

        path = os.fspath(filename) if filename else _places.config_file()
        content = None
        if path:
            from event._config_file import read_config_file

            content = read_config_file(path)
            self._config_path = content.path
            self._apply(content)
        if content is None or os.environ.get("E3_EVENT_HANDLERS"):
            self.load_handlers_from_env()
        else:
            self._load(content.handlers, content.path, content.problems)

    def _apply(self, content: ConfigFile) -> None:
        """Use the settings of a configuration file that no variable sets."""
        if content.outbox and not os.environ.get("E3_EVENT_OUTBOX"):
            self.outbox = named_outbox(content.outbox)
        if content.timeout and not os.environ.get("E3_EVENT_TIMEOUT"):
            self.timeout = seconds(content.timeout, "timeout")
        if content.redact is not None:
            self.redact = further_secrets(content.redact)

    def _load(self, pairs: Iterable[tuple[str, str]], where: str, problems: Sequence[str] = ()) -> None:
        """Add handlers by name and configuration.

        :param where: where they are named
        :param problems: what else is wrong there
        """
        from event import _handler_config

        errors: dict[str, BaseException] = {}
        for name, config in dict(pairs).items():
            try:
                _handler_config.require_valid_config(config)
                handler = self.get_handler(name)
                # Not add_handler(name, **config): a handler's constructor may have a parameter called name too.
                self._add(name, handler, (), handler.decode_config(config))
                self._unloaded.pop(name, None)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # SystemExit too: a plugin that gives up does not end the program
                errors[name] = error
                self._unloaded[name] = config
        messages = [*problems, *(f"{name}: {one_line(error)} (in {where})" for name, error in errors.items())]
        if messages:
            raise EventError(messages) from next(iter(errors.values()), None)

    def handler_config_as_env(self, var_name: str = "E3_EVENT_HANDLERS") -> None:
        """Write all handlers into an environment variable, for child processes.

        If a configuration file was loaded, E3_EVENT_CONFIG names it for them: its other settings hold there too.

        :raises EventError: a handler's name or configuration cannot be written; the variable is unchanged
        """
        from event import _handler_config

        pairs = [(name, _config_of(name, handler)) for name, handler in self.handlers.items()]
        try:
            os.environ[var_name] = _handler_config.format_handlers(pairs)
        except (ValueError, OSError) as error:  # of the operating system: a name or a value that it does not take
            raise EventError(f"cannot write the handlers into {var_name}: {error}") from error
        if self._config_path:
            os.environ["E3_EVENT_CONFIG"] = self._config_path

    def _send_with_care(self, event: Event) -> bool:
        """Send as `dispatch` does, and log failures as `send_event` does."""
        outcome = self.dispatch(event)
        for delivery in outcome:
            if delivery.error:
                _log.error("handler %s failed on %r", delivery.handler, event, cause=delivery.error)
        return bool(outcome)

    def _add(self, name: str, handler: Any, args: Iterable[Any], kwargs: Mapping[str, Any]) -> None:
        # The only place that constructs handlers: event.testing overrides it, so that a tested program sends nothing.
        if "@" in name:
            from event._conditions import require_memory

            require_memory(name, self.outbox)
        made = handler(*args, **kwargs)
        self._preload()
        self.handlers[name] = made

    def _preload(self) -> None:
        """Import now what a sending needs: after a fork during an import, the import in the child never ends."""
        from event import _redact  # noqa: F401

        if self.outbox is not None or self.timeout is not None:
            from event import _dump  # noqa: F401
            from event._outbox import delivery  # noqa: F401
        if "event._json" in sys.modules:  # of a handler that writes JSON, or of the outbox
            from event import _json_plain  # noqa: F401


def seconds(value: object, origin: str) -> float:
    """Return a timeout, in seconds; at most `LONGEST_TIMEOUT`.

    :raises EventError: it is not a positive number
    """
    from event._handler_config import positive_seconds

    return min(positive_seconds(value, origin), LONGEST_TIMEOUT)


def further_secrets(redact: bool | Iterable[str]) -> tuple[str, ...] | None:
    """Return the secrets that `EventManager.redact` holds."""
    if isinstance(redact, bool):
        return () if redact else None
    return (redact,) if isinstance(redact, str) else tuple(redact)


def _seconds_of_environment() -> float | None:
    value = os.environ.get("E3_EVENT_TIMEOUT")
    if not value:
        return None
    try:
        return seconds(value, "E3_EVENT_TIMEOUT")
    except EventError as error:
        # This runs when the package is imported: a mistake in the surroundings must not break the build.
        _log.error("%s; it is ignored", one_line(error))
        return None


def _config_of(name: str, handler: EventHandler) -> str:
    try:
        return handler.encode_config()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise EventError(f"handler {name}: its configuration cannot be written: {one_line(error)}") from error


def named_outbox(name: str | os.PathLike[str] | None) -> str | None:
    """Return the absolute path of the outbox that an option or a variable names; None for ``none`` and for nothing."""
    if not name or name == "none":
        return None
    from event import _files

    return _files.absolute(os.fspath(name))
