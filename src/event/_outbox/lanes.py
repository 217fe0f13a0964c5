"""Give events to one handler: one at a time, several at once, or in batches.

A *lane* is a handler together with its configuration. It has its own queue, so that a slow destination never makes
events for another destination wait.
"""

from __future__ import annotations

import time
from collections import deque
from contextvars import copy_context
from hashlib import sha256
from threading import Lock

from event import _log, _trace_context
from event._lazy_handler import LazyHandler
from event._outcome import Delivery, taken
from event.error import EventError, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from event._event import Event
    from event._outbox.claim import Claim

SEND_BATCH = 100  # events in one call of `send_events`, at most
_QUEUED = 200  # entries of one lane whose content is in memory
MAX_URGENT = 500  # urgent entries of a lane whose content is in memory: reading one again costs more than delivering it
RUN = 16  # events that a thread takes from a fast lane at once, to spare the hand-over between threads
TIMEOUT_PAUSE = 60.0  # seconds that a lane rests after two timeouts in a row
_TIMEOUTS = 2  # in a row, before a lane rests
_BLOCKED = 0.001  # seconds; a handler that waits this long for others is served by several threads
_FAST = 0.002  # seconds; a handler that takes less is given several events by one thread in turn
_WEIGHT = 0.5  # of the last call in these averages
_SLOW = 0.1  # seconds; a call that takes longer gets other threads to help


class Recipient(LazyHandler):
    """The handler of a lane, which several threads may call.

    :ivar max_concurrency: how many sendings the handler takes at once; None for any number
    :ivar is_made: whether the handler has been constructed, or has failed to be
    """

    def __init__(self, name: str, config: str) -> None:
        super().__init__(name, config)
        self.max_concurrency: int | None = None
        self.is_made = self.takes_batches = False
        self._loading = Lock()
        self._turn = 0.0  # when the next call may begin, by `time.monotonic`

    def load(self) -> Any:
        """Return the handler.

        :raises TimeoutError: another thread has begun to load it and is not done
        :raises BaseException: whatever its code raises
        """
        if self.is_made:
            return super().load()
        if not self._loading.acquire(blocking=False):
            raise TimeoutError("the handler is still being loaded")
        try:
            handler = super().load()
            limit = getattr(handler, "max_concurrency", None)
            self.max_concurrency = max(1, limit) if isinstance(limit, int) else None
            self.takes_batches = callable(getattr(handler, "send_events", None))
            return handler
        finally:
            self.is_made = True
            self._loading.release()

    def wait_turn(self) -> None:
        """Wait until the handler's `pace` allows the next call."""
        pace = getattr(self._handler, "pace", 0.0) if self.is_made else 0.0
        pace = pace if isinstance(pace, (int, float)) else 0.0
        now = time.monotonic()
        turn = max(now, self._turn)
        self._turn = turn + pace
        time.sleep(turn - now)

    def send_events(self, events: Sequence[Event]) -> list[bool | BaseException]:
        """Give the handler several events; return for each whether it was delivered, or why not.

        :raises EventError: the handler returned something else than one result an event, or it raised SystemExit
        """
        try:
            results = [*self.load().send_events(events)]
        except SystemExit as stop:
            raise EventError(one_line(stop)) from stop
        if len(results) != len(events):
            raise EventError(f"send_events returned {len(results)} results for {len(events)} events")
        return [result if isinstance(result, BaseException) else bool(result) for result in results]


