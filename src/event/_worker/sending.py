"""The command's side of sending one event: whatever the handlers' code does, there is a result for each, in time.

A first worker gets the event with all handlers. What comes instead of its reports, and what follows:

================================  ====================================================================================
the outbox does not answer        the worker is killed; another one sends without the outbox, and the log says so
the worker dies, or hangs         each handler that has not reported gets a worker of its own
a worker of one handler dies      that handler has failed
the deadline                      all workers are killed; what has not reported has failed
the entry's worker has died       another one journals what is known, so that the entry waits for the rest
================================  ====================================================================================

No sending takes longer than its timeout and `EXTRA` seconds.
"""

from __future__ import annotations

import time

from event._worker.parent import EXIT_TIMEOUT, Worker, receive
from event._worker.results import Result, Sent, counts_by_name, text_or_empty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    Content = Mapping[str, Any]
    Pairs = Sequence[tuple[str, str]]

OUTBOX_SHARE = 0.5  # of the timeout, for the outbox to take the event, once the worker has begun
OUTBOX_EXTRA = 1.0  # seconds after the deadline, at most, for sending without an outbox that does not answer
BACKLOG_LIMIT = 2.5  # seconds for delivering what waits; the worker itself stops after 2
SILENT_SHARE = 0.4  # of the timeout; a worker that reports nothing for so long hangs, and holds up all its handlers
RESUME_PATIENCE = 2.0  # seconds, for journaling what is known after a worker has died
EXTRA = OUTBOX_EXTRA + RESUME_PATIENCE + EXIT_TIMEOUT  # seconds
_RECEIVE_INTERVAL = 0.1  # seconds between two looks at the workers, at most
_NEVER = float("inf")
_MARGIN_SHARE = 0.1  # of the timeout, half a second at most: the worker reports its own timeouts that much earlier


class EventSender:
    """Sends events to the same handlers, one after another, each with a deadline.

    :param handlers: the name and the configuration of each handler
    :param outbox: the outbox's directory; None for no outbox
    :param timeout: for one event, in seconds
    :param log: called with a line about each thing that goes wrong outside of a handler
    :param worker: a worker that serves already
    :ivar delivers_backlog: whether to deliver also what waits in the outbox for the handlers that take an event
    :ivar redact: secrets to replace in the data in addition to the usual ones; None to replace nothing
    """

    def __init__(
        self,
        handlers: Pairs,
        *,
        outbox: str | None,
        timeout: float,
        log: Callable[[str], None],
        worker: Worker | None = None,
    ) -> None:
        self.handlers = dict(handlers)
        self.outbox = outbox
        self.timeout = timeout
        self.log = log
        self.redact: Sequence[str] | None = ()
        self._worker = worker
        self.delivers_backlog = True
        self.latest = _NEVER  # when every sending must have ended, by `time.monotonic`

    def prepare(self) -> None:
        """Have the worker import what it will need; this does not wait."""
        if self._worker:
            job = {"job": "prepare", "alone": True, "handlers": [*self.handlers], "outbox": self.outbox is not None}
            self._worker.send(job, deadline=time.monotonic())

    def send(
        self,
        event: Content,
        *,
        attach: Sequence[tuple[str, str]] = (),
        must_attach: bool = False,
        sending: str,
        timeout: float | None = None,
    ) -> Sent:
        """Send one event.

        :param event: its ``data``, ``attachments`` and ``closed``, as in a dump
        :param attach: name and path of each file that is still to be attached
        :param must_attach: whether nothing is sent if one of these cannot be attached
        :param sending: the id of the sending
        :param timeout: instead of the one for all events, in seconds
        :raises ValueError: the event cannot be written as JSON
        """
        job = {"event": event, "redact": self.redact, "attach": attach, "must_attach": must_attach, "sending": sending}
        job["backlog"] = self.delivers_backlog
        one = _Sending(self, job, self.timeout if timeout is None else timeout)
        try:
            sent = one.run(self._take_worker())
        except BaseException:  # a Ctrl-C: nobody waits for what is under way
            one.kill()
            raise
        if sent.clean and one.first and not one.first.ended:
            self._worker = one.first
        elif one.first:
            one.first.kill()
        return sent

    def hurry(self, seconds: float | None) -> None:
        """Have the sending that another thread has begun, or begins, end in time.

        :param seconds: how long it may still take; None for as long as its timeout says
        """
        self.latest = _NEVER if seconds is None else time.monotonic() + seconds

    def close(self) -> None:
        """Let the worker end, within `EXIT_TIMEOUT`."""
        if self._worker:
            self._worker.finish(EXIT_TIMEOUT)
            self._worker = None

    def _take_worker(self) -> Worker | None:
        worker, self._worker = self._worker, None
        if worker:
            worker.look()
            if not worker.ended:
                return worker
        return None


