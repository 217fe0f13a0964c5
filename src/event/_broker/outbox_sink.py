"""The sink that stores events in an outbox."""

from __future__ import annotations

import time

from event import _log, _trace_context
from event._broker.sink import Disposition, SinkResult, failed
from event._broker.unpack import AttachmentSource, process_batch
from event._conditions import skipped
from event._event import raw_data
from event._outbox import NewEntry
from event.error import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from event._broker.message import EventMessage
    from event._broker.sink import Incoming
    from event._outbox import Claim, Outbox


def hand_over(claims: Sequence[Claim]) -> None:
    """Release the claims on new entries, which are due now, so that another worker delivers them."""
    for claim in claims:
        try:
            claim.postpone(time.time())
        except OSError as error:
            _log.warning("outbox entry %s stays claimed until this process ends: %s", claim.entry.id, one_line(error))


class OutboxSink:
    """Store the events of messages in an outbox, from which another thread or process delivers them.

    :param configurations: the configuration of each handler, by name
    :param source: downloads attachments from S3
    :param keep: called with the claims on the new entries of each batch
    :param may_share: returns whether some new entries may share a file; see `Outbox.put_many`
    """

    def __init__(
        self,
        outbox: Outbox,
        configurations: Mapping[str, str],
        source: AttachmentSource = AttachmentSource(),  # noqa: B008  # it is immutable
        *,
        keep: Callable[[Sequence[Claim]], None] = hand_over,
        may_share: Callable[[int], bool] = lambda _count: False,
    ) -> None:
        self._outbox = outbox
        self._configurations = configurations
        self._source = source
        self._keep = keep
        self._may_share = may_share

    def deliver(self, batch: Sequence[Incoming]) -> list[SinkResult]:
        """Store the events of a batch; return the results in order. Never raise an exception."""
        return process_batch(batch, self._source, self._outbox.workspace, self._put)

    def _put(self, messages: Sequence[tuple[Incoming, EventMessage]]) -> list[SinkResult]:
        entries = [self._new_entry(*each) for each in messages]
        new = [entry for entry in entries if entry]
        kept = self._outbox.put_many(new, together=self._may_share(len(new))) if new else []
        self._keep([claim for claim in kept if not isinstance(claim, Exception)])
        following = iter(kept)
        return [
            self._result(incoming, next(following) if entry else None)
            for (incoming, _), entry in zip(messages, entries, strict=True)
        ]

    def _new_entry(self, incoming: Incoming, message: EventMessage) -> NewEntry | None:
        """Return the entry for the handlers that must get an event; None if there are none."""
        configs = self._configurations
        if incoming.pending is not None:
            names = {*incoming.pending}
        else:
            names = configs.keys() - skipped(configs, raw_data(message.event), self._outbox.path)
        handlers = {name: config for name, config in configs.items() if name in names}
        span = message.span or _trace_context.NO_SPAN
        return NewEntry(message.event, handlers, sending=message.id, span=span, strict=True) if handlers else None

    def _result(self, incoming: Incoming, kept: Claim | Exception | None) -> SinkResult:
        if isinstance(kept, Exception):
            return failed(kept)
        left = [name for name in incoming.pending or () if name not in self._configurations]
        return SinkResult(Disposition.ACK, pending=left)
