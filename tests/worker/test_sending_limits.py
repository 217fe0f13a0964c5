"""Sending one event with fake workers and a fake clock: deadlines, hung workers, and the results of several workers."""

from __future__ import annotations

import pytest

from event._worker import EventSender
from worker.jobs import send, summary
from worker.simulation import Simulation


@pytest.fixture
def simulation(monkeypatch):
    return Simulation(monkeypatch)


def make_sender(*handlers, outbox=None, timeout=60.0):
    logged = []
    sender = EventSender([(name, "") for name in handlers], outbox=outbox, timeout=timeout, log=logged.append)
    sender.logged = logged
    return sender


def report_success(worker, *handlers):
    for name in handlers:
        worker.report("result", handler=name, ok=True)
    worker.report("done")


def test_worker_is_killed_at_the_deadline(simulation):
    start = simulation.now
    sent = send(make_sender("a"))
    assert summary(sent) == [("a", False, "not done within 60 s")]
    assert sent.results[0].timed_out
    (worker,) = simulation.workers
    assert worker.ended == "it was not done in time"
    assert simulation.now == start + 60


def test_worker_without_heartbeats_for_two_fifths_of_the_timeout_is_killed(simulation):
    def answer(worker):
        if len(simulation.workers) == 1:
            worker.report("begin", heartbeat=True)
            worker.report("alive", memory=0, threads=1)
        else:
            report_success(worker, "a", "b")

    simulation.on_spawn = answer
    start = simulation.now
    sent = send(make_sender("a", "b"))
    assert summary(sent) == [("a", True, ""), ("b", True, "")]
    assert simulation.workers[0].ended == "a handler stopped its process"
    assert simulation.now == pytest.approx(start + 24, abs=0.2)


def test_outbox_that_hangs_for_half_of_the_timeout_is_not_used(simulation):
    def answer(worker):
        if len(simulation.workers) == 1:
            worker.report("taken")
        else:
            report_success(worker, "a")

    simulation.on_spawn = answer
    sender = make_sender("a", outbox="ob")
    assert summary(send(sender)) == [("a", True, "")]
    assert [worker.jobs[0]["outbox"] for worker in simulation.workers] == ["ob", None]
    assert sender.logged == [
        "the event cannot be kept in the outbox ob and is sent without it: it did not answer within 30.0 s"
    ]


def test_worker_with_a_hung_handler_gets_no_other_event(simulation):
    def answer(worker):
        worker.report("result", handler="a", ok=len(simulation.workers) == 2, timed_out=len(simulation.workers) == 1)
        report_success(worker, "b")

    simulation.on_spawn = answer
    sender = make_sender("a", "b")
    assert summary(send(sender)) == [("a", False, "not done within 60 s"), ("b", True, "")]
    assert simulation.workers[0].ended
    assert summary(send(sender)) == [("a", True, ""), ("b", True, "")]
    assert len(simulation.workers) == 2


def test_untried_handler_is_tried_alone_and_can_time_out(simulation):
    def answer(worker):
        if len(simulation.workers) == 2:
            worker.report("result", handler="other", ok=True)
            worker.report("result", handler="a", ok=False, timed_out=True, error="TimeoutError")
        worker.report("done")

    simulation.on_spawn = answer
    sent = send(make_sender("a"))
    assert summary(sent) == [("a", False, "not done within 60 s")]
    assert [worker.jobs[0]["alone"] for worker in simulation.workers] == [True, True]


def test_file_that_several_workers_miss_is_listed_and_logged_once(simulation):
    def answer(worker):
        worker.report("not_attached", name="log", text="it is gone")
        worker.report("not_attached", name="log", text="it is gone")
        worker.report("not_attached", name="other", text="")  # the worker has logged the reason
        report_success(worker, "a")

    simulation.on_spawn = answer
    sender = make_sender("a")
    sent = send(sender)
    assert (sent.not_attached, sender.logged) == (["log", "other"], ["it is gone"])
