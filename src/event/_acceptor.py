"""Where a relay's events go: into an outbox, or to the handlers at once."""

from __future__ import annotations

import time
from contextlib import contextmanager

from event import _dispatch, _log, _trace
from event.error import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping
    from contextlib import AbstractContextManager

    from event._event import Event
    from event._message import Parcel
    from event._note import Note
    from event._outbox import Outbox
    from event._outcome import Delivery


class Keeper:
    """Puts events into an outbox, for whoever delivers from it.

    :param configurations: the configuration of each handler, by name
    :param wake: called when an event was put
    """

    def __init__(self, outbox: Outbox, configurations: dict[str, str], wake: Callable[[], None]) -> None:
        self._outbox = outbox
        self._configurations = configurations
        self._wake = wake

    def scratch(self) -> AbstractContextManager[str]:
        """Give a directory in the outbox.

        :raises OSError: on entering: it cannot be made
        """
        return self._outbox.workspace()

    def accept(self, parcel: Parcel, event: Event, note: Note) -> str:
        """Keep an event for those that owe it; nobody is left to get it from us.

        :raises OSError: it could not be kept
        """
        owing = {name: config for name, config in self._configurations.items() if note.owes(name)}
        if owing:
            span = parcel.span or _trace.NOWHERE
            claim = self._outbox.put(event, owing, sending=parcel.id, span=span, strict=True)
            try:
                claim.postpone(time.time())
            except OSError as error:
                _log.warning("outbox entry %s stays claimed until this process ends: %s", parcel.id, one_line(error))
            self._wake()
        note.owing = [name for name in note.owing or [] if name not in owing]
        return ""


class Giver:
    """Gives events to handlers.

    :param timeout: for all handlers of one event together, in seconds
    :param report: called with each delivery
    """

    def __init__(
        self,
        handlers: Mapping[str, _dispatch.Handler],
        timeout: float,
        report: Callable[[Parcel, Delivery], None],
    ) -> None:
        self._handlers = handlers
        self._timeout = timeout
        self._report = report

    @contextmanager
    def scratch(self) -> Generator[str]:
        """Give a temporary directory.

        :raises OSError: it cannot be made
        """
        from shutil import rmtree
        from tempfile import mkdtemp

        # No TemporaryDirectory: what a handler that hangs holds open may have it fail, or call itself without end.
        directory = mkdtemp(prefix="e3-event-relay-")
        try:
            yield directory
        finally:
            rmtree(directory, ignore_errors=True)

    def accept(self, parcel: Parcel, event: Event, note: Note) -> str:
        """Give an event to those that owe it; return why one of them is still to get it, empty where none is."""
        token = _trace.current.set(parcel.span or _trace.NOWHERE)  # our own span is not the sender's
        try:
            return self._give(parcel, event, note)
        finally:
            _trace.current.reset(token)

    def _give(self, parcel: Parcel, event: Event, note: Note) -> str:
        owing = {name: handler for name, handler in self._handlers.items() if note.owes(name)}
        left = dict.fromkeys(note.owing if note.owing is not None else owing)
        reason = ""
        for delivery in _dispatch.deliveries(owing, event, self._timeout):
            if delivery.permanent:
                note.refused[delivery.handler] = delivery.reason
            elif not delivery.ok:
                reason = f"{delivery.handler}: {delivery.reason}"
            if delivery.ok or delivery.permanent:
                del left[delivery.handler]
                note.owing = [*left]  # now: what is raised later must not have it get the event again
            self._report(parcel, delivery)
        note.owing = [*left]
        return reason
