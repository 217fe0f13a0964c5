"""Tell the outside world what happened in a build.

Make an event, attach files, send it; handlers bring it to its destinations::

    import event

    event.add_handler("file", "events")
    with event.Event("compile", target="arm") as e:
        e.attach_file("build.log")
    event.send_event(e)
"""

from __future__ import annotations

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

    from event._track import Tracker

    logger: logging.Logger

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
    "load_handlers_from_env",
    "logger",
    "send_event",
    "send_event_from_file",
    "sending_id",
    "track",
    "unique_id",
]

EventError.__module__ = __name__
PartialDeliveryError.__module__ = __name__
PermanentError.__module__ = __name__

default_manager = EventManager()


def send_event(event: Event) -> bool:
    """Give an event to every handler of the default manager; see `EventManager.send_event`."""
    return default_manager.send_event(event)


def send_event_from_file(filename: str | os.PathLike[str]) -> bool:
    """Send the event that `Event.dump` wrote; see `EventManager.send_event_from_file`."""
    return default_manager.send_event_from_file(filename)


def add_handler(name: str, *args: Any, **kwargs: Any) -> None:
    """Add a handler to the default manager; see `EventManager.add_handler`."""
    default_manager.add_handler(name, *args, **kwargs)


def load_handlers_from_env(var_name: str = "E3_EVENT_HANDLERS") -> None:
    """Add the handlers that a variable names; see `EventManager.load_handlers_from_env`."""
    default_manager.load_handlers_from_env(var_name)


def handler_config_as_env(var_name: str = "E3_EVENT_HANDLERS") -> None:
    """Write the default manager's handlers into a variable; see `EventManager.handler_config_as_env`."""
    default_manager.handler_config_as_env(var_name)


def track(name: str, **data: Any) -> Tracker:
    """Make an event of a piece of work: a context manager that gives the event, and a decorator.

    The event is closed and sent by the default manager on every way out, with an ``outcome``: ``success``, ``failure``
    or ``cancel`` (KeyboardInterrupt, a cancelled task). A failure has an ``error`` too, its ``type`` and ``message``.
    The work's exception passes unchanged; a delivery that fails is logged, and never raised::

        with event.track("compile", target="arm") as e:
            e.warnings = compile_all()


        @event.track("deploy")
        def deploy(): ...

    :param name: what happens
    :param data: the event's data
    """
    from event._track import Tracker

    return Tracker(send_event, name, data)


def child_environment() -> dict[str, str]:
    """Return a copy of the environment for a process that is part of the tracked work.

    In it, TRACEPARENT (W3C Trace Context) names the span of the `track` that the caller is in, so that what the process
    sends stands beneath it. A handler that gets an event later, from an outbox, is in the span that the event was sent
    in; where there was none, TRACEPARENT is missing. Outside of all these, the copy is as the environment is::

        with event.track("compile"):
            subprocess.run(["make"], env=event.child_environment())
    """
    from event import _trace

    return _trace.child_environment()


if not TYPE_CHECKING:  # a type checker would take any name for one of ours

    def __getattr__(name: str) -> Any:
        # Made when asked for: importing logging would double the cost of importing this package.
        if name == "logger":
            from event._log import get_logger

            return get_logger()
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
