"""The manager holds the handlers and sends each event to all of them."""

from __future__ import annotations

import os
import sys

from event import _log
from event._event import Event, redact_in
from event._outcome import is_delivered, stops_script
from event.error import EventError, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from event._config_file import ConfigFile
    from event._handler import EventHandler
    from event._outcome import Outcome


class EventManager:
    """Holds handlers and sends events to them.

    :param outbox: a directory that keeps each event until every handler has delivered it, or ``none`` for no outbox. If
        it is None, E3_EVENT_OUTBOX is used
    :param timeout: the longest time for sending an event, in seconds. With a timeout, the handlers run in parallel
        threads, and a handler that has not finished in time has failed. If it is None, E3_EVENT_TIMEOUT is used
    :param redact: whether to replace secrets in an event's data by ``***`` when the data is written. A list names
        additional secrets to replace, each as ``env:NAME``, ``file:PATH`` or the text itself
    :ivar handlers: the handlers by name, in the order in which they get an event
    :ivar redact: the additional secrets; None if no secret is replaced
    :raises EventError: the timeout is not a positive number, or a secret in `redact` is no text
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
        self.timeout: float | None = _timeout(timeout)
        self.redact: tuple[str, ...] | None = further_secrets(redact)
        # The configurations of the handlers that could not be loaded. An outbox keeps the events for them.
        self._unloaded: dict[str, str] = {}
        self._config_path = ""  # the configuration file that was loaded

    def use_outbox(self, path: str | os.PathLike[str] | None = None) -> None:
        """Use an outbox: keep each event on disk until every handler has delivered it.

        If the outbox cannot be used, the error is logged and events are sent without it.

        :param path: the outbox's directory. None uses the outbox of the command ``e3-event``: E3_EVENT_OUTBOX if it is
            set, or else a directory in the user's state directory
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
        """Send an event to every handler, in order.

        If a handler raises, it has failed. Its name and the traceback are logged, and the next handler gets the event.

        :return: whether all handlers delivered it; True if there are no handlers
        """
        if self.outbox is not None or self.timeout is not None:
            return self._send_with_care(event)
        if self.redact is not None:
            redact_in(event, self.redact)
        delivered = True
        handlers = self.handlers.copy()
        if "@" in "".join(handlers):  # the usual case needs no call
            handlers = self._recipients(handlers, event)
        for name, handler in handlers.items():
            try:
                answer = handler.send_event(event)
                if answer is not True and not is_delivered(answer):
                    delivered = False
            except BaseException as error:
                if stops_script(error):
                    raise
                delivered = False
                _log.error("handler %s failed on %r", name, event, cause=error)
        return delivered

    async def send_event_async(self, event: Event) -> bool:
        """Run `send_event` in a thread, so that the event loop of asyncio is not blocked."""
        from event._tracking import in_thread

        return await in_thread(self.send_event, event)

    def dispatch(self, event: Event) -> Outcome:
        """Send an event to every handler, as `send_event` does; return the result of each handler.

        Failures are not logged: the outcome contains the exceptions.
        """
        if self.redact is not None:
            redact_in(event, self.redact)
        if self.outbox is None:
            from event import _dispatch

            return _dispatch.dispatch(self._recipients(self.handlers.copy(), event), event, self.timeout)
        from event._outbox import delivery

        wanted = self._recipients({**self._unloaded, **self.handlers}, event)
        handlers = {name: handler for name, handler in self.handlers.items() if name in wanted}
        unloaded = {name: config for name, config in self._unloaded.items() if name in wanted}
        return delivery.send_through_outbox(event, handlers, unloaded, self.outbox, self.timeout)

    def _recipients(self, handlers: dict[str, Any], event: Event) -> dict[str, Any]:
        """Return `handlers` without those whose conditions the event does not meet."""
        if "@" not in "".join(handlers):
            return handlers
        from event._conditions import skipped

        left_out = skipped(handlers, getattr(event, "_data", {}), self.outbox)
        return {name: handler for name, handler in handlers.items() if name not in left_out}

    def send_event_from_file(self, filename: str | os.PathLike[str]) -> bool:
        """Send an event that `Event.dump` wrote to a file.

        Each attachment must still be a regular file with the recorded checksum. Otherwise nothing is sent, and the
        reason is logged.

        :return: whether all handlers delivered the event; False if it was not sent
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

        :param name: the handler's kind, such as ``file``; a label, as in ``file:nightly``, is ignored
        :raises EventError: there is no such handler, it cannot be imported, it is not a handler, or two distributions
            register different handlers under the name
        """
        from event import _registry

        return _registry.get_handler(name)

    def add_handler(self, name: str, *args: Any, **kwargs: Any) -> None:
        """Add a handler, or replace the handler of the same name.

        :param name: the handler's kind, such as ``file``, with an optional label, as in ``file:nightly``, and optional
            conditions, as in ``smtp@failure+fixed``
        :param args: positional arguments for the handler's constructor
        :param kwargs: keyword arguments for the handler's constructor
        :raises EventError: `get_handler` fails, the conditions are invalid, or the constructor rejects an argument
        :raises TypeError: the arguments do not match the constructor's parameters
        """
        self._add(name, self.get_handler(name), args, kwargs)

    def load_handlers_from_env(self, var_name: str = "E3_EVENT_HANDLERS") -> None:
        """Add the handlers that an environment variable lists, as ``name=config|name=config|name``.

        Existing handlers remain. If a name occurs twice, the last entry is used and a warning is logged. If an entry is
        invalid, the others are still loaded. If the variable is unset or empty, no handler is added.

        :raises EventError: some entries could not be loaded; the error names each
        """
        self._load_from_env(var_name)

    def _load_from_env(self, var_name: str, problems: Sequence[str] = ()) -> None:
        from event import _handler_config

        pairs = _handler_config.parse_handlers(os.environ.get(var_name, ""))
        for line in _handler_config.likely_mistakes(pairs):
            _log.warning("%s: %s", var_name, line)
        self._load(pairs, var_name, problems)

    def load_handlers_from_config(self, filename: str | os.PathLike[str] | None = None) -> None:
        """Add the handlers of a configuration file, and apply its outbox, timeout and redaction.

        E3_EVENT_HANDLERS, E3_EVENT_OUTBOX and E3_EVENT_TIMEOUT override the file if they are set. They also apply if
        there is no file. If a key is invalid, the rest of the file is still used. If it belongs to a handler, or if the
        file cannot be read, an outbox keeps the events until the file is fixed.

        :param filename: the file. None uses the same file as the command ``e3-event``: the one that E3_EVENT_CONFIG
            names, or else the nearest e3-event.toml or pyproject.toml in the working directory or above it
        :raises EventError: the file or some handlers could not be loaded; the error names each mistake
        """
        from event import _places

        path = os.fspath(filename) if filename else _places.config_file()
        if not path:
            self.load_handlers_from_env()
            return
        from event._config_file import read_config_file

        content = read_config_file(path)
        self._config_path = content.path
        self._apply(content)
        if os.environ.get("E3_EVENT_HANDLERS"):
            self._load_from_env("E3_EVENT_HANDLERS", [*content.problems, *filter(None, [content.hiding])])
        else:
            self._load(content.handlers, content.path, content.problems)

    def _apply(self, content: ConfigFile) -> None:
        """Apply the settings of a configuration file that no environment variable sets."""
        if content.outbox and not os.environ.get("E3_EVENT_OUTBOX"):
            self.outbox = named_outbox(content.outbox)
        if content.timeout and not os.environ.get("E3_EVENT_TIMEOUT"):
            self.timeout = _timeout(content.timeout)
        if content.redact is not None:
            self.redact = further_secrets(content.redact)

    def _load(self, pairs: Iterable[tuple[str, str]], where: str, problems: Sequence[str] = ()) -> None:
        """Add handlers by name and configuration; `where` is their source, and `problems` are its other errors."""
        from event import _handler_config

        messages, causes = [*problems], list[BaseException]()
        for name, config in dict(pairs).items():
            try:
                _handler_config.require_valid_config(config)
                handler = self.get_handler(name)
                # Not add_handler(name, **config): a handler's constructor may have a parameter called name too.
                self._add(name, handler, (), handler.decode_config(config))
                self._unloaded.pop(name, None)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # SystemExit too: a plugin must not end the program
                self._unloaded[name] = config
                text = one_line(error)
                messages.append(text if text.startswith(where) else f"{name}: {text} (in {where})")
                causes.append(error)
        if messages:
            raise EventError(";\n".join(messages)) from next(iter(causes), None)

    def handler_config_as_env(self, var_name: str = "E3_EVENT_HANDLERS") -> None:
        """Write all handlers to an environment variable, for child processes.

        If a configuration file was loaded, set E3_EVENT_CONFIG to its path. Child processes then use its other settings
        too.

        :raises EventError: a handler's name or configuration cannot be written; the variable is unchanged
        """
        from event import _handler_config

        pairs = [(name, _config_of(name, handler)) for name, handler in self.handlers.items()]
        try:
            os.environ[var_name] = _handler_config.format_handlers(pairs)
        except (ValueError, OSError) as error:  # from the operating system: the name or the value is invalid
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
        # The only place that constructs handlers. event.testing overrides it, so that tests send nothing.
        if "@" in name:
            from event._conditions import require_memory

            require_memory(name, self.outbox)
        made = handler(*args, **kwargs)
        self._preload()
        self.handlers[name] = made

    def _preload(self) -> None:
        """Import the modules that sending needs. If another thread forked during an import, the child would hang."""
        from event import _redact  # noqa: F401

        if self.outbox is not None or self.timeout is not None:
            from event._outbox import delivery  # noqa: F401
        if "event._json" in sys.modules:  # a handler that writes JSON or the outbox has imported it
            from event import _json_plain  # noqa: F401


