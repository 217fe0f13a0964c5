"""The job `resume`, in this process: continue with the entry of a dead worker."""

from __future__ import annotations

import os

import pytest

import event
from event import PermanentError
from event._outbox import Outbox
from event._outcome import Delivery
from helpers.commands import stored_events
from worker.jobs import kinds, results, run

if os.name == "nt":
    pytest.skip("platform: the pipes are those of a POSIX system", allow_module_level=True)


def result(name, **values):
    return {"handler": name, "ok": False, "error": "no", "seconds": 0.0, "said": "", "permanent": False, **values}


def resume(connection, claim, **values):
    return run(connection, {"job": "resume", "outbox": "outbox", "claim": claim, **values})


@pytest.fixture
def claimed(here):
    made = event.Event("n", uid="u")
    made.close()
    return Outbox("outbox").put(made, {"file": "events", "down": "c"})


def test_known_results_are_journaled_and_other_handlers_stay_pending(connection, claimed):
    reports = resume(connection, claimed.name, results=[result("file", ok=True), result("down"), result("other")])
    assert kinds(reports) == ["begin", "end", "done"]
    ((_, entry),) = Outbox("outbox").entries("waiting")
    assert ([*entry.pending], entry.last_error) == (["down"], "no")
    assert not os.path.exists("events")


def test_permanent_failure_is_journaled_as_permanent(connection, claimed):
    reports = resume(connection, claimed.name, results=[result("file", ok=True), result("down", permanent=True)])
    assert dict(reports)["end"] == {"where": "failed"}


def test_only_a_pending_handler_gets_the_event(connection, claimed):
    reports = resume(connection, claimed.name, handler="unknown")
    assert results(reports) == {}
    reports = resume(connection, dict(reports)["begin"]["claim"], results=[result("down")], handler="file")
    assert [*results(reports)] == ["file"]
    assert results(reports)["file"]["ok"]
    assert len(stored_events()) == 1


def test_result_that_a_dead_worker_has_only_journaled_is_reported(connection, claimed):
    claimed.record(Delivery("file", True, None, 0.1))
    claimed.record(Delivery("down", False, PermanentError("no such project"), 0.1))
    reports = resume(connection, claimed.name, handler="down")
    assert (results(reports)["down"]["error"], results(reports)["down"]["permanent"]) == ("no such project", True)
    assert kinds(reports)[-1] == "done"
    reports = resume(connection, dict(reports)["begin"]["claim"], handler="file")
    assert results(reports)["file"]["ok"]
    assert not os.path.exists("events")


def test_held_claim_journals_one_delivery_for_the_next_job(connection, claimed):
    reports = resume(connection, claimed.name, handler="file")
    assert kinds(reports) == ["begin", "result", "done"]
    resume(connection, dict(reports)["begin"]["claim"], results=[result("down")])
    ((_, entry),) = Outbox("outbox").entries("waiting")
    assert [*entry.pending] == ["down"]


def test_held_claim_is_released_when_every_handler_has_delivered_the_event(connection, claimed):
    """The last delivery is not journaled, because the entry is removed. So a held claim would lose it."""
    reports = resume(connection, claimed.name, results=[result("down", ok=True)], handler="file")
    assert kinds(reports) == ["begin", "result", "end", "done"]
    assert dict(reports)["end"] == {"where": "delivered"}
    assert [*Outbox("outbox").entries()] == []


def test_missing_claim_is_not_adopted(connection, claimed):
    assert kinds(resume(connection, claimed.name + "x")) == ["not_adopted", "done"]
