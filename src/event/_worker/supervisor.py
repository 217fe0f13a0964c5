"""The command's side of delivering from an outbox. It keeps one worker running, even if handlers hang or crash.

====================================  ================================================================================
What happens                          What the supervisor does
====================================  ================================================================================
The worker dies.                      Start a new worker. The entries that handlers had go into quarantine, see
                                      `event._worker.quarantine`.
A handler kills its own worker in     Record that the handler failed. After two crashes in a row, pause its lane for
quarantine.                           `CRASH_PAUSE` seconds.
The worker hangs.                     Kill it, then do the same as if it had died.
The disk does not respond.            Kill the worker. ``watch`` tries again later.
The worker uses much memory, is old,  Let it finish its running deliveries, while a new worker takes over.
or has many hung threads.
====================================  ================================================================================
"""

from __future__ import annotations

import time

from event._backoff import backoff
from event._worker.parent import EXIT_TIMEOUT, Worker, receive
from event._worker.quarantine import OpenEntry, Quarantine, release_entries
from event._worker.results import Result
from event._worker.system import memory_limit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from event._worker.quarantine import Listener

CRASH_PAUSE = 60.0  # seconds that a lane is paused after repeated crashes
SILENT_SECONDS = 2.0  # after the timeout: a worker that reports nothing for so long is considered hung
GUARD = 30.0  # seconds after the timeout: a hung worker exits by itself, in case the command was killed
DISK_TIMEOUT = 10.0  # seconds beyond the timeout that the outbox's disk may take to respond
MAX_AGE = 6 * 3600.0  # seconds until a worker is replaced
MAX_THREADS = 1000  # in a worker, until it is replaced
_RELEASE_TIMEOUT = 2.0  # seconds to put unfinished entries back after a second signal
_START_TIMEOUT = 10.0  # seconds for a worker to accept a job
MAX_STARTS = 5  # of workers in a row without any result; then the job ``deliver`` fails
MAX_RESTART_PAUSE = 60.0  # seconds between two starts
_CRASHES_BEFORE_PAUSE = 2  # in a row, in quarantine


