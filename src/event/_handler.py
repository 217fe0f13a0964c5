"""The base class of handlers."""

from __future__ import annotations

from abc import ABC, abstractmethod

from event.error import EventError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

    from event._event import Event


class EventHandler(ABC):
    """The base class of handlers, which deliver events to a destination such as files, a log or a mailbox.

    Derive from this class, or write any class with these methods. Register it as an entry point of the group
    ``e3.event.handler``. Its configuration is the text after the handler's name in E3_EVENT_HANDLERS.

    The following names are optional. `e3-event deliver` and `e3-event relay`, which often have many events for one
    handler, use the first three:

    ``send_events(events: Sequence[Event]) -> Sequence[bool | BaseException]``
        Deliver several events, up to 100, in one call. Return a result for each, in the same order: True if it was
        delivered, False if not, or an exception with the reason (`PermanentError` if no later attempt can succeed). If
        the method raises an exception, or returns another number of results, all events count as failed.

    ``max_concurrency: int``
        How many calls may run at the same time, in different threads. Without it, there is no limit.

    ``pace: float``
        Minimum time in seconds from one call to the next, to limit the rate.

    ``config_for_outbox() -> str``
        Return the configuration to store in an outbox. A process in another working directory may read it later, so
        make paths absolute. Without this method, `encode_config` is used.

    ``requires: Mapping[str, str]``
        The third-party modules that the handler imports, each with the requirement to install it with pip. `e3-event
        check` reports missing modules.

    ``references: Sequence[str]``
        The names of attributes whose value may be a secret reference (``env:NAME`` or ``file:PATH``), or a list of
        them. `e3-event check` reports references that can't be resolved.
    """

    @abstractmethod
    def send_event(self, event: Event) -> bool:
        """Deliver an event.

        :return: whether the event was delivered. An exception counts as False and is logged.
        """

    @classmethod
    def decode_config(cls, _config_str: str) -> dict[str, Any]:
        """Convert a configuration to the keyword arguments of the constructor.

        :raises EventError: the configuration is invalid
        """
        return {}

    def encode_config(self) -> str:
        """Return a configuration with which `decode_config` and the constructor create an equal handler."""
        return ""


def import_extra(module: str, requirement: str) -> ModuleType:
    """Import a third-party module that a handler needs.

    :param module: the module's full name
    :param requirement: the requirement for pip, as in the handler's ``requires``
    :raises EventError: the module can't be imported; the message contains the command that installs it
    """
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError as error:
        raise EventError(f'{module} is missing ({error}); install it: pip install "{requirement}"') from error
