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
from event._worker.supervisor import CRASH_PAUSE, Supervisor

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
_MAX_CRASHES = 2  # in a row, before a handler is paused


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
    :ivar trials: the messages still to be retried alone; None while the batch is processed as a whole
    :ivar results: for each message, one result for each trial
    :ivar done: set when `results` is complete
    """

    incoming: Sequence[Incoming]
    number: int
    worker: Worker | None = None
    deadline: float = 0.0
    served: dict[str, list[str]] = field(default_factory=dict)
    trials: list[_Trial] | None = None
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


class WakeUp:
    """Lets another thread end a wait in `receive`, which treats this object as a further worker."""

    def __init__(self) -> None:
        self.ended = ""
        self._read, self._write = os.pipe()
        for fd in (self._read, self._write):
            if hasattr(os, "set_blocking"):  # not on Windows before Python 3.12
                os.set_blocking(fd, False)

    def wake(self) -> None:
        try:
            os.write(self._write, b"\n")
        except BlockingIOError:
            pass  # the pipe is full: the wait ends anyway

    def fileno(self) -> int:
        """Return the file descriptor to wait for."""
        return self._read

    def read(self) -> list[dict[str, Any]]:
        """Return a report if `wake` was called, which ends the wait."""
        try:
            os.read(self._read, 1 << 12)
        except BlockingIOError:
            return []
        return [{"report": "wake"}]

    def check(self) -> list[dict[str, Any]]:
        """Return no report; see `Worker.check`."""
        return []


class _RelaySupervisor(Supervisor):
    """Keep the worker of a relay running.

    Other threads may call `submit`, `wake` and `ask_to_stop`. All other methods run in one thread.
    """

    def __init__(self, job: Mapping[str, Any], listener: Listener) -> None:
        super().__init__(job, listener)
        self._names = [name for name, _ in job["handlers"]]
        self._wake_up = WakeUp()
        self._batch: _Batch | None = None
        self._number = 0
        self._alone: Worker | None = None  # the worker that retries single messages
        self._trial: _Trial | None = None
        self._crashes: dict[str, int] = {}  # of each handler, in a row
        self._asked_to_stop = False

    def submit(self, incoming: Sequence[Incoming]) -> _Batch:
        """Start processing a batch. The previous batch must be done."""
        self._number += 1
        batch = _Batch(incoming, self._number, deadline=time.monotonic() + BATCH_TIMEOUT)
        self._batch = batch
        self.wake()
        return batch

    def wake(self) -> None:
        self._wake_up.wake()

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
        if batch.trials is not None:
            self._try_alone(batch)
        elif batch.worker is None and self._main:
            self._send(batch, self._main, batch.incoming, [self._pending(item) for item in batch.incoming])
        elif batch.worker and time.monotonic() > batch.deadline:
            batch.worker.kill("it did not take a batch in time")
        elif time.monotonic() > batch.deadline:
            self._finish(batch, [[SinkResult(Disposition.KEEP, "no worker can be started")] for _ in batch.incoming])

    def _extra_workers(self) -> list[Any]:
        return [self._wake_up, *([self._alone] if self._alone else [])]

    def _handle_other_report(self, worker: Worker, report: Mapping[str, Any]) -> None:
        kind, batch = report.get("report"), self._batch
        if kind == "delivery":
            self._note_delivery(report)
        elif kind == "batch" and batch and report["number"] == batch.number and worker is batch.worker:
            self._end_back_off()
            results = [[SinkResult(Disposition(word), reason, pending, refused)]
                       for word, reason, pending, refused in report["results"]]  # fmt: skip
            if self._trial:
                self._end_trial(batch, self._trial, results[0][0])
            else:
                pairs = zip(batch.incoming, results, strict=True)
                self._finish(batch, [result + self._results_of_paused(item) for item, result in pairs])

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
            batch.worker = None
            batch.results = [self._unknown(item) for item in batch.incoming]
            batch.trials = [trial for index in range(len(batch.incoming)) for trial in self._trials(batch, index)]
        return True

    # Processing a batch as a whole.

    def _pending(self, item: Incoming) -> list[str] | None:
        """Return the handlers to try: those that are pending and not paused; None for all."""
        if self._job["outbox"] or not (paused := self._paused_handlers(item)):
            return item.pending
        names = self._names if item.pending is None else item.pending
        return [name for name in names if name not in paused]

    def _results_of_paused(self, item: Incoming) -> list[SinkResult]:
        """Return the result of a message for its paused handlers: requeue it."""
        paused = [] if self._job["outbox"] else self._paused_handlers(item)
        reason = f"{', '.join(paused)} ended its process twice, and is not tried for a while"
        return [SinkResult(Disposition.REQUEUE, reason, paused)] if paused else []

    def _paused_handlers(self, item: Incoming) -> list[str]:
        names = self._names if item.pending is None else item.pending
        return [name for name in names if self._is_paused(name)]

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

    def _trials(self, batch: _Batch, index: int) -> list[_Trial]:
        names = [] if self._job["outbox"] else self._known(batch.incoming[index])
        return [_Trial(index, name) for name in names or [""]]

    def _known(self, item: Incoming) -> list[str]:
        return [name for name in self._names if item.pending is None or name in item.pending]

    def _unknown(self, item: Incoming) -> list[SinkResult]:
        """Return the result of a message for pending handlers that this relay does not have: they stay pending."""
        left = [name for name in item.pending or () if name not in self._names]
        return [SinkResult(Disposition.ACK, pending=left)] if left else []

    def _try_alone(self, batch: _Batch) -> None:
        """Check the current trial, or start the next one."""
        if self._trial is None:
            self._begin_trial(batch)
        elif self._alone is None or self._alone.ended:
            self._crash(batch, self._trial)
        elif time.monotonic() > batch.deadline:
            self._alone.kill(f"not done within {self._timeout:g} s")

    def _begin_trial(self, batch: _Batch) -> None:
        if not batch.trials:
            self._finish(batch, batch.results)
            return
        trial = batch.trials.pop(0)
        item = batch.incoming[trial.index]
        if trial.handler and self._is_paused(trial.handler):
            batch.results[trial.index] += self._results_of_paused(Incoming(b"", [trial.handler]))
            self.wake()
            return
        self._trial = trial
        try:
            self._alone = self._alone or self._start_alone()
        except OSError as error:
            self._end_trial(batch, trial, SinkResult(Disposition.KEEP, f"no worker can be started: {error.strerror}"))
            return
        self._send(batch, self._alone, [item], [[trial.handler] if trial.handler else item.pending])
        batch.deadline = time.monotonic() + self._timeout + _SINGLE_MARGIN

    def _start_alone(self) -> Worker:
        worker = Worker.spawn()
        worker.send({**self._job, "alone": True}, deadline=time.monotonic() + _SINGLE_MARGIN)
        return worker

    def _end_trial(self, batch: _Batch, trial: _Trial, result: SinkResult) -> None:
        self._trial = None
        self._crashes.pop(trial.handler, None)
        batch.results[trial.index].append(result)
        self.wake()

    def _crash(self, batch: _Batch, trial: _Trial) -> None:
        """Record that a message has killed a worker that ran nothing else."""
        reason = self._alone.ended if self._alone else ""
        self._alone = self._trial = None
        item = batch.incoming[trial.index]
        pending = [trial.handler] if trial.handler else item.pending
        if trial.handler:
            self._crashes[trial.handler] = self._crashes.get(trial.handler, 0) + 1
            if self._crashes[trial.handler] >= _MAX_CRASHES:
                self._paused_until[trial.handler] = time.monotonic() + CRASH_PAUSE
            reason = f"{trial.handler}: {reason}"
        if self._job["outbox"] and time.monotonic() > batch.deadline:
            result = SinkResult(Disposition.KEEP, "the outbox does not answer")
        else:
            result = SinkResult(Disposition.REQUEUE, reason, pending, crashed=True)
            self._listener.note(f"a message was requeued: {reason}")
        batch.results[trial.index].append(result)
        self.wake()


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
