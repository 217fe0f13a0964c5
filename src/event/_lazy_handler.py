"""A handler that is imported and constructed on first use."""

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

    So no plugin's code runs before the event is stored in the outbox. If a handler raises SystemExit or
    KeyboardInterrupt, the delivery has failed: a worker does not get Ctrl-C.

    :ivar config: the handler's configuration
    :ivar load_error: why the handler could not be constructed; None if it was, or if `load` was not called yet
    """

    def __init__(self, name: str, config: str) -> None:
        self.load_error: BaseException | None = None
        self._name = name
        self.config = config
        self._handler: EventHandler | None = None

    def send_event(self, event: Event) -> bool:
        try:
            handler: EventHandler = self.load()
            return handler.send_event(event)
        except (SystemExit, KeyboardInterrupt) as stop:
            raise EventError(one_line(stop)) from stop

    def load(self) -> Any:
        """Return the handler; import and construct it at the first call.

        :raises EventError: the configuration is invalid, or there is no such handler
        :raises BaseException: any other exception of the handler's code
        """
        if self.load_error:
            raise self.load_error
        if self._handler is None:
            try:
                _handler_config.require_valid_config(self.config)
                if "@" in self._name:
                    _handler_config.split_conditions(self._name)
                kind = _registry.get_handler(self._name)
                self._handler = kind(**kind.decode_config(self.config))
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                self.load_error = error  # constructing it again for the next event would fail as well
                raise
        return self._handler

    def encode_config(self) -> str:
        """Return the configuration to store in the outbox.

        This is usually the unchanged configuration: no plugin and no slow library must be loaded before the event is
        stored. If a built-in handler's configuration has a path that depends on the working directory, the handler is
        loaded and its `config_for_outbox` is used.
        """
        kind = _registry.kind(self._name)
        if kind == "file" or (kind in _registry.BUILTINS and "file:" in self.config.replace("file:/", "")):
            try:
                return str(self.load().config_for_outbox())
            except Exception:
                return self.config  # the delivery reports the error
        return self.config
