"""The command's side of a relay: a sink whose work is done in a worker.

A thread keeps the worker, as for ``deliver --watch``. If the worker dies, hangs or gets no answer from the outbox's
disk while it has a batch, each message is tried in a worker in which nothing else runs: put into the outbox, or without
one given to one handler after another. A message that kills such a worker has crashed it; the relay counts that.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from threading import Thread

from event._broker import Disposition, Incoming, SinkResult
from event._process.signal_flag import SignalFlag
from event._worker.parent import EXIT_TIMEOUT, Worker
from event._worker.quarantine import OpenEntry
from event._worker.results import Result
from event._worker.supervisor import WORKER_REST, Supervisor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from event._worker.quarantine import Listener

BATCH_PATIENCE = 30.0  # seconds for the outbox's disk to take a batch; without an outbox, beyond what handlers may take
_ALONE_PATIENCE = 10.0  # seconds beyond the timeout, for a message alone
_IDLE = 1.0  # seconds between two calls of `idle`
_FIRST_IDLE = 0.005  # seconds before the first one, which takes the broker's next messages while the worker is busy
_WORKER_CHECK_INTERVAL = 1.0  # seconds between two looks at the workers, at most
_MAX_CRASHES = 2  # in a row, before a handler rests


@dataclass(slots=True)
class _Trial:
    """A message that is tried alone, without an outbox for one handler.

    :ivar handler: the handler's name; empty with an outbox
    """

    index: int
    handler: str


@dataclass(slots=True)
class _Batch:
    """A batch in work.

    :ivar worker: which has it; None if no worker has
    :ivar served: the handlers that have got the event of an id
    :ivar trials: what is still to be tried alone; None as long as the batch is tried as a whole
    :ivar results: what became of each message, one result for each trial
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
    """Gives batches to a worker; a `Sink`.

    :param job: see `event._worker.relay_job`
    :param listener: is told what becomes of entries, in a thread of the sink
    """

    def __init__(self, job: Mapping[str, Any], listener: Listener) -> None:
        self._supervisor = _RelaySupervisor(job, listener)
        self._abort = False
        self._ended = SignalFlag()  # a signal that interrupts Thread.join makes it say that the thread has ended
        Thread(target=self._run, name="event worker", daemon=True).start()

    def deliver(self, batch: Sequence[Incoming], idle: Callable[[], None]) -> list[SinkResult]:
        """Deliver the events of a batch; see `Sink.deliver`."""
        given = self._supervisor.give(batch)
        pause = _FIRST_IDLE
        while not given.done.wait(pause):
            pause = _IDLE
            if self._ended.is_set():
                return [SinkResult(Disposition.KEEP, "the worker is gone") for _ in batch]
            idle()
        return [_combined(results) for results in given.results]

    def close(self) -> None:
        """Deliver what is due in the outbox, and end the worker. A signal may interrupt that; see `abort`."""
        self._supervisor.ask_to_stop()
        while not self._ended.wait(_IDLE):
            pass

    def abort(self) -> None:
        """End the worker now; what it had waits in the outbox, or goes back to the broker."""
        self._abort = True
        self._supervisor.ring()
        self._ended.wait(_ALONE_PATIENCE)

    def _run(self) -> None:
        supervisor = self._supervisor
        try:
            while not supervisor.finished:
                if self._abort:
                    supervisor.abort()
                else:
                    supervisor.step(_WORKER_CHECK_INTERVAL)
                    supervisor.go_on()
        finally:
            self._ended.set()


class _Bell:
    """Ends the wait for workers, from another thread; to `receive` it is a worker that reports nothing."""

    def __init__(self) -> None:
        self.ended = ""
        self._read, self._write = os.pipe()
        for fd in (self._read, self._write):
            if hasattr(os, "set_blocking"):  # not on Windows before Python 3.12
                os.set_blocking(fd, False)

    def ring(self) -> None:
        """End the wait."""
        try:
            os.write(self._write, b"\n")
        except BlockingIOError:
            pass  # it rings already

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._read

    def read(self) -> list[dict[str, Any]]:
        """Return no report, so that the wait goes on only if nothing rang."""
        try:
            os.read(self._read, 1 << 12)
        except BlockingIOError:
            return []
        return [{"report": "bell"}]

    def look(self) -> list[dict[str, Any]]:
        """Return no report."""
        return []


