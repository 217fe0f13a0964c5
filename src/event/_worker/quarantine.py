"""The command's side of trying one entry at a time, after a worker has died with several in its hands.

A handler that had an entry then gets it again, in a worker in which nothing else runs. Only if that one dies too, the
handler has failed with this entry.
"""

from __future__ import annotations

import time

from event._worker.parent import EXIT_TIMEOUT, Worker
from event._worker.results import Result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, Protocol

    class Listener(Protocol):
        """What is told of entries."""

        def entry(self, entry: OpenEntry, where: str) -> None:
            """Receive the result of an entry; `where` is the return value of `Claim.release`."""

        def log(self, text: str) -> None:
            """Take what was logged outside of a delivery: something is wrong with the outbox."""

        def note(self, text: str) -> None:
            """Take what an operator may want to know, and what does not make the delivery fail."""


_MOST_AT_ONCE = 2  # entries
_START = 5.0  # seconds for a worker to start and to have the entry
_TIMEOUT_MARGIN = 0.5  # seconds beyond the timeout
_MOST_TRIES = 2  # workers that may die before they have the entry


class OpenEntry:
    """An entry that a worker has begun to deliver.

    :ivar claim: the name of its claim
    :ivar given: the handlers that have it now, and the lane of each
    :ivar results: what handlers have done with it
    """

    __slots__ = ("claim", "given", "id", "name", "results")

    def __init__(self, entry_id: str, claim: str, name: str) -> None:
        self.id = entry_id
        self.claim = claim
        self.name = name
        self.given: dict[str, str] = {}
        self.results: list[Result] = []


class Quarantine:
    """Tries entries whose worker has died.

    :param outbox: the outbox's directory
    :param timeout: for one sending, in seconds
    :param note: called with a handler, its lane, and whether it has killed a worker that had nothing else to do
    :param rests: returns whether a lane is not to be tried now
    """

    def __init__(
        self,
        outbox: str,
        timeout: float,
        listener: Listener,
        note: Callable[[str, str, bool], None],
        rests: Callable[[str], bool],
    ) -> None:
        self._outbox = outbox
        self._timeout = timeout
        self._listener = listener
        self._note = note
        self._rests = rests
        self._waiting: list[_Case] = []
        self._cases: dict[Worker, _Case] = {}
        self._spare: list[Worker] = []

    @property
    def workers(self) -> list[Worker]:
        """The workers that try an entry."""
        return [*self._cases]

    @property
    def ids(self) -> list[str]:
        """The ids of the entries that are taken care of here."""
        return [case.entry.id for case in (*self._waiting, *self._cases.values())]

    @property
    def lanes(self) -> set[str]:
        """The lanes of the handlers that are still to be tried."""
        return {lane for case in (*self._waiting, *self._cases.values()) for lane in case.lanes}

    def add(self, entry: OpenEntry) -> None:
        """Take an entry."""
        self._waiting.append(_Case(entry))

    def take(self, worker: Worker, report: Mapping[str, Any]) -> None:
        """Take a report of one of the workers."""
        case, kind = self._cases[worker], report.get("report")
        if kind == "begin":
            case.note_begin(str(report.get("claim")), self._timeout + _TIMEOUT_MARGIN)
        elif kind == "result" and case.trying:
            self._note(case.trying, case.entry.given[case.trying], False)
            case.take(Result(case.trying, report))
        elif kind in {"end", "not_adopted"}:
            case.where = str(report.get("where", "gone"))
        elif kind == "log":
            self._listener.log(str(report.get("text")))
        elif kind == "done":
            self._done(worker, case)

    def watch(self) -> None:
        """End workers that take too long, see to what those that have ended leave, and begin with what waits."""
        now = time.monotonic()
        for worker, case in [*self._cases.items()]:
            if not worker.ended and now > case.deadline:
                worker.kill(f"TimeoutError: not done within {self._timeout:g} s")
            if worker.ended:
                self._bury(worker, case)
        while self._waiting and len(self._cases) < _MOST_AT_ONCE:
            self._begin(self._waiting.pop(0))
        if not self._cases:
            self._end_spare()

    def give_up(self) -> list[OpenEntry]:
        """Kill the workers; return the entries that are not done with."""
        for worker in (*self._cases, *self._spare):
            worker.kill()
        cases = [*self._waiting, *self._cases.values()]
        self._waiting, self._cases, self._spare = [], {}, []
        return [case.entry for case in cases]

    def _begin(self, case: _Case) -> None:
        """Have a worker try the next handler, or if none is left put back the entry."""
        try:
            worker = self._spare.pop() if self._spare else Worker.spawn()
        except OSError as error:
            self._listener.log(f"no worker can be started: {error.strerror}")
            self._listener.entry(case.entry, "claimed")
            return
        self._cases[worker] = case
        case.begin(_START, self._rests)
        job = {"job": "resume", "outbox": self._outbox, "alone": True, "limit": 2 * self._timeout + _START}
        worker.send({**job, **case.job()}, deadline=case.deadline)

    def _done(self, worker: Worker, case: _Case) -> None:
        del self._cases[worker]
        self._spare.append(worker)
        if case.where:
            self._listener.entry(case.entry, case.where)
            return
        if case.trying:  # it has the event: its worker died between the journal and the report
            case.strike()
        self._begin(case)

    def _bury(self, worker: Worker, case: _Case) -> None:
        """See to an entry whose worker has ended."""
        del self._cases[worker]
        if case.where or case.tries >= _MOST_TRIES:
            self._listener.entry(case.entry, case.where or "claimed")
            return
        if case.trying and case.has_begun:
            self._note(case.trying, case.entry.given[case.trying], True)
            case.take(Result(case.trying, {"error": worker.ended, "seconds": time.monotonic() - case.started}))
            case.unjournaled.append(case.entry.results[-1])
        self._begin(case)

    def _end_spare(self) -> None:
        for worker in self._spare:
            worker.finish(EXIT_TIMEOUT)
        self._spare.clear()


