"""The sink that gives events directly to handlers, without an outbox."""

from __future__ import annotations

import queue
import threading
import time

from event import _dispatch, _trace_context
from event._broker.sink import Disposition, SinkResult
from event._broker.unpack import AttachmentSource, process_batch
from event._conditions import skipped
from event._event import raw_data
from event._outcome import Delivery
from event.error import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from tempfile import TemporaryDirectory

    from event._broker.message import EventMessage
    from event._broker.sink import Incoming


_MAX_WAIT = 3600.0  # seconds; `SimpleQueue.get` does not accept an infinite timeout


class DirectSink:
    """Give the events of messages to handlers. Each handler gets one event at a time; handlers run in parallel.

    :param timeout: seconds for one event and one handler
    :param report: called with each delivery, in the handler's thread
    :param source: downloads attachments from S3
    """

    def __init__(
        self,
        handlers: Mapping[str, _dispatch.Handler],
        timeout: float,
        report: Callable[[EventMessage, Delivery], None],
        source: AttachmentSource = AttachmentSource(),  # noqa: B008  # it is immutable
    ) -> None:
        self._handlers = handlers
        self._timeout = timeout
        self._report = report
        self._source = source
        self._overdue: list[threading.Thread] = []

    @property
    def hung(self) -> int:
        """The number of deliveries that have exceeded the timeout and still occupy a thread."""
        self._overdue = [thread for thread in self._overdue if thread.is_alive()]
        return len(self._overdue)

    def deliver(self, batch: Sequence[Incoming]) -> list[SinkResult]:
        """Deliver the events of a batch; return the results in order. Never raise an exception."""
        return process_batch(batch, self._source, _temporary_directory, self._deliver)

    def _deliver(self, messages: Sequence[tuple[Incoming, EventMessage]]) -> list[SinkResult]:
        pending = [self._pending(*each) for each in messages]
        deliveries = self._deliver_messages([message for _, message in messages], pending)
        return [*map(_result, pending, deliveries)]

    def _pending(self, incoming: Incoming, message: EventMessage) -> list[str]:
        """Return the handlers that have not delivered a message, except those whose conditions it does not meet."""
        if incoming.pending is not None:
            return incoming.pending
        left_out = skipped(self._handlers, raw_data(message.event), None)
        return [name for name in self._handlers if name not in left_out]

    def _deliver_messages(
        self, messages: Sequence[EventMessage], pending: Sequence[Sequence[str]]
    ) -> list[list[Delivery]]:
        """Give messages to their pending handlers; return the deliveries of each message."""
        deliveries: list[list[Delivery]] = [[] for _ in messages]
        work = {
            name: {number: message for number, message in enumerate(messages) if name in pending[number]}
            for name in self._handlers
        }
        left = {name: len(own) for name, own in work.items()}
        done: queue.SimpleQueue[None] = queue.SimpleQueue()

        def record(number: int, delivery: Delivery) -> None:
            deliveries[number].append(delivery)
            try:
                self._report(messages[number], delivery)
            except Exception:  # noqa: S110  # the event is delivered anyway
                pass
            left[delivery.handler] -= 1
            if not left[delivery.handler]:
                done.put(None)

        lanes = [
            _Lane(name, handler, work[name], self._timeout, record)
            for name, handler in self._handlers.items()
            if work[name]
        ]
        finished = 0
        while finished < len(lanes):
            wait = min(lane.deadline() for lane in lanes) - time.monotonic()
            try:
                done.get(timeout=min(max(wait, 0.0), _MAX_WAIT))
                finished += 1
            except queue.Empty:
                self._overdue += [thread for lane in lanes if (thread := lane.skip_overdue())]
        return deliveries


def _result(names: Sequence[str], deliveries: Sequence[Delivery]) -> SinkResult:
    """Return the result of a message from the deliveries of its pending handlers."""
    refused = {d.handler: d.reason for d in deliveries if d.permanent}
    failures = [d for d in deliveries if not d.ok and not d.permanent]
    finished = {d.handler for d in deliveries if d.ok or d.permanent}
    reason = f"{failures[-1].handler}: {failures[-1].reason}" if failures else ""
    disposition = Disposition.REQUEUE if failures else Disposition.ACK
    return SinkResult(disposition, reason, [name for name in names if name not in finished], refused)


class _Lane:
    """Give messages to one handler, one after another, in a thread. If one exceeds the timeout, start a new thread.

    :param messages: the messages by their numbers; changed by the lane
    :param record: called with the number and the delivery of each message, before the next message is delivered
    """

    def __init__(
        self,
        name: str,
        handler: _dispatch.Handler,
        messages: dict[int, EventMessage],
        timeout: float,
        record: Callable[[int, Delivery], None],
    ) -> None:
        self._name = name
        self._handler = handler
        self._unfinished = messages
        self._timeout = timeout
        self._record = record
        self._lock = threading.Lock()  # protects `_unfinished` and `_started`
        self._started = 0.0
        self._start()

    def deadline(self) -> float:
        """Return the deadline of the current message, by `time.monotonic`; infinity if there is none."""
        return self._started + self._timeout if self._unfinished else float("inf")

    def skip_overdue(self) -> threading.Thread | None:
        """If the current message has exceeded the timeout, start a new thread for the next ones; return the old one."""
        with self._lock:
            if self.deadline() > time.monotonic():
                return None
            overdue = self._thread
            error = TimeoutError(f"not done within {self._timeout:g} s")
            self._finish(next(iter(self._unfinished)), Delivery(self._name, False, error, self._timeout))
            if self._unfinished:
                self._start()
            return overdue

    def _start(self) -> None:
        self._started = time.monotonic()
        work = [*self._unfinished.items()]
        self._thread = threading.Thread(target=self._run, args=[work], name=f"event {self._name}", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # too many threads
            failure = _dispatch.NotStartedError(f"not tried: no thread can be started ({one_line(error)})")
            for number, _ in work:
                self._finish(number, Delivery(self._name, False, failure, 0.0))

    def _run(self, work: list[tuple[int, EventMessage]]) -> None:
        for number, message in work:
            # The span in which the event was sent, instead of the relay's own span.
            _trace_context.active_span.set(message.span or _trace_context.NO_SPAN)
            delivery = _dispatch.call_in_thread(self._name, self._handler, message.event)
            with self._lock:
                if number not in self._unfinished:
                    return  # it exceeded the timeout, and another thread has continued
                self._finish(number, delivery)

    def _finish(self, number: int, delivery: Delivery) -> None:
        del self._unfinished[number]
        self._started = time.monotonic()
        self._record(number, delivery)


def _temporary_directory() -> TemporaryDirectory[str]:
    from tempfile import TemporaryDirectory

    return TemporaryDirectory(prefix="e3-event-relay-", ignore_cleanup_errors=True)
