"""Sending while a build waits: nothing of others' code runs before the event is kept, or without a deadline."""

from __future__ import annotations

from threading import Event as Flag
from threading import Thread

from event import EventManager, _registry
from event._cli import _handlers
from event._outbox.delivery import Late

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from event import Event
    from event._cli._capture import Capture


class LateHandler(Late):
    """A late handler whose events stay in order.

    :ivar free: set once the event of the start has been this handler's: its end does not overtake it
    """

    def __init__(self, name: str, config: str) -> None:
        super().__init__(name, config)
        self.free = Flag()

    def send_event(self, event: Event) -> bool:
        """Give the handler an event, the open one before the closed one."""
        if event._closed:
            self.free.wait()
            return super().send_event(event)
        try:
            return super().send_event(event)
        finally:
            self.free.set()


class Sender:
    """Sends the events of one command, and tells what goes wrong.

    :param pairs: the name and the configuration of each handler
    :param outbox: the outbox's directory; None for no outbox
    :param timeout: for one event, in seconds; that of the variable, or else `_handlers.DEADLINE`, where it is None
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
        self._manager.timeout = self._manager.timeout or _handlers.DEADLINE
        self._handlers = {name: LateHandler(name, config) for name, config in self._configs.items()}
        self._manager.handlers.update(self._handlers)  # type: ignore[arg-type]  # they do what handlers do
        self._starting: Thread | None = None

    def prepare(self) -> None:
        """Import what sending needs and what is ours, so that it is there when the command has ended."""
        from event import _dispatch, _json  # noqa: F401

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
