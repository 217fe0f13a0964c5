"""The command's side of a relay: batches, and after a crash, single messages. The workers are fake."""

from __future__ import annotations

import os
import threading
import time

import pytest

from event._broker import Disposition, Incoming
from event._worker import parent, worker_sink
from event._worker.worker_sink import BATCH_TIMEOUT, WorkerSink
from worker.simulation import RecordingListener, Simulation

if os.name == "nt":
    pytest.skip("platform: the pipes are those of a POSIX system", allow_module_level=True)

ACK, REQUEUE, DEAD, KEEP = Disposition.ACK, Disposition.REQUEUE, Disposition.DEAD_LETTER, Disposition.KEEP
TIMEOUT = 30.0
CRASHED = "its process ended with SIGSEGV"


@pytest.fixture
def simulation(monkeypatch):
    return Simulation(monkeypatch)


def job(*handlers, outbox=None):
    pairs = [(name, "") for name in handlers or ("a", "b")]
    return {"job": "relay", "handlers": pairs, "outbox": outbox, "timeout": TIMEOUT, "everything": False}


class Relay:
    """The supervisor of a relay's worker, run step by step in this thread.

    :ivar listener: records the entries and warnings
    """

    def __init__(self, simulation, *handlers, outbox=None):
        self.listener = RecordingListener()
        self.simulation = simulation
        self.supervisor = worker_sink._RelaySupervisor(job(*handlers, outbox=outbox), self.listener)

    def step(self, count=1):
        for _ in range(count):
            self.supervisor.step(0.0)
            self.supervisor.advance()

    def submit(self, *pending, count=1):
        """Submit a batch with a message for each list of pending handlers, or with `count` messages."""
        lists = pending or [None] * count
        batch = self.supervisor.submit([Incoming(f"m{number}".encode(), names) for number, names in enumerate(lists)])
        self.step(2)
        return batch

    def crash_main_worker(self):
        """Crash the worker that has the batch."""
        self.simulation.workers[0].kill(CRASHED)
        self.step(2)

    def single(self):
        """Return the worker that has a single message, and the message's pending handlers."""
        (worker,) = (w for w in self.simulation.workers if not w.ended and w.jobs[0].get("alone"))
        return worker, worker.jobs[-1]["pending"][0]

    def answer(self, worker, *results, number=1):
        worker.report("batch", number=number, results=[[*result] for result in results])
        self.step(3)

    def crash_single_worker(self):
        worker, _ = self.single()
        worker.kill(CRASHED)
        self.step(3)


@pytest.fixture
def direct(simulation):
    """Return a relay without an outbox."""
    return Relay(simulation)


@pytest.fixture
def stored(simulation):
    """Return a relay with an outbox."""
    return Relay(simulation, outbox="ob")


def outcomes(batch):
    """Return the disposition, the reason and the pending handlers of each message, as `WorkerSink.deliver` does."""
    assert batch.done.is_set()
    results = [worker_sink.combined(each) for each in batch.results]
    return [(result.disposition, result.reason, result.pending) for result in results]


ACKED = ("ack", "", None, {})


# Whole batches.


def test_sink_passes_a_batch_to_the_worker_and_returns_its_results(stored, simulation):
    batch = stored.submit(None, ["a"])
    (worker,) = simulation.workers
    frame = worker.jobs[1]
    assert (frame["job"], frame["sizes"], frame["pending"]) == ("batch", [2, 2], [None, ["a"]])
    stored.answer(worker, ACKED, ("dead-letter", "malformed", ["a"], {}))
    assert outcomes(batch) == [(ACK, "", None), (DEAD, "malformed", ["a"])]


def test_results_of_another_batch_are_ignored(stored, simulation):
    batch = stored.submit()
    stored.answer(simulation.workers[0], ACKED, number=7)
    assert not batch.done.is_set()


@pytest.mark.parametrize("results", [[], [["other", "", None, {}]], [["ack"]]])
def test_worker_with_invalid_results_is_killed(stored, simulation, results):
    stored.submit()
    simulation.workers[0].report("batch", number=1, results=results)
    stored.step()
    assert simulation.workers[0].ended == "it sent an invalid report (ValueError)"


def test_a_batch_stays_at_the_broker_if_no_worker_can_be_started(stored, simulation):
    simulation.start_error = OSError(11, "no more processes")
    batch = stored.submit(count=2)
    assert not batch.done.is_set()
    simulation.now += BATCH_TIMEOUT + 1
    stored.step()
    assert outcomes(batch) == [(KEEP, "no worker can be started", None)] * 2


