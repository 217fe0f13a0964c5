"""Retry entries one at a time, after a worker has died while it was delivering several.

Each handler that had an entry gets it again in a worker that runs nothing else. Only if this worker dies as well, the
delivery has failed.
"""

from __future__ import annotations

import time

from event._worker.parent import EXIT_TIMEOUT, Worker, receive
from event._worker.results import Result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, Protocol

    class Listener(Protocol):
        """Receives the results of entries, and messages for the operator."""

        def entry(self, entry: OpenEntry, where: str) -> None:
            """Receive the results of an entry; `where` is the return value of `Claim.release`."""

        def log(self, text: str) -> None:
            """Receive a warning that does not belong to a delivery, such as a problem with the outbox."""

        def note(self, text: str) -> None:
            """Receive a message for the operator that does not count as a failure."""


_MAX_AT_ONCE = 2  # entries that are retried at the same time
_START_TIMEOUT = 5.0  # seconds for a worker to start and to claim the entry
_TIMEOUT_MARGIN = 0.5  # seconds beyond the timeout
_MAX_TRIES = 2  # workers that may die before they claim the entry


class OpenEntry:
    """An entry that a worker has begun to deliver.

    :ivar claim: the name of its claim
    :ivar active_lanes: the lane of each handler that is delivering the entry now, by the handler's name
    :ivar results: the results so far
    """

    __slots__ = ("active_lanes", "claim", "id", "name", "results")

    def __init__(self, entry_id: str, claim: str, name: str) -> None:
        self.id = entry_id
        self.claim = claim
        self.name = name
        self.active_lanes: dict[str, str] = {}
        self.results: list[Result] = []


def release_entries(outbox: str, entries: Sequence[tuple[str, Sequence[Result]]], timeout: float) -> str:
    """Journal the results of dead workers and release their entries, in a new worker.

    If there is not enough time, a later `deliver` takes over the dead workers' claims.

    :param entries: the name of the claim, and the results that may not be journaled yet
    :param timeout: seconds
    :return: the new state of the last entry; empty if it is not known
    """
    state, is_done = "", False
    deadline = time.monotonic() + timeout
    try:
        worker = Worker.spawn()
    except OSError:
        return state
    for claim, results in entries:
        job = {"job": "resume", "outbox": outbox, "claim": claim, "results": [result.as_dict() for result in results]}
        worker.send({**job, "alone": True, "limit": timeout + EXIT_TIMEOUT}, deadline=deadline)
    while not (is_done or worker.ended) and time.monotonic() < deadline:
        for _, report in receive([worker], deadline):  # only of the last job
            state = str(report.get("where", state))
            is_done = is_done or report.get("report") == "done"
    worker.kill()
    return state


