"""Entries whose worker has died, each alone with one handler at a time."""

from __future__ import annotations

import pytest

from event._worker.quarantine import OpenEntry, Quarantine
from worker.simulation import RecordingListener, Simulation

TIMEOUT = 30.0


@pytest.fixture
def simulation(monkeypatch):
    return Simulation(monkeypatch)


class Ward:
    """A quarantine, and what it tells.

    :ivar lanes: each lane that was tried alone, and whether its worker has died
    """

    def __init__(self, simulation):
        self.listener = RecordingListener()
        self.lanes = []
        self.resting = set()
        self.simulation = simulation
        self.quarantine = Quarantine("ob", TIMEOUT, self.listener, self._note, self.resting.__contains__)

    def _note(self, handler, lane, died):
        self.lanes.append((lane, died))

    def add(self, entry_id, *handlers):
        entry = OpenEntry(entry_id, f"{entry_id}.claim", "n")
        entry.active_lanes = {name: f"lane-{name}" for name in handlers}
        self.quarantine.add(entry)

    def step(self):
        for worker in self.quarantine.workers:
            for report in worker.read():
                self.quarantine.handle_report(worker, report)
        self.quarantine.watch()

    def die(self, worker, *, begun=True):
        """Have a worker die with the entry that it has got."""
        if begun:
            worker.report("begin", claim="new.claim")
            self.step()
        worker.kill("its process ended with SIGSEGV")
        self.step()


@pytest.fixture
def ward(simulation):
    return Ward(simulation)


def answer(worker, **result):
    """Have a worker do what it was asked."""
    worker.report("begin", claim="new.claim")
    if result:
        worker.report("result", **result)
    else:
        worker.report("end", where="waiting")
    worker.report("done")


def test_entry_is_released_after_each_handler_tried_it_alone(ward, simulation):
    ward.add("e", "a", "b")
    assert ward.quarantine.lanes == {"lane-a", "lane-b"}
    assert ward.quarantine.ids == ["e"]
    ward.step()
    (worker,) = simulation.workers
    for _ in "ab":
        answer(worker, ok=True)
        ward.step()
    assert ward.quarantine.lanes == set()
    answer(worker)
    ward.step()
    assert [(job["claim"], job["handlers"], job["hold"]) for job in worker.jobs] == [
        ("e.claim", ["a"], True),
        ("new.claim", ["b"], True),
        ("new.claim", [], False),
    ]
    assert ward.listener.entries == [("e", "waiting", [("a", ""), ("b", "")])]
    assert ward.lanes == [("lane-a", False), ("lane-b", False)]
    assert worker.ended == "it was asked to end"
    assert ward.quarantine.ids == []


def test_entry_is_over_when_its_last_handler_has_released_it(ward, simulation):
    ward.add("e", "a")
    ward.step()
    (worker,) = simulation.workers
    worker.report("begin", claim="new.claim")
    worker.report("result", ok=True)
    worker.report("end", where="delivered")
    worker.report("done")
    ward.step()
    assert ward.listener.entries == [("e", "delivered", [("a", "")])]
    assert len(worker.jobs) == 1
    assert ward.quarantine.ids == []


def test_crash_of_a_handler_alone_is_journaled_as_its_failure(ward, simulation):
    ward.add("e", "a", "b")
    ward.step()
    ward.die(simulation.workers[0])
    assert ward.lanes == [("lane-a", True)]
    (job,) = simulation.workers[1].jobs
    assert [(result["handler"], result["error"]) for result in job["results"]] == [
        ("a", "its process ended with SIGSEGV")
    ]
    assert job["handlers"] == ["b"]


def test_worker_that_dies_before_the_entry_counts_against_no_handler(ward, simulation):
    ward.add("e", "a")
    ward.step()
    ward.die(simulation.workers[0], begun=False)
    assert simulation.workers[1].jobs[0]["handlers"] == ["a"]
    ward.die(simulation.workers[1], begun=False)
    assert ward.lanes == []
    assert ward.listener.entries == [("e", "claimed", [])]
    assert len(simulation.workers) == 2


def test_worker_that_dies_after_the_release_is_not_replaced(ward, simulation):
    ward.add("e")
    ward.step()
    simulation.workers[0].report("end", where="failed")
    ward.step()
    ward.die(simulation.workers[0], begun=False)
    assert ward.listener.entries == [("e", "failed", [])]


def test_worker_that_dies_between_handlers_is_replaced(ward, simulation):
    ward.add("e")
    ward.step()
    ward.die(simulation.workers[0])
    assert simulation.workers[1].jobs[0]["handlers"] == []
    assert ward.lanes == []


def test_worker_that_exceeds_its_deadline_is_killed(ward, simulation):
    ward.add("e", "a")
    ward.step()
    simulation.workers[0].report("begin", claim="new.claim")
    ward.step()
    simulation.now += TIMEOUT + 1
    ward.step()
    assert simulation.workers[0].ended == "not done within 30 s"
    assert ward.lanes == [("lane-a", True)]


def test_handler_with_a_journaled_delivery_is_not_tried_again(ward, simulation):
    ward.add("e", "a", "b")
    ward.step()
    simulation.workers[0].report("begin", claim="new.claim")
    simulation.workers[0].report("done")
    ward.step()
    assert simulation.workers[0].jobs[1]["handlers"] == ["b"]
    assert ward.lanes == []


def test_vanished_entry_is_reported_as_gone(ward, simulation):
    ward.add("e", "a")
    ward.step()
    simulation.workers[0].report("not_adopted")
    simulation.workers[0].report("done")
    ward.step()
    assert ward.listener.entries == [("e", "gone", [])]


def test_handler_with_a_resting_lane_is_not_tried(ward, simulation):
    ward.resting.add("lane-a")
    ward.add("e", "a", "b")
    ward.step()
    assert simulation.workers[0].jobs[0]["handlers"] == ["b"]


def test_two_entries_are_tried_at_the_same_time(ward, simulation):
    for entry_id in "abc":
        ward.add(entry_id)
    ward.step()
    assert len(ward.quarantine.workers) == 2
    assert ward.quarantine.ids == ["c", "a", "b"]
    answer(simulation.workers[0])
    ward.step()
    assert len(simulation.workers) == 2
    assert simulation.workers[0].jobs[1]["claim"] == "c.claim"


def test_entry_stays_claimed_if_no_worker_can_be_started(ward, simulation):
    simulation.start_error = OSError(11, "no more processes")
    ward.add("e", "a")
    ward.step()
    assert ward.listener.logged == ["no worker can be started: no more processes"]
    assert ward.listener.entries == [("e", "claimed", [])]


def test_logs_are_forwarded_and_unknown_reports_ignored(ward, simulation):
    ward.add("e")
    ward.step()
    simulation.workers[0].report("log", text="the disk is full")
    simulation.workers[0].report("alive")
    simulation.workers[0].report("result", handler="a", ok=True)
    ward.step()
    assert ward.listener.logged == ["the disk is full"]
    assert ward.lanes == []


def test_abort_kills_the_workers_and_returns_unfinished_entries(ward, simulation):
    for entry_id in "abc":
        ward.add(entry_id)
    ward.step()
    assert [entry.id for entry in ward.quarantine.give_up()] == ["c", "a", "b"]
    assert [worker.ended for worker in simulation.workers] == ["it was ended"] * 2
    assert ward.quarantine.workers == []
