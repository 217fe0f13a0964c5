"""The sink that stores events in an outbox."""

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
    """The claim on an entry that this process has just put."""

    def postpone(self, due: float) -> object:
        """Release the claim; the entry is due at a time in seconds since 1970 UTC.

        :raises OSError: the entry stays claimed until this process ends
        """
        ...


class EventStore(Protocol):
    """The methods of an outbox that `OutboxSink` uses."""

    def workspace(self) -> AbstractContextManager[str]:
        """Return a context manager that creates a directory for attachments; see `Outbox.workspace`.

        :raises OSError: on entering the block, if the directory can't be created
        """
        ...

    def put_many(self, new: Sequence[Any]) -> Sequence[Claim | Exception]:
        """Store several events, each a `NewEntry`; return for each a claim or the error."""
        ...


class OutboxSink:
    """A `Sink` that stores events in an outbox, from which another thread or process delivers them.

    :param store: the outbox
    :param configurations: the configuration of each handler, by name
    :param source: downloads attachments from S3
    :param outbox: the outbox's directory, which also stores the previous outcomes for `event._conditions`
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
        """Store the events of a batch; return the results in order. Never raise an exception."""
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
        skipped_names = skipped(self._configurations, raw_data(event), self._outbox)
        return {name: config for name, config in self._configurations.items() if name not in skipped_names}

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