class Work:
    """An entry that is being delivered.

    :ivar claim: the entry's claim
    :ivar open: the names of the handlers whose lanes have not reported
    :ivar later: the lanes that had no room for it
    :ivar begun: whether a handler has been given the event in this attempt
    :ivar due: when to try again the lanes that would not take it; 0 for the ordinary back-off
    :ivar urgent: whether it goes before what has waited longer, as what a relay has just received does
    :ivar alone: whether the event must not be part of a batch, since one with it has failed
    """

    __slots__ = ("_checked", "_event", "alone", "begun", "claim", "due", "later", "lock", "open", "urgent")

    def __init__(self, claim: Claim, *, begun: bool = False, urgent: bool = False) -> None:
        self.claim = claim
        self.lock = Lock()
        self.open: set[str] = set()
        self.later: list[Lane] = []
        self.begun = begun
        self.urgent = urgent
        self.due = 0.0
        self.alone = False
        self._event: Event | None = None

    def begin(self) -> None:
        """Note the beginning of an attempt, once."""
        with self.lock:
            if not self.begun:
                self.begun = True
                self.claim.begin()

    def settle(self) -> str:
        """Hand the entry back; return where it went, as `Claim.release` does."""
        if self.begun or not self.due:
            return self.claim.release()
        try:
            self.claim.postpone(self.due)
        except OSError:
            return "claimed"  # until this process ends
        return "waiting"

    def event(self, handler: str) -> Event:
        """Return the event for a handler: the same object for all that have not finished a part of it."""
        if self.claim.entry.delivered_parts(handler):
            return self.claim.event(handler)
        with self.lock:
            if self._event is None:
                self._event = self.claim.event()
            return self._event


class Sending:
    """What one thread has taken from a lane.

    :ivar batch: whether the handler gets all of it in one call
    :ivar given: the work that the handler has now; empty between two calls
    :ivar rest: the work that it gets next
    :ivar started: when the handler was called, in seconds of the monotonic clock
    :ivar abandoned: whether the thread was left at the timeout; it reports nothing any more
    """

    __slots__ = ("abandoned", "batch", "given", "lane", "rest", "started")

    def __init__(self, lane: Lane, works: Sequence[Work], *, batch: bool) -> None:
        self.lane = lane
        self.batch = batch
        self.given: Sequence[Work] = ()
        self.rest = deque(works)
        self.started = 0.0
        self.abandoned = False


class Lane:
    """The queue of one handler with one configuration. Who changes it holds the pool's lock.

    :ivar key: a name for the handler with its configuration that holds no secret
    :ivar urgent: work that the handler gets before all other
    :ivar queue: work that waits for the handler
    :ivar parked: claims whose content is not kept in memory: the name of each, and `Work.begun`
    :ivar running: what threads have taken
    :ivar is_held: whether no thread may serve the lane, though work may wait for it
    :ivar rests_until: the lane takes nothing until then, in seconds since 1970 UTC
    """

    def __init__(self, name: str, config: str) -> None:
        self.name = name
        self.config = config
        self.key = sha256(f"{name}={config}".encode("utf-8", "surrogatepass")).hexdigest()[:24]
        self.handler = Recipient(name, config)
        self.urgent: deque[Work] = deque()
        self.queue: deque[Work] = deque()
        self.parked: deque[tuple[str, bool]] = deque()
        self.running: set[Sending] = set()
        self.is_held = False
        self.rests_until = 0.0
        self._timeouts = 0  # in a row
        self._seconds = _FAST  # that an event takes, on average
        self._blocked = 0.0  # of these, not on a processor

    @property
    def waits(self) -> bool:
        """Whether there is work that no thread has taken."""
        return bool(self.urgent or self.queue or self.parked)

    @property
    def is_used(self) -> bool:
        """Whether the lane must be remembered."""
        return self.waits or bool(self.running) or self.rests_until > time.time()

    def limit(self, jobs: int) -> int:
        """Return how many threads may serve the lane now.

        A handler that does not wait for anything gains nothing from a second thread, and loses time to switching.
        """
        if self.is_held:
            return 0
        if self._timeouts or not self.handler.is_made:
            return 1
        slow = self._blocked > _BLOCKED or bool(self._slow())
        return min(jobs, self.handler.max_concurrency or jobs) if slow else 1

    def enqueue(self, work: Work) -> bool:
        """Take work; return False if so much waits that it would fill the memory."""
        queue, most = (self.urgent, MAX_URGENT) if work.urgent else (self.queue, _QUEUED)
        if len(queue) >= most:
            return False
        queue.append(work)
        return True

    def take(self) -> Sending | None:
        """Return what a thread serves next: a batch, a run of events for a fast handler, or one event."""
        queue = self.urgent or self.queue
        if not queue:
            return None
        works = [queue.popleft()]
        batch = self.handler.takes_batches and not works[0].alone
        most = SEND_BATCH if batch else RUN if self._seconds < _FAST else 1
        while queue and len(works) < most and (not batch or _share_a_call(works[0], queue[0])):
            works.append(queue.popleft())
        sending = Sending(self, works, batch=len(works) > 1 and batch)
        self.running.add(sending)
        return sending

    def put_back(self, works: Iterable[Work], *, alone: bool = False) -> None:
        """Have work that was taken be taken again, before what has come since."""
        for work in reversed([*works]):
            work.alone = work.alone or alone
            (self.urgent if work.urgent else self.queue).appendleft(work)

    def empty(self) -> list[Work]:
        """Return the work that no thread has taken, and forget it."""
        works = [*self.urgent, *self.queue]
        self.urgent.clear()
        self.queue.clear()
        return works

    def pause(self) -> None:
        """Take nothing for a while."""
        self.rests_until = time.time() + TIMEOUT_PAUSE

    def note_answer(self, answer: LaneResult, events: int) -> None:
        """Take into account that the handler has answered, and how long it took."""
        self._timeouts = 0
        self._seconds += (answer.seconds / events - self._seconds) * _WEIGHT
        self._blocked += (answer.blocked / events - self._blocked) * _WEIGHT

    def note_timeout(self) -> bool:
        """Take a timeout into account; return whether the lane rests from now on."""
        self._timeouts += 1
        rested = self.rests_until > time.time()
        if self._timeouts >= _TIMEOUTS:
            self.pause()
        return self._timeouts >= _TIMEOUTS and not rested

    def late(self, timeout: float) -> list[Sending]:
        """Return what was given to the handler, and is not done within a timeout."""
        now = time.monotonic()
        return [sending for sending in self.running if sending.given and now - sending.started >= timeout]

    def abandon(self, sending: Sending) -> bool:
        """Leave a thread that hangs in the handler; return whether the lane rests from now on."""
        sending.abandoned = True
        self.running.discard(sending)
        self.put_back(sending.rest)
        if sending.batch:
            self.put_back(sending.given, alone=True)
        return self.note_timeout()

    def take_back(self) -> None:
        """Let other threads serve what waits in a thread that is held up by one event."""
        for sending in self._slow():
            self.put_back(sending.rest)
            sending.rest.clear()

    def _slow(self) -> list[Sending]:
        return self.late(_SLOW)


