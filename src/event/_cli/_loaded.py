"""Handlers that are loaded in this process, one by one: what `check` looks at."""

from __future__ import annotations

from event import EventManager, _registry
from event._cli import _handlers, _text
from event._lazy import LazyHandler
from event._worker.capture import Capture
from event.error import EventError, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from event import Event, EventHandler


class Handlers:
    """The handlers that were asked for.

    :param pairs: the name and the configuration of each
    :param outbox: the directory that keeps an event until all of them have it; None for no outbox
    :param timeout: for one event, in seconds; E3_EVENT_TIMEOUT where it is None
    :param late: whether plugins are imported only when they are given the event, where there is an outbox or a timeout:
        after the one has it, and within the other

    :ivar loaded: those that could be loaded, by name
    :ivar broken: why the others could not, by name
    """

    def __init__(
        self, pairs: _handlers.Pairs, *, outbox: str | None = None, timeout: float | None = None, late: bool = False
    ) -> None:
        with Capture():  # importing event has already said what is wrong with the variables
            self._manager = EventManager(timeout=timeout)
        self._manager.outbox = outbox
        self.loaded: dict[str, EventHandler] = self._manager.handlers
        self.broken: dict[str, str] = {}
        self._configs = dict(pairs)
        late = late and (outbox is not None or self._manager.timeout is not None)
        with Capture():
            plugins = _registry.plugins() if late else {}
        for name, config in self._configs.items():
            if _registry.kind(name) in plugins:
                self.loaded[name] = LazyHandler(name, config)  # type: ignore[assignment]  # it does what handlers do
            else:
                self._load(name)

    def __bool__(self) -> bool:
        """Return whether an event would go anywhere: to a handler, or into the outbox for one."""
        return bool(self.loaded or (self.broken and self._manager.outbox))

    def deliver(self, event: Event) -> list[tuple[str, bool, str]]:
        """Give an event to the handlers; return, for each, its name, whether it took the event, and a line about it.

        With an outbox, those that could not be loaded are among them. What goes wrong with the outbox goes to stderr.
        """
        with Capture() as capture:
            outcome = self._manager.dispatch(event)
        for text in capture.said:
            _text.tell(_handlers.masked(text, self._configs))
        # What the outbox could not keep, or has given up, it has said.
        kept = self._manager.outbox is not None and not capture.said
        results = [(d.handler, d.ok, _handlers.about(d, self._configs, kept=kept)) for d in outcome]
        if kept:
            results += [(name, False, "kept in the outbox until it can be loaded") for name in self.broken]
        return results

    def _load(self, name: str) -> None:
        config = self._configs[name]
        with Capture():
            try:
                kind = _registry.get_handler(name)
            except Exception as error:
                self._broken(name, one_line(error))
                return
            try:
                handler: Any = SystemExitGuard(kind(**kind.decode_config(config)))
            except (Exception, SystemExit) as error:
                self._broken(name, _handlers.masked(one_line(error), {name: config}))
            else:
                self.loaded[name] = handler

    def _broken(self, name: str, reason: str) -> None:
        self.broken[name] = reason
        self._manager._unloaded[name] = self._configs[name]


class SystemExitGuard:
    """Handler proxy: a handler that leaves with SystemExit has failed, and does not end the command."""

    def __init__(self, handler: Any) -> None:
        self._handler = handler

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handler, name)

    def send_event(self, event: Event) -> Any:
        """Give the handler an event."""
        try:
            return self._handler.send_event(event)
        except SystemExit as stop:
            raise EventError(one_line(stop)) from stop