def test_a_batch_stays_at_the_broker_if_the_outbox_does_not_answer(stored, simulation):
    batch = stored.submit()
    simulation.now += BATCH_TIMEOUT + 1
    simulation.workers[0].last_report = simulation.now
    stored.step(2)
    assert simulation.workers[0].ended == "it did not take a batch in time"
    assert outcomes(batch) == [(KEEP, "the outbox does not answer", None)]


def test_worker_without_an_outbox_has_the_timeout_per_message(direct, simulation):
    batch = direct.submit(count=3)
    simulation.now += BATCH_TIMEOUT + 3 * TIMEOUT - 1
    simulation.workers[0].last_report = simulation.now
    direct.step()
    assert simulation.workers[0].ended == ""
    simulation.now += 2
    direct.step(3)
    assert simulation.workers[0].ended == "it did not take a batch in time"
    assert not batch.done.is_set()
    assert direct.single()


def test_a_worker_that_dies_without_a_batch_is_replaced(stored, simulation):
    stored.step()
    stored.crash_main_worker()
    assert stored.listener.notes == [f"the worker was lost: {CRASHED}"]
    assert len(simulation.workers) == 2


# Results of handlers, without an outbox.


def report_delivery(worker, handler, **values):
    worker.report("delivery", entry="id", name="n", handler=handler, **values)


def test_failures_and_warnings_are_logged(direct, simulation):
    direct.step()
    (worker,) = simulation.workers
    report_delivery(worker, "a", ok=True)
    report_delivery(worker, "a", ok=True, said="by the way")
    report_delivery(worker, "b", ok=False, error="no")
    direct.step()
    assert direct.listener.entries == [("id", "", [("a", "")]), ("id", "", [("b", "no")])]


def test_retry_knows_which_handlers_already_delivered(direct, simulation):
    direct.submit()
    report_delivery(simulation.workers[0], "a", ok=True)
    report_delivery(simulation.workers[0], "b", ok=False, error="no")
    direct.step()
    direct.crash_main_worker()
    worker, _ = direct.single()
    assert worker.jobs[-1]["served"] == {"id": ["a"]}


# Single messages, after a worker has died.


def test_each_message_of_a_dead_worker_is_put_into_the_outbox_alone(stored, simulation):
    batch = stored.submit(None, ["a"])
    stored.crash_main_worker()
    worker, pending = stored.single()
    assert (worker.jobs[0]["job"], pending) == ("relay", None)
    stored.answer(worker, ACKED)
    assert stored.single() == (worker, ["a"])
    stored.answer(worker, ("keep", "the disk is full", None, {}))
    assert outcomes(batch) == [(ACK, "", None), (KEEP, "the disk is full", None)]
    assert worker.ended == "it was asked to end"


def test_message_that_crashes_its_own_worker_is_requeued_as_crashed(stored, simulation):
    batch = stored.submit(["a"], None)
    stored.crash_main_worker()
    stored.crash_single_worker()
    worker, _ = stored.single()
    stored.answer(worker, ACKED)
    assert outcomes(batch) == [(REQUEUE, CRASHED, ["a"]), (ACK, "", None)]
    assert batch.results[0][0].crashed
    assert stored.listener.notes == [f"a message was requeued: {CRASHED}"]


def test_single_message_stays_at_the_broker_if_the_outbox_hangs(stored, simulation):
    batch = stored.submit()
    stored.crash_main_worker()
    worker, _ = stored.single()
    simulation.now += 1000.0
    stored.step(3)
    assert worker.ended == "not done within 30 s"
    assert outcomes(batch) == [(KEEP, "the outbox does not answer", None)]


def test_results_of_handlers_tried_alone_are_merged(direct, simulation):
    batch = direct.submit()
    direct.crash_main_worker()
    worker, pending = direct.single()
    assert pending == ["a"]
    direct.answer(worker, ("ack", "", [], {"a": "refused"}))
    assert direct.single() == (worker, ["b"])
    direct.crash_single_worker()
    assert outcomes(batch) == [(REQUEUE, f"b: {CRASHED}", ["b"])]
    combined = worker_sink.combined(batch.results[0])
    assert (combined.refused, combined.crashed) == ({"a": "refused"}, True)


def test_handlers_unknown_to_this_relay_stay_pending(direct, simulation):
    batch = direct.submit(["a", "elsewhere"])
    direct.crash_main_worker()
    worker, pending = direct.single()
    assert pending == ["a"]
    direct.answer(worker, ("ack", "", [], {}))
    assert outcomes(batch) == [(ACK, "", ["elsewhere"])]


