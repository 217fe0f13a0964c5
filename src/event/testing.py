"""Test code that sends events: record the events instead of sending them."""

from __future__ import annotations

import os
from contextlib import contextmanager

import event as _event
from event import Event, EventHandler, EventManager, _files, _json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping
    from typing import Any

__all__ = ["RecordedEvent", "RecordingHandler", "check_handler", "recording"]


class RecordedEvent:
    """A snapshot of an event as a destination would have received it.

    :ivar data: the result of `Event.as_dict`, with every value in the JSON form that the built-in handlers send
    :ivar attachments: the content of each attached file, by attachment name
    """

    __slots__ = ("attachments", "data")

    def __init__(self, event: Event) -> None:
        self.data: dict[str, Any] = _json.loads(_json.dumps(event.as_dict()))
        self.attachments: dict[str, bytes] = {
            name: _read_recorded(path) for name, (path, _) in event.get_attachments().items()
        }

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
    """A handler that records every event.

    :param result: what `send_event` returns; False simulates a destination that accepts nothing
    :ivar events: a `RecordedEvent` for each event, the oldest first
    """

    def __init__(self, *, result: bool = True) -> None:
        self.result = result
        self.events: list[RecordedEvent] = []

    def send_event(self, event: Event) -> bool:
        """Record the event.

        :return: the `result` from the constructor
        :raises OSError: an attached file can't be read
        :raises EventError: the event's data contains itself
        """
        self.events.append(RecordedEvent(event))
        return self.result


class _RecordingManager(EventManager):
    """Check the handlers that the tested code adds, but do not create them, so that no test sends a mail."""

    def _add(self, name: str, handler: Any, args: Iterable[Any], kwargs: Mapping[str, Any]) -> None:  # noqa: ARG002
        from inspect import signature

        signature(handler).bind(*args, **kwargs)

    def handler_config_as_env(self, var_name: str = "E3_EVENT_HANDLERS") -> None:
        os.environ[var_name] = ""  # child processes must not send events either


@contextmanager
def recording(*, result: bool = True) -> Generator[RecordingHandler, None, None]:
    """Replace the default manager by one that only records events, until the ``with`` block ends.

    The code in the block may add handlers, or load them from E3_EVENT_HANDLERS. A wrong name, configuration or argument
    list still raises an error, but no handler is created, and no event leaves the process. All threads share
    the default manager.

    :param result: the result of the recorder for each event; False simulates a destination that accepts nothing
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


def check_handler(handler: type[EventHandler], config: str, *, secrets: Iterable[str] = ()) -> None:
    """Check that a handler processes its configuration correctly. Call this in the tests of your handler.

    - `decode_config` and the constructor accept the configuration. `encode_config` returns a configuration for an equal
      handler.
    - The configuration can be part of E3_EVENT_HANDLERS: it contains no vertical bar and no NUL.
    - `config_for_outbox`, if the handler has it, does not depend on the working directory.
    - A pickled copy of the handler has the same configuration.
    - ``repr(handler)`` and the configuration contain no secret.

    :param handler: the class
    :param config: a configuration, as in E3_EVENT_HANDLERS
    :param secrets: texts that must not be shown
    :raises AssertionError: one of these conditions is not met; the message explains which
    :raises Exception: any exception of the handler's own code
    """
    import pickle
    from tempfile import TemporaryDirectory

    made = _made(handler, config)
    encoded = made.encode_config()
    _require("|" not in encoded and "\0" not in encoded, "encode_config", "has a '|' or a NUL", encoded)
    again = _made(handler, encoded).encode_config()
    _require(again == encoded, "encode_config", "changes if it is decoded and encoded again", encoded)
    kept = getattr(made, "config_for_outbox", made.encode_config)()
    before = os.getcwd()
    with TemporaryDirectory() as elsewhere:
        os.chdir(elsewhere)
        try:
            there = _made(handler, kept)
            meant = getattr(there, "config_for_outbox", there.encode_config)()
        finally:
            os.chdir(before)
    _require(meant == kept, "config_for_outbox", "depends on the working directory", kept)
    copy = pickle.loads(pickle.dumps(made)).encode_config()  # noqa: S301  # what was pickled just now
    _require(copy == encoded, "pickle", "changes the configuration", copy)
    for secret in secrets:
        shown = [what for what, text in (("repr", repr(made)), ("the configuration", encoded)) if secret in text]
        _require(not shown, " and ".join(shown), "must not show", "a secret")


def _made(handler: type[EventHandler], config: str) -> EventHandler:
    return handler(**handler.decode_config(config))


def _require(holds: bool, what: str, problem: str, value: str) -> None:
    if not holds:
        raise AssertionError(f"{what}: {problem}: {value}")


def _read_recorded(path: str) -> bytes:
    with open(_files.open_regular(path), "rb") as file:
        return file.read()
