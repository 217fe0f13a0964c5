"""The job ``relay``, in the worker: take batches of a broker's messages into an outbox and deliver from it.

The job has the fields of ``watch`` (see `event._worker.deliver_job`), and:

==============  ==================================================================================================
``outbox``      the outbox's directory; null to give events to the handlers at once
``handlers``    [name, configuration] of each handler
``s3``          beneath which URL attachments may be fetched; empty for nowhere
``profile``     the profile of the AWS configuration, or null
``alone``       whether to deliver nothing from the outbox, since another worker does
==============  ==================================================================================================

Further frames: ``batch``, with the ``number`` of the batch, the ``sizes`` of the messages, whose bodies are the blob,
and for each the names of the handlers that are ``pending``, or null; ``served`` names the handlers that have got the
event of an id already; ``rest``, ``release`` and ``stop`` as for ``watch``. With ``drain``, ``stop`` delivers what is
due first.

The reports of ``watch``, and:

==============  ==================================================================================================
``delivery``    without an outbox, what a handler did: ``entry``, the message's id, ``name``, ``handler`` and the fields
                of `Result`
``batch``       what is to become of the messages: ``number``, ``results``, see `as_lists`
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

_MAX_REPORTED_REASON = 500  # characters
_ROOM_WAIT = 0.001  # seconds for each event of a batch, in which those before it may be delivered


def relay(job: dict[str, Any], _blob: bytes, reporter: Reporter) -> None:
    """Run the job."""
    configs: dict[str, str] = dict(job["handlers"])
    if not job["outbox"]:
        with Log(reporter, configs):
            _serve(reporter, _Direct(job, configs, reporter))
    elif job["alone"]:
        with Log(reporter, configs):
            _serve(reporter, _Keeping(job, configs, Outbox(job["outbox"])))
    else:
        delivering = Delivering(job, reporter)
        with delivering.log:
            Thread(target=delivering.follow, kwargs={"everything": False}, name="event feeder", daemon=True).start()
            _serve(reporter, _Keeping(job, configs, delivering.outbox, delivering), delivering)


def _serve(reporter: Reporter, taking: _Direct | _Keeping, delivering: Delivering | None = None) -> None:
    """Take batches until the command says ``stop`` or is gone."""
    while (frame := reporter.next_job()) and frame[0].get("job") != "stop":
        job, blob = frame
        if job["job"] == "batch":
            batch = _split_batch(job, blob)
            results = taking.sink.deliver(batch)
            reporter.report("batch", number=job["number"], results=as_lists(results))
            taking.finish()
        elif delivering:
            delivering.set_lane(**job)
    if delivering:
        delivering.stop(drain=bool(frame and frame[0].get("drain")))


def _split_batch(job: dict[str, Any], blob: bytes) -> list[Incoming]:
    batch, start, served = [], 0, job["served"]
    for size, pending in zip(job["sizes"], job["pending"], strict=True):
        body = blob[start : start + size]
        if served and pending is not None:
            has_it = served.get(_id_of_body(body), ())
            batch.append(Incoming(body, [name for name in pending if name not in has_it]))
        else:
            batch.append(Incoming(body, pending))
        start += size
    return batch


def _id_of_body(body: bytes) -> str:
    """Return the id of a message, empty if it is malformed."""
    try:
        return decode_message(body).id
    except ValueError:
        return ""


def as_lists(results: Sequence[SinkResult]) -> list[list[Any]]:
    """Return results as a report holds them: disposition, reason, pending and refused of each."""
    return [
        [
            result.disposition.value,
            result.reason[:_MAX_REPORTED_REASON],
            result.pending,
            {name: reason[:_MAX_REPORTED_REASON] for name, reason in result.refused.items()},
        ]
        for result in results
    ]


def _attachment_source(job: dict[str, Any]) -> AttachmentSource:
    if not job["s3"]:
        return AttachmentSource()
    from event._net import s3

    return AttachmentSource(job["s3"], s3.Store(job["profile"]))


class _Keeping:
    """Puts events into an outbox, and has them delivered from there at once.

    :ivar sink: takes the batches
    """

    def __init__(
        self, job: dict[str, Any], configs: dict[str, str], outbox: Outbox, delivering: Delivering | None = None
    ) -> None:
        elsewhere = {name: LazyHandler(name, config).encode_config() for name, config in configs.items()}
        self.sink = OutboxSink(self, elsewhere, _attachment_source(job), outbox.path)
        self._outbox = outbox
        self._delivering = delivering
        self._has_one_handler = len(configs) == 1
        self._kept: list[Claim] = []

    def workspace(self) -> AbstractContextManager[str]:
        """Return a directory for attachments; see `Outbox.workspace`."""
        return self._outbox.workspace()

    def put_many(self, new: Sequence[NewEntry]) -> list[_Kept | Exception]:
        """Keep events; see `Outbox.put_many`."""
        claims = self._outbox.put_many(new, together=self._may_share(len(new)))
        return [_Kept(claim, self._kept) if isinstance(claim, Claim) else claim for claim in claims]

    def _may_share(self, count: int) -> bool:
        """Return whether entries may share a file: what is delivered at once rarely needs one of its own."""
        if self._delivering is None or not self._has_one_handler:
            return False
        return self._delivering.pool.has_room_for(count, count * _ROOM_WAIT)

    def finish(self) -> None:
        """Have what was kept delivered, now that the command knows of it."""
        kept, self._kept = self._kept, []
        for claim in kept:
            if self._delivering:
                self._delivering.add(claim)
            else:
                claim.postpone(time.time())


class _Kept:
    """A claim that is handed over when the batch is done."""

    __slots__ = ("_claim", "_kept")

    def __init__(self, claim: Claim, kept: list[Claim]) -> None:
        self._claim = claim
        self._kept = kept

    def postpone(self, due: float) -> None:  # noqa: ARG002  # as `Claim.postpone` has it; it is due now
        """Hand the entry over."""
        self._kept.append(self._claim)


class _Direct:
    """Gives events to handlers at once.

    :ivar sink: takes the batches
    """

    def __init__(self, job: dict[str, Any], configs: dict[str, str], reporter: Reporter) -> None:
        handlers = {name: LazyHandler(name, config) for name, config in configs.items()}
        self.sink = DirectSink(handlers, job["timeout"], self._report, _attachment_source(job))
        self._configs = configs
        self._reporter = reporter
        self._wants_threads = False

    def finish(self) -> None:
        """If too many threads hang, or no more can be started, have another worker go on."""
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
