"""The command's side of sending one event. Each handler gets a result in time, even if a handler hangs or crashes.

The first worker gets the event with all handlers. If it does not report a result for each of them:

====================================  ================================================================================
What happens                          What the command does
====================================  ================================================================================
The outbox's disk does not respond.   Kill the worker, log a warning and send without the outbox in another worker.
The worker dies or hangs.             Start a separate worker for each handler without a result.
A handler's separate worker dies.     Record that the handler failed.
The deadline passes.                  Kill all workers. The handlers without a result have failed.
The worker with the claim is dead.    Let another worker journal the results and release the entry, to retry the rest.
No worker can be started.             Store the event in the outbox from this process. The handlers have failed.
====================================  ================================================================================

Sending one event never takes longer than its timeout plus `EXTRA` seconds.
"""

from __future__ import annotations

import time

from event._worker.parent import EXIT_TIMEOUT, Worker, receive
from event._worker.results import Result, Sent, counts_by_name, text_or_empty
from event.error import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

    Content = Mapping[str, Any]
    Pairs = Sequence[tuple[str, str]]

OUTBOX_SHARE = 0.5  # of the timeout: how long storing the event in the outbox may take
OUTBOX_EXTRA = 1.0  # seconds added to the timeout, at most, if the event is sent without an unresponsive outbox
BACKLOG_LIMIT = 2.5  # seconds for delivering earlier events; the worker itself stops after 2
SILENT_SHARE = 0.4  # of the timeout: a worker that reports nothing for so long is considered hung
RESUME_TIMEOUT = 2.0  # seconds for journaling the results after a worker has died
EXTRA = OUTBOX_EXTRA + RESUME_TIMEOUT + EXIT_TIMEOUT  # seconds
_RECEIVE_INTERVAL = 0.1  # seconds between two checks of the workers, at most
_NEVER = float("inf")
_MARGIN_SHARE = 0.1  # of the timeout: the worker's own deadline is this much earlier, at most half a second