def further_secrets(redact: bool | Iterable[str]) -> tuple[str, ...] | None:
    """Return the value of `EventManager.redact`.

    :raises EventError: a secret is no text, such as the None of a variable that is not set
    """
    if isinstance(redact, bool):
        return () if redact else None
    try:
        secrets = (redact,) if isinstance(redact, str) else tuple(redact)
    except TypeError as error:
        raise EventError(
            f"redact has the type {type(redact).__name__}; expected True, False or a list of texts"
        ) from error
    for number, secret in enumerate(secrets, 1):  # the error must not quote it
        if not isinstance(secret, str):
            raise EventError(
                f"redact: item {number} has the type {type(secret).__name__}; expected env:NAME, file:PATH or a text"
            )
    return secrets


def _timeout(value: float | None) -> float | None:
    """Return a timeout in seconds; if it is None, that of E3_EVENT_TIMEOUT."""
    text = os.environ.get("E3_EVENT_TIMEOUT")
    if value is None and not text:
        return None
    from event._handler_config import positive_seconds

    if value is not None:
        return positive_seconds(value, "the timeout")
    try:
        return positive_seconds(text, "E3_EVENT_TIMEOUT")
    except EventError as error:
        # This runs when the package is imported: an invalid variable must not break the build.
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
    """Return the absolute path of an outbox; None if the name is ``none``, in upper or lower case, or empty."""
    path = os.fspath(name or "")
    if not path or path.lower() == "none":
        return None
    from event import _files, _places

    return _files.absolute(_places.expand_home(path))