class _Sending:
    """One event on its way.

    :ivar first: the worker that has all handlers
    """

    def __init__(self, sender: EventSender, job: dict[str, Any], timeout: float) -> None:
        self.first: Worker | None = None
        self._sender = sender
        self._job = job
        self._timeout = timeout
        self._started = time.monotonic()
        self._deadline = self._started + timeout
        self._sent = Sent()
        self._results: dict[str, Result] = {}
        self._pending: dict[Worker, set[str]] = {}  # the handlers whose results each worker owes
        self._begun: set[Worker] = set()  # those that have begun to call handlers
        self._beating: set[Worker] = set()  # those of them that report that they live
        self._outbox = sender.outbox
        self._taken = 0.0  # when the first worker has begun with its job
        self._claim = ""  # of the first worker, as long as it has not handed the entry back
        self._alone: list[Worker] = []

    def run(self, worker: Worker | None) -> Sent:
        """Send; return what became of it."""
        self.first = self._give(worker, [*self._sender.handlers], outbox=self._outbox)
        while self._pending and not self._sent.refused:
            for reporting, report in receive([*self._pending], self._next_look()):
                self._take(reporting, report)
            for watched in [*self._pending]:
                self._watch(watched)
            if time.monotonic() >= self._end():
                break
        self._fail_the_rest()
        self._end_helpers()
        if self._claim and self.first:
            self._resume(self.first)
        names = () if self._sent.refused else self._sender.handlers
        self._sent.results = [self._results[name] for name in names]
        return self._sent

    def kill(self) -> None:
        """End all workers."""
        for worker in (*self._pending, *self._alone):
            worker.kill()

    def _give(
        self, worker: Worker | None, names: list[str], *, outbox: str | None, alone: bool = False
    ) -> Worker | None:
        """Give the event for some handlers to a worker, a new one if it is None."""
        try:
            worker = worker or Worker.spawn()
        except OSError as error:
            if outbox:
                self._sender.log(f"the event cannot be kept in the outbox {outbox}: no worker can be started")
            for name in names:
                self._results[name] = Result(name, {"error": f"no worker can be started: {error.strerror}"})
            return None
        left = self._deadline - time.monotonic()
        self._pending[worker] = set(names)
        worker.send(
            {
                "job": "send",
                **self._job,
                "handlers": [(name, self._sender.handlers[name]) for name in names],
                "outbox": outbox,
                "first": outbox == self._sender.outbox and not alone,
                "alone": alone or len(names) == 1,
                "timeout": self._sender.timeout,
                "deadline": self._deadline - min(_MARGIN_SHARE * left, 0.5),
                "interval": min(1.0, self._timeout * SILENT_SHARE / 5),
                "limit": left + EXTRA,
            },
            deadline=self._deadline,
        )
        if alone:
            self._alone.append(worker)
        return worker

    def _next_look(self) -> float:
        """Return when to look at the workers again, though none reports."""
        looks = [self._end(), time.monotonic() + _RECEIVE_INTERVAL]
        return min([*looks, self._outbox_deadline()] if self._outbox else looks)

    def _end(self) -> float:
        """Return when all must be done."""
        return min(self._deadline, self._sender.latest)

    def _outbox_deadline(self) -> float:
        """Return the deadline for storing the event in the outbox."""
        return min(self._end(), self._taken + OUTBOX_SHARE * self._timeout) if self._taken else self._end()

    def _take(self, worker: Worker, report: Mapping[str, Any]) -> None:
        """Take a report; what is not understood is ignored."""
        kind = report.get("report")
        if kind == "done" and worker in self._pending:
            self._done(worker)
        elif kind == "result":
            self._take_result(worker, report)
        elif kind == "begin":
            self._begun.add(worker)
            if report.get("heartbeat"):
                self._beating.add(worker)
        elif kind in {"log", "not_attached"}:
            self._sender.log(text_or_empty(report.get("text")))
        elif worker is self.first:
            self._take_of_entry(kind, report)

    def _take_of_entry(self, kind: object, report: Mapping[str, Any]) -> None:
        """Take a report of the first worker, about the outbox's entry."""
        if kind == "taken":
            self._taken = time.monotonic()
        elif kind == "refused":
            self._sent.refused = text_or_empty(report.get("text")) or "refused"
            self._sent.clean = False
        elif kind == "kept":
            self._outbox = None
            self._claim = text_or_empty(report.get("claim"))
            self._sent.kept = True
            self._job["sending"] = text_or_empty(report.get("entry"))
        elif kind == "not_kept":
            self._without_outbox(text_or_empty(report.get("reason")))
        elif kind == "backlogging":
            self._deadline = min(self._deadline, time.monotonic() + BACKLOG_LIMIT)
        elif kind == "backlog":
            self._sent.backlog = counts_by_name(report.get("delivered"))
        elif kind == "end":
            self._claim = ""
            self._sent.kept = self._sent.kept and report.get("where") != "lost"

    def _take_result(self, worker: Worker, report: Mapping[str, Any]) -> None:
        name = text_or_empty(report.get("handler"))
        owed = self._pending.get(worker, set())
        if name in owed and (worker in self._alone or not report.get("retry")):
            owed.discard(name)
            self._note(Result(name, report), worker)

    def _note(self, result: Result, worker: Worker) -> None:
        if result.timed_out:
            result.error = self._not_in_time()
            if worker is self.first:
                self._sent.clean = False
        self._results[result.handler] = result

    def _not_in_time(self) -> str:
        return f"TimeoutError: not done within {self._sender.timeout:g} s"

    def _without_outbox(self, reason: str) -> None:
        self._outbox = None
        self._sent.kept = False
        self._sender.log(f"the event cannot be kept in the outbox {self._sender.outbox}, and is sent without: {reason}")

    def _done(self, worker: Worker) -> None:
        """Have other workers do what a worker, which is done, could not try."""
        for name in self._pending.pop(worker):
            self._retry_alone(name)

    def _retry_alone(self, name: str) -> None:
        self._give(None, [name], outbox=None, alone=True)

    def _watch(self, worker: Worker) -> None:
        """See to it that a worker that serves no more, or not fast enough, does not hold up the handlers."""
        now = time.monotonic()
        if worker is self.first and self._outbox and not worker.ended and now >= self._outbox_deadline():
            worker.kill(f"it did not answer within {now - (self._taken or self._started):.1f} s")
        elif worker in self._beating and not worker.ended and now - worker.last_report > SILENT_SHARE * self._timeout:
            worker.kill("a handler stopped its process")
        if worker.ended and worker in self._pending:
            self._replace(worker)

    def _replace(self, worker: Worker) -> None:
        """Have other workers do what a dead one owes."""
        names = self._pending.pop(worker)
        if worker is self.first:
            self._sent.clean = False
        if worker is self.first and self._outbox:
            self._without_outbox(worker.ended)
            latest = self._started + self._timeout + OUTBOX_EXTRA
            self._deadline = max(self._deadline, min(latest, time.monotonic() + OUTBOX_SHARE * self._timeout))
            self.first = self._give(None, [*names], outbox=None)
        elif worker in self._alone or (worker in self._begun and len(self._sender.handlers) == 1):
            for name in names:
                self._results[name] = Result(name, {"error": worker.ended})
        else:
            for name in names:
                self._retry_alone(name)

    def _fail_the_rest(self) -> None:
        """Fail what is not done at the deadline."""
        for worker, names in self._pending.items():
            for name in names:
                report = {"error": self._not_in_time(), "seconds": self._timeout, "timed_out": True}
                self._results[name] = Result(name, report)
            worker.kill("it was not done in time")
            self._sent.clean = self._sent.clean and worker is not self.first
        self._pending.clear()

    def _end_helpers(self) -> None:
        deadline = time.monotonic() + EXIT_TIMEOUT
        for worker in self._alone:
            worker.finish(max(0.0, deadline - time.monotonic()))

    def _resume(self, owner: Worker) -> None:
        """Have another worker journal what is known, and let the entry wait for the rest.

        :param owner: of the claim; it must be dead
        """
        owner.kill()
        self._sent.clean = False
        deadline = time.monotonic() + RESUME_PATIENCE
        try:
            worker = Worker.spawn()
        except OSError:
            return  # the entry is a dead process's: the next `deliver` takes it
        results = [result.as_dict() for result in self._results.values()]
        job = {"job": "resume", "outbox": self._sender.outbox, "claim": self._claim, "results": results}
        worker.send({**job, "limit": RESUME_PATIENCE + EXTRA}, deadline=deadline)
        done = False
        while not done and not worker.ended and time.monotonic() < deadline:
            for _, report in receive([worker], deadline):
                done = done or report.get("report") == "done"
                if report.get("where") in {"delivered", "lost"}:
                    self._sent.kept = False
        worker.kill()
