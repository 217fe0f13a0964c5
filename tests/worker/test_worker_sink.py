"""The command's side of a relay: batches, messages alone, and what kills workers, which the test plays."""

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
DEATH = "its process ended with SIGSEGV"
SECONDS = 60  # in which what is waited for happens, on a machine that has other work


@pytest.fixture
def simulation(monkeypatch):
    return Simulation(monkeypatch)


def job(*handlers, outbox=None):
    pairs = [(name, "") for name in handlers or ("a", "b")]
    return {"job": "relay", "handlers": pairs, "outbox": outbox, "timeout": TIMEOUT, "everything": False}


class Relay:
    """The supervisor of a relay, step by step in this thread."""

    def __init__(self, simulation, *handlers, outbox=None):
        self.listener = RecordingListener()
        self.simulation = simulation
        self.supervisor = worker_sink._RelaySupervisor(job(*handlers, outbox=outbox), self.listener)

    def turn(self, count=1):
        for _ in range(count):
            self.supervisor.step(0.0)
            self.supervisor.advance()

    def give(self, *pending, count=1):
        """Give a batch, of as many messages as there are lists of pending handlers."""
        lists = pending or [None] * count
        batch = self.supervisor.submit([Incoming(f"m{number}".encode(), names) for number, names in enumerate(lists)])
        self.turn(2)
        return batch

    def lose(self):
        """Have the worker that has the batch die."""
        self.simulation.workers[0].kill(DEATH)
        self.turn(2)

    def alone(self):
        """Return the worker that has a message alone, and the handlers that are to get it."""
        (worker,) = (w for w in self.simulation.workers if not w.ended and w.jobs[0].get("alone"))
        return worker, worker.jobs[-1]["pending"][0]

    def answer(self, worker, *results, number=1):
        worker.report("batch", number=number, results=[[*result] for result in results])
        self.turn(3)

    def kill_alone(self):
        worker, _ = self.alone()
        worker.kill(DEATH)
        self.turn(3)


@pytest.fixture
def direct(simulation):
    return Relay(simulation)


@pytest.fixture
def keeping(simulation):
    return Relay(simulation, outbox="ob")


def outcomes(batch):
    """Return what is to become of each message, as `WorkerSink.deliver` does."""
    assert batch.done.is_set()
    results = [worker_sink.combined(each) for each in batch.results]
    return [(result.disposition, result.reason, result.pending) for result in results]


ACKED = ("ack", "", None, {})


# Whole batches.


def test_sink_passes_a_batch_to_the_worker_and_returns_its_results(keeping, simulation):
    batch = keeping.give(None, ["a"])
    (worker,) = simulation.workers
    frame = worker.jobs[1]
    assert (frame["job"], frame["sizes"], frame["pending"]) == ("batch", [2, 2], [None, ["a"]])
    keeping.answer(worker, ACKED, ("dead-letter", "malformed", ["a"], {}))
    assert outcomes(batch) == [(ACK, "", None), (DEAD, "malformed", ["a"])]


def test_results_of_another_batch_are_ignored(keeping, simulation):
    batch = keeping.give()
    keeping.answer(simulation.workers[0], ACKED, number=7)
    assert not batch.done.is_set()


@pytest.mark.parametrize("results", [[], [["other", "", None, {}]], [["ack"]]])
def test_worker_with_invalid_results_is_killed(keeping, simulation, results):
    keeping.give()
    simulation.workers[0].report("batch", number=1, results=results)
    keeping.turn()
    assert simulation.workers[0].ended == "it sent an invalid report (ValueError)"


def test_a_batch_stays_at_the_broker_if_no_worker_can_be_started(keeping, simulation):
    simulation.start_error = OSError(11, "no more processes")
    batch = keeping.give(count=2)
    assert not batch.done.is_set()
    simulation.now += BATCH_TIMEOUT + 1
    keeping.turn()
    assert outcomes(batch) == [(KEEP, "no worker can be started", None)] * 2


