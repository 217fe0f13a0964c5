"""The command's side of delivering from an outbox: keep a worker at it, whatever the handlers' code does.

================================  ====================================================================================
what happens                      what follows
================================  ====================================================================================
the worker dies                   another one goes on; what handlers had then goes into quarantine, see
                                  `event._worker.quarantine`
a handler kills its own worker    it has failed; the second time in a row, its lane rests for `WORKER_REST` seconds
the worker hangs                  it is killed, and the same follows
the disk does not answer          the worker is killed; ``watch`` tries again later
the worker grows, ages, or hangs  it finishes what it has begun, while another one goes on
in many threads
================================  ====================================================================================
"""

from __future__ import annotations

import time

from event._backoff import backoff
from event._worker.parent import EXIT_TIMEOUT, Worker, receive
from event._worker.quarantine import OpenEntry, Quarantine
from event._worker.results import Result
from event._worker.system import memory_limit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from event._worker.quarantine import Listener

WORKER_REST = 60.0  # seconds
SILENT_SECONDS = 2.0  # seconds beyond the timeout; a worker that reports nothing for so long hangs
GUARD = 30.0  # seconds beyond the timeout; a worker that hangs ends by itself, if the command was killed
DISK_PATIENCE = 10.0  # seconds beyond the timeout that the outbox's disk may take
MOST_AGE = 6 * 3600.0  # seconds that a worker serves
MOST_THREADS = 1000  # in a worker
_RELEASE_PATIENCE = 2.0  # seconds to put back what was begun, when a second signal has come
_START_PATIENCE = 10.0  # seconds for a worker to take a job
_MOST_STARTS = 5  # in a row without any result, before a single pass gives up
_MAX_RESTART_PAUSE = 60.0  # seconds between two starts
_STATES = frozenset({"state", "alive", "total", "trouble", "idle", "absent"})
_CRASHES_BEFORE_REST = 2  # of workers of its own, before a lane rests


