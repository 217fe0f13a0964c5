"""A handler that is imported and constructed when it is first needed."""

from __future__ import annotations

from event import _handler_config, _registry
from event.error import EventError, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from event._event import Event
    from event._handler import EventHandler


class LazyHandler:
    """Handler proxy that imports and constructs the real handler on first use, within the delivery's deadline.

    So no plugin's code runs before the outbox has the event. A handler that leaves with SystemExit or
    KeyboardInterrupt has failed: in a worker, nobody presses Ctrl-C.

    :ivar config: the handler's configuration
    :ivar load_error: why the handler could not be made; None as long as it was not tried, or if it was made
    """

    def __init__(self, name: str, config: str) -> None:
        self.load_error: BaseException | None = None
        self._name = name
        self.config = config
        self._handler: EventHandler | None = None

    def send_event(self, event: Event) -> bool:
        """Give the handler an event."""
        try:
            handler: EventHandler = self.load()
            return handler.send_event(event)
        except (SystemExit, KeyboardInterrupt) as stop:
            raise EventError(one_line(stop)) from stop

    def load(self) -> Any:
        """Return the handler.

        :raises BaseException: whatever its code raises
        """
        if self.load_error:
            raise self.load_error
        if self._handler is None:
            try:
                _handler_config.require_right(self.config)
                if "@" in self._name:
                    _handler_config.split_conditions(self._name)
                kind = _registry.get_handler(self._name)
                self._handler = kind(**kind.decode_config(self.config))
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                self.load_error = error  # to make it for the next event would fail again
                raise
        return self._handler

    def encode_config(self) -> str:
        """Return what the outbox keeps: the configuration as it was given, since it is read there first.

        A built-in handler, which cannot hang, may need another one in another directory.
        """
        if _registry.kind(self._name) in _registry.BUILTINS:
            try:
                if hasattr(_registry.get_handler(self._name), "config_for_outbox"):
                    return str(self.load().config_for_outbox())
            except Exception:
                return self.config  # a later process may read it, and this one reports why it could not
        return self.config
