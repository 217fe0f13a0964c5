"""Sending through the outbox: now, and later what could not be delivered then."""

from __future__ import annotations

from event import _dispatch, _log, _registry, _trace
from event._outbox.store import Outbox
from event._outcome import Outcome
from event.error import EventError, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import TypeAlias

    from event._event import Event
    from event._handler import EventHandler
    from event._outbox.claim import Claim
    from event._outbox.entry import Entry
    from event._outcome import Delivery

    Handlers: TypeAlias = "Mapping[str, _dispatch.Handler]"


def send(
    event: Event, handlers: Mapping[str, EventHandler], unloaded: dict[str, str], outbox: str, timeout: float | None
) -> Outcome:
    """Keep an event, give it to the handlers, and forget it when all of them have it.

    :param unloaded: the configuration of each handler that could not be loaded: it gets the event once it can be
    :param outbox: the outbox's directory; where it cannot keep the event, the log tells, and the handlers get it anyway
    :param timeout: for all handlers together, in seconds; None for as long as each one takes
    """
    claim = _put(event, {**unloaded, **_configurations(handlers)}, outbox)
    if claim is None:
        return _dispatch.send(handlers, event, timeout)
    return _attempt(claim, handlers, event._as_sent(claim.entry.id), timeout)


def deliver(
    outbox: Outbox, timeout: float | None = None, *, everything: bool = False
) -> Iterator[tuple[Entry, Outcome]]:
    """Deliver the entries that are due, one after another; yield each one with what became of it.

    A handler is made from the configuration that the entry holds, once for all entries that hold the same.

    :param timeout: for all handlers of one entry together, in seconds
    :param everything: also what is not due yet
    """
    made: dict[tuple[str, str], Late] = {}
    for candidate in outbox.candidates(everything=everything):
        if (claim := outbox.claim(candidate)) is None:
            continue
        claim.begin()
        handlers: dict[str, _dispatch.Handler] = {}
        for name, config in claim.entry.pending.items():
            if (name, config) not in made:
                made[name, config] = Late(name, config)
            handlers[name] = made[name, config]
        yield claim.entry, _attempt_later(claim, handlers, timeout)


def _put(event: Event, configurations: dict[str, str], outbox: str) -> Claim | None:
    if not configurations:
        return None
    try:
        return Outbox(outbox).put(event, configurations)
    except Exception as error:  # of the operating system, or of a formatter or a value of the event
        _log.error("%r cannot be kept in the outbox %s, and is sent without: %s", event, outbox, one_line(error))
        return None


def _configurations(handlers: Mapping[str, EventHandler]) -> dict[str, str]:
    """Return the configuration of each handler that a later process can make again."""
    configurations: dict[str, str] = {}
    for name, handler in handlers.items():
        try:
            # "_config_elsewhere": what a process in another directory needs, where that differs.
            config = getattr(handler, "_config_elsewhere", handler.encode_config)()
            if not isinstance(config, str):
                raise TypeError(f"encode_config returned {type(config).__name__}, not str")
            configurations[name] = config
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            _log.warning("handler %s is not kept in the outbox: %s", name, one_line(error))
    return configurations


def _attempt(claim: Claim, handlers: Handlers, event: Event, timeout: float | None) -> Outcome:
    """Give an event to the handlers, note for each one what it did, and hand the entry back on every way out."""
    results: dict[str, Delivery] = {}
    try:
        for delivery in _dispatch.deliveries(handlers, event, timeout):
            claim.record(delivery)
            results[delivery.handler] = delivery
    finally:
        claim.release()
    return Outcome(tuple(results[name] for name in handlers))


def _attempt_later(claim: Claim, handlers: Handlers, timeout: float | None) -> Outcome:
    """Make an attempt in the span that the event was sent in, not in our own."""
    token = _trace.current.set(claim.entry.span)
    try:
        return _attempt(claim, handlers, claim.event(), timeout)
    finally:
        _trace.current.reset(token)


class Late:
    """A handler that is made when it is first given an event.

    A plugin is then imported within the deadline of a sending, and after the outbox has the event: one that hangs, or
    brings down the process, holds nobody and loses nothing. One that leaves with SystemExit has failed.
    """

    def __init__(self, name: str, config: str) -> None:
        self._name = name
        self._config = config
        self._handler: EventHandler | None = None
        self._error: BaseException | None = None

    def send_event(self, event: Event) -> bool:
        """Give the handler an event."""
        try:
            return self._made().send_event(event)
        except SystemExit as stop:
            raise EventError(one_line(stop)) from stop

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
        if self._error:
            raise self._error
        handler = self._handler
        if handler is None:
            try:
                kind = _registry.get_handler(self._name)
                handler = self._handler = kind(**kind.decode_config(self._config))
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                self._error = error  # to make it for the next event would fail again
                raise
        return handler
