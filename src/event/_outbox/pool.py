"""Deliver many entries at once, so that a slow or failing entry does not delay the others.

The caller adds claimed entries with `DeliveryPool.add` or `feed`. The pool's threads give them to handlers and journal
the results. When all handlers of an entry have a result, the claim is released. A further thread enforces the timeout:
a call that exceeds it has failed, and its thread is abandoned.
"""

from __future__ import annotations

import os
import time
from collections import deque
from threading import Condition, Lock, Thread

from event._dispatch import HUNG_LIMIT
from event._outbox.files import DiskWatch
from event._outbox.lanes import MAX_URGENT, SEND_BATCH, TIMEOUT_PAUSE, Lane, Sending, Work, pop_first, send_works
from event._outcome import Delivery
from event.error import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from event._outbox.claim import Claim
    from event._outbox.lanes import Reports
    from event._outbox.layout import Candidate
    from event._outbox.store import Outbox

_MAX_LANE_THREADS = 128  # that serve lanes
_MAX_OPEN = 2000  # entries in memory
_MAX_PARKED = 10_000  # claimed entries of which only the name is in memory
_MAX_LANES = 1000  # before unused ones are removed, with their handlers
_CLOCK_INTERVAL = 0.05  # seconds between two checks for timeouts


class DeliveryPool:
    """Threads that give claimed entries to their handlers.

    :param timeout: seconds for one call of a handler
    :param jobs: how many calls of one handler may run at once, unless the handler sets a lower limit
    :param reports: receives the results
    :param held: keys of lanes that are not served until `release` or `pause`
    :ivar hung: how many abandoned threads still run
    :ivar disk: a context manager that measures how long the outbox's disk takes to respond
    """

    def __init__(self, outbox: Outbox, timeout: float, jobs: int, reports: Reports, held: Iterable[str] = ()) -> None:
        self.hung = 0
        self._outbox = outbox
        self._timeout = timeout
        self._jobs = jobs
        self._reports = reports
        self._pid = os.getpid()
        self._held = {*held}
        self._paused: dict[str, float] = {}  # until when `pause` has paused a lane, by its key
        self._is_broken = False
        self._lock = Lock()
        self._thread_requested = Condition(self._lock)  # notified when a lane needs a thread
        self._settled = Condition(self._lock)  # notified when an entry is done, so that there may be room
        self._caught_up = Condition(self._lock)  # notified when no urgent entry is left
        self._taken = Condition(self._lock)  # notified when a thread has taken work, whose time the clock checks
        self._lanes: dict[tuple[str, str], Lane] = {}
        self._ready: deque[Lane] = deque()  # lanes that need a thread
        self._threads = self._idle = 0
        self._open = self._parked = 0  # numbers of unfinished entries: in memory, and by name only
        self._urgent = 0  # urgent ones of the entries in memory
        self._stopping = self._closed = False
        self.disk = DiskWatch()
        self._start_thread()  # before a plugin can use up all threads
        Thread(target=self._watch_time, name="event pool clock", daemon=True).start()

    @property
    def is_exhausted(self) -> bool:
        """Whether so many threads hang, or none can be started, that another process should take over."""
        return self.hung >= HUNG_LIMIT or not self._threads or self._is_broken

    @property
    def is_full(self) -> bool:
        """Whether so many entries wait for handlers that the caller should add no more."""
        return self._parked >= _MAX_PARKED or self._open >= _MAX_OPEN

    def has_room_for(self, count: int, seconds: float) -> bool:
        """Wait until no urgent entry is left, up to `seconds`; return whether the pool has room for `count` more.

        A handler that only computes would share the interpreter lock with the caller, which slows both down.
        """
        with self._lock:
            self._caught_up.wait_for(lambda: not self._urgent, seconds)
            return self._open + count <= MAX_URGENT

    def feed(self, candidates: Iterable[Candidate]) -> None:
        """Claim and add entries until there are no more or the pool stops."""
        following = iter(candidates)
        while True:
            with self._lock:
                self._settled.wait_for(lambda: self._stopping or self.is_exhausted or not self.is_full)
                if self._stopping or self.is_exhausted:
                    return
            with self.disk:
                candidate = next(following, None)
                claim = self._outbox.claim(candidate) if candidate else None
            if candidate is None:
                return
            if claim:
                self.add(claim)

    def add(self, *claims: Claim, begun: bool = False, urgent: bool = False) -> None:
        """Give entries to their pending handlers.

        :param begun: whether the attempt is already journaled, such as the first attempt of a new entry
        :param urgent: whether to deliver the entries before the waiting ones
        """
        works = [Work(claim, begun=begun, urgent=urgent) for claim in claims]
        now = time.time()
        with self._lock:
            for work in works:
                self._open += 1
                self._urgent += urgent
                for name, config in work.claim.entry.pending.items():
                    self._enqueue(self._lane(name, config), work, now)
            not_open = [work for work in works if not work.open]
        for work in not_open:
            self._settle(work)

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until all entries are done or the pool is exhausted; return whether all are done.

        :param seconds: how long to wait; None for no limit
        """
        with self._lock:
            self._settled.wait_for(lambda: not self._open + self._parked or self.is_exhausted, seconds)
            return not self._open + self._parked

    def stop(self) -> None:
        """Accept no more entries and put back those that no handler has yet. Running calls are finished."""
        with self._lock:
            self._stopping = True
            self._settled.notify_all()
            names = [parked for lane in self._lanes.values() for parked in pop_first(lane.parked, len(lane.parked))]
            works = [(work, lane.name) for lane in self._lanes.values() for work in lane.empty()]
        for name, begun in names:
            self._unpark(name, begun=begun)
        for work, name in works:
            self._skip(work, name, time.time())

    def pause(self, key: str) -> None:
        """Pause a lane for a while, because its handler crashes the process."""
        until = self._paused[key] = time.time() + TIMEOUT_PAUSE
        with self._lock:
            self._held.discard(key)
            lanes = [lane for lane in self._lanes.values() if lane.key == key]
        for lane in lanes:
            lane.paused_until = until
            self._put_back_waiting(lane)

    def release(self, key: str) -> None:
        """Start serving a lane that was held."""
        with self._lock:
            self._held.discard(key)
            for lane in self._lanes.values():
                self._request_thread(lane)

    def close(self) -> None:
        """Stop the idle threads. Busy threads stop when their call returns."""
        with self._lock:
            self._closed = True
            self._thread_requested.notify_all()
            self._taken.notify_all()

    # Adding entries.

    def _lane(self, name: str, config: str) -> Lane:
        lane = self._lanes.get((name, config))
        if lane is None:
            if len(self._lanes) >= _MAX_LANES:
                self._lanes = {
                    key: lane for key, lane in self._lanes.items() if lane.waits or lane.running or lane.is_paused
                }
            lane = self._lanes[name, config] = Lane(name, config)
            lane.paused_until = self._paused.get(lane.key, 0.0)
        return lane

    def _enqueue(self, lane: Lane, work: Work, now: float) -> None:
        if self._stopping or lane.paused_until > now:
            work.due = max(work.due, lane.paused_until, now)
        elif lane.enqueue(work):
            work.open.add(lane.name)
            self._request_thread(lane)
        else:
            work.later = lane

    def _request_thread(self, lane: Lane, *, is_free: bool = False) -> None:
        """Let another thread serve a lane if the lane can use one; with `is_free`, it may be the calling thread."""
        if not lane.waits or lane in self._ready or lane.key in self._held:
            return
        if len(lane.running) >= lane.limit(self._jobs):
            return
        self._ready.append(lane)
        if is_free and len(self._ready) == 1:
            return
        if self._idle >= len(self._ready):  # one idle thread for each ready lane
            self._thread_requested.notify()
        elif self._threads < _MAX_LANE_THREADS:
            self._start_thread()

    def _start_thread(self) -> None:
        try:
            Thread(target=self._work, name="event delivery", daemon=True).start()
        except RuntimeError:
            return  # too many threads; the existing ones do the work
        self._threads += 1

    # The threads.

    def _work(self) -> None:
        try:
            while step := self._next():
                if not isinstance(step, Sending):
                    for name, begun in step:
                        self._unpark(name, begun=begun)
                elif not self._serve_or_skip(step):
                    return
        except BaseException as error:  # such as MemoryError; the entry stays claimed until this process ends
            self._is_broken = True
            self._reports.log(f"delivery stops: {one_line(error)}")
            with self._lock:
                self._settled.notify_all()

    def _serve_or_skip(self, sending: Sending) -> bool:
        """Call `_serve`. If it raises an exception, which is a defect, postpone its entries and continue."""
        try:
            return self._serve(sending)
        except MemoryError:
            raise
        except Exception as error:
            self._reports.log(f"{sending.lane.name}: not delivered for now: {one_line(error)}")
        lane = sending.lane
        with self._lock:
            lane.running.discard(sending)
            works = [work for work in (*sending.current, *sending.remaining) if lane.name in work.open]
        for work in works:
            self._skip(work, lane.name, time.time() + TIMEOUT_PAUSE)
        return True

    def _next(self) -> Sending | list[tuple[str, bool]] | None:
        """Wait for work; return what a thread must send or the parked claims to read again; None to end the thread."""
        with self._lock:
            while not self._closed:
                while self._ready:
                    lane = self._ready.popleft()
                    if sending := lane.next_sending():
                        self._taken.notify_all()
                        self._request_thread(lane)
                        return sending
                    if lane.parked:
                        return [*pop_first(lane.parked, SEND_BATCH)]
                self._idle += 1
                self._thread_requested.wait()
                self._idle -= 1
            self._threads -= 1
            return None

    def _serve(self, sending: Sending) -> bool:
        """Give a handler the work from its lane; return False if the thread was abandoned meanwhile."""
        lane = sending.lane
        self._reports.begin(lane, [work.claim for work in sending.remaining])
        while works := self._following(sending):
            deliveries, seconds, blocked = send_works(lane, works)
            if os.getpid() != self._pid:
                # A child process that a handler has forked: the entry belongs to its parent.
                os._exit(0)  # pragma: no cover  # coverage loses the child's data; test_bad_plugins tests it
            with self._lock:
                if sending.abandoned:
                    self.hung -= 1
                    return False
                sending.current = ()
                lane.record_call(seconds / len(works), blocked / len(works))
                if deliveries is None:
                    lane.put_back(works, alone=True)  # a single event may be the cause
            for work, delivery in zip(works, deliveries or (), strict=deliveries is not None):
                self._record(work, delivery)
        with self._lock:
            lane.running.discard(sending)
            self._request_thread(lane, is_free=True)
        return True

    def _following(self, sending: Sending) -> Sequence[Work]:
        """Return the work for the handler's next call, and start measuring its time."""
        with self._lock:
            works = [*pop_first(sending.remaining, len(sending.remaining) if sending.batch else 1)]
        with self.disk:
            for work in works:
                work.begin()
        with self._lock:
            sending.started = time.monotonic()
            sending.current = works
        return works

    def _record(self, work: Work, delivery: Delivery) -> None:
        with self.disk, work.lock:
            work.claim.record(delivery)
        self._reports.result(work.claim, delivery)
        self._finish_handler(work, delivery.handler)

    def _skip(self, work: Work, name: str, due: float) -> None:
        """Postpone an entry until `due` for a handler that is not tried now."""
        work.due = max(work.due, due)
        self._finish_handler(work, name)

    def _finish_handler(self, work: Work, name: str) -> None:
        with self._lock:
            work.open.discard(name)
            is_open = bool(work.open)
        if not is_open:
            self._settle(work)

    def _settle(self, work: Work) -> None:
        """Release an entry's claim, or park the entry if the queue of a lane was full."""
        if work.later and not self._stopping:
            with self._lock:
                work.later.parked.append((work.claim.name, work.begun))
                self._parked += 1
                self._request_thread(work.later)
        else:
            with self.disk:
                where = work.settle()
            self._reports.end(work.claim, where)
        with self._lock:
            self._open -= 1
            self._urgent -= work.urgent
            self._settled.notify_all()
            if not self._urgent:
                self._caught_up.notify_all()

    def _unpark(self, name: str, *, begun: bool) -> None:
        """Read a parked entry again, and give it to its pending handlers."""
        with self.disk:
            claim = self._outbox.adopt(name)
        if claim:
            self.add(claim, begun=begun)
        with self._lock:
            self._parked -= 1
            self._settled.notify_all()

    # The clock.

    def _watch_time(self) -> None:
        while not self._closed:
            with self._lock:
                if not self._closed and not any(lane.running or lane.waits for lane in self._lanes.values()):
                    self._taken.wait()
            time.sleep(min(_CLOCK_INTERVAL, self._timeout / 4))
            self._check()

    def _check(self) -> None:
        with self._lock:
            lanes = [*self._lanes.values()]
            late = [sending for lane in lanes for sending in lane.overdue(self._timeout)]
            failed = [(sending, self._abandon(sending)) for sending in late]
            self._settled.notify_all()
            for lane in lanes:
                lane.take_back_remaining()
                self._request_thread(lane)
        for sending, is_paused in failed:
            if not sending.batch:
                error = TimeoutError(f"not done within {self._timeout:g} s")
                self._record(sending.current[0], Delivery(sending.lane.name, False, error, self._timeout))
            if is_paused:
                waits = self._put_back_waiting(sending.lane)
                text = f"{sending.lane.name} timed out twice in a row, and is not tried for {TIMEOUT_PAUSE:g} s"
                self._reports.log(f"{text}; {waits} {'entry waits' if waits == 1 else 'entries wait'}")

    def _abandon(self, sending: Sending) -> bool:
        """Abandon a thread that hangs in a handler; return whether its lane is paused from now on."""
        self.hung += 1
        self._threads -= 1
        if not self._threads:
            self._start_thread()
        return sending.lane.abandon(sending)

    def _put_back_waiting(self, lane: Lane) -> int:
        """Postpone the entries that wait for a paused lane; return their number."""
        with self._lock:
            works = lane.empty()
        for work in works:
            self._skip(work, lane.name, lane.paused_until)
        return len(works)