class EventSender:
    """Send events to the same handlers, one after another, each with a deadline.

    :param handlers: the name and the configuration of each handler
    :param outbox: the outbox's directory; None for no outbox
    :param timeout: seconds for one event
    :param log: called with one line for each problem that does not belong to a delivery
    :param worker: a running worker to use for the first event
    :ivar delivers_backlog: whether a handler that has delivered an event also gets earlier events from the outbox
    :ivar redact: further secrets to replace in the data; None to replace none at all
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
        self.latest = _NEVER  # when all sending must have ended, by `time.monotonic`

    def prepare(self) -> None:
        """Let the worker import the modules that it will need, without waiting for it."""
        if self._worker:
            job = {"job": "prepare", "alone": True, "handlers": [*self.handlers], "outbox": self.outbox is not None}
            self._worker.send(job, deadline=time.monotonic())

    def send(
        self,
        event: Content,
        *,
        attach: Sequence[tuple[str, str]] = (),
        sending: str,
        timeout: float | None = None,
    ) -> Sent:
        """Send one event.

        :param event: its ``data``, ``attachments`` and ``closed``, as in a dump
        :param attach: name and path of each file to attach; the event is sent without those that can't be read
        :param sending: the id of the sending
        :param timeout: seconds, instead of the timeout for all events
        :raises ValueError: a value of the event has an unsupported type, or the event is too large
        """
        job: dict[str, Any] = {"event": event, "redact": self.redact, "attach": attach, "sending": sending}
        job["backlog"] = self.delivers_backlog
        one = _Sending(self, job, self.timeout if timeout is None else timeout)
        try:
            sent = one.run(self._take_worker())
        except BaseException:  # such as KeyboardInterrupt
            one.kill()
            raise
        self._worker = one.first
        return sent

    def hurry(self, seconds: float | None) -> None:
        """Set an earlier deadline for `send`, also for a call that is running in another thread.

        :param seconds: how long it may still take; None for no limit except its timeout
        """
        self.latest = _NEVER if seconds is None else time.monotonic() + seconds

    def close(self) -> None:
        """Stop the worker, within `EXIT_TIMEOUT` seconds."""
        if self._worker:
            self._worker.finish(EXIT_TIMEOUT)
            self._worker = None

    def _take_worker(self) -> Worker | None:
        worker, self._worker = self._worker, None
        if worker:
            worker.check()
            if not worker.ended:
                return worker
        return None


class _Sending:
    """The sending of one event.

    :ivar first: the worker that gets the event with all handlers
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
        self._pending: dict[Worker, set[str]] = {}  # the handlers without a result, for each worker
        self._begun: dict[Worker, bool] = {}  # the workers that have begun to call handlers; whether they report alive
        self._first_hangs = False  # whether a handler has exceeded the timeout in the first worker
        self._outbox = sender.outbox  # None once the event is stored, or if it can't be stored
        self._job_started = 0.0  # when the first worker has started its job
        self._claim = ""  # the first worker's claim on the entry, until it releases it
        self._single_workers: list[Worker] = []  # the workers that have one handler

    def run(self, worker: Worker | None) -> Sent:
        """Send the event; return the results.

        :param worker: the first worker; None to start one
        """
        self.first = self._assign(worker, [*self._sender.handlers], outbox=self._outbox)
        while self._pending:
            for reporting, report in receive([*self._pending], self._next_check()):
                self._handle_report(reporting, report)
            for watched in [*self._pending]:
                self._watch(watched)
            if time.monotonic() >= self._end():
                break
        self._fail_unfinished()
        self._end_helpers()
        if self.first and (self._claim or self._first_hangs):
            self.first.kill()
        if self._claim:
            self._resume()
        self._sent.results = [self._results[name] for name in self._sender.handlers]
        return self._sent

    def kill(self) -> None:
        for worker in (*self._pending, *self._single_workers):
            worker.kill()

    def _assign(
        self, worker: Worker | None, names: list[str], *, outbox: str | None, alone: bool = False
    ) -> Worker | None:
        """Send the job for some handlers to a worker.

        :param worker: None to start a new one
        :param alone: whether it is a separate worker for one handler
        :return: the worker; None if none can be started
        """
        try:
            worker = worker or Worker.spawn()
        except OSError as error:
            for name in names:
                self._results[name] = Result(name, {"error": f"no worker can be started: {one_line(error)}"})
            if outbox:
                self._store(outbox)
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
            self._single_workers.append(worker)
        return worker

    def _store(self, outbox: str) -> None:
        """Store the event from this process, since no worker can be started. The next `deliver` sends it."""
        from types import SimpleNamespace

        from event._worker.send_job import store

        def report(kind: str, **fields: Any) -> None:
            self._handle_report(None, {"report": kind, **fields})

        job = {**self._job, "handlers": [*self._sender.handlers.items()], "outbox": outbox, "first": True}
        reporter: Any = SimpleNamespace(report=report)
        try:
            store(job, reporter)
        except Exception as error:
            report("not_kept", reason=one_line(error))
        self._claim = ""

    def _next_check(self) -> float:
        """Return when to check the workers again if none of them reports."""
        end = self._outbox_deadline() if self._outbox else self._end()
        return min(end, time.monotonic() + _RECEIVE_INTERVAL)

    def _end(self) -> float:
        return min(self._deadline, self._sender.latest)

    def _outbox_deadline(self) -> float:
        return min(self._end(), self._job_started + OUTBOX_SHARE * self._timeout) if self._job_started else self._end()

    def _handle_report(self, worker: Worker | None, report: Mapping[str, Any]) -> None:
        """Handle a report; ignore reports of an unknown kind.

        :param worker: the worker that sent it; None if it is from this process, see `_store`
        """
        kind = report.get("report")
        if kind == "done" and worker in self._pending:
            self._retry_alone(self._pending.pop(worker))
        elif kind == "result":
            self._handle_result(worker, report)
        elif kind == "begin" and worker:
            self._begun[worker] = bool(report.get("heartbeat"))
        elif kind == "not_attached":
            self._handle_missing_file(report)
        elif kind == "log":
            self._sender.log(text_or_empty(report.get("text")))
        elif worker is self.first:
            self._handle_entry_report(kind, report)

    def _handle_entry_report(self, kind: object, report: Mapping[str, Any]) -> None:
        if kind == "taken":
            self._job_started = time.monotonic()
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

    def _handle_missing_file(self, report: Mapping[str, Any]) -> None:
        name, text = text_or_empty(report.get("name")), text_or_empty(report.get("text"))
        if name not in self._sent.not_attached:  # else another worker has already reported it
            self._sent.not_attached.append(name)
            if text:
                self._sender.log(text)

    def _handle_result(self, worker: Worker | None, report: Mapping[str, Any]) -> None:
        name = text_or_empty(report.get("handler"))
        pending = self._pending.get(worker, set()) if worker else {name}
        if name in pending and (worker in self._single_workers or not report.get("retry")):
            pending.discard(name)
            result = self._results[name] = Result(name, report)
            if result.timed_out:
                result.error = self._timeout_error()
                self._first_hangs = self._first_hangs or worker is self.first

    def _timeout_error(self) -> str:
        return f"not done within {self._sender.timeout:g} s"

    def _without_outbox(self, reason: str) -> None:
        self._outbox = None
        self._sent.kept = False
        without = " and is sent without it" if self.first else ""
        self._sender.log(f"the event cannot be kept in the outbox {self._sender.outbox}{without}: {reason}")

    def _retry_alone(self, names: Iterable[str]) -> None:
        """Retry handlers that a worker could not try, each in a worker of its own."""
        for name in names:
            self._assign(None, [name], outbox=None, alone=True)

    def _watch(self, worker: Worker) -> None:
        """Kill a worker that hangs or whose outbox does not respond; replace a worker that has ended."""
        now = time.monotonic()
        if worker is self.first and self._outbox and not worker.ended and now >= self._outbox_deadline():
            worker.kill(f"it did not answer within {now - (self._job_started or self._started):.1f} s")
        elif self._begun.get(worker) and now - worker.last_report > SILENT_SHARE * self._timeout:
            worker.kill("a handler stopped its process")
        if worker.ended and worker in self._pending:
            self._replace(worker)

    def _replace(self, worker: Worker) -> None:
        """Retry the pending handlers of a dead worker, or record that they failed."""
        names = self._pending.pop(worker)
        if worker is self.first and self._outbox:
            self._without_outbox(worker.ended)
            latest = self._started + self._timeout + OUTBOX_EXTRA
            self._deadline = max(self._deadline, min(latest, time.monotonic() + OUTBOX_SHARE * self._timeout))
            self.first = self._assign(None, [*names], outbox=None)
        elif worker in self._single_workers or (worker in self._begun and len(self._sender.handlers) == 1):
            for name in names:
                self._results[name] = Result(name, {"error": worker.ended})
        else:
            self._retry_alone(names)

    def _fail_unfinished(self) -> None:
        """At the deadline, kill the workers and record that their pending handlers failed."""
        for worker, names in self._pending.items():
            for name in names:
                report = {"error": self._timeout_error(), "seconds": self._timeout, "timed_out": True}
                self._results[name] = Result(name, report)
            worker.kill("it was not done in time")
        self._pending.clear()

    def _end_helpers(self) -> None:
        deadline = time.monotonic() + EXIT_TIMEOUT
        for worker in self._single_workers:
            worker.finish(max(0.0, deadline - time.monotonic()))

    def _resume(self) -> None:
        """Journal the results in another worker, and release the entry for the handlers that are still pending."""
        from event._worker.quarantine import release_entries

        claim = (self._claim, [*self._results.values()])
        state = release_entries(str(self._sender.outbox), [claim], RESUME_TIMEOUT)
        self._sent.kept = state not in {"delivered", "lost"}
