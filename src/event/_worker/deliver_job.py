"""The worker's jobs ``deliver`` and ``watch``: deliver the due entries of an outbox, once or continuously.

Fields of the job:

==============  ==================================================================================================
``outbox``      the outbox's directory
``everything``  whether the first pass also tries entries that are not due yet
``timeout``     seconds for one delivery
``jobs``        how many deliveries to one destination may run at once
``quiet``       whether to omit the results of successful deliveries
``leave``       ids of entries that another worker is delivering; skipped while they are claimed, or until ``release``
``adopt``       [id, claim] of each entry whose worker died between two handlers
``pause``       keys of lanes to pause for a while; see `Lane.key`
``hold``        keys of lanes to hold back until a frame ``pause`` or ``release`` arrives
==============  ==================================================================================================

Further frames: ``pause`` pauses a ``lane`` for a while. ``release`` lets a held ``lane`` run, or ends the skipping
of an ``entry``. ``stop`` finishes the deliveries that are running and puts the other entries back.

Reports:

==============  ==================================================================================================
``total``       the number of entries to try; at most `BOUND` are counted in each state
``begin``       a handler is about to get entries: ``handler``, ``lane``, ``entries`` ([claim, id, event name] of each)
``adopted``     an entry of ``adopt`` has a new claim: ``entry``, ``claim``
``results``     results in order: ``items``, see `Reports`
``log``         a warning that does not belong to a delivery: ``text``
``trouble``     the outbox can't be used: ``text``
``state``       once a second: ``disk`` is how long the disk has not responded, in seconds; ``exhausted`` is whether
                a new worker should take over
``idle``        ``deliver`` has tried all entries
``absent``      the outbox does not exist yet
``summary``     at the end: ``waiting``, ``due`` and ``next_due``, as in `Outbox.summary`
==============  ==================================================================================================
"""

from __future__ import annotations

import logging  # noqa: F401  # so that `Log` captures from the start: plugins may log secrets
import time
from contextlib import ExitStack
from threading import Event, Lock, Thread

from event._outbox import Outbox
from event._outbox.pool import DeliveryPool
from event._worker.resume_job import state_of
from event._worker.send_job import Log, result_fields
from event.error import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from event._outbox import Candidate, Claim
    from event._outbox.lanes import Lane
    from event._outcome import Delivery
    from event._worker.reporter import Reporter

POLL = 1.0  # seconds between two scans of the outbox
STATE_INTERVAL = 1.0  # seconds between two reports ``state``
_DRAIN_CHECK_INTERVAL = 0.2  # seconds between two checks for frames from the command
_FLUSH_DELAY = 0.05  # seconds that a result waits for others, to share a report
MAX_ITEMS = 50  # results in one report
_KNOWN_CONFIGS = 200  # most recent handler configurations whose secrets are removed from log messages


def run(job: dict[str, Any], _blob: bytes, reporter: Reporter) -> None:
    """Run the job ``deliver`` or ``watch``: deliver in threads until the command sends ``stop`` or exits."""
    with ExitStack() as stack:
        try:
            delivering = Delivering(job, reporter)
            stack.enter_context(delivering.log)  # before the feeder can log a warning
            feed = delivering.once if job["job"] == "deliver" else delivering.follow
            Thread(target=feed, name="event feeder", daemon=True).start()
        except RuntimeError:
            reporter.report("trouble", text="no thread can be started; check the limits for processes and memory")
            return
        while (frame := reporter.next_job()) and frame[0].get("job") != "stop":
            delivering.set_lane(**frame[0])
        delivering.stop()


