"""The command's side of a relay: a sink that processes batches of messages in a worker.

A thread supervises the worker, as for ``deliver --watch``. If the worker dies or hangs while it has a batch, each
message of the batch is retried in a worker that runs nothing else. This worker stores the message in the outbox.
Without an outbox, it gives the message to one handler after another. If such a worker dies, the relay counts a crash
for the message.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from threading import Thread

from event._broker import Disposition, Incoming, SinkResult
from event._process.shutdown import SignalFlag
from event._worker.parent import EXIT_TIMEOUT, Worker
from event._worker.quarantine import OpenEntry
from event._worker.results import Result
from event._worker.supervisor import Supervisor
from event._worker.system import set_nonblocking

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from event._worker.quarantine import Listener

BATCH_TIMEOUT = 30.0  # seconds for storing a batch in the outbox; without one, added to the handlers' timeouts
_SINGLE_MARGIN = 10.0  # seconds added to the timeout for a single message
_IDLE = 1.0  # seconds between two calls of `idle`
_FIRST_IDLE = 0.005  # seconds before the first call, which prefetches the next messages while the worker is busy
_WORKER_CHECK_INTERVAL = 1.0  # seconds between two checks of the workers, at most


@dataclass(slots=True)
class _Trial:
    """A message that is retried alone, in a worker that runs nothing else.

    :ivar index: the message's position in the batch
    :ivar handler: the name of the only handler to try; empty with an outbox
    """

    index: int
    handler: str


@dataclass(slots=True)
class _Batch:
    """The batch that is being processed.

    :ivar worker: the worker that has the batch; None if none has
    :ivar served: the names of the handlers that have already delivered an event, by the event's id
    :ivar trials: the trials that have not started yet
    :ivar results: for each message, one result for each trial
    :ivar done: set when `results` is complete
    """

    incoming: Sequence[Incoming]
    number: int
    worker: Worker | None = None
    deadline: float = 0.0
    served: dict[str, list[str]] = field(default_factory=dict)
    trials: list[_Trial] = field(default_factory=list)
    results: list[list[SinkResult]] = field(default_factory=list)
    done: SignalFlag = field(default_factory=SignalFlag)


class WorkerSink:
    """A `Sink` that delivers batches in a worker.

    :param job: see `event._worker.relay_job`
    :param listener: receives the results of entries; it is called in a thread of the sink
    """

    def __init__(self, job: Mapping[str, Any], listener: Listener) -> None:
        self._supervisor = _RelaySupervisor(job, listener)
        self._abort = False
        self._ended = SignalFlag()  # instead of Thread.join, which returns early if a signal interrupts it
        Thread(target=self._run, name="event worker", daemon=True).start()

    def deliver(self, batch: Sequence[Incoming], idle: Callable[[], None]) -> list[SinkResult]:
        """Deliver the events of a batch; see `Sink.deliver`."""
        submitted = self._supervisor.submit(batch)
        pause = _FIRST_IDLE
        while not submitted.done.wait(pause):
            pause = _IDLE
            if self._ended.is_set():
                return [SinkResult(Disposition.KEEP, "the worker has stopped") for _ in batch]
            idle()
        return [combined(results) for results in submitted.results]

    def close(self) -> None:
        """Deliver the due entries of the outbox and stop the worker. If a signal interrupts this, call `abort`."""
        self._supervisor.ask_to_stop()
        while not self._ended.wait(_IDLE):
            pass

    def abort(self) -> None:
        """Kill the worker. Its entries stay in the outbox, and its messages are not acknowledged."""
        self._abort = True
        self._supervisor.wake()
        self._ended.wait(_SINGLE_MARGIN)

    def _run(self) -> None:
        supervisor = self._supervisor
        try:
            while not supervisor.finished:
                if self._abort:
                    supervisor.abort()
                else:
                    supervisor.step(_WORKER_CHECK_INTERVAL)
                    supervisor.advance()
        finally:
            self._ended.set()


class _RelaySupervisor(Supervisor):
    """Keep the worker of a relay running.

    Other threads may call `submit`, `wake` and `ask_to_stop`. All other methods run in one thread.
    """

    def __init__(self, job: Mapping[str, Any], listener: Listener) -> None:
        super().__init__(job, listener)
        self._names = [name for name, _ in job["handlers"]]
        self._wake_up_fd, self._wake = os.pipe()
        for fd in (self._wake_up_fd, self._wake):
            set_nonblocking(fd)
        self._batch: _Batch | None = None
        self._number = 0
        self._alone: Worker | None = None  # the worker that retries single messages
        self._trial: _Trial | None = None
        self._asked_to_stop = False

    def submit(self, incoming: Sequence[Incoming]) -> _Batch:
        """Start processing a batch. The previous batch must be done."""
        self._number += 1
        batch = _Batch(incoming, self._number, deadline=time.monotonic() + BATCH_TIMEOUT)
        self._batch = batch
        self.wake()
        return batch

    def wake(self) -> None:
        """End the current wait for reports, or the next one."""
        try:
            os.write(self._wake, b"\n")
        except BlockingIOError:
            pass  # the pipe is full: the wait ends anyway

    def ask_to_stop(self) -> None:
        """Let the supervising thread call `stop`."""
        self._asked_to_stop = True
        self.wake()

    def advance(self) -> None:
        """Take the next step with the batch; stop if that was requested."""
        if self._asked_to_stop:
            self.stop()
        batch = self._batch
        if batch is None:
            return
        if self._trial and self._alone:
            self._check_trial(batch, self._trial, self._alone)
        elif batch.worker is None and self._main:
            self._send(batch, self._main, batch.incoming, [self._pending(item) for item in batch.incoming])
        elif batch.worker and time.monotonic() > batch.deadline:
            batch.worker.kill("it did not take a batch in time")
        elif time.monotonic() > batch.deadline:
            self._finish(batch, [[SinkResult(Disposition.KEEP, "no worker can be started")] for _ in batch.incoming])

    def _extra_workers(self) -> list[Worker]:
        return [self._alone] if self._alone else []

    def _handle_report(self, worker: Worker, report: Mapping[str, Any]) -> None:
        kind, batch = report.get("report"), self._batch
        if kind == "delivery":
            self._note_delivery(report)
        elif kind != "batch":
            super()._handle_report(worker, report)
        elif batch and report["number"] == batch.number and worker is batch.worker:
            self._end_back_off()
            results = [[SinkResult(Disposition(word), reason, pending, refused)]
                       for word, reason, pending, refused in report["results"]]  # fmt: skip
            if self._trial:
                self._crash_counts.pop(self._trial.handler, None)
                self._end_trial(batch, self._trial, results[0][0])
            else:
                pairs = zip(batch.incoming, results, strict=True)
                self._finish(batch, [result + self._results_of_paused(self._names_of(item)) for item, result in pairs])

    def _note_delivery(self, report: Mapping[str, Any]) -> None:
        result = Result(str(report["handler"]), report)
        if self._batch and (result.ok or result.permanent):
            self._batch.served.setdefault(str(report["entry"]), []).append(result.handler)
        if not result.ok or result.said:
            entry = OpenEntry(str(report["entry"]), "", str(report["name"]))
            entry.results.append(result)
            self._listener.entry(entry, "")

    def _handle_death(self, worker: Worker) -> bool:
        batch = self._batch
        if batch is None or batch.worker is not worker:
            return False
        if self._job["outbox"] and time.monotonic() > batch.deadline:
            self._finish(batch, [[SinkResult(Disposition.KEEP, "the outbox does not answer")] for _ in batch.incoming])
        else:
            self._retry_alone(batch)
        return True

    # Processing a batch as a whole.

    def _names_of(self, item: Incoming) -> list[str]:
        return self._names if item.pending is None else item.pending

    def _pending(self, item: Incoming) -> list[str] | None:
        """Return the handlers to try: those that are pending and not paused; None for all."""
        names = self._names_of(item)
        active = [name for name in names if not self._is_paused(name)]
        return item.pending if len(active) == len(names) else active

    def _results_of_paused(self, names: Sequence[str]) -> list[SinkResult]:
        """Return the result of a message for the paused ones of its handlers: requeue it."""
        paused = [name for name in names if self._is_paused(name)]
        reason = f"{', '.join(paused)} ended its process twice, and is not tried for a while"
        return [SinkResult(Disposition.REQUEUE, reason, paused)] if paused else []

    def _send(self, batch: _Batch, worker: Worker, items: Sequence[Incoming], pending: list[list[str] | None]) -> None:
        wait = BATCH_TIMEOUT if self._job["outbox"] else BATCH_TIMEOUT + self._timeout * len(items)
        batch.worker = worker
        batch.deadline = time.monotonic() + wait
        bodies = [item.body for item in items]
        job = {"job": "batch", "number": batch.number, "sizes": [*map(len, bodies)], "pending": pending}
        worker.send({**job, "served": batch.served}, b"".join(bodies), deadline=batch.deadline, is_more=True)

    def _finish(self, batch: _Batch, results: list[list[SinkResult]]) -> None:
        batch.results = results
        self._batch = None
        batch.done.set()
        if self._alone:
            alone, self._alone = self._alone, None
            alone.finish(EXIT_TIMEOUT)

    # Retrying messages alone.

    def _retry_alone(self, batch: _Batch) -> None:
        """Retry each message of a batch alone. Without an outbox, also retry each of its handlers alone."""
        batch.results = []
        for index, item in enumerate(batch.incoming):
            names = [] if self._job["outbox"] else self._names_of(item)
            known = [name for name in names if name in self._names]
            left = [name for name in names if name not in self._names]  # they stay pending, for another relay
            batch.trials += [_Trial(index, name) for name in known or [""]]
            batch.results.append([SinkResult(Disposition.ACK, pending=left)] if known and left else [])
        self._begin_trial(batch)

    def _begin_trial(self, batch: _Batch) -> None:
        """Begin the next trial that can be made; if there is none, the batch is done."""
        while batch.trials:
            trial = batch.trials.pop(0)
            item, results = batch.incoming[trial.index], batch.results[trial.index]
            if paused := self._results_of_paused([trial.handler]):
                results += paused
                continue
            try:
                self._alone = self._alone or self._start_alone()
            except OSError as error:
                results.append(SinkResult(Disposition.KEEP, f"no worker can be started: {error.strerror}"))
                continue
            self._trial = trial
            self._send(batch, self._alone, [item], [[trial.handler] if trial.handler else item.pending])
            batch.deadline = time.monotonic() + self._timeout + _SINGLE_MARGIN
            return
        self._finish(batch, batch.results)

    def _start_alone(self) -> Worker:
        worker = Worker.spawn()
        worker.send({**self._job, "alone": True}, deadline=time.monotonic() + _SINGLE_MARGIN)
        return worker

    def _check_trial(self, batch: _Batch, trial: _Trial, worker: Worker) -> None:
        """Kill the worker of a trial at its deadline. If the worker has ended, count a crash for the message."""
        if not worker.ended:
            if time.monotonic() > batch.deadline:
                worker.kill(f"not done within {self._timeout:g} s")
            return
        self._alone = None
        reason, pending = worker.ended, batch.incoming[trial.index].pending
        if trial.handler:
            self._count_crash(trial.handler, trial.handler, True)
            reason, pending = f"{trial.handler}: {reason}", [trial.handler]
        if self._job["outbox"] and time.monotonic() > batch.deadline:
            result = SinkResult(Disposition.KEEP, "the outbox does not answer")
        else:
            result = SinkResult(Disposition.REQUEUE, reason, pending, crashed=True)
            self._listener.note(f"a message was requeued: {reason}")
        self._end_trial(batch, trial, result)

    def _end_trial(self, batch: _Batch, trial: _Trial, result: SinkResult) -> None:
        self._trial = None
        batch.results[trial.index].append(result)
        self._begin_trial(batch)


def combined(results: Sequence[SinkResult]) -> SinkResult:
    """Combine the results of a message whose handlers were tried separately."""
    if len(results) == 1:
        return results[0]
    worst = min(results, key=lambda result: _ORDER.index(result.disposition))
    return SinkResult(
        worst.disposition,
        worst.reason,
        [name for result in results for name in result.pending or ()],
        {name: why for result in results for name, why in result.refused.items()},
        any(result.crashed for result in results),
    )


_ORDER = (Disposition.DEAD_LETTER, Disposition.KEEP, Disposition.REQUEUE, Disposition.ACK)