class Supervisor:
    """Keeps a worker that delivers from an outbox.

    :param job: what it does, see `event._worker.deliver_job`
    :param listener: is told what it does
    :param worker: a worker that serves already
    :ivar finished: whether there is nothing more to do
    :ivar failed: why the outbox could not be used to the end; empty if it could
    :ivar total: how many entries are to be tried, as far as that is known
    :ivar is_absent: whether there is no outbox yet
    :ivar summary: what waits at the end, as the report ``summary`` has it; None if that is not known
    """

    def __init__(self, job: Mapping[str, Any], listener: Listener, worker: Worker | None = None) -> None:
        self.finished = self.is_absent = False
        self.failed = ""
        self.total = 0
        self.summary: dict[str, Any] | None = None
        self._job = {**job, "guard": float(job["timeout"]) + GUARD}
        self._once = job["job"] == "deliver"
        self._drain = job["job"] == "relay"
        self._listener = listener
        self._timeout = float(job["timeout"])
        self._open: dict[Worker, dict[str, OpenEntry]] = {}  # what each worker has, by the entry's id
        self._carried: dict[str, OpenEntry] = {}  # entries between two handlers whose worker has died
        self._quarantine = Quarantine(job["outbox"], self._timeout, listener, self._note_lane, self._is_resting)
        self._draining: list[Worker] = []
        self._deaths: dict[str, int] = {}  # of lanes, in a row
        self._rests: dict[str, float] = {}  # lanes, and until when, by the monotonic clock
        self._held: set[str] = set()  # lanes that the worker must not serve before the quarantine is over
        self._starts = 0  # in a row without a result
        self._next_start = 0.0
        self._started = 0.0
        self._idle = self._stopping = False
        self._spare = worker
        self._main: Worker | None = None

    def step(self, seconds: float) -> None:
        """Go on for some time, or until something was reported.

        :param seconds: how long to wait, at most
        """
        if self._main is None and not (self._stopping or self._idle or (self._once and self._draining)):
            self._start_main()
        workers = [*self._workers(), *self._quarantine.workers]
        deadline = time.monotonic() + seconds
        if not workers and not self._others():
            time.sleep(min(seconds, max(0.0, self._next_start - time.monotonic())))
        for worker, report in receive([*workers, *self._others()], deadline):
            try:
                if worker in self._quarantine.workers:
                    self._quarantine.take(worker, report)
                elif worker in self._open:
                    self._take(worker, report)
                else:
                    self._take_other(worker, report)
            except (AttributeError, ArithmeticError, LookupError, TypeError, ValueError) as error:
                worker.kill(f"it broke the protocol of workers ({type(error).__name__})")
        self._quarantine.watch()
        self._watch()

    def stop(self) -> None:
        """Finish what has begun, and put back the rest; `step` goes on until it is `finished`."""
        if not self._stopping:
            self._stopping = True
            if self._main:
                self._drain_main()

    def abort(self) -> None:
        """Kill the workers, and put back what they had, within `_RELEASE_PATIENCE`."""
        for worker in self._workers():
            worker.kill()
        self._main, self._draining = None, []
        entries = [*self._quarantine.give_up(), *(entry for given in self._open.values() for entry in given.values())]
        self._open.clear()
        _release(str(self._job["outbox"]), entries)
        self.finished = True

    # What a relay adds.

    def _others(self) -> list[Worker]:
        """Return further workers to hear."""
        return []

    def _take_other(self, worker: Worker, report: Mapping[str, Any]) -> None:
        """Take a report of one of the `_others`, or one that is not about the outbox."""

    def _note_death(self, worker: Worker) -> bool:
        """Take note that the worker with the job has died; return whether that is explained."""
        return bool(not worker)

    # The worker that has the job.

    def _workers(self) -> list[Worker]:
        return [*([self._main] if self._main else []), *self._draining]

    def _start_main(self) -> None:
        now = time.monotonic()
        if now < self._next_start:
            return
        self._next_start = now + (backoff(self._starts, 0.5, _MAX_RESTART_PAUSE) if self._starts > 1 else 0.0)
        self._starts += 1
        try:
            worker, self._spare = self._spare or Worker.spawn(), None
        except OSError as error:
            self._fail(f"no worker can be started: {error.strerror}")
            return
        self._main, self._started = worker, now
        rest = [lane for lane in self._rests if self._is_resting(lane)]
        self._open[worker], self._carried = self._carried, {}
        adopt = [(entry.id, entry.claim) for entry in self._open[worker].values()]
        self._held = self._quarantine.lanes
        job = {**self._job, "leave": self._quarantine.ids, "rest": rest, "hold": [*self._held], "adopt": adopt}
        worker.send(job, deadline=now + _START_PATIENCE)
        self._job["everything"] = self._job["everything"] and self._once

    def _take(self, worker: Worker, report: Mapping[str, Any]) -> None:
        """Take a report; what is not understood is ignored."""
        kind = report.get("report")
        if kind == "begin":
            self._note_begin(self._open[worker], report)
        elif kind == "results":
            for item in report["items"]:
                self._note_item(self._open[worker], *item)
        elif kind == "adopted" and report["entry"] in self._open[worker]:
            self._open[worker][report["entry"]].claim = str(report["claim"])
        elif kind == "summary":
            self.summary = dict(report)
        elif kind == "log":
            self._listener.log(str(report.get("text")))
        elif kind == "done":
            self._end(worker)
        elif worker is self._main and kind in _STATES:
            self._take_state(worker, report)
        else:
            self._take_other(worker, report)

    def _take_state(self, worker: Worker, report: Mapping[str, Any]) -> None:
        kind = report.get("report")
        if kind == "state":
            if float(report["disk"]) > self._timeout + DISK_PATIENCE:
                worker.kill("the outbox does not answer")
                self._fail("the outbox does not answer")
            elif report["exhausted"]:
                self._drain_main()
        elif kind == "alive" and _is_too_large(report):
            self._drain_main()
        elif kind == "total":
            self.total = self.total or int(report["total"])
        elif kind == "trouble":
            self._trouble(str(report["text"]))
        elif kind in {"idle", "absent"}:
            self.is_absent = kind == "absent"
            self._idle = True

    def _trouble(self, text: str) -> None:
        """Take note that the outbox cannot be used, or can be used again."""
        if text:
            self._fail(text)

    def _note_begin(self, opened: dict[str, OpenEntry], report: Mapping[str, Any]) -> None:
        handler, lane = str(report["handler"]), str(report["lane"])
        for claim, entry_id, name in report["entries"]:
            entry = opened.setdefault(entry_id, OpenEntry(entry_id, claim, name))
            entry.claim = claim
            entry.given[handler] = lane

    def _note_item(self, opened: dict[str, OpenEntry], kind: str, entry_id: str, *fields: Any) -> None:
        """Take an item of the report ``results``."""
        self._starts = 0
        entry = opened.get(entry_id) or OpenEntry(entry_id, "", "")
        if kind == "end":
            opened.pop(entry_id, None)
            self._listener.entry(entry, str(fields[0]))
            return
        self._deaths.pop(entry.given.pop(fields[0], ""), None)
        if len(fields) > 1:
            entry.results.append(Result(str(fields[0]), fields[1]))

    def _note_lane(self, handler: str, lane: str, died: bool) -> None:
        """Take note of what became of a worker that had nothing but one handler to do."""
        self._deaths[lane] = self._deaths.get(lane, 0) + 1 if died else 0
        if self._deaths[lane] >= _CRASHES_BEFORE_REST:
            self._rests[lane] = time.monotonic() + WORKER_REST
            self._listener.log(f"{handler} ended its process twice in a row, and is not tried for {WORKER_REST:g} s")
            self._set_lane("rest", lane)

    def _set_lane(self, job: str, lane: str) -> None:
        self._held.discard(lane)
        for worker in self._workers():  # also one that drains: it waits for the lane
            worker.send({"job": job, "lane": lane}, deadline=time.monotonic() + _START_PATIENCE, is_more=True)

    def _is_resting(self, lane: str) -> bool:
        return self._rests.get(lane, 0.0) > time.monotonic()

    # What becomes of workers.

    def _watch(self) -> None:
        now = time.monotonic()
        main = self._main
        if main and not main.ended and now - self._started > MOST_AGE and not self._once:
            self._drain_main()
        for worker in self._workers():
            if not worker.ended and now - worker.last_report > self._timeout + SILENT_SECONDS:
                worker.kill("a handler stopped its process")
            if worker.ended:
                self._bury(worker)
        for lane in self._held - self._quarantine.lanes:
            self._set_lane("release", lane)
        if self._idle and not self._quarantine.ids:
            self._drain_main()
        done = (self._stopping or self._idle) and not self._workers()
        if done and not self._quarantine.ids and not self.finished:
            _release(str(self._job["outbox"]), [*self._carried.values()])
            self.finished = True

    def _drain_main(self) -> None:
        """Have the worker finish what it has begun; another one may go on meanwhile."""
        if self._main:
            stop = {"job": "stop", "drain": self._drain and self._stopping}
            self._main.send(stop, deadline=time.monotonic() + _START_PATIENCE, is_more=True)
            self._draining.append(self._main)
            self._main = None

    def _end(self, worker: Worker) -> None:
        """Let a worker end that has done its job."""
        self._forget(worker)
        worker.finish(EXIT_TIMEOUT)

    def _bury(self, worker: Worker) -> None:
        """See to what a worker leaves that has died."""
        opened = self._forget(worker)
        given = [entry for entry in opened.values() if entry.given]
        self._carried.update((key, entry) for key, entry in opened.items() if not entry.given)
        for entry in given:
            self._quarantine.add(entry)
        if not self._note_death(worker) and not given:
            self._fail(f"the worker was lost: {worker.ended}", fatally=self._starts >= _MOST_STARTS)

    def _forget(self, worker: Worker) -> dict[str, OpenEntry]:
        """Remove a worker from those that deliver; return what it had."""
        if worker is self._main:
            self._main = None
        else:
            self._draining.remove(worker)
        return self._open.pop(worker)

    def _fail(self, text: str, *, fatally: bool = True) -> None:
        if self._once and fatally:
            self.failed = text
            self._idle = True
        else:
            self._listener.note(text)


def _is_too_large(report: Mapping[str, Any]) -> bool:
    """Return whether a worker that reports ``alive`` has grown so much that another one should go on."""
    return int(report["memory"]) > memory_limit() // 2 or int(report["threads"]) > MOST_THREADS


def _release(outbox: str, entries: list[OpenEntry]) -> None:
    """Have a worker put back entries whose worker was killed; what it does not reach in time waits for the next."""
    deadline = time.monotonic() + _RELEASE_PATIENCE
    if not entries:
        return
    try:
        worker = Worker.spawn()
    except OSError:
        return
    for entry in entries:
        results = [result.as_dict() for result in entry.results]
        job = {"job": "resume", "outbox": outbox, "claim": entry.claim, "results": results}
        worker.send({**job, "limit": _RELEASE_PATIENCE}, deadline=deadline)
    left = len(entries)
    while left and not worker.ended and time.monotonic() < deadline:
        left -= sum(report.get("report") == "done" for _, report in receive([worker], deadline))
    worker.kill()