def test_a_batch_stays_at_the_broker_if_the_outbox_does_not_answer(keeping, simulation):
    batch = keeping.give()
    simulation.now += BATCH_TIMEOUT + 1
    simulation.workers[0].last_report = simulation.now
    keeping.turn(2)
    assert simulation.workers[0].ended == "it did not take a batch in time"
    assert outcomes(batch) == [(KEEP, "the outbox does not answer", None)]


def test_worker_without_an_outbox_has_the_timeout_per_message(direct, simulation):
    batch = direct.give(count=3)
    simulation.now += BATCH_TIMEOUT + 3 * TIMEOUT - 1
    simulation.workers[0].last_report = simulation.now
    direct.turn()
    assert simulation.workers[0].ended == ""
    simulation.now += 2
    direct.turn(3)
    assert simulation.workers[0].ended == "it did not take a batch in time"
    assert not batch.done.is_set()
    assert direct.alone()


def test_a_worker_that_dies_without_a_batch_is_replaced(keeping, simulation):
    keeping.turn()
    keeping.lose()
    assert keeping.listener.notes == [f"the worker was lost: {DEATH}"]
    assert len(simulation.workers) == 2


# What handlers did, without an outbox.


def delivery(worker, handler, **values):
    worker.report("delivery", entry="id", name="n", handler=handler, **values)


def test_failures_and_warnings_are_logged(direct, simulation):
    direct.turn()
    (worker,) = simulation.workers
    delivery(worker, "a", ok=True)
    delivery(worker, "a", ok=True, said="by the way")
    delivery(worker, "b", ok=False, error="no")
    direct.turn()
    assert direct.listener.entries == [("id", "", [("a", "")]), ("id", "", [("b", "no")])]


def test_retry_knows_which_handlers_already_delivered(direct, simulation):
    direct.give()
    delivery(simulation.workers[0], "a", ok=True)
    delivery(simulation.workers[0], "b", ok=False, error="no")
    direct.turn()
    direct.lose()
    worker, _ = direct.alone()
    assert worker.jobs[-1]["served"] == {"id": ["a"]}


# Messages alone.


def test_each_message_of_a_dead_worker_is_put_into_the_outbox_alone(keeping, simulation):
    batch = keeping.give(None, ["a"])
    keeping.lose()
    worker, pending = keeping.alone()
    assert (worker.jobs[0]["job"], pending) == ("relay", None)
    keeping.answer(worker, ACKED)
    assert keeping.alone() == (worker, ["a"])
    keeping.answer(worker, ("keep", "the disk is full", None, {}))
    assert outcomes(batch) == [(ACK, "", None), (KEEP, "the disk is full", None)]
    assert worker.ended == "it was asked to end"


def test_message_that_kills_its_own_worker_is_requeued_with_a_crash_count(keeping, simulation):
    batch = keeping.give(["a"], None)
    keeping.lose()
    keeping.kill_alone()
    worker, _ = keeping.alone()
    keeping.answer(worker, ACKED)
    assert outcomes(batch) == [(REQUEUE, DEATH, ["a"]), (ACK, "", None)]
    assert batch.results[0][0].crashed
    assert keeping.listener.notes == [f"a message was requeued: {DEATH}"]


def test_single_message_stays_at_the_broker_if_the_outbox_hangs(keeping, simulation):
    batch = keeping.give()
    keeping.lose()
    worker, _ = keeping.alone()
    simulation.now += 1000.0
    keeping.turn(3)
    assert worker.ended == "not done within 30 s"
    assert outcomes(batch) == [(KEEP, "the outbox does not answer", None)]


def test_results_of_handlers_tried_alone_are_merged(direct, simulation):
    batch = direct.give()
    direct.lose()
    worker, pending = direct.alone()
    assert pending == ["a"]
    direct.answer(worker, ("ack", "", [], {"a": "refused"}))
    assert direct.alone() == (worker, ["b"])
    direct.kill_alone()
    assert outcomes(batch) == [(REQUEUE, f"b: {DEATH}", ["b"])]
    combined = worker_sink.combined(batch.results[0])
    assert (combined.refused, combined.crashed) == ({"a": "refused"}, True)


