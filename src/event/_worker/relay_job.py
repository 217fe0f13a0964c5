"""The worker's job ``relay``: store batches of a broker's messages in an outbox and deliver from it.

The fields of the job are those of ``watch`` (see `event._worker.deliver_job`) and:

==============  ==================================================================================================
``outbox``      the outbox's directory; null to give events directly to the handlers
``handlers``    [name, configuration] of each handler
``s3``          the S3 URL beneath which attachments may be fetched; empty to fetch none
``profile``     the profile of the AWS configuration, or null
``alone``       whether to only store entries, because another worker delivers from the outbox
==============  ==================================================================================================

Further frames: ``pause``, ``release`` and ``stop`` as for ``watch``; with ``drain``, ``stop`` first delivers the due
entries. ``batch`` has these fields, and the bodies of the messages as its blob:

==============  ==================================================================================================
``number``      the number of the batch
``sizes``       the length of each message, in bytes
``pending``     for each message, the names of its pending handlers, or null for all
``served``      the names of the handlers that have already delivered an event, by the event's id
==============  ==================================================================================================

The reports are those of ``watch`` and:

==============  ==================================================================================================
``delivery``    without an outbox, a handler's result: ``entry`` (the message's id), ``name``, ``handler`` and the
                fields of `Result`
``batch``       what to do with each message: ``number``, ``results``, see `as_lists`
==============  ==================================================================================================
"""

from __future__ import annotations

import time
from threading import Thread

from event._broker import AttachmentSource, DirectSink, Incoming, OutboxSink, SinkResult
from event._broker.message import decode_message
from event._dispatch import HUNG_LIMIT, NotStartedError
from event._lazy_handler import LazyHandler
from event._outbox import Claim, Outbox
from event._redact import without_secrets
from event._worker.deliver_job import Delivering
from event._worker.send_job import Log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager
    from typing import Any

    from event._broker import EventMessage
    from event._outbox import NewEntry
    from event._outcome import Delivery
    from event._worker.reporter import Reporter

MAX_REPORTED_REASON = 500  # characters
_ROOM_WAIT = 0.001  # seconds to wait, for each event of a batch, until the pool has room for the batch


def relay(job: dict[str, Any], _blob: bytes, reporter: Reporter) -> None:
    """Run the job ``relay``."""
    configs: dict[str, str] = dict(job["handlers"])
    if not job["outbox"]:
        with Log(reporter, configs):
            _serve(reporter, _HandlerTarget(job, configs, reporter))
    elif job["alone"]:
        with Log(reporter, configs):
            _serve(reporter, _OutboxTarget(job, configs, Outbox(job["outbox"])))
    else:
        delivering = Delivering(job, reporter)
        with delivering.log:
            Thread(target=delivering.follow, kwargs={"everything": False}, name="event feeder", daemon=True).start()
            _serve(reporter, _OutboxTarget(job, configs, delivering.outbox, delivering), delivering)


def _serve(reporter: Reporter, target: _HandlerTarget | _OutboxTarget, delivering: Delivering | None = None) -> None:
    """Process batches until the command sends ``stop`` or exits."""
    while (frame := reporter.next_job()) and frame[0].get("job") != "stop":
        job, blob = frame
        if job["job"] == "batch":
            batch = _split_batch(job, blob)
            results = target.sink.deliver(batch)
            reporter.report("batch", number=job["number"], results=as_lists(results))
            target.finish()
        elif delivering:
            delivering.set_lane(**job)
    if delivering:
        delivering.stop(drain=bool(frame and frame[0].get("drain")))


def _split_batch(job: dict[str, Any], blob: bytes) -> list[Incoming]:
    batch, start, served = [], 0, job["served"]
    for size, pending in zip(job["sizes"], job["pending"], strict=True):
        body = blob[start : start + size]
        if served and pending is not None:
            delivered = served.get(_id_of_body(body), ())
            batch.append(Incoming(body, [name for name in pending if name not in delivered]))
        else:
            batch.append(Incoming(body, pending))
        start += size
    return batch


def _id_of_body(body: bytes) -> str:
    """Return the id of a message; empty if the message is malformed."""
    try:
        return decode_message(body).id
    except ValueError:
        return ""


