"""Report what happens in a build.

Create an event, attach files and send it. Handlers deliver it to its destinations::

    import event

    event.add_handler("file", "events")
    with event.Event("compile", target="arm") as e:
        e.attach_file("build.log")
    event.send_event(e)
"""

from __future__ import annotations

import time  # noqa: F401  # tests may replace `event.time`

from event._event import Event, already_delivered, sending_id, unique_id
from event._handler import EventHandler
from event._manager import EventManager
from event._outcome import Delivery, Outcome
from event.error import EventError, PartialDeliveryError, PermanentError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    import os
    from typing import Any

    from event._tracking import Tracker

    logger: logging.Logger
    __version__: str

__all__ = [
    "Delivery",
    "Event",
    "EventError",
    "EventHandler",
    "EventManager",
    "Outcome",
    "PartialDeliveryError",
    "PermanentError",
    "add_handler",
    "already_delivered",
    "child_environment",
    "default_manager",
    "handler_config_as_env",
    "load_handlers_from_config",
    "load_handlers_from_env",
    "logger",
    "send_event",
    "send_event_from_file",
    "sending_id",
    "track",
    "unique_id",
    "use_outbox",
]

EventError.__module__ = __name__
PartialDeliveryError.__module__ = __name__
PermanentError.__module__ = __name__

default_manager: EventManager = EventManager()


def send_event(event: Event) -> bool:
    """Send an event to every handler of the default manager; return whether all of them delivered it.

    See `EventManager.send_event`.
    """
    return default_manager.send_event(event)


def send_event_from_file(filename: str | os.PathLike[str]) -> bool:
    """Send an event that `Event.dump` wrote to a file; see `EventManager.send_event_from_file`."""
    return default_manager.send_event_from_file(filename)


def add_handler(name: str, *args: Any, **kwargs: Any) -> None:
    """Add a handler to the default manager; see `EventManager.add_handler`."""
    default_manager.add_handler(name, *args, **kwargs)


def load_handlers_from_env(var_name: str = "E3_EVENT_HANDLERS") -> None:
    """Add the handlers that an environment variable lists; see `EventManager.load_handlers_from_env`."""
    default_manager.load_handlers_from_env(var_name)


def load_handlers_from_config(filename: str | os.PathLike[str] | None = None) -> None:
    """Add the handlers of a configuration file and apply its settings; see `EventManager.load_handlers_from_config`."""
    default_manager.load_handlers_from_config(filename)


def handler_config_as_env(var_name: str = "E3_EVENT_HANDLERS") -> None:
    """Write the handlers to an environment variable, for child processes; see `EventManager.handler_config_as_env`."""
    default_manager.handler_config_as_env(var_name)


def use_outbox(path: str | os.PathLike[str] | None = None) -> None:
    """Use an outbox: keep each event on disk until every handler of the default manager has delivered it.

    Without a path, use the same outbox as the command ``e3-event``. See `EventManager.use_outbox`.
    """
    default_manager.use_outbox(path)


def track(name: str, **data: Any) -> Tracker:
    """Send an event that reports a piece of work. Use `track` as a context manager or as a decorator.

    When the work ends, the default manager closes and sends the event, whether the work succeeds or fails. The event's
    ``outcome`` is ``success``, ``failure`` or ``cancel`` (KeyboardInterrupt, a cancelled task). After a failure, the
    event also has an ``error`` with the exception's ``type`` and ``message``. The exception is raised unchanged. If
    sending the event fails, the error is logged and not raised::

        with event.track("compile", target="arm") as e:
            e.warnings = compile_all()


        @event.track("deploy")
        def deploy(): ...

    :param name: the event's name
    :param data: the event's data
    """
    from event._tracking import Tracker

    return Tracker(send_event, name, data)


def child_environment() -> dict[str, str]:
    """Return a copy of the environment for a child process that is part of the tracked work.

    In the copy, TRACEPARENT (W3C Trace Context) contains the span of the enclosing `track`. In the trace, the child
    process's events are children of that span::

        with event.track("compile"):
            subprocess.run(["make"], env=event.child_environment())

    Outside of `track`, the copy equals the environment. A handler that delivers an event from an outbox runs in the
    span in which the event was sent. If there was none, the copy has no TRACEPARENT.
    """
    from event import _trace_context

    return _trace_context.child_environment()


if not TYPE_CHECKING:  # with __getattr__, a type checker would accept every name

    def __getattr__(name: str) -> Any:
        # The logger is created on first use: importing logging would double the import time of this package.
        if name == "logger":
            from event._log import get_logger

            return get_logger()
        if name == "__version__":
            from event._version import VERSION

            return VERSION
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
