"""Deliver many entries at once: each to its handlers, none held up by another.

Who calls `DeliveryPool.add` or `feed` claims entries; the threads of the pool give them to handlers, note what each
did, and hand the entry back once all its handlers have reported. One more thread watches the clock: a sending that is
not done within the timeout has failed, and its thread is abandoned.
"""

from __future__ import annotations

import os
import time
from collections import deque
from threading import Condition, Lock, Thread

from event._dispatch import HUNG_LIMIT
from event._outbox.clock import Clock
from event._outbox.disk_watch import DiskWatch
from event._outbox.lanes import MAX_URGENT, SEND_BATCH, TIMEOUT_PAUSE, Lane, Sending, Work, send_works
from event._outcome import Delivery
from event.error import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

    from event._outbox.claim import Claim
    from event._outbox.layout import Candidate
    from event._outbox.reports import Reports
    from event._outbox.store import Outbox

_MAX_LANE_THREADS = 128  # that serve lanes
_OPEN = 2000  # entries whose content is in memory
_PARKED = 10_000  # claimed entries of which only the name is in memory
_LANES = 1000  # that are remembered, and their handlers with them
_CLOCK_INTERVAL = 0.05  # seconds between two looks at the clock


class DeliveryPool:
    """Threads that give claimed entries to their handlers.

    :param timeout: for one sending, in seconds
    :param jobs: how many sendings a destination gets at once, unless its handler wants fewer
    :param held: keys of lanes that are not served before `release` or `rest`
    :ivar hung: how many threads were abandoned and have not come back
    :ivar disk: notes who waits for the outbox's disk
    """

    def __init__(self, outbox: Outbox, timeout: float, jobs: int, reports: Reports, held: Iterable[str] = ()) -> None:
        self.hung = 0
        self._outbox = outbox
        self._timeout = timeout
        self._jobs = jobs
        self._reports = reports
        self._pid = os.getpid()
        self._held = {*held}
        self._paused: set[str] = set()
        self._is_broken = False
        self._lock = Lock()
        self._wanted = Condition(self._lock)  # a lane wants a thread
        self._settled = Condition(self._lock)  # there may be room, or nothing left to do
        self._lanes: dict[tuple[str, str], Lane] = {}
        self._ready: deque[Lane] = deque()  # lanes that want a thread
        self._threads = self._idle = 0
        self._open = self._parked = 0  # entries that are not settled; of the parked ones, the name alone is in memory
        self._stopping = self._closed = False
        self.disk = DiskWatch()
        self._start_thread()  # before a plugin can make that impossible
        self._clock = Clock(min(_CLOCK_INTERVAL, timeout / 4), self._lock, self._is_serving, self._check)

    @property
    def is_exhausted(self) -> bool:
        """Whether so many threads hang, or are not to be had, that another process should go on."""
        return self.hung >= HUNG_LIMIT or not self._threads or self._is_broken

    @property
    def is_full(self) -> bool:
        """Whether so much waits for handlers that the pool should be given no more."""
        return not self._has_space()

    def has_room_for(self, count: int, seconds: float) -> bool:
        """Return whether so many urgent entries have room in memory; wait for that if need be."""
        with self._lock:
            return self._settled.wait_for(lambda: self._open + count <= MAX_URGENT, seconds)

    def feed(self, candidates: Iterable[Candidate]) -> None:
        """Claim entries and give them to their handlers, until there are no more or the pool takes none."""
        following = iter(candidates)
        while self._has_room():
            with self.disk:
                candidate = next(following, None)
                claim = self._outbox.claim(candidate) if candidate else None
            if candidate is None:
                return
            if claim:
                self.add(claim)

    def add(self, claim: Claim, *, begun: bool = False, urgent: bool = False) -> None:
        """Give an entry to the handlers that have not got it.

        :param begun: whether the attempt has begun already, as putting an entry is its first one
        :param urgent: whether it goes before what waits
        """
        work = Work(claim, begun=begun, urgent=urgent)
        now = time.time()
        with self._lock:
            self._open += 1
            for name, config in claim.entry.pending.items():
                self._enter(self._lane(name, config), work, now)
            is_open = bool(work.open)
        if not is_open:
            self._settle(work)

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until all entries are settled, or the pool is exhausted; return whether they are."""
        with self._lock:
            self._settled.wait_for(lambda: not self._open + self._parked or self.is_exhausted, seconds)
            return not self._open + self._parked

    def stop(self) -> None:
        """Take nothing more, and put back what no handler has been given; the sendings that go on are finished."""
        with self._lock:
            self._stopping = True
            self._settled.notify_all()
            names = [parked for lane in self._lanes.values() for parked in _emptied(lane.parked, len(lane.parked))]
            works = [(work, lane.name) for lane in self._lanes.values() for work in lane.empty()]
        for name, begun in names:
            self._unpark(name, begun=begun)
        for work, name in works:
            self._skip(work, name, time.time())

    def pause(self, key: str) -> None:
        """Have a lane take nothing for a while, since its handler brings down the process."""
        for lane in self._set_free(key):
            lane.pause()
            self._send_home(lane)
        self._paused.add(key)

    def release(self, key: str) -> None:
        """Serve a lane that was held."""
        for lane in self._set_free(key):
            with self._lock:
                self._want(lane)

    def _set_free(self, key: str) -> list[Lane]:
        self._held.discard(key)
        with self._lock:
            lanes = [lane for lane in self._lanes.values() if lane.key == key]
        for lane in lanes:
            lane.is_held = False
        return lanes

    def close(self) -> None:
        """Let the threads end that have nothing to do."""
        with self._lock:
            self._closed = True
            self._wanted.notify_all()
            self._clock.close()

    # Who adds.

    def _has_room(self) -> bool:
        """Wait until there is room for another entry; return whether the pool takes one."""
        with self._lock:
            self._settled.wait_for(self._may_go_on)
            return not (self._stopping or self.is_exhausted)

    def _may_go_on(self) -> bool:
        return self._stopping or self.is_exhausted or self._has_space()

    def _has_space(self) -> bool:
        return self._parked < _PARKED and self._open < _OPEN

    def _lane(self, name: str, config: str) -> Lane:
        lane = self._lanes.get((name, config))
        if lane is None:
            if len(self._lanes) >= _LANES:
                self._lanes = {key: lane for key, lane in self._lanes.items() if lane.is_used}
            lane = self._lanes[name, config] = Lane(name, config)
            lane.is_held = lane.key in self._held
            if lane.key in self._paused:
                self._paused.discard(lane.key)
                lane.pause()
        return lane

    def _enter(self, lane: Lane, work: Work, now: float) -> None:
        if self._stopping or lane.rests_until > now:
            work.due = max(work.due, lane.rests_until, now)
        elif lane.enqueue(work):
            work.open.add(lane.name)
            self._want(lane)
        else:
            work.later.append(lane)

    def _want(self, lane: Lane) -> None:
        """Have another thread serve a lane if that helps."""
        if lane.waits and len(lane.running) < lane.limit(self._jobs) and lane not in self._ready:
            self._ready.append(lane)
            if self._idle:
                self._wanted.notify()
            elif self._threads < _MAX_LANE_THREADS:
                self._start_thread()

    def _start_thread(self) -> None:
        try:
            Thread(target=self._work, name="event delivery", daemon=True).start()
        except RuntimeError:
            return  # too many threads; those that there are do the work
        self._threads += 1

    # The threads.

    def _work(self) -> None:
        try:
            while self._step():
                pass
        except BaseException as error:  # no memory, say; the entry stays claimed until this process ends
            self._is_broken = True
            self._reports.log(f"delivering cannot go on: {one_line(error)}")
            with self._lock:
                self._settled.notify_all()

    def _step(self) -> bool:
        """Do what is next; return False if the thread is to end."""
        step = self._next()
        if isinstance(step, Sending):
            return self._serve_or_skip(step)
        for name, begun in step or ():
            self._unpark(name, begun=begun)
        return step is not None

    def _serve_or_skip(self, sending: Sending) -> bool:
        """Do as `_serve`. If that fails for a defect of ours, its entries wait, and hold up no others."""
        try:
            return self._serve(sending)
        except MemoryError:
            raise
        except Exception as error:
            self._reports.log(f"{sending.lane.name}: not delivered for now: {one_line(error)}")
        lane = sending.lane
        with self._lock:
            lane.running.discard(sending)
            works = [work for work in (*sending.given, *sending.rest) if lane.name in work.open]
        for work in works:
            self._skip(work, lane.name, time.time() + TIMEOUT_PAUSE)
        return True

    def _next(self) -> Sending | list[tuple[str, bool]] | None:
        """Return what a thread does next, a sending or claims to read again; None to end."""
        with self._lock:
            while not self._closed:
                while self._ready:
                    lane = self._ready.popleft()
                    if sending := lane.take():
                        self._clock.wake()
                        self._want(lane)
                        return sending
                    if lane.parked:
                        return [*_emptied(lane.parked, SEND_BATCH)]
                self._idle += 1
                self._wanted.wait()
                self._idle -= 1
            self._threads -= 1
            return None

    def _serve(self, sending: Sending) -> bool:
        """Give a handler what was taken from its lane; return False if the thread was abandoned meanwhile."""
        lane = sending.lane
        self._reports.begin(lane, [work.claim for work in sending.rest])
        while works := self._following(sending):
            answer = send_works(lane, works)
            if os.getpid() != self._pid:
                # The child of a handler that forked: the entry is its parent's.
                os._exit(0)  # pragma: no cover  # what it measured is lost with it; test_bad_plugins forks
            with self._lock:
                if sending.abandoned:
                    self.hung -= 1
                    return False
                sending.given = ()
                lane.note_answer(answer, len(works))
                if answer.deliveries is None:
                    lane.put_back(works, alone=True)  # one of them may be to blame
            for work, delivery in zip(works, answer.deliveries or (), strict=answer.deliveries is not None):
                self._record(work, delivery)
        with self._lock:
            lane.running.discard(sending)
            self._want(lane)
        return True

    def _following(self, sending: Sending) -> Sequence[Work]:
        """Return what the handler gets next, whose time begins now."""
        with self._lock:
            works = [*_emptied(sending.rest, len(sending.rest) if sending.batch else 1)]
        with self.disk:
            for work in works:
                work.begin()
        with self._lock:
            sending.started = time.monotonic()
            sending.given = works
        return works

    def _record(self, work: Work, delivery: Delivery) -> None:
        with self.disk, work.lock:
            work.claim.record(delivery)
        self._reports.result(work.claim, delivery)
        self._close_one(work, delivery.handler)

    def _skip(self, work: Work, name: str, due: float) -> None:
        """Have an entry wait until `due` for a handler that is not tried now."""
        work.due = max(work.due, due)
        self._close_one(work, name)

    def _close_one(self, work: Work, name: str) -> None:
        with self._lock:
            work.open.discard(name)
            is_open = bool(work.open)
        if not is_open:
            self._settle(work)

    def _settle(self, work: Work) -> None:
        """Hand an entry back, or remember its name if a lane had no room for it."""
        if work.later and not self._stopping:
            with self._lock:
                lane = work.later[0]
                lane.parked.append((work.claim.name, work.begun))
                self._parked += 1
                self._want(lane)
        else:
            with self.disk:
                where = work.settle()
            self._reports.end(work.claim, where)
        with self._lock:
            self._open -= 1
            self._settled.notify_all()

    def _unpark(self, name: str, *, begun: bool) -> None:
        """Read an entry that was parked, and give it to the handlers that have not got it."""
        with self.disk:
            claim = self._outbox.adopt(name)
        if claim:
            self.add(claim, begun=begun)
        with self._lock:
            self._parked -= 1
            self._settled.notify_all()

    # The clock.

    def _is_serving(self) -> bool:
        return any(lane.running or lane.waits for lane in self._lanes.values())

    def _check(self) -> None:
        with self._lock:
            lanes = [*self._lanes.values()]
            late = [sending for lane in lanes for sending in lane.late(self._timeout)]
            failed = [(sending, self._abandon(sending)) for sending in late]
            self._settled.notify_all()
            for lane in lanes:
                lane.take_back()
                self._want(lane)
        for sending, rests in failed:
            if not sending.batch:
                error = TimeoutError(f"not done within {self._timeout:g} s")
                self._record(sending.given[0], Delivery(sending.lane.name, False, error, self._timeout))
            if rests:
                waits = self._send_home(sending.lane)
                text = f"{sending.lane.name} timed out twice in a row, and is not tried for {TIMEOUT_PAUSE:g} s"
                self._reports.log(f"{text}; {waits} {'entry waits' if waits == 1 else 'entries wait'}")

    def _abandon(self, sending: Sending) -> bool:
        """Leave a thread that hangs in a handler; return whether its lane rests from now on."""
        self.hung += 1
        self._threads -= 1
        if not self._threads:
            self._start_thread()
        return sending.lane.abandon(sending)

    def _send_home(self, lane: Lane) -> int:
        """Put back what waits for a lane that rests; return how much that was."""
        with self._lock:
            works = lane.empty()
        for work in works:
            self._skip(work, lane.name, lane.rests_until)
        return len(works)


def _emptied(items: deque[Any], most: int) -> Iterator[Any]:
    """Go through the first items, and remove each."""
    for _ in range(min(most, len(items))):
        yield items.popleft()