class _RelaySupervisor(Supervisor):
    """Keeps the worker of a relay. All but `give`, `ring` and `ask_to_stop` is called in one thread."""

    def __init__(self, job: Mapping[str, Any], listener: Listener) -> None:
        super().__init__(job, listener)
        self._names = [name for name, _ in job["handlers"]]
        self._bell = _Bell()
        self._given: _Batch | None = None
        self._number = 0
        self._alone: Worker | None = None
        self._trial: _Trial | None = None
        self._crashes: dict[str, int] = {}  # of handlers, in a row
        self._asked_to_stop = False

    def give(self, incoming: Sequence[Incoming]) -> _Batch:
        """Begin with a batch; the one before is done."""
        self._number += 1
        batch = _Batch(incoming, self._number, deadline=time.monotonic() + BATCH_PATIENCE)
        self._given = batch
        self.ring()
        return batch

    def ring(self) -> None:
        """Have the thread look at what is new."""
        self._bell.ring()

    def ask_to_stop(self) -> None:
        """Have the thread `stop`."""
        self._asked_to_stop = True
        self.ring()

    def go_on(self) -> None:
        """See to the batch, and to whether to stop."""
        if self._asked_to_stop:
            self.stop()
        batch = self._given
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

    def _others(self) -> list[Any]:
        return [self._bell, *([self._alone] if self._alone else [])]

    def _take_other(self, worker: Worker, report: Mapping[str, Any]) -> None:
        kind, batch = report.get("report"), self._given
        if kind == "delivery":
            self._note_delivery(report)
        elif kind == "batch" and batch and report["number"] == batch.number and worker is batch.worker:
            results = [[SinkResult(Disposition(word), reason, pending, refused)]
                       for word, reason, pending, refused in report["results"]]  # fmt: skip
            if self._trial:
                self._end_trial(batch, self._trial, results[0][0])
            else:
                pairs = zip(batch.incoming, results, strict=True)
                self._finish(batch, [result + self._rest_of(item) for item, result in pairs])

    def _note_delivery(self, report: Mapping[str, Any]) -> None:
        result = Result(str(report["handler"]), report)
        if self._given and (result.ok or result.permanent):
            self._given.served.setdefault(str(report["entry"]), []).append(result.handler)
        if not result.ok or result.said:
            entry = OpenEntry(str(report["entry"]), "", str(report["name"]))
            entry.results.append(result)
            self._listener.entry(entry, "")

    def _note_death(self, worker: Worker) -> bool:
        batch = self._given
        if batch is None or batch.worker is not worker:
            return False
        if self._job["outbox"] and time.monotonic() > batch.deadline:
            self._finish(batch, [[SinkResult(Disposition.KEEP, "the outbox does not answer")] for _ in batch.incoming])
        else:
            batch.worker = None
            batch.results = [self._unknown(item) for item in batch.incoming]
            batch.trials = [trial for index in range(len(batch.incoming)) for trial in self._trials(batch, index)]
        return True

    # Whole batches.

    def _pending(self, item: Incoming) -> list[str] | None:
        """Return the handlers to be tried: those that are pending and do not rest; None for all."""
        if self._job["outbox"] or not (resting := self._resting(item)):
            return item.pending
        names = self._names if item.pending is None else item.pending
        return [name for name in names if name not in resting]

    def _rest_of(self, item: Incoming) -> list[SinkResult]:
        """Return what is to become of a message for the handlers that rest."""
        resting = [] if self._job["outbox"] else self._resting(item)
        reason = f"{', '.join(resting)} ended its process twice, and is not tried for a while"
        return [SinkResult(Disposition.REQUEUE, reason, resting)] if resting else []

    def _resting(self, item: Incoming) -> list[str]:
        names = self._names if item.pending is None else item.pending
        return [name for name in names if self._is_resting(name)]

    def _send(self, batch: _Batch, worker: Worker, items: Sequence[Incoming], pending: list[list[str] | None]) -> None:
        wait = BATCH_PATIENCE if self._job["outbox"] else BATCH_PATIENCE + self._timeout * len(items)
        batch.worker = worker
        batch.deadline = time.monotonic() + wait
        bodies = [item.body for item in items]
        job = {"job": "batch", "number": batch.number, "sizes": [*map(len, bodies)], "pending": pending}
        worker.send({**job, "served": batch.served}, b"".join(bodies), deadline=batch.deadline, is_more=True)

    def _finish(self, batch: _Batch, results: list[list[SinkResult]]) -> None:
        batch.results = results
        self._given = None
        batch.done.set()
        if self._alone:
            alone, self._alone = self._alone, None
            alone.finish(EXIT_TIMEOUT)

    # Messages alone.

    def _trials(self, batch: _Batch, index: int) -> list[_Trial]:
        names = [] if self._job["outbox"] else self._known(batch.incoming[index])
        return [_Trial(index, name) for name in names or [""]]

    def _known(self, item: Incoming) -> list[str]:
        return [name for name in self._names if item.pending is None or name in item.pending]

    def _unknown(self, item: Incoming) -> list[SinkResult]:
        """Return what is to become of a message for handlers that this relay does not have."""
        left = [name for name in item.pending or () if name not in self._names]
        return [SinkResult(Disposition.ACK, pending=left)] if left else []

    def _try_alone(self, batch: _Batch) -> None:
        """See to the trial that goes on, or begin with the next one."""
        if self._trial is None:
            self._begin_trial(batch)
        elif self._alone is None or self._alone.ended:
            self._crash(batch, self._trial)
        elif time.monotonic() > batch.deadline:
            self._alone.kill(f"TimeoutError: not done within {self._timeout:g} s")

    def _begin_trial(self, batch: _Batch) -> None:
        if not batch.trials:
            self._finish(batch, batch.results)
            return
        trial = batch.trials.pop(0)
        item = batch.incoming[trial.index]
        if trial.handler and self._is_resting(trial.handler):
            batch.results[trial.index] += self._rest_of(Incoming(b"", [trial.handler]))
            self._bell.ring()
            return
        self._trial = trial
        try:
            self._alone = self._alone or self._start_alone()
        except OSError as error:
            self._end_trial(batch, trial, SinkResult(Disposition.KEEP, f"no worker can be started: {error.strerror}"))
            return
        self._send(batch, self._alone, [item], [[trial.handler] if trial.handler else item.pending])
        batch.deadline = time.monotonic() + self._timeout + _ALONE_PATIENCE

    def _start_alone(self) -> Worker:
        worker = Worker.spawn()
        worker.send({**self._job, "alone": True}, deadline=time.monotonic() + _ALONE_PATIENCE)
        return worker

    def _end_trial(self, batch: _Batch, trial: _Trial, result: SinkResult) -> None:
        self._trial = None
        self._crashes.pop(trial.handler, None)
        batch.results[trial.index].append(result)
        self._bell.ring()

    def _crash(self, batch: _Batch, trial: _Trial) -> None:
        """Take note that a message has killed a worker that had nothing else."""
        reason = self._alone.ended if self._alone else ""
        self._alone = self._trial = None
        item = batch.incoming[trial.index]
        pending = [trial.handler] if trial.handler else item.pending
        if trial.handler:
            self._crashes[trial.handler] = self._crashes.get(trial.handler, 0) + 1
            if self._crashes[trial.handler] >= _MAX_CRASHES:
                self._rests[trial.handler] = time.monotonic() + WORKER_REST
            reason = f"{trial.handler}: {reason}"
        if self._job["outbox"] and time.monotonic() > batch.deadline:
            result = SinkResult(Disposition.KEEP, "the outbox does not answer")
        else:
            result = SinkResult(Disposition.REQUEUE, reason, pending, crashed=True)
            self._listener.note(f"a message was put back: {reason}")
        batch.results[trial.index].append(result)
        self._bell.ring()


def _combined(results: Sequence[SinkResult]) -> SinkResult:
    """Return what is to become of a message, of which several handlers were tried apart."""
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
