"""Give events to one handler: one at a time, several at once, or in batches.

A *lane* is a handler together with its configuration. It has its own queue, so that a slow destination never makes
events for another destination wait.
"""

from __future__ import annotations

import time
from collections import deque
from contextvars import copy_context
from threading import Lock

from event import _log, _registry, _trace
from event._outcome import Delivery
from event.error import EventError, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from event._event import Event
    from event._outbox import Claim

BATCH = 100  # events in one call of `send_events`, at most
RUN = 16  # events that a thread takes from a fast lane at once, to spare the hand-over between threads
REST = 60.0  # seconds that a lane rests after two timeouts in a row
_TIMEOUTS = 2  # in a row, before a lane rests
_BLOCKED = 0.001  # seconds; a handler that waits this long for others is served by several threads
_FAST = 0.002  # seconds; a handler that takes less is given several events by one thread in turn
_WEIGHT = 0.5  # of the last call in these averages
_SLOW = 0.1  # seconds; a call that takes longer gets other threads to help


class LazyHandler:
    """Proxy that imports and constructs the real handler on first use, within the delivery's deadline.

    A failure to construct is remembered: trying again for the next event would fail again.

    :ivar max_concurrency: how many sendings the handler takes at once; None for any number
    :ivar is_made: whether the handler has been constructed, or has failed to be
    """

    def __init__(self, name: str, config: str) -> None:
        self.max_concurrency: int | None = None
        self.is_made = False
        self._name = name
        self._config = config
        self._lock = Lock()
        self._handler: Any = None
        self._error: BaseException | None = None

    def send_event(self, event: Event) -> bool:
        """Give the handler an event.

        :raises EventError: the handler cannot be constructed, or it raised SystemExit
        """
        try:
            return bool(self.handler().send_event(event))
        except SystemExit as stop:
            raise EventError(one_line(stop)) from stop

    @property
    def takes_batches(self) -> bool:
        """Whether the handler has been made and has `send_events`."""
        return callable(getattr(self._handler, "send_events", None))

    def send_events(self, events: Sequence[Event]) -> list[bool | BaseException]:
        """Give the handler several events; return for each whether it was delivered, or why not.

        :raises EventError: the handler returned something else than one result an event, or it raised SystemExit
        """
        try:
            results = list(self.handler().send_events(events))
        except SystemExit as stop:
            raise EventError(one_line(stop)) from stop
        if len(results) != len(events):
            raise EventError(f"send_events returned {len(results)} results for {len(events)} events")
        return [result if isinstance(result, BaseException) else bool(result) for result in results]

    def handler(self) -> Any:
        """Return the real handler.

        :raises TimeoutError: another thread has begun to construct it and is not done
        """
        if not self.is_made:
            if not self._lock.acquire(blocking=False):
                raise TimeoutError("the handler is still being loaded")
            try:
                self._make()
            finally:
                self._lock.release()
        if self._error:
            raise self._error
        return self._handler

    def _make(self) -> None:
        try:
            kind = _registry.get_handler(self._name)
            self._handler = kind(**kind.decode_config(self._config))
            limit = getattr(self._handler, "max_concurrency", None)
            self.max_concurrency = max(1, limit) if isinstance(limit, int) else None
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self._error = error
        self.is_made = True


