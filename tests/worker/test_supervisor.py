"""A worker is kept at an outbox, whatever becomes of it; the workers are played by the test."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import pytest

from event._backoff import backoff
from event._worker import supervisor as room
from event._worker.supervisor import Supervisor
from worker.staging import FakeWorker, Heard, Stage

TIMEOUT = 30.0


@pytest.fixture
def stage(monkeypatch):
    return Stage(monkeypatch)


@pytest.fixture
def heard():
    return Heard()


@pytest.fixture
def once(stage, heard):
    """A single pass."""
    return Supervisor(job("deliver"), heard)


@pytest.fixture
def watching(stage, heard):
    return Supervisor(job("watch"), heard)


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


def test_pass_ends_after_all_entries_and_counts_pending_ones(once, stage, heard):
    once.step(0.0)
    (worker,) = stage.workers
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
    assert heard.entries == [("e", "delivered", [("a", "")]), ("f", "waiting", [])]
    assert worker.ended == "it was asked to end"
    assert len(stage.workers) == 1


def test_running_worker_gets_the_job(stage, heard):
    worker = FakeWorker(stage)
    Supervisor(job("deliver"), heard, worker).step(0.0)
    assert worker.jobs
    assert stage.workers == []


def test_absent_outbox_ends_the_pass(once, stage):
    once.step(0.0)
    stage.workers[0].report("absent")
    once.step(0.0)
    assert once.is_absent


@pytest.mark.parametrize(
    ("kind", "values"),
    [("trouble", {"text": "it is not a directory"}), ("state", {"disk": 1000.0, "exhausted": False})],
)
def test_failing_outbox_ends_the_pass(once, stage, kind, values):
    once.step(0.0)
    stage.workers[0].report(kind, **values)
    once.step(0.0)
    assert once.failed in {"it is not a directory", "the outbox does not answer"}
    stage.workers[0].report("done")
    steps(once)
    assert once.finished


def test_a_pass_fails_if_no_worker_can_be_started(once, stage):
    stage.refusal = OSError(11, "no more processes")
    steps(once)
    assert once.failed == "no worker can be started: no more processes"
    assert once.finished


def test_pass_fails_after_repeated_worker_deaths_without_a_handler(once, stage, heard):
    for _ in range(room.MAX_STARTS):
        assert not once.failed
        stage.now += 100.0
        once.step(0.0)
        die(once, stage.workers[-1])
    assert once.failed == "the worker was lost: its process ended with SIGSEGV"
    assert once.finished
    assert len(stage.workers) == room.MAX_STARTS


def test_pass_starts_no_second_worker_while_one_finishes(once, stage):
    once.step(0.0)
    stage.workers[0].report("state", disk=0.0, exhausted=True)
    steps(once)
    assert len(stage.workers) == 1
    stage.workers[0].report("done")
    steps(once)
    assert len(stage.workers) == 2


# Workers that die.


def test_workers_that_die_at_once_are_restarted_with_back_off(watching, stage, heard, monkeypatch):
    monkeypatch.setattr(room, "backoff", partial(backoff, chance=0.5))
    starts = []
    stage.on_spawn = lambda worker: (starts.append(stage.now), worker.kill("it broke"))
    for _ in range(40):
        watching.step(1000.0)
    pauses = [after - before for before, after in pairwise(starts)]
    assert pauses[:5] == [0.0, 0.0, 2.0, 4.0, 8.0]
    assert max(pauses) == room.MAX_RESTART_PAUSE
    assert set(heard.notes) == {"the worker was lost: it broke"}


def test_entry_that_quarantine_gives_up_is_left_to_the_main_worker(watching, stage, heard):
    watching.step(0.0)
    begin(stage.workers[0], "e")
    watching.step(0.0)
    die(watching, stage.workers[0])
    watching.step(0.0)
    main = next(worker for worker in stage.workers if not worker.ended and worker.jobs[0]["job"] == "watch")
    for _ in range(2):  # as on a machine so busy that no worker starts in time
        stage.workers[-1].kill("its process ended with SIGKILL")
        steps(watching)
    assert heard.entries == [("e", "claimed", [])]
    assert main.jobs[-1] == {"job": "release", "entry": "e"}


def test_result_in_quarantine_ends_the_back_off(watching, stage):
    def mains():
        return [worker for worker in stage.workers if worker.jobs[0]["job"] == "watch"]

    for number in range(3):
        watching.step(0.0)
        main = mains()[number]
        begin(main, f"e{number}", handler=f"h{number}")
        watching.step(0.0)
        die(watching, main)
    steps(watching)
    assert len(mains()) == 3  # the next one must wait
    alone = next(worker for worker in stage.workers if worker.jobs[0]["job"] == "resume")
    alone.kill("its process ended with SIGKILL")  # before it had the entry, which is no result
    steps(watching)
    assert len(mains()) == 3
    alone = stage.workers[-1]
    alone.report("begin", claim="new")
    alone.report("result", ok=False)
    steps(watching)
    assert len(mains()) == 4


def test_entry_of_a_crash_is_quarantined_and_its_lane_held(watching, stage, heard):
    watching.step(0.0)
    begin(stage.workers[0], "e")
    watching.step(0.0)
    die(watching, stage.workers[0])
    watching.step(0.0)
    _, main, alone = stage.workers
    assert alone.jobs[0]["handlers"] == ["a"]
    assert main.jobs[0]["leave"] == ["e"]
    assert main.jobs[0]["hold"] == ["lane-a"]
    for kind, values in [("begin", {"claim": "new"}), ("result", {"ok": True}), ("done", {})]:
        alone.report(kind, **values)
    steps(watching)
    assert frames(main) == [("release", "lane-a")]
    assert heard.notes == []


def test_handler_that_kills_two_workers_rests_and_is_logged(watching, stage, heard):
    watching.step(0.0)
    begin(stage.workers[0], "e", "f")
    watching.step(0.0)
    die(watching, stage.workers[0])
    watching.step(0.0)
    main, *alone = stage.workers[1:]
    for worker in alone:
        worker.report("begin", claim="new")
    watching.step(0.0)
    for worker in alone:
        worker.kill("its process ended with SIGSEGV")
    steps(watching)
    assert frames(main) == [("pause", "lane-a")]
    assert "a ended its process twice in a row, and is not tried for 60 s" in heard.logged
    die(watching, main)
    watching.step(0.0)
    assert stage.workers[-1].jobs[0]["pause"] == ["lane-a"]


def test_entry_between_two_handlers_is_adopted_by_the_next_worker(watching, stage, heard):
    watching.step(0.0)
    begin(stage.workers[0], "e")
    did(stage.workers[0], ["result", "e", "a", {"ok": True}])
    watching.step(0.0)
    die(watching, stage.workers[0])
    steps(watching)
    following = stage.workers[1]
    assert following.jobs[0]["adopt"] == [("e", "e.claim")]
    following.report("adopted", entry="e", claim="new")
    following.report("adopted", entry="other", claim="new")
    did(following, ["end", "e", "delivered"])
    watching.step(0.0)
    assert heard.entries == [("e", "delivered", [("a", "")])]


def test_silent_worker_is_killed(watching, stage):
    watching.step(0.0)
    stage.now += TIMEOUT + room.SILENT_SECONDS + 1
    watching.step(0.0)
    assert stage.workers[0].ended == "a handler stopped its process"


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
def test_worker_with_an_invalid_report_is_killed(watching, stage, kind, values):
    watching.step(0.0)
    stage.workers[0].report(kind, **values)
    watching.step(0.0)
    assert stage.workers[0].ended.startswith("it sent an invalid report")


def test_unknown_report_is_ignored(watching, stage, heard):
    watching.step(0.0)
    stage.workers[0].report("weather", text="fine")
    stage.workers[0].report("alive", memory=1, threads=1)
    stage.workers[0].report("state", disk=0.0, exhausted=False)
    did(stage.workers[0], ["end", "unknown", "waiting"])
    watching.step(0.0)
    assert stage.workers[0].ended == ""
    assert heard.entries == [("unknown", "waiting", [])]


# Workers that are renewed.


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("alive", {"memory": 1 << 60, "threads": 1}),
        ("alive", {"memory": 1, "threads": room.MAX_THREADS + 1}),
        ("state", {"disk": 0.0, "exhausted": True}),
    ],
)
def test_worker_that_has_grown_finishes_while_a_new_one_continues(watching, stage, heard, kind, values):
    watching.step(0.0)
    stage.workers[0].report(kind, **values)
    steps(watching)
    old, new = stage.workers
    assert frames(old) == [("stop", "")]
    assert new.jobs[0]["everything"] is False
    old.report("state", disk=1000.0, exhausted=True)
    old.report("log", text="the last words")
    old.report("done")
    steps(watching)
    assert old.ended == "it was asked to end"
    assert new.ended == ""
    assert heard.logged == ["the last words"]


def test_old_worker_is_replaced(watching, stage):
    watching.step(0.0)
    stage.now += room.MAX_AGE + 1
    stage.workers[0].last_report = stage.now
    steps(watching)
    assert frames(stage.workers[0]) == [("stop", "")]
    assert len(stage.workers) == 2


def test_watch_logs_a_failing_outbox_and_continues(watching, stage, heard):
    watching.step(0.0)
    stage.workers[0].report("trouble", text="it is not a directory")
    stage.workers[0].report("trouble", text="")
    watching.step(0.0)
    assert heard.notes == ["it is not a directory"]
    assert not watching.failed


# To stop.


def test_stop_lets_the_worker_finish(watching, stage):
    watching.step(0.0)
    watching.stop()
    watching.stop()
    assert frames(stage.workers[0]) == [("stop", "")]
    watching.step(0.0)
    assert not watching.finished
    stage.workers[0].report("done")
    steps(watching)
    assert watching.finished
    assert len(stage.workers) == 1


def test_stop_before_the_first_worker_starts_none(watching, stage):
    watching.stop()
    watching.step(0.0)
    assert watching.finished
    assert stage.workers == []


def test_entries_of_a_worker_that_dies_during_stop_are_released(watching, stage):
    watching.step(0.0)
    begin(stage.workers[0], "e")
    did(stage.workers[0], ["result", "e", "a", {"ok": True}])
    watching.step(0.0)
    watching.stop()
    stage.on_spawn = lambda worker: worker.report("done")
    die(watching, stage.workers[0])
    steps(watching)
    assert watching.finished
    ((put_back,),) = [worker.jobs for worker in stage.workers[1:]]
    assert (put_back["job"], put_back["claim"]) == ("resume", "e.claim")
    assert [result["handler"] for result in put_back["results"]] == ["a"]


def test_abort_kills_the_workers_and_releases_their_entries(watching, stage):
    watching.step(0.0)
    begin(stage.workers[0], "e", "f")
    watching.step(0.0)
    stage.on_spawn = lambda worker: [worker.report("done") for _ in "ef"]
    watching.abort()
    assert watching.finished
    assert stage.workers[0].ended == "it was ended"
    assert [job["claim"] for job in stage.workers[1].jobs] == ["e.claim", "f.claim"]
    assert stage.workers[1].ended == "it was ended"


def test_abort_without_entries_starts_no_worker(watching, stage):
    watching.abort()
    assert watching.finished
    assert stage.workers == []


def test_entries_that_cannot_be_released_stay_claimed(watching, stage):
    watching.step(0.0)
    begin(stage.workers[0], "e")
    watching.step(0.0)
    stage.refusal = OSError(11, "no more processes")
    watching.abort()
    assert watching.finished
    assert len(stage.workers) == 1
