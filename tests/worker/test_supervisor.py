"""A worker is kept at an outbox, whatever becomes of it; the workers are played by the test."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import pytest

from event._backoff import backoff
from event._worker import supervisor as room
from event._worker.supervisor import Supervisor
from worker.simulation import FakeWorker, RecordingListener, Simulation

TIMEOUT = 30.0


@pytest.fixture
def simulation(monkeypatch):
    return Simulation(monkeypatch)


@pytest.fixture
def listener():
    return RecordingListener()


@pytest.fixture
def once(simulation, listener):
    """A single pass."""
    return Supervisor(job("deliver"), listener)


@pytest.fixture
def watching(simulation, listener):
    return Supervisor(job("watch"), listener)


def job(kind, **values):
    return {"job": kind, "outbox": "ob", "everything": True, "timeout": TIMEOUT, "jobs": 2, "quiet": False, **values}


def begin(worker, *ids, handler="a"):
    entries = [[f"{entry_id}.claim", entry_id, "n"] for entry_id in ids]
    worker.report("begin", handler=handler, lane=f"lane-{handler}", entries=entries)


def did(worker, *items):
    worker.report("results", items=[[*item] for item in items])


def steps(supervisor, count=3):
    for _ in range(count):
        supervisor.step(0.0)


def frames(worker):
    """Return the further frames that a worker was given."""
    return [(frame["job"], frame.get("lane", "")) for frame in worker.jobs[1:]]


def die(supervisor, worker, reason="its process ended with SIGSEGV"):
    worker.kill(reason)
    supervisor.step(0.0)


# A single pass.


def test_pass_ends_after_all_entries_and_counts_pending_ones(once, simulation, listener):
    once.step(0.0)
    (worker,) = simulation.workers
    assert worker.jobs[0]["job"] == "deliver"
    assert worker.jobs[0]["guard"] > TIMEOUT
    worker.report("total", total=2)
    begin(worker, "e", "f")
    did(worker, ["result", "e", "a", {"ok": True}], ["result", "f", "a"])
    did(worker, ["end", "e", "delivered"], ["end", "f", "waiting"])
    worker.report("idle")
    once.step(0.0)
    assert frames(worker) == [("stop", "")]
    worker.report("summary", waiting=1)
    worker.report("done")
    steps(once)
    assert once.finished
    assert (once.total, once.failed, once.is_absent) == (2, "", False)
    assert once.summary["waiting"] == 1
    assert listener.entries == [("e", "delivered", [("a", "")]), ("f", "waiting", [])]
    assert worker.ended == "it was asked to end"
    assert len(simulation.workers) == 1


def test_running_worker_gets_the_job(simulation, listener):
    worker = FakeWorker(simulation)
    Supervisor(job("deliver"), listener, worker).step(0.0)
    assert worker.jobs
    assert simulation.workers == []


def test_absent_outbox_ends_the_pass(once, simulation):
    once.step(0.0)
    simulation.workers[0].report("absent")
    once.step(0.0)
    assert once.is_absent


@pytest.mark.parametrize(
    ("kind", "values"),
    [("trouble", {"text": "it is not a directory"}), ("state", {"disk": 1000.0, "exhausted": False})],
)
def test_failing_outbox_ends_the_pass(once, simulation, kind, values):
    once.step(0.0)
    simulation.workers[0].report(kind, **values)
    once.step(0.0)
    assert once.failed in {"it is not a directory", "the outbox does not answer"}
    simulation.workers[0].report("done")
    steps(once)
    assert once.finished


def test_a_pass_fails_if_no_worker_can_be_started(once, simulation):
    simulation.start_error = OSError(11, "no more processes")
    steps(once)
    assert once.failed == "no worker can be started: no more processes"
    assert once.finished


def test_pass_fails_after_repeated_worker_deaths_without_a_handler(once, simulation, listener):
    for _ in range(room.MAX_STARTS):
        assert not once.failed
        simulation.now += 100.0
        once.step(0.0)
        die(once, simulation.workers[-1])
    assert once.failed == "the worker was lost: its process ended with SIGSEGV"
    assert once.finished
    assert len(simulation.workers) == room.MAX_STARTS


def test_pass_starts_no_second_worker_while_one_finishes(once, simulation):
    once.step(0.0)
    simulation.workers[0].report("state", disk=0.0, exhausted=True)
    steps(once)
    assert len(simulation.workers) == 1
    simulation.workers[0].report("done")
    steps(once)
    assert len(simulation.workers) == 2


# Workers that die.


def test_workers_that_die_at_once_are_restarted_with_back_off(watching, simulation, listener, monkeypatch):
    monkeypatch.setattr(room, "backoff", partial(backoff, chance=0.5))
    starts = []
    simulation.on_spawn = lambda worker: (starts.append(simulation.now), worker.kill("it broke"))
    for _ in range(40):
        watching.step(1000.0)
    pauses = [after - before for before, after in pairwise(starts)]
    assert pauses[:5] == [0.0, 0.0, 2.0, 4.0, 8.0]
    assert max(pauses) == room.MAX_RESTART_PAUSE
    assert set(listener.notes) == {"the worker was lost: it broke"}


def test_entry_that_quarantine_gives_up_is_left_to_the_main_worker(watching, simulation, listener):
    watching.step(0.0)
    begin(simulation.workers[0], "e")
    watching.step(0.0)
    die(watching, simulation.workers[0])
    watching.step(0.0)
    main = next(worker for worker in simulation.workers if not worker.ended and worker.jobs[0]["job"] == "watch")
    for _ in range(2):  # as on a machine so busy that no worker starts in time
        simulation.workers[-1].kill("its process ended with SIGKILL")
        steps(watching)
    assert listener.entries == [("e", "claimed", [])]
    assert main.jobs[-1] == {"job": "release", "entry": "e"}


def test_result_in_quarantine_ends_the_back_off(watching, simulation):
    def mains():
        return [worker for worker in simulation.workers if worker.jobs[0]["job"] == "watch"]

    for number in range(3):
        watching.step(0.0)
        main = mains()[number]
        begin(main, f"e{number}", handler=f"h{number}")
        watching.step(0.0)
        die(watching, main)
    steps(watching)
    assert len(mains()) == 3  # the next one must wait
    alone = next(worker for worker in simulation.workers if worker.jobs[0]["job"] == "resume")
    alone.kill("its process ended with SIGKILL")  # before it had the entry, which is no result
    steps(watching)
    assert len(mains()) == 3
    alone = simulation.workers[-1]
    alone.report("begin", claim="new")
    alone.report("result", ok=False)
    steps(watching)
    assert len(mains()) == 4


def test_entry_of_a_crash_is_quarantined_and_its_lane_held(watching, simulation, listener):
    watching.step(0.0)
    begin(simulation.workers[0], "e")
    watching.step(0.0)
    die(watching, simulation.workers[0])
    watching.step(0.0)
    _, main, alone = simulation.workers
    assert alone.jobs[0]["handlers"] == ["a"]
    assert main.jobs[0]["leave"] == ["e"]
    assert main.jobs[0]["hold"] == ["lane-a"]
    for kind, values in [("begin", {"claim": "new"}), ("result", {"ok": True}), ("done", {})]:
        alone.report(kind, **values)
    steps(watching)
    assert frames(main) == [("release", "lane-a")]
    assert listener.notes == []


def test_handler_that_kills_two_workers_rests_and_is_logged(watching, simulation, listener):
    watching.step(0.0)
    begin(simulation.workers[0], "e", "f")
    watching.step(0.0)
    die(watching, simulation.workers[0])
    watching.step(0.0)
    main, *alone = simulation.workers[1:]
    for worker in alone:
        worker.report("begin", claim="new")
    watching.step(0.0)
    for worker in alone:
        worker.kill("its process ended with SIGSEGV")
    steps(watching)
    assert frames(main) == [("pause", "lane-a")]
    assert "a ended its process twice in a row, and is not tried for 60 s" in listener.logged
    die(watching, main)
    watching.step(0.0)
    assert simulation.workers[-1].jobs[0]["pause"] == ["lane-a"]


def test_entry_between_two_handlers_is_adopted_by_the_next_worker(watching, simulation, listener):
    watching.step(0.0)
    begin(simulation.workers[0], "e")
    did(simulation.workers[0], ["result", "e", "a", {"ok": True}])
    watching.step(0.0)
    die(watching, simulation.workers[0])
    steps(watching)
    following = simulation.workers[1]
    assert following.jobs[0]["adopt"] == [("e", "e.claim")]
    following.report("adopted", entry="e", claim="new")
    following.report("adopted", entry="other", claim="new")
    did(following, ["end", "e", "delivered"])
    watching.step(0.0)
    assert listener.entries == [("e", "delivered", [("a", "")])]


def test_silent_worker_is_killed(watching, simulation):
    watching.step(0.0)
    simulation.now += TIMEOUT + room.SILENT_SECONDS + 1
    watching.step(0.0)
    assert simulation.workers[0].ended == "a handler stopped its process"


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("results", {"items": [["end"]]}),
        ("results", {"items": [["end", "e"]]}),
        ("results", {"items": [["result", "e"]]}),
        ("total", {"total": float("inf")}),
        ("alive", {"memory": float("inf"), "threads": 1}),
        ("state", {"disk": 10**400, "exhausted": False}),
        ("results", {"items": 5}),
        ("begin", {}),
        ("total", {"total": "many"}),
        ("adopted", {}),
    ],
)
def test_worker_with_an_invalid_report_is_killed(watching, simulation, kind, values):
    watching.step(0.0)
    simulation.workers[0].report(kind, **values)
    watching.step(0.0)
    assert simulation.workers[0].ended.startswith("it sent an invalid report")


def test_unknown_report_is_ignored(watching, simulation, listener):
    watching.step(0.0)
    simulation.workers[0].report("weather", text="fine")
    simulation.workers[0].report("alive", memory=1, threads=1)
    simulation.workers[0].report("state", disk=0.0, exhausted=False)
    did(simulation.workers[0], ["end", "unknown", "waiting"])
    watching.step(0.0)
    assert simulation.workers[0].ended == ""
    assert listener.entries == [("unknown", "waiting", [])]


# Workers that are renewed.


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("alive", {"memory": 1 << 60, "threads": 1}),
        ("alive", {"memory": 1, "threads": room.MAX_THREADS + 1}),
        ("state", {"disk": 0.0, "exhausted": True}),
    ],
)
def test_worker_that_has_grown_finishes_while_a_new_one_continues(watching, simulation, listener, kind, values):
    watching.step(0.0)
    simulation.workers[0].report(kind, **values)
    steps(watching)
    old, new = simulation.workers
    assert frames(old) == [("stop", "")]
    assert new.jobs[0]["everything"] is False
    old.report("state", disk=1000.0, exhausted=True)
    old.report("log", text="the last words")
    old.report("done")
    steps(watching)
    assert old.ended == "it was asked to end"
    assert new.ended == ""
    assert listener.logged == ["the last words"]


def test_old_worker_is_replaced(watching, simulation):
    watching.step(0.0)
    simulation.now += room.MAX_AGE + 1
    simulation.workers[0].last_report = simulation.now
    steps(watching)
    assert frames(simulation.workers[0]) == [("stop", "")]
    assert len(simulation.workers) == 2


def test_watch_logs_a_failing_outbox_and_continues(watching, simulation, listener):
    watching.step(0.0)
    simulation.workers[0].report("trouble", text="it is not a directory")
    simulation.workers[0].report("trouble", text="")
    watching.step(0.0)
    assert listener.notes == ["it is not a directory"]
    assert not watching.failed


# To stop.


def test_stop_lets_the_worker_finish(watching, simulation):
    watching.step(0.0)
    watching.stop()
    watching.stop()
    assert frames(simulation.workers[0]) == [("stop", "")]
    watching.step(0.0)
    assert not watching.finished
    simulation.workers[0].report("done")
    steps(watching)
    assert watching.finished
    assert len(simulation.workers) == 1


def test_stop_before_the_first_worker_starts_none(watching, simulation):
    watching.stop()
    watching.step(0.0)
    assert watching.finished
    assert simulation.workers == []


def test_entries_of_a_worker_that_dies_during_stop_are_released(watching, simulation):
    watching.step(0.0)
    begin(simulation.workers[0], "e")
    did(simulation.workers[0], ["result", "e", "a", {"ok": True}])
    watching.step(0.0)
    watching.stop()
    simulation.on_spawn = lambda worker: worker.report("done")
    die(watching, simulation.workers[0])
    steps(watching)
    assert watching.finished
    ((put_back,),) = [worker.jobs for worker in simulation.workers[1:]]
    assert (put_back["job"], put_back["claim"]) == ("resume", "e.claim")
    assert [result["handler"] for result in put_back["results"]] == ["a"]


def test_abort_kills_the_workers_and_releases_their_entries(watching, simulation):
    watching.step(0.0)
    begin(simulation.workers[0], "e", "f")
    watching.step(0.0)
    simulation.on_spawn = lambda worker: [worker.report("done") for _ in "ef"]
    watching.abort()
    assert watching.finished
    assert simulation.workers[0].ended == "it was ended"
    assert [job["claim"] for job in simulation.workers[1].jobs] == ["e.claim", "f.claim"]
    assert simulation.workers[1].ended == "it was ended"


def test_abort_without_entries_starts_no_worker(watching, simulation):
    watching.abort()
    assert watching.finished
    assert simulation.workers == []


def test_entries_that_cannot_be_released_stay_claimed(watching, simulation):
    watching.step(0.0)
    begin(simulation.workers[0], "e")
    watching.step(0.0)
    simulation.start_error = OSError(11, "no more processes")
    watching.abort()
    assert watching.finished
    assert len(simulation.workers) == 1