class Quarantine:
    """Retry entries whose worker has died, each in a worker of its own.

    :param outbox: the outbox's directory
    :param timeout: seconds for one delivery
    :param on_result: called after each handler with its name, its lane, and whether its worker died
    :param is_paused: returns whether the lane with this key is paused
    """

    def __init__(
        self,
        outbox: str,
        timeout: float,
        listener: Listener,
        on_result: Callable[[str, str, bool], None],
        is_paused: Callable[[str], bool],
    ) -> None:
        self._outbox = outbox
        self._timeout = timeout
        self._listener = listener
        self._on_result = on_result
        self._is_paused = is_paused
        self._waiting: list[_Case] = []
        self._cases: dict[Worker, _Case] = {}
        self._spare: list[Worker] = []

    @property
    def workers(self) -> list[Worker]:
        """The workers that are retrying an entry."""
        return [*self._cases]

    @property
    def ids(self) -> list[str]:
        """The ids of the entries in quarantine."""
        return [case.entry.id for case in (*self._waiting, *self._cases.values())]

    @property
    def lanes(self) -> set[str]:
        """The lanes of all handlers that are still to be tried."""
        return {lane for case in (*self._waiting, *self._cases.values()) for lane in case.lanes}

    def add(self, entry: OpenEntry) -> None:
        self._waiting.append(_Case(entry))

    def handle_report(self, worker: Worker, report: Mapping[str, Any]) -> None:
        """Handle a report of one of the workers."""
        case, kind = self._cases[worker], report.get("report")
        if kind == "begin":
            case.note_begin(str(report.get("claim")), self._timeout + _TIMEOUT_MARGIN)
        elif kind == "result" and case.trying:
            self._on_result(case.trying, case.entry.active_lanes[case.trying], False)
            case.add_result(Result(case.trying, report))
        elif kind in {"end", "not_adopted"}:
            case.where = str(report.get("where", "gone"))
        elif kind == "log":
            self._listener.log(str(report.get("text")))
        elif kind == "done":
            self._handle_done(worker, case)

    def watch(self) -> None:
        """Kill workers that exceed the timeout, handle workers that have died, and start waiting entries."""
        now = time.monotonic()
        for worker, case in [*self._cases.items()]:
            if not worker.ended and now > case.deadline:
                worker.kill(f"not done within {self._timeout:g} s")
            if worker.ended:
                self._handle_exit(worker, case)
        while self._waiting and len(self._cases) < _MAX_AT_ONCE:
            self._begin(self._waiting.pop(0))
        while self._spare and not self._cases:
            self._spare.pop().finish(EXIT_TIMEOUT)

    def give_up(self) -> list[OpenEntry]:
        """Kill the workers; return the unfinished entries."""
        for worker in (*self._cases, *self._spare):
            worker.kill()
        cases = [*self._waiting, *self._cases.values()]
        self._waiting, self._cases, self._spare = [], {}, []
        return [case.entry for case in cases]

    def _begin(self, case: _Case) -> None:
        """Start a worker for the entry's next handler. If no handler is left, the worker puts the entry back."""
        try:
            worker = self._spare.pop() if self._spare else Worker.spawn()
        except OSError as error:
            self._listener.log(f"no worker can be started: {error.strerror}")
            self._listener.entry(case.entry, "claimed")
            return
        self._cases[worker] = case
        case.begin(_START_TIMEOUT, self._is_paused)
        job = {
            "job": "resume",
            "outbox": self._outbox,
            "claim": case.entry.claim,
            "results": [result.as_dict() for result in case.unjournaled],
            "handler": case.trying,
            "alone": True,
            "limit": 2 * self._timeout + _START_TIMEOUT,
        }
        worker.send(job, deadline=case.deadline)

    def _handle_done(self, worker: Worker, case: _Case) -> None:
        del self._cases[worker]
        self._spare.append(worker)
        if case.where:
            self._listener.entry(case.entry, case.where)
            return
        if case.trying:  # there is no result, because the entry no longer has this handler
            case.drop_handler()
        self._begin(case)

    def _handle_exit(self, worker: Worker, case: _Case) -> None:
        """Record the failure of a worker that has died, and continue with its entry."""
        del self._cases[worker]
        if case.where or case.tries >= _MAX_TRIES:
            self._listener.entry(case.entry, case.where or "claimed")
            return
        if case.trying and not case.tries:
            self._on_result(case.trying, case.entry.active_lanes[case.trying], True)
            case.add_result(Result(case.trying, {"error": worker.ended, "seconds": time.monotonic() - case.started}))
            case.unjournaled.append(case.entry.results[-1])
        self._begin(case)


class _Case:
    """The state of one entry in quarantine. Times are by `time.monotonic`.

    :ivar trying: the handler that is delivering the entry; empty if none is
    :ivar started: when the current worker was started
    :ivar deadline: when to kill the current worker
    :ivar tries: how many workers in a row were started for the entry; 0 when the current one has claimed the entry
    :ivar unjournaled: results that are not in the entry's journal yet
    :ivar where: the entry's new state, as returned by `Claim.release`; empty while it is claimed
    """

    def __init__(self, entry: OpenEntry) -> None:
        self.entry = entry
        self.trying = ""
        self.started = self.deadline = 0.0
        self.tries = 0
        self.unjournaled: list[Result] = []
        self.where = ""
        self._left = [*entry.active_lanes]

    @property
    def lanes(self) -> set[str]:
        """The lanes of the handlers that have not been tried yet."""
        return {self.entry.active_lanes[name] for name in self._left}

    def begin(self, seconds: float, is_paused: Callable[[str], bool]) -> None:
        """Select the next handler whose lane is not paused, and set the deadline for its worker."""
        self._left = [name for name in self._left if not is_paused(self.entry.active_lanes[name])]
        self.trying = self._left[0] if self._left else ""
        self.started = time.monotonic()
        self.deadline = self.started + seconds
        self.tries += 1

    def note_begin(self, claim: str, seconds: float) -> None:
        """Record that the worker has claimed the entry and journaled the earlier results.

        :param claim: the name of the new claim
        :param seconds: how long the handler may take
        """
        self.deadline = time.monotonic() + seconds
        self.entry.claim = claim
        self.tries = 0
        self.unjournaled.clear()

    def add_result(self, result: Result) -> None:
        self.entry.results.append(result)
        self.drop_handler()

    def drop_handler(self) -> None:
        self._left.remove(self.trying)
        self.trying = ""