class Supervisor:
    """Keep a worker running that delivers from an outbox.

    :param job: the worker's job, see `event._worker.deliver_job`
    :param listener: receives the results
    :param worker: a running worker to use first
    :ivar finished: whether the work is done
    :ivar failed: why the outbox could not be used; empty if there was no problem
    :ivar total: the number of entries to try; 0 if it is not known yet
    :ivar is_absent: whether the outbox does not exist yet
    :ivar summary: the final report ``summary``; None if there is none
    """

    def __init__(self, job: Mapping[str, Any], listener: Listener, worker: Worker | None = None) -> None:
        self.finished = self.is_absent = False
        self.failed = ""
        self.total = 0
        self.summary: dict[str, Any] | None = None
        self._job = {**job, "guard": float(job["timeout"]) + GUARD}
        self._once = job["job"] == "deliver"
        self._listener = listener
        self._timeout = float(job["timeout"])
        self._open_entries: dict[Worker, dict[str, OpenEntry]] = {}  # the entries of each worker, by id
        self._carried: dict[str, OpenEntry] = {}  # entries whose worker died while no handler had them, by id
        self._quarantine = Quarantine(job["outbox"], self._timeout, listener, self._count_crash, self._is_paused)
        self._draining: list[Worker] = []
        self._crash_counts: dict[str, int] = {}  # of each lane, in a row
        self._paused_until: dict[str, float] = {}  # when each lane's pause ends, by `time.monotonic`
        self._held: set[str] = set()  # lanes that the worker must not use until their quarantine is over
        self._left: set[str] = set()  # ids of entries that the worker must skip until their quarantine is over
        self._starts = 0  # of workers in a row without a result
        self._next_start = 0.0
        self._started = 0.0
        self._idle = self._stopping = False
        self._spare = worker
        self._main: Worker | None = None
        self._wake_up_fd: int | None = None  # a relay's; `step` returns when it can be read

    def step(self, seconds: float) -> None:
        """Wait for reports and handle them; start and replace workers as needed.

        :param seconds: how long to wait, at most
        """
        if self._main is None and not (self._stopping or self._idle or (self._once and self._draining)):
            self._start_main()
        workers = [*self._workers(), *self._quarantine.workers, *self._extra_workers()]
        if not workers and self._wake_up_fd is None:
            time.sleep(min(seconds, max(0.0, self._next_start - time.monotonic())))
        for worker, report in receive(workers, time.monotonic() + seconds, self._wake_up_fd):
            try:
                if worker in self._quarantine.workers:
                    self._quarantine.handle_report(worker, report)
                else:
                    self._handle_report(worker, report)
            except (AttributeError, ArithmeticError, LookupError, TypeError, ValueError) as error:
                worker.kill(f"it sent an invalid report ({type(error).__name__})")
        self._quarantine.watch()
        self._watch()

    def stop(self) -> None:
        """Finish the running deliveries and put the other entries back. Call `step` until `finished` is true."""
        if not self._stopping:
            self._stopping = True
            if self._main:
                self._drain_main()

    def abort(self) -> None:
        """Kill the workers and put their entries back, within `_RELEASE_TIMEOUT` seconds."""
        for worker in (*self._workers(), *self._extra_workers()):
            worker.kill()
        self._main, self._draining = None, []
        entries = self._quarantine.give_up()
        for opened in self._open_entries.values():
            entries += opened.values()
        self._open_entries.clear()
        self._finish_with(entries)

    # Overridden by the supervisor of a relay, which also overrides `_handle_report`.

    def _extra_workers(self) -> list[Worker]:
        """Return further workers whose reports `step` receives."""
        return []

    def _handle_death(self, worker: Worker) -> bool:  # noqa: ARG002  # a relay uses it
        """Handle the death of a worker with the main job; return whether a batch of the relay explains it."""
        return False

    # The main worker.

    def _workers(self) -> list[Worker]:
        return [*([self._main] if self._main else []), *self._draining]

    def _start_main(self) -> None:
        now = time.monotonic()
        if now < self._next_start:
            return
        self._next_start = now + (backoff(self._starts, 0.5, MAX_RESTART_PAUSE) if self._starts > 1 else 0.0)
        self._starts += 1
        try:
            worker, self._spare = self._spare or Worker.spawn(), None
        except OSError as error:
            self._fail(f"no worker can be started: {error.strerror}")
            return
        self._main, self._started = worker, now
        rest = [lane for lane in self._paused_until if self._is_paused(lane)]
        self._open_entries[worker], self._carried = self._carried, {}
        adopt = [(entry.id, entry.claim) for entry in self._open_entries[worker].values()]
        self._held, self._left = self._quarantine.lanes, {*self._quarantine.ids}
        job = {**self._job, "leave": [*self._left], "pause": rest, "hold": [*self._held], "adopt": adopt}
        worker.send(job, deadline=now + _START_TIMEOUT)
        self._job["everything"] = self._job["everything"] and self._once

    def _handle_report(self, worker: Worker, report: Mapping[str, Any]) -> None:
        """Handle a report of a worker; ignore reports of an unknown kind."""
        kind = report.get("report")
        if kind == "begin":
            self._note_begin(self._open_entries[worker], report)
        elif kind == "results":
            for item in report["items"]:
                self._note_item(self._open_entries[worker], *item)
        elif kind == "adopted" and report["entry"] in self._open_entries[worker]:
            self._open_entries[worker][report["entry"]].claim = str(report["claim"])
        elif kind == "summary":
            self.summary = dict(report)
        elif kind == "log":
            self._listener.log(str(report.get("text")))
        elif kind == "done":
            self._forget(worker)
            worker.finish(EXIT_TIMEOUT)
        elif worker is self._main:
            self._handle_state(worker, report)

    def _handle_state(self, worker: Worker, report: Mapping[str, Any]) -> None:
        kind = report.get("report")
        if kind == "state":
            if float(report["disk"]) > self._timeout + DISK_TIMEOUT:
                worker.kill("the outbox does not answer")
                self._fail("the outbox does not answer")
            elif report["exhausted"]:
                self._drain_main()
        elif kind == "alive":
            if int(report["memory"]) > memory_limit() // 2 or int(report["threads"]) > MAX_THREADS:
                self._drain_main()
        elif kind == "total":
            self.total = self.total or int(report["total"])
        elif kind == "trouble":
            self._fail(str(report["text"]))
        elif kind in {"idle", "absent"}:
            self.is_absent = kind == "absent"
            self._idle = True

    def _note_begin(self, opened: dict[str, OpenEntry], report: Mapping[str, Any]) -> None:
        handler, lane = str(report["handler"]), str(report["lane"])
        for claim, entry_id, name in report["entries"]:
            entry = opened.setdefault(entry_id, OpenEntry(entry_id, claim, name))
            entry.claim = claim
            entry.active_lanes[handler] = lane

    def _note_item(self, opened: dict[str, OpenEntry], kind: str, entry_id: str, *fields: Any) -> None:
        """Handle an item of the report ``results``."""
        self._end_back_off()
        entry = opened.get(entry_id) or OpenEntry(entry_id, "", "")
        if kind == "end":
            opened.pop(entry_id, None)
            self._listener.entry(entry, str(fields[0]))
            return
        self._crash_counts.pop(entry.active_lanes.pop(fields[0], ""), None)
        if len(fields) > 1:
            entry.results.append(Result(str(fields[0]), fields[1]))

    def _end_back_off(self) -> None:
        """Start the next worker without a pause: there was a result, of this worker or in quarantine."""
        self._starts = 0
        self._next_start = 0.0

    def _count_crash(self, handler: str, lane: str, died: bool) -> None:
        """Count the crashes of a handler in quarantine; pause its lane after `_CRASHES_BEFORE_PAUSE` in a row."""
        self._end_back_off()
        self._crash_counts[lane] = self._crash_counts.get(lane, 0) + 1 if died else 0
        if self._crash_counts[lane] >= _CRASHES_BEFORE_PAUSE:
            self._paused_until[lane] = time.monotonic() + CRASH_PAUSE
            self._listener.log(f"{handler} ended its process twice in a row, and is not tried for {CRASH_PAUSE:g} s")
            self._set_lane("pause", lane)

    def _set_lane(self, job: str, lane: str) -> None:
        self._held.discard(lane)
        self._send_frame({"job": job, "lane": lane})  # also to a draining worker: it may wait for the lane

    def _send_frame(self, frame: dict[str, str]) -> None:
        for worker in self._workers():
            worker.send(frame, deadline=time.monotonic() + _START_TIMEOUT, is_more=True)

    def _is_paused(self, lane: str) -> bool:
        return self._paused_until.get(lane, 0.0) > time.monotonic()

    # Replacing and stopping workers.

    def _watch(self) -> None:
        now = time.monotonic()
        main = self._main
        if main and not main.ended and now - self._started > MAX_AGE and not self._once:
            self._drain_main()
        for worker in self._workers():
            if not worker.ended and now - worker.last_report > self._timeout + SILENT_SECONDS:
                worker.kill("a handler stopped its process")
            if worker.ended:
                self._handle_exit(worker)
        for lane in self._held - self._quarantine.lanes:
            self._set_lane("release", lane)
        for entry_id in self._left.difference(self._quarantine.ids):  # it may still be claimed, by a dead worker
            self._left.discard(entry_id)
            self._send_frame({"job": "release", "entry": entry_id})
        if self._idle and not self._quarantine.ids:
            self._drain_main()
        done = (self._stopping or self._idle) and not self._workers()
        if done and not self._quarantine.ids and not self.finished:
            self._finish_with([*self._carried.values()])

    def _drain_main(self) -> None:
        """Let the main worker finish its running deliveries. A new one may take over meanwhile."""
        if self._main:
            stop = {"job": "stop", "drain": self._job["job"] == "relay" and self._stopping}
            self._main.send(stop, deadline=time.monotonic() + _START_TIMEOUT, is_more=True)
            self._draining.append(self._main)
            self._main = None

    def _handle_exit(self, worker: Worker) -> None:
        """Move a dead worker's entries to the quarantine, or to the next worker if no handler had them."""
        opened = self._forget(worker)
        given = [entry for entry in opened.values() if entry.active_lanes]
        self._carried.update((key, entry) for key, entry in opened.items() if not entry.active_lanes)
        for entry in given:
            self._quarantine.add(entry)
        if not self._handle_death(worker) and not given:
            self._fail(f"the worker was lost: {worker.ended}", fatally=self._starts >= MAX_STARTS)

    def _forget(self, worker: Worker) -> dict[str, OpenEntry]:
        """Remove a worker; return its open entries."""
        if worker is self._main:
            self._main = None
        else:
            self._draining.remove(worker)
        return self._open_entries.pop(worker)

    def _finish_with(self, entries: list[OpenEntry]) -> None:
        """Put entries of dead workers back; then the work is done."""
        if entries:
            claims = [(entry.claim, entry.results) for entry in entries]
            release_entries(str(self._job["outbox"]), claims, _RELEASE_TIMEOUT)
        self.finished = True

    def _fail(self, text: str, *, fatally: bool = True) -> None:
        if self._once and fatally:
            self.failed = text
            self._idle = True
        else:
            self._listener.note(text)
