"""The sink that puts events into an outbox."""

from __future__ import annotations

import time
from typing import Any, Protocol

from event import _log, _trace_context
from event._broker.sink import Disposition, SinkResult, failed
from event._broker.unpack import AttachmentSource, LazyDirectory, Unpacked, unpack
from event._conditions import skipped
from event._event import raw_data
from event.error import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager

    from event import Event
    from event._broker.sink import Incoming


class Claim(Protocol):
    """An entry of an outbox that this process has just put."""

    def postpone(self, due: float) -> object:
        """Hand the entry over; it is due at a time in seconds since 1970 UTC.

        :raises OSError: it stays claimed until this process ends
        """
        ...


class EventStore(Protocol):
    """What `OutboxSink` needs of an outbox."""

    def workspace(self) -> AbstractContextManager[str]:
        """Return a context manager whose value is a directory; files there are moved into entries, not copied.

        :raises OSError: on entering: the directory cannot be made
        """
        ...

    def put_many(self, new: Sequence[Any]) -> Sequence[Claim | Exception]:
        """Keep several events, each a `NewEntry`; return a claim, or the reason why not, for each."""
        ...


class OutboxSink:
    """Puts events into an outbox; whoever delivers from it does the rest.

    :param configurations: the configuration of each handler, by name
    :param outbox: the directory that holds the last outcomes, see `event._conditions`
    """

    def __init__(
        self,
        store: EventStore,
        configurations: Mapping[str, str],
        source: AttachmentSource = AttachmentSource(),  # noqa: B008  # it is immutable
        outbox: str | None = None,
    ) -> None:
        self._store = store
        self._outbox = outbox
        self._configurations = configurations
        self._source = source

    def deliver(self, batch: Sequence[Incoming]) -> list[SinkResult]:
        """Put the events of a batch; return what is to become of each message, in order. Nothing is raised."""
        try:
            return self._put_all(batch)
        except Exception as error:
            return [failed(error)] * len(batch)

    def _put_all(self, batch: Sequence[Incoming]) -> list[SinkResult]:
        with LazyDirectory(self._store.workspace) as directory:
            unpacked = [unpack(incoming.body, directory, number, self._source) for number, incoming in enumerate(batch)]
            entries: dict[int, Any] = {}
            for number, item in enumerate(unpacked):
                if isinstance(item, Unpacked) and (handlers := self._handlers(batch[number], item.event)):
                    entries[number] = _new_entry(item, handlers)
            kept = dict(zip(entries, self._store.put_many([*entries.values()]), strict=True)) if entries else {}
            return [
                item if isinstance(item, SinkResult) else self._result(batch[number], item, kept.get(number))
                for number, item in enumerate(unpacked)
            ]

    def _handlers(self, incoming: Incoming, event: Event) -> dict[str, str]:
        """Return the configurations of the handlers that must get an event."""
        pending = incoming.pending
        if pending is not None:
            return {name: config for name, config in self._configurations.items() if name in pending}
        left_out = skipped(self._configurations, raw_data(event), self._outbox)
        return {name: config for name, config in self._configurations.items() if name not in left_out}

    def _result(self, incoming: Incoming, item: Unpacked, kept: Claim | Exception | None) -> SinkResult:
        if isinstance(kept, Exception):
            return failed(kept)
        if kept is not None:
            try:
                kept.postpone(time.time())
            except OSError as error:
                _log.warning(
                    "outbox entry %s stays claimed until this process ends: %s", item.message.id, one_line(error)
                )
        left = [name for name in incoming.pending or () if name not in self._configurations]
        return SinkResult(Disposition.ACK, pending=left)


def _new_entry(item: Unpacked, handlers: dict[str, str]) -> Any:
    from event._outbox import NewEntry

    message = item.message
    return NewEntry(item.event, handlers, sending=message.id, span=message.span or _trace_context.NO_SPAN, strict=True)
