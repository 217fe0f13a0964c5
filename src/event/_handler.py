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
    """Delivers events to a destination: files, a log, a mailbox, a store.

    Derive from it, or write any class with these methods, and register the class as an entry point of the group
    ``e3.event.handler``. The configuration is the text after the name in E3_EVENT_HANDLERS.

    More names are optional. The first three are for `e3-event deliver` and `e3-event relay`, which often have many
    events for one handler:

    ``send_events(events: Sequence[Event]) -> Sequence[bool | BaseException]``
        Deliver several events, up to 100, in one call. Return a result for each, in the same order: True if it was
        delivered, False if not, or the exception that says why not (`PermanentError` if no later attempt can succeed).
        An exception that is raised counts for all of them, as does a result of another length.

    ``max_concurrency: int``
        How many calls may run at once, in as many threads; 1 for a destination that wants one at a time. Without it,
        there is no limit.

    ``pace: float``
        Seconds from one call to the next, for a destination that wants no flood.

    ``config_for_outbox() -> str``
        Return the configuration to store in an outbox. A process in another working directory may read it later, so
        make paths absolute. Without this method, `encode_config` is used.

    ``requires: Mapping[str, str]``
        The third-party modules that the handler imports, each with the requirement that ``pip install`` needs for it.
        `e3-event check` reports missing ones.

    ``references: Sequence[str]``
        The names of attributes that may hold a secret reference (``env:NAME`` or ``file:PATH``) or a list of them.
        `e3-event check` reports those that cannot be resolved.
    """

    @abstractmethod
    def send_event(self, event: Event) -> bool:
        """Deliver an event.

        :return: whether the event was delivered. An exception counts as False and is logged
        """

    @classmethod
    def decode_config(cls, _config_str: str) -> dict[str, Any]:
        """Return the constructor's keyword arguments from the configuration.

        :raises EventError: the configuration is not what the handler expects
        """
        return {}

    def encode_config(self) -> str:
        """Return a configuration from which `decode_config` makes an equal handler."""
        return ""


def import_extra(module: str, requirement: str) -> ModuleType:
    """Import a third-party module that a handler needs.

    :param module: its full name
    :param requirement: what pip installs it from, as in the handler's ``requires``
    :raises EventError: it is not installed; the message contains the command that installs it
    """
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError as error:
        raise EventError(f'{module} is missing ({error}); install it: pip install "{requirement}"') from error
