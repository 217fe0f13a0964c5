"""The supervisor keeps one worker running that delivers from an outbox. The workers are fake."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import pytest

from event._backoff import backoff
from event._worker import supervisor
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
def one_pass(simulation, listener):
    """Return a supervisor of a single pass over the outbox."""
    return Supervisor(job("deliver"), listener)


@pytest.fixture
def watch(simulation, listener):
    """Return a supervisor that watches the outbox."""
    return Supervisor(job("watch"), listener)


def job(kind, **values):
    return {"job": kind, "outbox": "ob", "everything": True, "timeout": TIMEOUT, "jobs": 2, "quiet": False, **values}


def report_begin(worker, *ids, handler="a"):
    entries = [[f"{entry_id}.claim", entry_id, "n"] for entry_id in ids]
    worker.report("begin", handler=handler, lane=f"lane-{handler}", entries=entries)


def report_results(worker, *items):
    worker.report("results", items=[[*item] for item in items])


def take_steps(tested, count=3):
    for _ in range(count):
        tested.step(0.0)


def frames(worker):
    """Return the frames that a worker got after its job."""
    return [(frame["job"], frame.get("lane", "")) for frame in worker.jobs[1:]]


def crash(tested, worker):
    worker.kill("its process ended with SIGSEGV")
    tested.step(0.0)


# A single pass over the outbox.


def test_pass_ends_after_all_entries_with_a_summary(one_pass, simulation, listener):
    one_pass.step(0.0)
    (worker,) = simulation.workers
    assert worker.jobs[0]["job"] == "deliver"
    assert worker.jobs[0]["guard"] > TIMEOUT
    worker.report("total", total=2)
    report_begin(worker, "e", "f")
    report_results(worker, ["result", "e", "a", {"ok": True}], ["result", "f", "a"])
    report_results(worker, ["end", "e", "delivered"], ["end", "f", "waiting"])
    worker.report("idle")
    one_pass.step(0.0)
    assert frames(worker) == [("stop", "")]
    worker.report("summary", waiting=1)
    worker.report("done")
    take_steps(one_pass)
    assert one_pass.finished
    assert (one_pass.total, one_pass.failed, one_pass.is_absent) == (2, "", False)
    assert one_pass.summary["waiting"] == 1
    assert listener.entries == [("e", "delivered", [("a", "")]), ("f", "waiting", [])]
    assert worker.ended == "it was asked to end"
    assert len(simulation.workers) == 1


def test_running_worker_gets_the_job(simulation, listener):
    worker = FakeWorker(simulation)
    Supervisor(job("deliver"), listener, worker).step(0.0)
    assert worker.jobs
    assert simulation.workers == []


def test_absent_outbox_ends_the_pass(one_pass, simulation):
    one_pass.step(0.0)
    simulation.workers[0].report("absent")
    one_pass.step(0.0)
    assert one_pass.is_absent


@pytest.mark.parametrize(
    ("kind", "values"),
    [("trouble", {"text": "it is not a directory"}), ("state", {"disk": 1000.0, "exhausted": False})],
)
def test_failing_outbox_ends_the_pass(one_pass, simulation, kind, values):
    one_pass.step(0.0)
    simulation.workers[0].report(kind, **values)
    one_pass.step(0.0)
    assert one_pass.failed in {"it is not a directory", "the outbox does not answer"}
    simulation.workers[0].report("done")
    take_steps(one_pass)
    assert one_pass.finished


def test_a_pass_fails_if_no_worker_can_be_started(one_pass, simulation):
    simulation.start_error = OSError(11, "no more processes")
    take_steps(one_pass)
    assert one_pass.failed == "no worker can be started: no more processes"
    assert one_pass.finished


def test_pass_fails_after_repeated_worker_deaths_without_a_handler(one_pass, simulation, listener):
    for _ in range(supervisor.MAX_STARTS):
        assert not one_pass.failed
        simulation.now += 100.0
        one_pass.step(0.0)
        crash(one_pass, simulation.workers[-1])
    assert one_pass.failed == "the worker was lost: its process ended with SIGSEGV"
    assert one_pass.finished
    assert len(simulation.workers) == supervisor.MAX_STARTS


def test_pass_starts_no_second_worker_while_one_finishes(one_pass, simulation):
    one_pass.step(0.0)
    simulation.workers[0].report("state", disk=0.0, exhausted=True)
    take_steps(one_pass)
    assert len(simulation.workers) == 1
    simulation.workers[0].report("done")
    take_steps(one_pass)
    assert len(simulation.workers) == 2


# Dead workers.


def test_workers_that_die_at_once_are_restarted_with_back_off(watch, simulation, listener, monkeypatch):
    monkeypatch.setattr(supervisor, "backoff", partial(backoff, chance=0.5))
    starts = []
    simulation.on_spawn = lambda worker: (starts.append(simulation.now), worker.kill("it broke"))
    for _ in range(40):
        watch.step(1000.0)
    pauses = [after - before for before, after in pairwise(starts)]
    assert pauses[:5] == [0.0, 0.0, 2.0, 4.0, 8.0]
    assert max(pauses) == supervisor.MAX_RESTART_PAUSE
    assert set(listener.notes) == {"the worker was lost: it broke"}


def test_entry_that_quarantine_gives_up_is_released_to_the_main_worker(watch, simulation, listener):
    watch.step(0.0)
    report_begin(simulation.workers[0], "e")
    watch.step(0.0)
    crash(watch, simulation.workers[0])
    watch.step(0.0)
    main = next(worker for worker in simulation.workers if not worker.ended and worker.jobs[0]["job"] == "watch")
    for _ in range(2):  # for example, on a machine so busy that no worker starts in time
        simulation.workers[-1].kill("its process ended with SIGKILL")
        take_steps(watch)
    assert listener.entries == [("e", "claimed", [])]
    assert main.jobs[-1] == {"job": "release", "entry": "e"}


def test_result_in_quarantine_ends_the_back_off(watch, simulation):
    def main_workers():
        return [worker for worker in simulation.workers if worker.jobs[0]["job"] == "watch"]

    for number in range(3):
        watch.step(0.0)
        main = main_workers()[number]
        report_begin(main, f"e{number}", handler=f"h{number}")
        watch.step(0.0)
        crash(watch, main)
    take_steps(watch)
    assert len(main_workers()) == 3  # the next one waits for the back-off
    alone = next(worker for worker in simulation.workers if worker.jobs[0]["job"] == "resume")
    alone.kill("its process ended with SIGKILL")  # it had not claimed the entry, so this is not a result
    take_steps(watch)
    assert len(main_workers()) == 3
    alone = simulation.workers[-1]
    alone.report("begin", claim="new")
    alone.report("result", ok=False)
    take_steps(watch)
    assert len(main_workers()) == 4


def test_entry_of_a_crash_is_quarantined_and_its_lane_held(watch, simulation, listener):
    watch.step(0.0)
    report_begin(simulation.workers[0], "e")
    watch.step(0.0)
    crash(watch, simulation.workers[0])
    watch.step(0.0)
    _, main, alone = simulation.workers
    assert alone.jobs[0]["handler"] == "a"
    assert main.jobs[0]["leave"] == ["e"]
    assert main.jobs[0]["hold"] == ["lane-a"]
    for kind, values in [("begin", {"claim": "new"}), ("result", {"ok": True}), ("done", {})]:
        alone.report(kind, **values)
    take_steps(watch)
    assert frames(main) == [("release", "lane-a")]
    assert listener.notes == []


def test_handler_that_crashes_two_workers_is_paused_and_logged(watch, simulation, listener):
    watch.step(0.0)
    report_begin(simulation.workers[0], "e", "f")
    watch.step(0.0)
    crash(watch, simulation.workers[0])
    watch.step(0.0)
    main, *alone = simulation.workers[1:]
    for worker in alone:
        worker.report("begin", claim="new")
    watch.step(0.0)
    for worker in alone:
        worker.kill("its process ended with SIGSEGV")
    take_steps(watch)
    assert frames(main) == [("pause", "lane-a")]
    assert "a ended its process twice in a row, and is not tried for 60 s" in listener.logged
    crash(watch, main)
    watch.step(0.0)
    assert simulation.workers[-1].jobs[0]["pause"] == ["lane-a"]


def test_entry_between_two_handlers_is_adopted_by_the_next_worker(watch, simulation, listener):
    watch.step(0.0)
    report_begin(simulation.workers[0], "e")
    report_results(simulation.workers[0], ["result", "e", "a", {"ok": True}])
    watch.step(0.0)
    crash(watch, simulation.workers[0])
    take_steps(watch)
    following = simulation.workers[1]
    assert following.jobs[0]["adopt"] == [("e", "e.claim")]
    following.report("adopted", entry="e", claim="new")
    following.report("adopted", entry="other", claim="new")
    report_results(following, ["end", "e", "delivered"])
    watch.step(0.0)
    assert listener.entries == [("e", "delivered", [("a", "")])]


def test_silent_worker_is_killed(watch, simulation):
    watch.step(0.0)
    simulation.now += TIMEOUT + supervisor.SILENT_SECONDS + 1
    watch.step(0.0)
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
def test_worker_with_an_invalid_report_is_killed(watch, simulation, kind, values):
    watch.step(0.0)
    simulation.workers[0].report(kind, **values)
    watch.step(0.0)
    assert simulation.workers[0].ended.startswith("it sent an invalid report")


def test_unknown_report_is_ignored(watch, simulation, listener):
    watch.step(0.0)
    simulation.workers[0].report("weather", text="fine")
    simulation.workers[0].report("alive", memory=1, threads=1)
    simulation.workers[0].report("state", disk=0.0, exhausted=False)
    report_results(simulation.workers[0], ["end", "unknown", "waiting"])
    watch.step(0.0)
    assert simulation.workers[0].ended == ""
    assert listener.entries == [("unknown", "waiting", [])]


# Workers that are replaced while they run.


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("alive", {"memory": 1 << 60, "threads": 1}),
        ("alive", {"memory": 1, "threads": supervisor.MAX_THREADS + 1}),
        ("state", {"disk": 0.0, "exhausted": True}),
    ],
)
def test_worker_above_a_limit_finishes_while_a_new_one_continues(watch, simulation, listener, kind, values):
    watch.step(0.0)
    simulation.workers[0].report(kind, **values)
    take_steps(watch)
    old, new = simulation.workers
    assert frames(old) == [("stop", "")]
    assert new.jobs[0]["everything"] is False
    old.report("state", disk=1000.0, exhausted=True)
    old.report("log", text="the last warning")
    old.report("done")
    take_steps(watch)
    assert old.ended == "it was asked to end"
    assert new.ended == ""
    assert listener.logged == ["the last warning"]


def test_old_worker_is_replaced(watch, simulation):
    watch.step(0.0)
    simulation.now += supervisor.MAX_AGE + 1
    simulation.workers[0].last_report = simulation.now
    take_steps(watch)
    assert frames(simulation.workers[0]) == [("stop", "")]
    assert len(simulation.workers) == 2


def test_watch_logs_a_failing_outbox_and_continues(watch, simulation, listener):
    watch.step(0.0)
    simulation.workers[0].report("trouble", text="it is not a directory")
    watch.step(0.0)
    assert listener.notes == ["it is not a directory"]
    assert not watch.failed


# Stopping.


def test_stop_lets_the_worker_finish(watch, simulation):
    watch.step(0.0)
    watch.stop()
    watch.stop()
    assert frames(simulation.workers[0]) == [("stop", "")]
    watch.step(0.0)
    assert not watch.finished
    simulation.workers[0].report("done")
    take_steps(watch)
    assert watch.finished
    assert len(simulation.workers) == 1


def test_stop_before_the_first_worker_starts_none(watch, simulation):
    watch.stop()
    watch.step(0.0)
    assert watch.finished
    assert simulation.workers == []


def test_entries_of_a_worker_that_dies_during_stop_are_released(watch, simulation):
    watch.step(0.0)
    report_begin(simulation.workers[0], "e")
    report_results(simulation.workers[0], ["result", "e", "a", {"ok": True}])
    watch.step(0.0)
    watch.stop()
    simulation.on_spawn = lambda worker: worker.report("done")
    crash(watch, simulation.workers[0])
    take_steps(watch)
    assert watch.finished
    ((job,),) = [worker.jobs for worker in simulation.workers[1:]]
    assert (job["job"], job["claim"]) == ("resume", "e.claim")
    assert [result["handler"] for result in job["results"]] == ["a"]


def test_abort_kills_the_workers_and_releases_their_entries(watch, simulation):
    watch.step(0.0)
    report_begin(simulation.workers[0], "e", "f")
    watch.step(0.0)
    simulation.on_spawn = lambda worker: [worker.report("done") for _ in "ef"]
    watch.abort()
    assert watch.finished
    assert simulation.workers[0].ended == "it was ended"
    assert [job["claim"] for job in simulation.workers[1].jobs] == ["e.claim", "f.claim"]
    assert simulation.workers[1].ended == "it was ended"


def test_abort_without_entries_starts_no_worker(watch, simulation):
    watch.abort()
    assert watch.finished
    assert simulation.workers == []


def test_entries_that_cannot_be_released_stay_claimed(watch, simulation):
    watch.step(0.0)
    report_begin(simulation.workers[0], "e")
    watch.step(0.0)
    simulation.start_error = OSError(11, "no more processes")
    watch.abort()
    assert watch.finished
    assert len(simulation.workers) == 1