def test_handlers_unknown_to_this_relay_stay_pending(direct, simulation):
    batch = direct.give(["a", "elsewhere"])
    direct.lose()
    worker, pending = direct.alone()
    assert pending == ["a"]
    direct.answer(worker, ("ack", "", [], {}))
    assert outcomes(batch) == [(ACK, "", ["elsewhere"])]


def test_single_message_stays_at_the_broker_if_no_worker_can_be_started(keeping, simulation):
    batch = keeping.give()
    simulation.start_error = OSError(11, "no more processes")
    keeping.lose()
    keeping.turn(3)
    assert outcomes(batch) == [(KEEP, "no worker can be started: no more processes", None)]


def test_a_handler_that_kills_two_workers_in_a_row_rests(direct, simulation):
    batch = direct.give(["a"], ["a"], ["a", "b"])
    direct.lose()
    for _ in range(2):
        direct.kill_alone()
    worker, pending = direct.alone()
    assert pending == ["b"]
    direct.answer(worker, ("ack", "", [], {}))
    rests = "a ended its process twice, and is not tried for a while"
    assert outcomes(batch)[2] == (REQUEUE, rests, ["a"])
    assert not batch.results[2][0].crashed
    following = direct.give(None, ["a"], ["b"])
    main = next(w for w in simulation.workers if not w.ended)
    assert main.jobs[-1]["pending"] == [["b"], [], ["b"]]
    direct.answer(main, *[("ack", "", [], {})] * 3, number=2)
    assert outcomes(following) == [(REQUEUE, rests, ["a"]), (REQUEUE, rests, ["a"]), (ACK, "", [])]


def test_a_handler_that_delivers_between_two_crashes_does_not_rest(direct, simulation):
    direct.give(["a"], ["a"], ["a"], ["a"])
    direct.lose()
    direct.kill_alone()
    direct.answer(direct.alone()[0], ("ack", "", [], {}))
    direct.kill_alone()
    assert direct.alone()[1] == ["a"]


def test_worker_is_replaced_without_back_off_after_messages_are_delivered_alone(direct, simulation):
    for number in range(1, 10):
        batch = direct.give(["a"])
        (main,) = (worker for worker in simulation.workers if not worker.ended)
        main.kill(DEATH)
        direct.turn(2)
        worker, _ = direct.alone()
        direct.answer(worker, ACKED, number=number)
        assert outcomes(batch) == [(ACK, "", None)]


# In a thread.


@pytest.fixture
def sink(simulation):
    made = WorkerSink(job(outbox="ob"), RecordingListener())
    yield made
    made.abort()


def answer_all(worker, result=ACKED):
    """Have a worker answer each batch, and end when it is told to."""

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


def test_the_broker_is_kept_alive_while_a_batch_is_delivered(sink, simulation, monkeypatch):
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


# The wake_up.


@pytest.fixture
def wake_up():
    made = worker_sink.WakeUp()
    yield made
    os.close(made.fileno())
    os.close(made._write)


def test_wake_up_ends_the_wait_for_workers(wake_up):
    threading.Timer(0.05, wake_up.wake).start()
    assert parent.receive([wake_up], time.monotonic() + SECONDS) == [(wake_up, {"report": "wake"})]
    assert wake_up.read() == []


def test_constant_wake_ups_delay_no_worker(wake_up):
    for _ in range(1 << 17):
        wake_up.wake()
    assert wake_up.read()


def test_wake_up_works_if_a_pipe_cannot_be_nonblocking(monkeypatch):
    monkeypatch.delattr(os, "set_blocking")
    wake_up = worker_sink.WakeUp()
    wake_up.wake()
    assert wake_up.read()
    os.close(wake_up.fileno())
    os.close(wake_up._write)