def as_lists(results: Sequence[SinkResult]) -> list[list[Any]]:
    """Return the disposition, reason, pending and refused handlers of each result, as the report ``batch`` has them."""
    return [
        [
            result.disposition.value,
            result.reason[:MAX_REPORTED_REASON],
            result.pending,
            {name: reason[:MAX_REPORTED_REASON] for name, reason in result.refused.items()},
        ]
        for result in results
    ]


def _attachment_source(job: dict[str, Any]) -> AttachmentSource:
    if not job["s3"]:
        return AttachmentSource()
    from event._net import s3

    return AttachmentSource(job["s3"], s3.Store(job["profile"]))


class _OutboxTarget:
    """Store events in an outbox and start their delivery.

    :param delivering: delivers the entries; None if another worker does
    :ivar sink: the sink for the batches
    """

    def __init__(
        self, job: dict[str, Any], configs: dict[str, str], outbox: Outbox, delivering: Delivering | None = None
    ) -> None:
        portable = {name: LazyHandler(name, config).encode_config() for name, config in configs.items()}
        self.sink = OutboxSink(self, portable, _attachment_source(job), outbox.path)
        self._outbox = outbox
        self._delivering = delivering
        self._has_one_handler = len(configs) == 1
        self._kept: list[Claim] = []

    def workspace(self) -> AbstractContextManager[str]:
        """Return a directory for attachments; see `Outbox.workspace`."""
        return self._outbox.workspace()

    def put_many(self, new: Sequence[NewEntry]) -> list[_NewClaim | Exception]:
        """Store events; see `Outbox.put_many`."""
        claims = self._outbox.put_many(new, together=self._may_share(len(new)))
        return [_NewClaim(claim, self._kept) if isinstance(claim, Claim) else claim for claim in claims]

    def _may_share(self, count: int) -> bool:
        """Return whether entries may share a file. An entry that is delivered at once rarely needs its own file."""
        if self._delivering is None or not self._has_one_handler:
            return False
        return self._delivering.pool.has_room_for(count, count * _ROOM_WAIT)

    def finish(self) -> None:
        """Start the delivery of the stored entries, after the batch was reported to the command."""
        kept, self._kept = self._kept, []
        if self._delivering:
            self._delivering.add(kept)
        else:
            for claim in kept:
                claim.postpone(time.time())


class _NewClaim:
    """The claim on a new entry. `_OutboxTarget.finish` delivers the entry after the batch was reported."""

    __slots__ = ("_claim", "_kept")

    def __init__(self, claim: Claim, kept: list[Claim]) -> None:
        self._claim = claim
        self._kept = kept

    def postpone(self, due: float) -> None:  # noqa: ARG002  # the signature of `Claim.postpone`; the entry is due now
        """Queue the entry for `_OutboxTarget.finish`."""
        self._kept.append(self._claim)


class _HandlerTarget:
    """Give events directly to handlers, without an outbox.

    :ivar sink: the sink for the batches
    """

    def __init__(self, job: dict[str, Any], configs: dict[str, str], reporter: Reporter) -> None:
        handlers = {name: LazyHandler(name, config) for name, config in configs.items()}
        self.sink = DirectSink(handlers, job["timeout"], self._report, _attachment_source(job))
        self._configs = configs
        self._reporter = reporter
        self._wants_threads = False

    def finish(self) -> None:
        """Ask for a new worker if too many threads hang or no thread can be started."""
        if self._wants_threads or self.sink.hung >= HUNG_LIMIT:
            self._reporter.report("state", disk=0.0, exhausted=True)

    def _report(self, message: EventMessage, delivery: Delivery) -> None:
        config = {delivery.handler: self._configs[delivery.handler]}
        self._wants_threads = self._wants_threads or isinstance(delivery.error, NotStartedError)
        self._reporter.report(
            "delivery",
            entry=message.id,
            name=str(message.event.name)[:200],
            handler=delivery.handler,
            ok=delivery.ok,
            seconds=delivery.seconds,
            error=without_secrets(delivery.reason, config),
            said=without_secrets(delivery.said, config),
            permanent=delivery.permanent,
        )