def test_single_message_stays_at_the_broker_if_no_worker_can_be_started(stored, simulation):
    batch = stored.submit()
    simulation.start_error = OSError(11, "no more processes")
    stored.crash_main_worker()
    stored.step(3)
    assert outcomes(batch) == [(KEEP, "no worker can be started: no more processes", None)]


def test_handler_that_crashes_two_workers_in_a_row_is_paused(direct, simulation):
    batch = direct.submit(["a"], ["a"], ["a", "b"])
    direct.crash_main_worker()
    for _ in range(2):
        direct.crash_single_worker()
    worker, pending = direct.single()
    assert pending == ["b"]
    direct.answer(worker, ("ack", "", [], {}))
    paused = "a ended its process twice, and is not tried for a while"
    assert outcomes(batch)[2] == (REQUEUE, paused, ["a"])
    assert not batch.results[2][0].crashed
    following = direct.submit(None, ["a"], ["b"])
    main = next(w for w in simulation.workers if not w.ended)
    assert main.jobs[-1]["pending"] == [["b"], [], ["b"]]
    direct.answer(main, *[("ack", "", [], {})] * 3, number=2)
    assert outcomes(following) == [(REQUEUE, paused, ["a"]), (REQUEUE, paused, ["a"]), (ACK, "", [])]


def test_handler_that_delivers_between_two_crashes_is_not_paused(direct, simulation):
    direct.submit(["a"], ["a"], ["a"], ["a"])
    direct.crash_main_worker()
    direct.crash_single_worker()
    direct.answer(direct.single()[0], ("ack", "", [], {}))
    direct.crash_single_worker()
    assert direct.single()[1] == ["a"]


def test_worker_is_replaced_without_back_off_after_messages_are_delivered_alone(direct, simulation):
    for number in range(1, 10):
        batch = direct.submit(["a"])
        (main,) = (worker for worker in simulation.workers if not worker.ended)
        main.kill(CRASHED)
        direct.step(2)
        worker, _ = direct.single()
        direct.answer(worker, ACKED, number=number)
        assert outcomes(batch) == [(ACK, "", None)]


# The supervisor's thread.


@pytest.fixture
def sink(simulation):
    made = WorkerSink(job(outbox="ob"), RecordingListener())
    yield made
    made.abort()


def answer_all(worker, result=ACKED):
    """Let a worker report the results of each batch, and `done` when it is stopped."""

    def send(frame, blob=b"", **_more):
        if frame["job"] == "batch":
            worker.report("batch", number=frame["number"], results=[[*result]] * len(frame["sizes"]))
        elif frame["job"] == "stop":
            worker.report("done")

    worker.send = send


def test_a_sink_delivers_batches_until_it_is_closed(simulation):
    simulation.on_spawn = answer_all
    sink = WorkerSink(job(outbox="ob"), RecordingListener())
    for _ in range(2):
        (result,) = sink.deliver([Incoming(b"m")], lambda: None)
        assert result.disposition is ACK
    sink.close()
    assert [worker.ended for worker in simulation.workers] == ["it was asked to end"]


def test_broker_connection_is_served_while_a_batch_is_delivered(sink, simulation, monkeypatch):
    monkeypatch.setattr(worker_sink, "_IDLE", 0.01)

    def idle():
        for worker in simulation.workers:
            if len(worker.jobs) > 1:
                worker.report("batch", number=1, results=[[*ACKED]])

    (result,) = sink.deliver([Incoming(b"m")], idle)
    assert result.disposition is ACK


def test_aborted_sink_leaves_messages_at_the_broker(sink, monkeypatch):
    monkeypatch.setattr(worker_sink, "_IDLE", 0.01)
    sink.abort()
    results = sink.deliver([Incoming(b"m"), Incoming(b"n")], lambda: None)
    assert [(result.disposition, result.reason) for result in results] == [(KEEP, "the worker has stopped")] * 2


# Waking up the supervisor.


def test_wake_up_ends_the_wait_for_workers(stored):
    start = time.monotonic()
    threading.Timer(0.05, stored.supervisor.wake).start()  # it may also come before the wait
    assert parent.receive([], start + 60, stored.supervisor._wake_up_fd) == []
    assert time.monotonic() < start + 60
    with pytest.raises(BlockingIOError):  # it was read
        os.read(stored.supervisor._wake_up_fd, 1)


def test_many_wake_ups_do_not_block(stored):
    for _ in range(1 << 17):
        stored.supervisor.wake()
    assert os.read(stored.supervisor._wake_up_fd, 1)
