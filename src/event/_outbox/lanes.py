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
from event._outcome import Delivery, is_delivered, require_finished
from event.error import EventError, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any, Protocol

    from event._event import Event
    from event._outbox.claim import Claim

    class Reports(Protocol):
        """Receives the reports of a pool. Several threads call it."""

        def begin(self, lane: Lane, claims: Sequence[Claim]) -> None:
            """Report that a handler is about to get these entries. It may crash the process."""

        def result(self, claim: Claim, delivery: Delivery) -> None:
            """Report the result of a handler for an entry."""

        def end(self, claim: Claim, where: str) -> None:
            """Report the new state of an entry after all its handlers have a result; see `Claim.release`."""

        def log(self, text: str) -> None:
            """Report a warning that does not belong to a single delivery."""


SEND_BATCH = 100  # events in one call of `send_events`, at most
_MAX_QUEUED = 200  # entries in memory for one lane
MAX_URGENT = 500  # the same for urgent entries: reading one again would take longer than delivering it
RUN = 16  # events that a thread takes from a fast lane at once, to save switches between threads
TIMEOUT_PAUSE = 60.0  # seconds that a lane is paused after repeated timeouts
_TIMEOUTS = 2  # in a row, before a lane is paused
_BLOCKED = 0.001  # seconds; if a call waits longer than this (for a server, a disk), several threads serve the lane
_FAST = 0.002  # seconds; if a call is faster than this, a thread takes several events at once
_WEIGHT = 0.5  # of the last call, in the running averages of these durations
_MOST = 1.5  # times such a limit that a duration counts, at most
_SLOW = 0.1  # seconds; if a call is slower than this, other threads serve the lane, too


class Recipient(LazyHandler):
    """The handler of a lane. Several threads may call it.

    :ivar max_concurrency: the largest number of simultaneous calls that the handler supports; None for no limit
    :ivar is_loaded: whether loading the handler has succeeded or failed
    """

    def __init__(self, name: str, config: str) -> None:
        super().__init__(name, config)
        self.max_concurrency: int | None = None
        self.is_loaded = self.takes_batches = False
        self._loading = Lock()
        self._turn = 0.0  # when the next call may begin, by `time.monotonic`

    def load(self) -> Any:
        """Return the handler; import and construct it first if necessary.

        :raises TimeoutError: another thread is still loading the handler
        :raises BaseException: any exception from the handler's code
        """
        if self.is_loaded:
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
            self.is_loaded = True
            self._loading.release()

    def wait_turn(self) -> None:
        """Wait until the handler's `pace` allows the next call."""
        pace = getattr(self._handler, "pace", 0.0) if self.is_loaded else 0.0
        pace = pace if isinstance(pace, (int, float)) else 0.0
        now = time.monotonic()
        turn = max(now, self._turn)
        self._turn = turn + pace
        if turn > now:
            time.sleep(turn - now)

    def send_events(self, events: Sequence[Event]) -> list[bool | BaseException]:
        """Give the handler several events; return for each whether it was delivered, or an exception.

        :raises EventError: the handler did not return one result for each event, or it raised SystemExit
        """
        try:
            answer = self.load().send_events(events)
            if not hasattr(type(answer), "__next__"):  # a generator runs while its results are read
                require_finished(answer, "send_events")
            results = [*answer]
        except SystemExit as stop:
            raise EventError(one_line(stop)) from stop
        if len(results) != len(events):
            raise EventError(f"send_events returned {len(results)} results for {len(events)} events")
        return [_result_in_batch(result) for result in results]


def _result_in_batch(result: object) -> bool | BaseException:
    try:
        return result if isinstance(result, BaseException) else is_delivered(result, "send_events")
    except Exception as error:  # also of a value that is neither true nor false
        return error


class Work:
    """An entry in the pool.

    :ivar claim: the entry's claim
    :ivar open: the names of the handlers that have no result yet
    :ivar later: the lanes whose queue was full
    :ivar begun: whether this attempt has started, because a handler has been given the event
    :ivar due: when to try the paused lanes again, in seconds since 1970 UTC; 0 for the normal back-off
    :ivar urgent: whether to deliver the entry before the waiting ones, such as a message that a relay has just received
    :ivar alone: whether to keep the event out of batches, because a batch with it has failed
    """

    __slots__ = ("_event", "alone", "begun", "claim", "due", "later", "lock", "open", "urgent")

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
        """Journal the start of the attempt, at the first call."""
        with self.lock:
            if not self.begun:
                self.begun = True
                self.claim.begin()

    def settle(self) -> str:
        """Release the claim; return the entry's new state, as `Claim.release` does."""
        if self.begun or not self.due:
            return self.claim.release()
        try:
            self.claim.postpone(self.due)
        except OSError:
            return "claimed"  # it stays claimed until this process ends
        return "waiting"

    def event(self, handler: str) -> Event:
        """Return the event for a handler: one object for all handlers that have delivered no part of the event yet."""
        if self.claim.entry.delivered_parts(handler):
            return self.claim.event(handler)
        with self.lock:
            if self._event is None:
                self._event = self.claim.event()
            return self._event


class Sending:
    """The work that one thread has taken from a lane.

    :ivar batch: whether the handler gets all of it in one call
    :ivar current: the work that the handler is processing; empty between two calls
    :ivar remaining: the work for the next calls
    :ivar started: when the handler was called, by `time.monotonic`
    :ivar abandoned: whether the thread exceeded the timeout, so that its results are ignored
    """

    __slots__ = ("abandoned", "batch", "current", "lane", "remaining", "started")

    def __init__(self, lane: Lane, works: Sequence[Work], *, batch: bool) -> None:
        self.lane = lane
        self.batch = batch
        self.current: Sequence[Work] = ()
        self.remaining = deque(works)
        self.started = 0.0
        self.abandoned = False