class Delivering:
    """An outbox and the pool that delivers from it.

    :ivar log: a context manager that reports log messages that do not belong to a delivery
    """

    def __init__(self, job: dict[str, Any], reporter: Reporter) -> None:
        self.outbox = Outbox(job["outbox"])
        self._reporter = reporter
        self._reports = Reports(reporter, quiet=job["quiet"])
        self.log = Log(reporter, self._reports.configs)
        self.pool = DeliveryPool(self.outbox, job["timeout"], job["jobs"], self._reports, held=job.get("hold", ()))
        for key in job.get("pause", ()):
            self.pool.pause(key)
        self._timeout = job["timeout"]
        self._everything = job["everything"]
        self._leave = {*job.get("leave", ())}
        self._adopt = list(job.get("adopt", ()))
        self._stop = Event()
        self._is_over = Event()
        self._trouble = ""
        Thread(target=self._report_state, name="event state", daemon=True).start()

    def once(self) -> None:
        """Try the due entries once; report ``idle`` when all of them have a result."""
        try:
            with self.pool.disk:
                start = self.outbox.summary() if self.outbox.exists() else None
            if start is None:
                self._reporter.report("absent")
                return
            total = start.counts["waiting"] if self._everything else start.due
            self._reporter.report("total", total=total + start.counts["claimed"])
            self._feed()
            if self.pool.wait():
                self._reports.flush()
                self._reporter.report("idle")
        except OSError as error:
            self._report_trouble(one_line(error))

    def follow(self) -> None:
        """Try the due entries, then entries that become due, until `stop` is called."""
        while not self._stop.is_set():
            try:
                self._feed()
                self._trouble = ""
            except OSError as error:  # a network file system may become available again
                self._report_trouble(one_line(error))
            self._everything = False  # failed entries now wait for their back-off
            self._stop.wait(POLL)

    def set_lane(self, job: str, lane: str = "", entry: str = "", **_more: Any) -> None:
        """Handle a frame ``pause`` or ``release``."""
        if job == "pause":
            self.pool.pause(lane)
        elif job == "release":
            self._leave.discard(entry)
            self.pool.release(lane)

    def add(self, claims: Sequence[Claim]) -> None:
        """Deliver new entries before the waiting ones. If the pool is full, leave them in the outbox, due now."""
        if self.pool.is_full:
            for claim in claims:
                claim.postpone(time.time())
        else:
            self.pool.add(*claims, begun=True, urgent=True)

    def stop(self, *, drain: bool = False) -> None:
        """Finish the running deliveries, put the other entries back, and report ``summary``.

        :param drain: whether to deliver all due entries first
        """
        self._stop.set()
        if drain:
            self._drain()
        self.pool.stop()
        self.pool.wait(self._timeout + 1.0)
        self.pool.close()
        self._reports.flush()
        self._report_summary()
        self._is_over.set()

    def _drain(self) -> None:
        try:
            self._feed()
        except OSError as error:
            self._report_trouble(one_line(error))
        while not (self.pool.wait(_DRAIN_CHECK_INTERVAL) or self.pool.is_exhausted):
            try:
                frame = self._reporter.next_job(0.0)
            except TimeoutError:
                continue
            if frame is None:
                return
            self.set_lane(**frame[0])

    def _report_summary(self) -> None:
        try:
            with self.pool.disk:
                summary = self.outbox.summary()
        except OSError:
            return
        self._reporter.report("summary", waiting=summary.counts["waiting"], due=summary.due, next_due=summary.next_due)

    def _feed(self) -> None:
        while self._adopt:
            entry_id, name = self._adopt.pop()
            with self.pool.disk:
                claim = self.outbox.adopt(name)
            if claim:
                self._reporter.report("adopted", entry=entry_id, claim=claim.name)
                self.pool.add(claim, begun=True)
            else:
                self._reports.ended(entry_id, state_of(self.outbox, entry_id))
        self.pool.feed(self._candidates())

    def _candidates(self) -> Iterator[Candidate]:
        for candidate in self.outbox.candidates(everything=self._everything):
            if candidate.state == "waiting":
                self._leave.discard(candidate.id)  # the other worker has put it back
            if candidate.id not in self._leave:
                yield candidate

    def _report_trouble(self, text: str) -> None:
        if text != self._trouble:
            self._trouble = text
            self._reporter.report("trouble", text=text)

    def _report_state(self) -> None:
        while not self._is_over.wait(STATE_INTERVAL):
            self._reporter.report("state", disk=self.pool.disk.longest_wait(), exhausted=self.pool.is_exhausted)


class Reports:
    """Send the pool's results to the command, several in one report, without secrets.

    An item of ``results`` is one of two lists:

    - ``result``, the entry's id, the handler's name, and the fields of `Result`. With ``quiet``, the fields are omitted
      if the delivery succeeded without warnings.
    - ``end``, the entry's id, and its new state, as returned by `Claim.release`.

    :ivar configs: the configurations of recently used handlers, for `without_secrets`
    """

    def __init__(self, reporter: Reporter, *, quiet: bool) -> None:
        self.configs: dict[str, str] = {}
        self._reporter = reporter
        self._quiet = quiet
        self._lock = Lock()
        self._items: list[list[Any]] = []
        self._has_items = Event()
        Thread(target=self._flush_soon, name="event reports", daemon=True).start()

    def begin(self, lane: Lane, claims: Sequence[Claim]) -> None:
        """Report that a handler is about to get entries, after sending the earlier results."""
        if lane.name not in self.configs:
            if len(self.configs) >= _KNOWN_CONFIGS:
                del self.configs[next(iter(self.configs))]
            self.configs[lane.name] = lane.config
        self.flush()
        entries = [[claim.name, claim.entry.id, str(claim.entry.event.name)[:200]] for claim in claims]
        self._reporter.report("begin", handler=lane.name, lane=lane.key, entries=entries)

    def result(self, claim: Claim, delivery: Delivery) -> None:
        """Report a handler's result for an entry."""
        item: list[Any] = ["result", claim.entry.id, delivery.handler]
        if not (self._quiet and delivery.ok and not delivery.said):
            item.append(result_fields(delivery, claim.entry.handlers.get(delivery.handler, "")))
        self._add(item)

    def end(self, claim: Claim, where: str) -> None:
        """Report the new state of an entry whose claim was released."""
        self.ended(claim.entry.id, where)

    def ended(self, entry_id: str, where: str) -> None:
        """Report the new state of an entry, such as ``waiting`` or ``delivered``."""
        self._add(["end", entry_id, where])

    def log(self, text: str) -> None:
        """Report a warning."""
        self._reporter.report("log", text=text)

    def flush(self) -> None:
        """Send the collected results."""
        with self._lock:
            items, self._items = self._items, []
            if items:
                self._reporter.report("results", items=items)

    def _add(self, item: list[Any]) -> None:
        with self._lock:
            self._items.append(item)
            count = len(self._items)
        if count >= MAX_ITEMS:
            self.flush()
        elif count == 1:
            self._has_items.set()

    def _flush_soon(self) -> None:
        while True:
            self._has_items.wait()
            time.sleep(_FLUSH_DELAY)
            self._has_items.clear()
            self.flush()