class _Case:
    """An entry that is tried.

    :ivar trying: the handler that has it; empty if none
    :ivar has_begun: whether the present worker has the entry
    :ivar started: when that worker was asked for it
    :ivar deadline: when that worker is killed
    :ivar tries: how many workers in a row did not get the entry
    :ivar unjournaled: results that the outbox does not have yet
    :ivar where: where the entry went; empty if it is still claimed
    """

    def __init__(self, entry: OpenEntry) -> None:
        self.entry = entry
        self.trying = ""
        self.has_begun = False
        self.started = self.deadline = 0.0
        self.tries = 0
        self.unjournaled: list[Result] = []
        self.where = ""
        self._left = [*entry.given]

    @property
    def lanes(self) -> set[str]:
        """The lanes of the handlers that are still to be tried."""
        return {self.entry.given[name] for name in self._left}

    def begin(self, seconds: float, rests: Callable[[str], bool]) -> None:
        """Note that another worker is asked for the entry, for the next handler whose lane does not rest."""
        self._left = [name for name in self._left if not rests(self.entry.given[name])]
        self.trying = self._left[0] if self._left else ""
        self.has_begun = False
        self.started = time.monotonic()
        self.deadline = self.started + seconds
        self.tries += 1

    def job(self) -> dict[str, Any]:
        """Return what that worker is to do."""
        return {
            "claim": self.entry.claim,
            "results": [result.as_dict() for result in self.unjournaled],
            "handlers": [self.trying] if self.trying else [],
            "hold": bool(self.trying),
        }

    def note_begin(self, claim: str, seconds: float) -> None:
        """Note that the worker has the entry, under another claim, and has journaled what was known."""
        self.deadline = time.monotonic() + seconds
        self.entry.claim = claim
        self.has_begun = True
        self.tries = 0
        self.unjournaled.clear()

    def take(self, result: Result) -> None:
        """Take what the handler did that has the entry."""
        self.entry.results.append(result)
        self.strike()

    def strike(self) -> None:
        """Note that the handler that has the entry need not be tried any more."""
        self._left.remove(self.trying)
        self.trying = ""
