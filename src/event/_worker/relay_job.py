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

from threading import Thread

from event._broker import AttachmentSource, DirectSink, Incoming, OutboxSink, SinkResult
from event._broker.message import decode_message
from event._dispatch import HUNG_LIMIT, NotStartedError
from event._lazy_handler import LazyHandler
from event._outbox import Outbox
from event._redact import without_secrets
from event._worker.deliver_job import Delivering
from event._worker.send_job import Log, result_fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from event._broker import EventMessage
    from event._outbox import Claim
    from event._outcome import Delivery
    from event._worker.reporter import Reporter

MAX_REPORTED_REASON = 500  # characters
_ROOM_WAIT = 0.001  # seconds to wait, for each event of a batch, until the pool has room for the batch


def relay(job: dict[str, Any], _blob: bytes, reporter: Reporter) -> None:
    """Run the job ``relay``."""
    configs: dict[str, str] = dict(job["handlers"])
    if job["outbox"] and not job["alone"]:
        _deliver_from_outbox(job, configs, reporter)
        return
    with Log(reporter, configs):
        if job["outbox"]:
            _serve(reporter, configs, _outbox_sink(job, configs, Outbox(job["outbox"])))
        else:
            target = _HandlerTarget(job, configs, reporter)
            _serve(reporter, configs, target.sink, target.finish)


def _deliver_from_outbox(job: dict[str, Any], configs: dict[str, str], reporter: Reporter) -> None:
    """Store batches in an outbox and deliver from it, until the command sends ``stop`` or exits."""
    delivering = Delivering(job, reporter)
    claims: list[Claim] = []

    def may_share(count: int) -> bool:  # an entry that is delivered at once rarely needs its own file
        return len(configs) == 1 and delivering.pool.has_room_for(count, count * _ROOM_WAIT)

    def finish() -> None:
        delivering.add(claims)
        claims.clear()

    with delivering.log:
        Thread(target=delivering.follow, name="event feeder", daemon=True).start()
        sink = _outbox_sink(job, configs, delivering.outbox, keep=claims.extend, may_share=may_share)
        stop = _serve(reporter, configs, sink, finish, delivering.set_lane)
        delivering.stop(drain=bool(stop.get("drain")))


def _serve(
    reporter: Reporter,
    configs: Mapping[str, str],
    sink: OutboxSink | DirectSink,
    finish: Callable[[], None] | None = None,
    set_lane: Callable[..., None] | None = None,
) -> dict[str, Any]:
    """Process batches until the command sends ``stop`` or exits.

    :param finish: called after the results of a batch were reported
    :param set_lane: called with the fields of other frames
    :return: the frame ``stop``; an empty dict if the command has exited
    """
    while frame := reporter.next_job():
        job, blob = frame
        if job["job"] == "stop":
            return job
        if job["job"] == "batch":
            results = sink.deliver(_split_batch(job, blob))
            reporter.report("batch", number=job["number"], results=as_lists(results, configs))
            if finish:
                finish()
        elif set_lane:
            set_lane(**job)
    return {}


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


def as_lists(results: Sequence[SinkResult], configs: Mapping[str, str]) -> list[list[Any]]:
    """Return the disposition, reason, pending and refused handlers of each result, as the report ``batch`` has them.

    The reasons contain no secrets: the relay logs them and stores them in the headers of messages.
    """

    def shown(reason: str) -> str:
        return without_secrets(reason, configs)[:MAX_REPORTED_REASON]

    return [
        [
            result.disposition.value,
            shown(result.reason),
            result.pending,
            {name: shown(reason) for name, reason in result.refused.items()},
        ]
        for result in results
    ]


def _attachment_source(job: dict[str, Any]) -> AttachmentSource:
    if not job["s3"]:
        return AttachmentSource()
    from event._net import s3

    return AttachmentSource(job["s3"], s3.Store(job["profile"]))


def _outbox_sink(job: dict[str, Any], configs: dict[str, str], outbox: Outbox, **options: Any) -> OutboxSink:
    portable = {name: LazyHandler(name, config).encode_config() for name, config in configs.items()}
    return OutboxSink(outbox, portable, _attachment_source(job), **options)


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
        self._wants_threads = self._wants_threads or isinstance(delivery.error, NotStartedError)
        fields = result_fields(delivery, self._configs[delivery.handler])
        self._reporter.report("delivery", entry=message.id, name=str(message.event.name)[:200], **fields)
