"""Test code that sends events: record the events and send none of them."""

from __future__ import annotations

import os
from contextlib import contextmanager

import event as _event
from event import Event, EventHandler, EventManager, _files, _json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping
    from typing import Any

__all__ = ["RecordedEvent", "RecordingHandler", "recording"]


class RecordedEvent:
    """A snapshot of an event as a destination would have received it.

    :ivar data: the result of `Event.as_dict`, with every value in the JSON form that the built-in handlers write
    :ivar attachments: the content of each attached file, by attachment name
    """

    __slots__ = ("attachments", "data")

    def __init__(self, event: Event) -> None:
        self.data: dict[str, Any] = _json.loads(_json.dumps(event.as_dict()))
        self.attachments = {name: _read(path) for name, (path, _) in event.get_attachments().items()}

    @property
    def name(self) -> Any:
        """The event's name."""
        return self.data["name"]

    @property
    def uid(self) -> Any:
        """The event's uid."""
        return self.data["uid"]

    def __repr__(self) -> str:
        """Return the data and the attachments' names, for a failed assertion."""
        return f"<RecordedEvent {self.data}; attachments: {', '.join(self.attachments) or 'none'}>"


class RecordingHandler(EventHandler):
    """Records every event that it gets.

    :param result: what `send_event` returns; False simulates a destination that accepts nothing
    :ivar events: a `RecordedEvent` for each event, the oldest first
    """

    def __init__(self, *, result: bool = True) -> None:
        self.result = result
        self.events: list[RecordedEvent] = []

    def send_event(self, event: Event) -> bool:
        """Record the event.

        :return: the constructor's result
        :raises OSError: an attached file could not be read
        :raises EventError: the event's data contains itself
        """
        self.events.append(RecordedEvent(event))
        return self.result


class _RecordingManager(EventManager):
    """Checks the handlers that the tested code adds, but makes none: no test sends a mail."""

    def _add(self, name: str, handler: Any, args: Iterable[Any], kwargs: Mapping[str, Any]) -> None:  # noqa: ARG002
        from inspect import signature

        signature(handler).bind(*args, **kwargs)

    def handler_config_as_env(self, var_name: str = "E3_EVENT_HANDLERS") -> None:
        os.environ[var_name] = ""  # child processes send nothing out either


@contextmanager
def recording(*, result: bool = True) -> Generator[RecordingHandler, None, None]:
    """Replace the default manager by one that only records, until the ``with`` block ends.

    Handlers that the code in the block adds, or loads from E3_EVENT_HANDLERS, are looked up and their configuration is
    checked. A wrong name, configuration or argument list still fails. But no handler is created, and nothing leaves the
    process. All threads share the default manager.

    :param result: what the recorder returns for each event; False simulates a destination that accepts nothing
    :return: the recorder
    """
    manager = _RecordingManager()
    recorder = manager.handlers["recorder"] = RecordingHandler(result=result)
    before = _event.default_manager
    _event.default_manager = manager
    try:
        yield recorder
    finally:
        _event.default_manager = before


def _read(path: str) -> bytes:
    with open(_files.open_regular(path), "rb") as file:
        return file.read()
