"""The sink that gives events directly to handlers, without an outbox."""

from __future__ import annotations

import time

from event import _dispatch, _trace_context
from event._broker.sink import Disposition, SinkResult, failed
from event._broker.unpack import AttachmentSource, LazyDirectory, Unpacked, unpack
from event._conditions import skipped
from event._event import raw_data
from event._outcome import Delivery
from event.error import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from queue import SimpleQueue
    from threading import Thread

    from event._broker.message import EventMessage
    from event._broker.sink import Incoming


_MAX_WAIT = 3600.0  # seconds; `SimpleQueue.get` does not accept an infinite timeout


class DirectSink:
    """A `Sink` that gives events to handlers. Each handler gets one event at a time; handlers run in parallel.

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
        self._overdue: list[Thread] = []

    @property
    def hung(self) -> int:
        """The number of deliveries that have exceeded the timeout and still occupy a thread."""
        self._overdue = [thread for thread in self._overdue if thread.is_alive()]
        return len(self._overdue)

    def deliver(self, batch: Sequence[Incoming]) -> list[SinkResult]:
        """Deliver the events of a batch; return the results in order. Never raise an exception."""
        try:
            return self._deliver_all(batch)
        except Exception as error:
            return [failed(error)] * len(batch)

    def _deliver_all(self, batch: Sequence[Incoming]) -> list[SinkResult]:
        with LazyDirectory(_TemporaryDirectory) as directory:
            unpacked = [unpack(incoming.body, directory, number, self._source) for number, incoming in enumerate(batch)]
            ready = {number: item for number, item in enumerate(unpacked) if isinstance(item, Unpacked)}
            deliveries = self._deliver_events({number: (item, batch[number]) for number, item in ready.items()})
            return [
                item if isinstance(item, SinkResult) else self._result(batch[number], deliveries[number])
                for number, item in enumerate(unpacked)
            ]

    def _deliver_events(self, events: dict[int, tuple[Unpacked, Incoming]]) -> dict[int, list[Delivery]]:
        """Give events to their pending handlers; return the deliveries of each event, by its index in the batch."""
        from queue import SimpleQueue

        left_out = {number: _skipped(self._handlers, *found) for number, found in events.items()}
        deliveries = {number: [Delivery(name, True, None, 0.0) for name in names] for number, names in left_out.items()}

        def record(number: int, delivery: Delivery) -> None:
            deliveries[number].append(delivery)
            try:
                self._report(events[number][0].message, delivery)
            except Exception:  # noqa: S110  # the event is delivered anyway
                pass

        done: SimpleQueue[_Lane] = SimpleQueue()
        lanes = []
        for name, handler in self._handlers.items():
            work = {
                number: item
                for number, (item, incoming) in events.items()
                if _is_pending(name, incoming) and name not in left_out[number]
            }
            if work:
                lanes.append(_Lane(name, handler, work, self._timeout, record, done.put, self._overdue.append))
        _wait_for_lanes(lanes, done)
        return deliveries

    def _result(self, incoming: Incoming, deliveries: list[Delivery]) -> SinkResult:
        refused = {d.handler: d.reason for d in deliveries if d.permanent}
        served = {d.handler for d in deliveries if d.ok or d.permanent}
        names = self._handlers if incoming.pending is None else incoming.pending
        pending = [name for name in names if name not in served]
        failed = [d for d in deliveries if d.handler not in served]
        reason = f"{failed[-1].handler}: {failed[-1].reason}" if failed else ""
        return SinkResult(Disposition.REQUEUE if failed else Disposition.ACK, reason, pending, refused)


class _Lane:
    """Give events to one handler, one after another, in a thread. If an event exceeds the timeout, start a new thread.

    :param record: called with the index of an event and its delivery, usually in the lane's thread
    :param finish: called with the lane when all its deliveries are recorded
    :param abandon: called with a thread that has exceeded the timeout
    :ivar name: the handler's name
    :ivar unfinished: the events without a recorded delivery, by index
    """

    def __init__(  # noqa: PLR0913  # the parts of a lane
        self,
        name: str,
        handler: _dispatch.Handler,
        events: dict[int, Unpacked],
        timeout: float,
        record: Callable[[int, Delivery], None],
        finish: Callable[[_Lane], None],
        abandon: Callable[[Thread], None],
    ) -> None:
        from threading import Lock

        self.name = name
        self.unfinished = dict(events)
        self._abandon = abandon
        self._handler = handler
        self._timeout = timeout
        self._record = record
        self._finish = finish
        self._lock = Lock()  # protects `unfinished`, `_started` and `_generation`
        self._started = 0.0
        self._generation = 0  # number of the current thread; earlier threads are abandoned
        self._start()

    def deadline(self) -> float:
        """Return the deadline of the current event, by `time.monotonic`; infinity if there is none."""
        return self._started + self._timeout if self.unfinished else float("inf")

    def skip_overdue(self) -> None:
        """If the current event has exceeded the timeout, abandon its thread and start a new one for the next events."""
        with self._lock:
            if self.deadline() > time.monotonic():
                return
            self._generation += 1
            self._abandon(self._thread)
            error = TimeoutError(f"not done within {self._timeout:g} s")
            self._record_next(Delivery(self.name, False, error, self._timeout))
        if self.unfinished:
            self._start()

    def _start(self) -> None:
        from threading import Thread

        self._started = time.monotonic()
        work = (self._generation, dict(self.unfinished))
        self._thread = Thread(target=self._run, args=work, name=f"event {self.name}", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # too many threads
            failure = _dispatch.NotStartedError(f"not tried: no thread can be started ({one_line(error)})")
            while self.unfinished:
                self._record_next(Delivery(self.name, False, failure, 0.0))

    def _run(self, generation: int, events: dict[int, Unpacked]) -> None:
        for item in events.values():
            delivery = _deliver_in_span(self.name, self._handler, item)
            with self._lock:
                if generation != self._generation:
                    return  # this thread was abandoned
                self._started = time.monotonic()
                self._record_next(delivery)

    def _record_next(self, delivery: Delivery) -> None:
        """Record the delivery of the first unfinished event."""
        number = next(iter(self.unfinished))
        self._record(number, delivery)
        del self.unfinished[number]
        if not self.unfinished:
            self._finish(self)


def _wait_for_lanes(lanes: list[_Lane], done: SimpleQueue[_Lane]) -> None:
    """Wait until all lanes have finished, and enforce the timeout of each event."""
    from queue import Empty

    finished: set[_Lane] = set()
    while len(finished) < len(lanes):
        deadline = min(lane.deadline() for lane in lanes)
        try:
            finished.add(done.get(timeout=min(max(deadline - time.monotonic(), 0.0), _MAX_WAIT)))
        except Empty:
            for lane in lanes:
                lane.skip_overdue()


def _is_pending(name: str, incoming: Incoming) -> bool:
    return incoming.pending is None or name in incoming.pending


def _skipped(names: Iterable[str], item: Unpacked, incoming: Incoming) -> set[str]:
    """Return the handlers that need not get an event, because it does not meet their conditions."""
    return skipped(names, raw_data(item.event), None) if incoming.pending is None else set()


def _deliver_in_span(name: str, handler: _dispatch.Handler, item: Unpacked) -> Delivery:
    """Give an event to a handler, in the span in which the event was sent instead of the relay's own span."""
    token = _trace_context.active_span.set(item.message.span or _trace_context.NO_SPAN)
    try:
        return next(iter(_dispatch.dispatch({name: handler}, item.event, None)))
    except BaseException as error:  # such as KeyboardInterrupt
        return Delivery(name, False, RuntimeError(f"the handler raised {error!r}"), 0.0)
    finally:
        _trace_context.active_span.reset(token)


class _TemporaryDirectory:
    """A temporary directory for attachments. Errors while removing it are ignored."""

    def __enter__(self) -> str:
        from tempfile import mkdtemp

        self._path = mkdtemp(prefix="e3-event-relay-")
        return self._path

    def __exit__(self, *_args: object) -> None:
        from shutil import rmtree

        rmtree(self._path, ignore_errors=True)
