"""Quarantine: each entry of a dead worker is tried in a separate worker, with one handler at a time."""

from __future__ import annotations

import os
import time

import pytest

from event import Event
from event._worker.quarantine import OpenEntry, Quarantine, release_entries
from event._worker.results import Result
from helpers.entries import abandon, dead_owner, names_by_state
from worker.simulation import RecordingListener, Simulation

TIMEOUT = 30.0


@pytest.fixture
def simulation(monkeypatch):
    return Simulation(monkeypatch)


class ObservedQuarantine:
    """A quarantine with fake workers, and what it reports.

    :ivar listener: records the entries and warnings
    :ivar tried: each lane that was tried alone, and whether its worker died
    :ivar paused: the paused lanes
    """

    def __init__(self, simulation):
        self.listener = RecordingListener()
        self.tried = []
        self.paused = set()
        self.quarantine = Quarantine("ob", TIMEOUT, self.listener, self._record, self.paused.__contains__)

    def _record(self, handler, lane, died):
        self.tried.append((lane, died))

    def add(self, entry_id, *handlers):
        entry = OpenEntry(entry_id, f"{entry_id}.claim", "n")
        entry.active_lanes = {name: f"lane-{name}" for name in handlers}
        self.quarantine.add(entry)

    def step(self):
        """Handle the reports of all workers, then check the workers."""
        for worker in self.quarantine.workers:
            for report in worker.read():
                self.quarantine.handle_report(worker, report)
        self.quarantine.watch()

    def die(self, worker, *, begun=True):
        """Kill a worker, by default after it has claimed its entry."""
        if begun:
            worker.report("begin", claim="new.claim")
            self.step()
        worker.kill("its process ended with SIGSEGV")
        self.step()


@pytest.fixture
def observed(simulation):
    return ObservedQuarantine(simulation)


def answer(worker, **result):
    """Report that a job was done: with the result of its handler, or with the release of the entry."""
    worker.report("begin", claim="new.claim")
    if result:
        worker.report("result", **result)
    else:
        worker.report("end", where="waiting")
    worker.report("done")


def test_entry_is_released_after_each_handler_tried_it_alone(observed, simulation):
    observed.add("e", "a", "b")
    assert observed.quarantine.lanes == {"lane-a", "lane-b"}
    assert observed.quarantine.ids == ["e"]
    observed.step()
    (worker,) = simulation.workers
    for _ in "ab":
        answer(worker, ok=True)
        observed.step()
    assert observed.quarantine.lanes == set()
    answer(worker)
    observed.step()
    assert [(job["claim"], job["handler"]) for job in worker.jobs] == [
        ("e.claim", "a"),
        ("new.claim", "b"),
        ("new.claim", ""),
    ]
    assert observed.listener.entries == [("e", "waiting", [("a", ""), ("b", "")])]
    assert observed.tried == [("lane-a", False), ("lane-b", False)]
    assert worker.ended == "it was asked to end"
    assert observed.quarantine.ids == []


def test_delivered_entry_needs_no_further_job(observed, simulation):
    observed.add("e", "a")
    observed.step()
    (worker,) = simulation.workers
    worker.report("begin", claim="new.claim")
    worker.report("result", ok=True)
    worker.report("end", where="delivered")
    worker.report("done")
    observed.step()
    assert observed.listener.entries == [("e", "delivered", [("a", "")])]
    assert len(worker.jobs) == 1
    assert observed.quarantine.ids == []


def test_crash_of_a_handler_alone_is_journaled_as_its_failure(observed, simulation):
    observed.add("e", "a", "b")
    observed.step()
    observed.die(simulation.workers[0])
    assert observed.tried == [("lane-a", True)]
    (job,) = simulation.workers[1].jobs
    assert [(result["handler"], result["error"]) for result in job["results"]] == [
        ("a", "its process ended with SIGSEGV")
    ]
    assert job["handler"] == "b"


