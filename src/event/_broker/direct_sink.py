"""The sink that gives events to handlers at once, without an outbox."""

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


_LONGEST_WAIT = 3600.0  # seconds; a lock takes no infinite one


class DirectSink:
    """Gives events to handlers: to each handler one after another, to all handlers side by side.

    :param timeout: for one event and one handler, in seconds
    :param report: called with each delivery, in the thread of its handler
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
        """How many deliveries have not ended in time and still occupy a thread."""
        self._overdue = [thread for thread in self._overdue if thread.is_alive()]
        return len(self._overdue)

    def deliver(self, batch: Sequence[Incoming]) -> list[SinkResult]:
        """Deliver the events of a batch; return what is to become of each message, in order. Nothing is raised."""
        try:
            return self._give_all(batch)
        except Exception as error:
            return [failed(error)] * len(batch)

    def _give_all(self, batch: Sequence[Incoming]) -> list[SinkResult]:
        with LazyDirectory(_TemporaryDirectory) as directory:
            unpacked = [unpack(incoming.body, directory, number, self._source) for number, incoming in enumerate(batch)]
            ready = {number: item for number, item in enumerate(unpacked) if isinstance(item, Unpacked)}
            deliveries = self._give({number: (item, batch[number]) for number, item in ready.items()})
            return [
                item if isinstance(item, SinkResult) else self._result(batch[number], deliveries[number])
                for number, item in enumerate(unpacked)
            ]

    def _give(self, events: dict[int, tuple[Unpacked, Incoming]]) -> dict[int, list[Delivery]]:
        """Give events to the handlers that are pending for them; return what each handler did."""
        from queue import SimpleQueue

        left_out = {number: _left_out(self._handlers, *found) for number, found in events.items()}
        deliveries = {number: [Delivery(name, True, None, 0.0) for name in names] for number, names in left_out.items()}

        def note(number: int, delivery: Delivery) -> None:
            deliveries[number].append(delivery)
            try:
                self._report(events[number][0].message, delivery)
            except Exception:  # noqa: S110  # the event is delivered all the same
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
                lanes.append(_Lane(name, handler, work, self._timeout, note, done.put, self._overdue.append))
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
    """Gives events to one handler, one after another, in a thread. If one takes too long, another thread goes on.

    :ivar name: the handler's
    :param note: called with the number of an event and its delivery, mostly in the lane's thread
    :param finish: called with the lane when all its deliveries are noted
    :param leave: called with a thread that is left behind
    :ivar left: the events whose deliveries are not noted
    """

    def __init__(  # noqa: PLR0913  # what a lane is made of
        self,
        name: str,
        handler: _dispatch.Handler,
        events: dict[int, Unpacked],
        timeout: float,
        note: Callable[[int, Delivery], None],
        finish: Callable[[_Lane], None],
        leave: Callable[[Thread], None],
    ) -> None:
        from threading import Lock

        self.name = name
        self.left = dict(events)
        self._leave = leave
        self._handler = handler
        self._timeout = timeout
        self._note = note
        self._finish = finish
        self._lock = Lock()  # of `left` and the two below
        self._started = 0.0
        self._turn = 0  # of the thread that may report
        self._start()

    def deadline(self) -> float:
        """Return when the event that is being delivered has failed; infinity if all are reported."""
        return self._started + self._timeout if self.left else float("inf")

    def skip_overdue(self) -> None:
        """Leave an event that takes too long to its thread, and go on with the next one in another thread."""
        with self._lock:
            if self.deadline() > time.monotonic():
                return
            self._turn += 1
            self._leave(self._thread)
            error = TimeoutError(f"not done within {self._timeout:g} s")
            self._note_next(Delivery(self.name, False, error, self._timeout))
        if self.left:
            self._start()

    def _start(self) -> None:
        from threading import Thread

        self._started = time.monotonic()
        work = (self._turn, dict(self.left))
        self._thread = Thread(target=self._run, args=work, name=f"event {self.name}", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # too many threads
            failure = _dispatch.NotStartedError(f"not tried: no thread can be started ({one_line(error)})")
            while self.left:
                self._note_next(Delivery(self.name, False, failure, 0.0))

    def _run(self, turn: int, events: dict[int, Unpacked]) -> None:
        for item in events.values():
            delivery = _deliver_in_span(self.name, self._handler, item)
            with self._lock:
                if turn != self._turn:
                    return  # too late: another thread has gone on
                self._started = time.monotonic()
                self._note_next(delivery)

    def _note_next(self, delivery: Delivery) -> None:
        """Note the delivery of the first event that is left."""
        number = next(iter(self.left))
        self._note(number, delivery)
        del self.left[number]
        if not self.left:
            self._finish(self)


def _wait_for_lanes(lanes: list[_Lane], done: SimpleQueue[_Lane]) -> None:
    """Wait until all lanes have finished; an event that takes too long is left to its thread."""
    from queue import Empty

    finished: set[_Lane] = set()
    while len(finished) < len(lanes):
        deadline = min(lane.deadline() for lane in lanes)
        try:
            finished.add(done.get(timeout=min(max(deadline - time.monotonic(), 0.0), _LONGEST_WAIT)))
        except Empty:
            for lane in lanes:
                lane.skip_overdue()


def _is_pending(name: str, incoming: Incoming) -> bool:
    return incoming.pending is None or name in incoming.pending


def _left_out(names: Iterable[str], item: Unpacked, incoming: Incoming) -> set[str]:
    """Return the handlers whose conditions an event does not meet; they count as served."""
    return skipped(names, raw_data(item.event), None) if incoming.pending is None else set()


def _deliver_in_span(name: str, handler: _dispatch.Handler, item: Unpacked) -> Delivery:
    """Give an event to a handler in the span that it was sent in; our own span is not the sender's."""
    token = _trace_context.active_span.set(item.message.span or _trace_context.NO_SPAN)
    try:
        return next(iter(_dispatch.dispatch({name: handler}, item.event, None)))
    except BaseException as error:  # SystemExit, say
        return Delivery(name, False, RuntimeError(f"the handler left with {error!r}"), 0.0)
    finally:
        _trace_context.active_span.reset(token)


class _TemporaryDirectory:
    """A directory for attachments; what cannot be removed at the end is left behind."""

    def __enter__(self) -> str:
        from tempfile import mkdtemp

        self._path = mkdtemp(prefix="e3-event-relay-")
        return self._path

    def __exit__(self, *_args: object) -> None:
        from shutil import rmtree

        rmtree(self._path, ignore_errors=True)