class Work:
    """An entry that is being delivered.

    :ivar claim: the entry's claim
    :ivar open: the names of the handlers whose lanes have not reported
    :ivar later: the lanes that had no room for it
    :ivar begun: whether a handler has been given the event in this attempt
    :ivar damage: why the entry is damaged; None if it is not, or was not looked at
    :ivar due: when to try again the lanes that would not take it; 0 for the ordinary back-off
    :ivar alone: whether the event must not be part of a batch, since one with it has failed
    """

    __slots__ = ("_checked", "_event", "alone", "begun", "claim", "damage", "due", "later", "lock", "open")

    def __init__(self, claim: Claim, *, begun: bool = False) -> None:
        self.claim = claim
        self.lock = Lock()
        self.open: set[str] = set()
        self.later: list[Lane] = []
        self.begun = begun
        self.due = 0.0
        self.alone = False
        self._event: Event | None = None
        self._checked = False
        self.damage: str | None = None

    def begin(self) -> str | None:
        """Return why the entry is damaged; else note the beginning of an attempt, once."""
        with self.lock:
            if not self._checked:
                self.damage = self.claim.damage()
                self._checked = True
            if not self.begun and self.damage is None:
                self.begun = True
                self.claim.begin()
            return self.damage

    def settle(self) -> str:
        """Hand the entry back; return where it went."""
        if self.damage:
            return self.claim.dead_letter(self.damage)
        if self.due and not self.begun:
            return self.claim.postpone(self.due)
        return self.claim.release()

    def event(self) -> Event:
        """Return the event, the same object for all handlers."""
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

    :ivar queue: work that waits for the handler
    :ivar parked: claims whose content is not kept in memory: the name of each, and `Work.begun`
    :ivar running: what threads have taken
    :ivar rests_until: the lane takes nothing until then, in seconds since 1970 UTC
    """

    def __init__(self, name: str, config: str) -> None:
        self.name = name
        self.handler = LazyHandler(name, config)
        self.queue: deque[Work] = deque()
        self.parked: deque[tuple[str, bool]] = deque()
        self.running: set[Sending] = set()
        self.rests_until = 0.0
        self._timeouts = 0  # in a row
        self._seconds = _FAST  # that an event takes, on average
        self._blocked = 0.0  # of these, not on a processor

    @property
    def waits(self) -> bool:
        """Whether there is work that no thread has taken."""
        return bool(self.queue or self.parked)

    @property
    def is_used(self) -> bool:
        """Whether the lane must be remembered."""
        return self.waits or bool(self.running) or self.rests_until > time.time()

    def limit(self, jobs: int) -> int:
        """Return how many threads may serve the lane now.

        A handler that does not wait for anything gains nothing from a second thread, and loses time to switching.
        """
        if self._timeouts or not self.handler.is_made:
            return 1
        slow = self._blocked > _BLOCKED or bool(self._slow())
        return min(jobs, self.handler.max_concurrency or jobs) if slow else 1

    def take(self) -> Sending:
        """Return what a thread serves next: a batch, a run of events for a fast handler, or one event."""
        works = [self.queue.popleft()]
        batch = self.handler.takes_batches and not works[0].alone
        most = BATCH if batch else RUN if self._seconds < _FAST else 1
        while self.queue and len(works) < most and (not batch or _share_a_call(works[0], self.queue[0])):
            works.append(self.queue.popleft())
        sending = Sending(self, works, batch=len(works) > 1 and batch)
        self.running.add(sending)
        return sending

    def note_answer(self, answer: Answer, events: int) -> None:
        """Take into account that the handler has answered, and how long it took."""
        self._timeouts = 0
        self._seconds += (answer.seconds / events - self._seconds) * _WEIGHT
        self._blocked += (answer.blocked / events - self._blocked) * _WEIGHT

    def note_timeout(self) -> bool:
        """Take a timeout into account; return whether the lane rests from now on."""
        self._timeouts += 1
        rested = self.rests_until > time.time()
        if self._timeouts >= _TIMEOUTS:
            self.rests_until = time.time() + REST
        return self._timeouts >= _TIMEOUTS and not rested

    def take_back(self) -> None:
        """Let other threads serve what waits in a thread that is held up by one event."""
        for sending in self._slow():
            self.queue.extendleft(reversed(sending.rest))
            sending.rest.clear()

    def _slow(self) -> list[Sending]:
        now = time.monotonic()
        return [sending for sending in self.running if sending.given and now - sending.started > _SLOW]


class Answer:
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


def give(lane: Lane, works: Sequence[Work]) -> Answer:
    """Give a handler one event, or several in one call; return what it did with each."""
    start, busy = time.perf_counter(), time.thread_time()
    _log.listen()
    try:
        results = copy_context().run(_call, lane.handler, works)
    except BaseException as error:  # KeyboardInterrupt too: no signal is answered in this thread
        results = [error]
    finally:
        said = _log.heard()
    seconds, busy = time.perf_counter() - start, time.thread_time() - busy
    deliveries = [_delivery(lane.name, result, seconds, said) for result in results]
    return Answer(deliveries if len(deliveries) == len(works) else None, seconds, seconds - busy)


def _call(handler: LazyHandler, works: Sequence[Work]) -> Sequence[bool | BaseException]:
    _trace.current.set(works[0].claim.entry.span)  # the event's, not ours
    if len(works) == 1:
        return [handler.send_event(works[0].event())]
    return handler.send_events([work.event() for work in works])


def _delivery(name: str, result: bool | BaseException, seconds: float, said: str) -> Delivery:
    if isinstance(result, BaseException):
        return Delivery(name, False, result, seconds, said)
    return Delivery(name, result, None, seconds, said)


def _share_a_call(first: Work, other: Work) -> bool:
    """Return whether two events may be given to a handler in one call, which runs in one span."""
    one, two = first.claim.entry.span, other.claim.entry.span
    return not other.alone and (one is two or (one.traceparent, one.state) == (two.traceparent, two.state))
