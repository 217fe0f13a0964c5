"""Sending while a build waits: nothing of others' code runs before the event is kept, or without a deadline."""

from __future__ import annotations

from threading import Event as Flag
from threading import Thread

from event import EventManager, _registry
from event._cli import _handlers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from event import Event, EventHandler
    from event._cli._capture import Capture

DEADLINE = 30.0  # seconds, where neither an option nor the variable says so


class LateHandler:
    """A handler that is made when it is first given an event.

    A plugin is then imported within the deadline of a sending, and after the outbox has the event: one that hangs, or
    brings down the process, loses nothing.

    :ivar free: set once the event of the start has been this handler's: its end does not overtake it
    """

    def __init__(self, name: str, config: str) -> None:
        self.free = Flag()
        self._name = name
        self._config = config
        self._handler: EventHandler | None = None

    def send_event(self, event: Event) -> bool:
        """Give the handler an event, the open one before the closed one."""
        if event._closed:
            self.free.wait()
            return self._made().send_event(event)
        try:
            return self._made().send_event(event)
        finally:
            self.free.set()

    def encode_config(self) -> str:
        """Return what a later process needs: the configuration as it was given, for it is read there first.

        Handlers of ours, which cannot hang, may have it differ in another directory.
        """
        if _registry.kind(self._name) in _registry.BUILTINS:
            try:
                kind = _registry.get_handler(self._name)
                if hasattr(kind, "_config_elsewhere"):
                    return str(kind(**kind.decode_config(self._config))._config_elsewhere())
            except Exception:
                return self._config  # a later process may read it, and this one tells why it could not
        return self._config

    def _made(self) -> EventHandler:
        handler = self._handler
        if handler is None:
            kind = _registry.get_handler(self._name)
            handler = self._handler = kind(**kind.decode_config(self._config))
        return handler


class Sender:
    """Sends the events of one command, and tells what goes wrong.

    :param pairs: the name and the configuration of each handler
    :param outbox: the outbox's directory; None for no outbox
    :param timeout: for one event, in seconds; that of the variable, or else `DEADLINE`, where it is None
    :param capture: what gathers the log meanwhile
    :param tell: called with a line about each thing that went wrong

    :ivar hung: whether a handler may still run
    """

    def __init__(
        self,
        pairs: _handlers.Pairs,
        outbox: str | None,
        timeout: float | None,
        capture: Capture,
        tell: Callable[[str], None],
    ) -> None:
        self.hung = False
        self._configs: Mapping[str, str] = dict(pairs)
        self._tell = tell
        self._said = capture.said
        self._manager = EventManager(timeout=timeout)
        self._said.clear()  # importing event has already told what is wrong with the variable
        self._manager.outbox = outbox
        self._manager.timeout = self._manager.timeout or DEADLINE
        self._handlers = {name: LateHandler(name, config) for name, config in self._configs.items()}
        self._manager.handlers.update(self._handlers)  # type: ignore[arg-type]  # they do what handlers do
        self._starting: Thread | None = None

    def prepare(self) -> None:
        """Import what sending needs and what is ours, so that it is there when the command has ended."""
        from event import _delivery, _dispatch, _json  # noqa: F401

        for name in self._configs:
            if _registry.kind(name) in _registry.BUILTINS:
                _registry.get_handler(name)
            else:
                import importlib.metadata  # noqa: F401

    def begin(self, event: Event) -> None:
        """Send the open event beside the command that runs."""
        self._starting = Thread(target=self._begin, args=(event,), daemon=True)
        self._starting.start()

    def end(self, event: Event) -> None:
        """Send the closed event, behind the open one."""
        if self._starting is None:
            self._set_free()
        self._send(event, "")
        if self._starting:
            self._starting.join(self._manager.timeout)

    def _begin(self, event: Event) -> None:
        try:
            self._send(event, "start: ")
        finally:
            self._set_free()

    def _set_free(self) -> None:
        for handler in self._handlers.values():
            handler.free.set()

    def _send(self, event: Event, which: str) -> None:
        outcome = self._manager.dispatch(event)
        said = [self._said.pop(0) for _ in [*self._said]]
        for text in said:
            self._tell(f"{which}{_handlers.masked(text, self._configs)}")
        kept = self._manager.outbox is not None and not said
        for delivery in outcome:
            if not delivery.ok or delivery.said:
                self._tell(f"{which}{delivery.handler}: {_handlers.about(delivery, self._configs, kept=kept)}")
            self.hung = self.hung or isinstance(delivery.error, TimeoutError)