def test_death_of_a_worker_without_a_claim_counts_against_no_handler(observed, simulation):
    observed.add("e", "a")
    observed.step()
    observed.die(simulation.workers[0], begun=False)
    assert simulation.workers[1].jobs[0]["handler"] == "a"
    observed.die(simulation.workers[1], begun=False)
    assert observed.tried == []
    assert observed.listener.entries == [("e", "claimed", [])]
    assert len(simulation.workers) == 2


def test_worker_that_dies_after_the_release_is_not_replaced(observed, simulation):
    observed.add("e")
    observed.step()
    simulation.workers[0].report("end", where="failed")
    observed.step()
    observed.die(simulation.workers[0], begun=False)
    assert observed.listener.entries == [("e", "failed", [])]


def test_worker_that_dies_between_handlers_is_replaced(observed, simulation):
    observed.add("e")
    observed.step()
    observed.die(simulation.workers[0])
    assert simulation.workers[1].jobs[0]["handler"] == ""
    assert observed.tried == []


def test_worker_that_exceeds_its_deadline_is_killed(observed, simulation):
    observed.add("e", "a")
    observed.step()
    simulation.workers[0].report("begin", claim="new.claim")
    observed.step()
    simulation.now += TIMEOUT + 1
    observed.step()
    assert simulation.workers[0].ended == "not done within 30 s"
    assert observed.tried == [("lane-a", True)]


def test_handler_without_a_result_is_not_tried_again(observed, simulation):
    observed.add("e", "a", "b")
    observed.step()
    simulation.workers[0].report("begin", claim="new.claim")
    simulation.workers[0].report("done")
    observed.step()
    assert simulation.workers[0].jobs[1]["handler"] == "b"
    assert observed.tried == []


def test_vanished_entry_is_reported_as_gone(observed, simulation):
    observed.add("e", "a")
    observed.step()
    simulation.workers[0].report("not_adopted")
    simulation.workers[0].report("done")
    observed.step()
    assert observed.listener.entries == [("e", "gone", [])]


def test_handler_with_a_paused_lane_is_not_tried(observed, simulation):
    observed.paused.add("lane-a")
    observed.add("e", "a", "b")
    observed.step()
    assert simulation.workers[0].jobs[0]["handler"] == "b"


def test_two_entries_are_tried_at_the_same_time(observed, simulation):
    for entry_id in "abc":
        observed.add(entry_id)
    observed.step()
    assert len(observed.quarantine.workers) == 2
    assert observed.quarantine.ids == ["c", "a", "b"]
    answer(simulation.workers[0])
    observed.step()
    assert len(simulation.workers) == 2
    assert simulation.workers[0].jobs[1]["claim"] == "c.claim"


def test_entry_stays_claimed_if_no_worker_can_be_started(observed, simulation):
    simulation.start_error = OSError(11, "no more processes")
    observed.add("e", "a")
    observed.step()
    assert observed.listener.logged == ["no worker can be started: no more processes"]
    assert observed.listener.entries == [("e", "claimed", [])]


def test_logs_are_forwarded_and_unknown_reports_ignored(observed, simulation):
    observed.add("e")
    observed.step()
    simulation.workers[0].report("log", text="the disk is full")
    simulation.workers[0].report("alive")
    simulation.workers[0].report("result", handler="a", ok=True)
    observed.step()
    assert observed.listener.logged == ["the disk is full"]
    assert observed.tried == []


def test_abort_kills_the_workers_and_returns_unfinished_entries(observed, simulation):
    for entry_id in "abc":
        observed.add(entry_id)
    observed.step()
    assert [entry.id for entry in observed.quarantine.give_up()] == ["c", "a", "b"]
    assert [worker.ended for worker in simulation.workers] == ["it was ended"] * 2
    assert observed.quarantine.workers == []


def test_entries_of_a_dead_worker_are_released_before_the_timeout(box):
    owner = dead_owner()
    claims = [os.path.basename(abandon(box, box.put(Event("n"), {"a": ""}), owner)) for _ in range(2)]
    start = time.monotonic()
    delivered = Result("a", {"ok": True})
    state = release_entries(box.path, [(claims[0], [delivered]), (claims[1], [])], 60.0)
    assert time.monotonic() < start + 60
    assert state == "waiting"
    assert len(names_by_state(box)["waiting"]) == 1