class LaneResult:
    """What a handler did with what it was given.

    :ivar deliveries: one for each event; None if a call for several has failed as a whole
    :ivar seconds: how long it took
    :ivar blocked: how much of it not on a processor
    """

    __slots__ = ("blocked", "deliveries", "seconds")

    def __init__(self, deliveries: list[Delivery] | None, seconds: float, blocked: float) -> None:
        self.deliveries = deliveries
        self.seconds = seconds
        self.blocked = blocked


def send_works(lane: Lane, works: Sequence[Work]) -> LaneResult:
    """Give a handler one event, or several in one call; return what it did with each."""
    start, busy = time.perf_counter(), time.thread_time()
    _log.start_capture()
    try:
        results = copy_context().run(_call, lane, works)
    except BaseException as error:  # KeyboardInterrupt too: no signal is answered in this thread
        results = [error]
    finally:
        said = _log.stop_capture()
    seconds, busy = time.perf_counter() - start, time.thread_time() - busy
    deliveries = [_delivery_from_result(lane.name, result, seconds, said) for result in results]
    return LaneResult(deliveries if len(deliveries) == len(works) else None, seconds, seconds - busy)


def _call(lane: Lane, works: Sequence[Work]) -> Sequence[bool | BaseException]:
    _trace_context.active_span.set(works[0].claim.entry.span)  # the event's, not ours
    lane.handler.wait_turn()
    if len(works) == 1:
        return [taken(lane.handler.send_event(works[0].event(lane.name)))]
    return lane.handler.send_events([work.event(lane.name) for work in works])


def _delivery_from_result(name: str, result: bool | BaseException, seconds: float, said: str) -> Delivery:
    if isinstance(result, BaseException):
        return Delivery(name, False, result, seconds, said)
    return Delivery(name, result, None, seconds, said)


def _share_a_call(first: Work, other: Work) -> bool:
    """Return whether two events may be given to a handler in one call, which runs in one span."""
    one, two = first.claim.entry.span, other.claim.entry.span
    return not other.alone and (one is two or (one.traceparent, one.state) == (two.traceparent, two.state))