class Lane:
    """The queue of one handler with one configuration. Hold the pool's lock to change it.

    :ivar key: an identifier of the handler and its configuration, without secrets
    :ivar urgent: work that the handler gets first
    :ivar queue: other work for the handler
    :ivar parked: the name and `Work.begun` of each claim whose content is not in memory
    :ivar running: the work that threads have taken
    :ivar paused_until: until when the lane accepts no work, in seconds since 1970 UTC
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
        self.paused_until = 0.0
        self._timeouts = 0  # in a row
        self._seconds = _FAST  # for an event, on average
        self._blocked = 0.0  # the part of `_seconds` in which no thread of the process computes

    @property
    def waits(self) -> bool:
        """Whether the lane has work that no thread has taken."""
        return bool(self.urgent or self.queue or self.parked)

    @property
    def is_paused(self) -> bool:
        """Whether the lane accepts no work for now."""
        return self.paused_until > time.time()

    def limit(self, jobs: int) -> int:
        """Return how many threads may serve the lane now.

        If a handler only computes, more threads do not make it faster, because of the interpreter lock.
        """
        if self._timeouts or not self.handler.is_loaded:
            return 1
        slow = self._blocked > _BLOCKED or bool(self.overdue(_SLOW))
        return min(jobs, self.handler.max_concurrency or jobs) if slow else 1

    def enqueue(self, work: Work) -> bool:
        """Add work to the queue; return False if the queue is full."""
        queue, most = (self.urgent, MAX_URGENT) if work.urgent else (self.queue, _MAX_QUEUED)
        if len(queue) >= most:
            return False
        queue.append(work)
        return True

    def next_sending(self) -> Sending | None:
        """Take the next work from the queue: a batch, several events for a fast handler, or one event."""
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
        """Put work that was taken back at the front of the queue."""
        for work in reversed([*works]):
            work.alone = work.alone or alone
            (self.urgent if work.urgent else self.queue).appendleft(work)

    def empty(self) -> list[Work]:
        """Remove and return the work that no thread has taken."""
        works = [*self.urgent, *self.queue]
        self.urgent.clear()
        self.queue.clear()
        return works

    def pause(self) -> None:
        """Accept no work for `TIMEOUT_PAUSE` seconds."""
        self.paused_until = time.time() + TIMEOUT_PAUSE

    def record_call(self, seconds: float, blocked: float) -> None:
        """Update the average durations after a call that was not abandoned, from its durations for one event.

        Durations are limited, so that one slow call alone changes nothing: it may have waited for a processor.
        """
        self._timeouts = 0
        self._seconds += (min(seconds, _MOST * _FAST) - self._seconds) * _WEIGHT
        self._blocked += (min(blocked, _MOST * _BLOCKED) - self._blocked) * _WEIGHT

    def overdue(self, timeout: float) -> list[Sending]:
        """Return the calls that have been running for at least `timeout` seconds."""
        now = time.monotonic()
        return [sending for sending in self.running if sending.current and now - sending.started >= timeout]

    def abandon(self, sending: Sending) -> bool:
        """Abandon a thread that hangs in the handler; return whether the lane is paused from now on."""
        sending.abandoned = True
        self.running.discard(sending)
        self.put_back(sending.remaining)
        if sending.batch:
            self.put_back(sending.current, alone=True)
        self._timeouts += 1
        if self._timeouts < _TIMEOUTS:
            return False
        was_paused = self.is_paused
        self.pause()
        return not was_paused

    def take_back_remaining(self) -> None:
        """Put back the work that waits for a thread's slow call, so that other threads can take it."""
        for sending in self.overdue(_SLOW):
            self.put_back(sending.remaining)
            sending.remaining.clear()


def send_works(lane: Lane, works: Sequence[Work]) -> tuple[list[Delivery] | None, float, float]:
    """Give a handler one event, or several in one call.

    :return: a delivery for each event, or None if a call with several events has failed as a whole; the duration of the
        call; the part of it in which no thread of the process computed, so that more threads would help
    """
    start, busy = time.perf_counter(), time.process_time()
    _log.start_capture()
    try:
        results = copy_context().run(_call, lane, works)
    except BaseException as error:  # also KeyboardInterrupt: Python handles signals in the main thread only
        results = [error]
    finally:
        said = _log.stop_capture()
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    deliveries = [
        Delivery(lane.name, result is True, None if isinstance(result, bool) else result, seconds, said)
        for result in results
    ]
    return deliveries if len(deliveries) == len(works) else None, seconds, max(seconds - busy, 0.0)


def _call(lane: Lane, works: Sequence[Work]) -> Sequence[bool | BaseException]:
    _trace_context.active_span.set(works[0].claim.entry.span)  # the span in which the event was sent
    lane.handler.wait_turn()
    if len(works) == 1:
        return [is_delivered(lane.handler.send_event(works[0].event(lane.name)))]
    return lane.handler.send_events([work.event(lane.name) for work in works])


def _share_a_call(first: Work, other: Work) -> bool:
    """Return whether a handler may get two events in one call: both were sent in the same span."""
    one, two = first.claim.entry.span, other.claim.entry.span
    return not other.alone and (one is two or (one.traceparent, one.state) == (two.traceparent, two.state))


def pop_first(items: deque[Any], most: int) -> Iterator[Any]:
    """Yield and remove the first items."""
    for _ in range(min(most, len(items))):
        yield items.popleft()
