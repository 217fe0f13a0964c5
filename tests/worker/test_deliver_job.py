"""The jobs `deliver` and `watch`, in threads of this process."""

from __future__ import annotations

import os
import shutil
import threading

import pytest

from event import Event, _log
from event._outbox import Outbox
from event._outbox.lanes import Lane
from event._outbox.pool import DeliveryPool
from event._worker import deliver_job
from event._worker.deliver_job import Delivering
from helpers.entries import abandon, dead_owner, names_by_state, not_due_yet, put_waiting
from helpers.waiting import SECONDS, wait_until
from worker.job_thread import JobThread, register_handlers

if os.name == "nt":
    pytest.skip("platform: the pipes are those of a POSIX system", allow_module_level=True)

KEY = Lane("good", "").key


@pytest.fixture
def delivering(box, connection):
    return Delivering(make_job(box), connection.reporter)


def make_job(box, **values):
    return {"outbox": str(box.path), "everything": False, "timeout": 30.0, "jobs": 2, "quiet": False, **values}


def deliver(box, connection, **values):
    return JobThread(connection, deliver_job.run, make_job(box, job="deliver", **values))


def watch(box, connection, **values):
    return JobThread(connection, deliver_job.run, make_job(box, job="watch", **values))


def kinds(reports):
    return [kind for kind, _ in reports if kind != "state"]


def abandon_to_dead_owner(box, claim):
    """Give a claim to a process that has ended; return the claim's new name."""
    return os.path.basename(abandon(box, claim, dead_owner()))


def put(box, uid="u", **handlers):
    return box.put(Event("n", uid=uid), handlers or {"good": ""})


# A single pass over the outbox.


def test_missing_outbox_is_reported_as_absent(tmp_path, connection):
    job = deliver(Outbox(tmp_path / "none"), connection)
    job.wait_for("absent")
    job.stop()


def test_each_step_of_a_due_delivery_is_reported(box, connection, delivered):
    entry_id, _ = put_waiting(box, e=Event("n", uid="u"), good="")
    job = deliver(box, connection)
    job.wait_for("idle")
    reports = job.stop()
    assert kinds(reports) == ["total", "begin", "results", "idle", "summary"]
    assert dict(reports)["total"] == {"total": 1}
    assert dict(reports)["begin"]["entries"][0][1:] == [entry_id, "n"]
    assert [item[:3] for item in job.items()] == [["result", entry_id, "good"], ["end", entry_id, "delivered"]]
    assert dict(reports)["summary"] == {"waiting": 0, "due": 0, "next_due": None}
    assert delivered == ["u"]


def test_quiet_job_omits_the_details_of_a_success(box, connection, delivered):
    put_waiting(box, good="", bad="")
    job = deliver(box, connection, quiet=True)
    job.wait_for("idle")
    job.stop()
    assert {item[2]: len(item) for item in job.items() if item[0] == "result"} == {"good": 3, "bad": 4}


def test_job_with_everything_also_tries_entries_that_are_not_due(box, connection, delivered):
    put_waiting(box, not_due_yet(), good="")
    job = deliver(box, connection, everything=True)
    assert job.wait_for("total") == {"total": 1}
    job.wait_for("idle")
    job.stop()
    assert len(delivered) == 1


def test_file_instead_of_the_outbox_is_reported(tmp_path, connection):
    (tmp_path / "file").write_text("")
    job = deliver(Outbox(tmp_path / "file"), connection)
    assert job.wait_for("trouble")["text"]
    assert "summary" not in kinds(job.stop())


def test_warning_of_the_first_scan_is_reported(box, connection, monkeypatch):
    start = deliver_job.Thread.start

    def start_and_let_it_log(thread):
        start(thread)
        if thread.name == "event feeder":
            thread.join()

    def log(_delivering):
        _log.warning("damaged")

    monkeypatch.setattr(deliver_job.Thread, "start", start_and_let_it_log)
    monkeypatch.setattr(Delivering, "once", log)
    job = deliver(box, connection)
    assert job.wait_for("log") == {"text": "damaged"}
    job.stop()


def test_worker_without_threads_is_reported(box, connection, monkeypatch):
    def fail(_thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(deliver_job.Thread, "start", fail)
    deliver_job.run(make_job(box, job="deliver"), b"", connection.reporter)
    text = "no thread can be started; check the limits for processes and memory"
    assert connection.receive() == [("trouble", {"text": text})]


def test_stopped_pass_finishes_the_running_delivery_and_releases_the_others(box, connection, monkeypatch):
    finish = threading.Event()
    register_handlers(monkeypatch, good=lambda _: finish.wait(SECONDS))
    for _ in range(3):
        put_waiting(box, good="")
    job = deliver(box, connection, jobs=1)
    job.wait_for("begin")
    job.send(job="stop")
    wait_until(lambda: box.summary().counts["waiting"] == 2)
    finish.set()
    assert dict(job.join())["summary"]["waiting"] == 2


def test_pass_with_an_exhausted_pool_does_not_report_idle(box, connection, delivering, monkeypatch):
    put_waiting(box, not_due_yet(), good="")
    monkeypatch.setattr(DeliveryPool, "wait", lambda *_: False)
    delivering.once()
    assert kinds(connection.receive()) == ["total"]
    delivering.stop()


# Entries of dead workers.


def test_entry_left_to_another_worker_is_skipped(box, connection, delivered):
    left = abandon_to_dead_owner(box, put(box, "left"))
    abandon_to_dead_owner(box, put(box, "free"))
    job = deliver(box, connection, leave=[left.partition(".")[0]])
    job.wait_for("idle")
    job.stop()
    assert delivered == ["free"]
    assert names_by_state(box) == {"claimed": [left]}


def test_entry_is_taken_over_after_another_worker_gave_it_up(box, connection, delivered, monkeypatch):
    monkeypatch.setattr(deliver_job, "POLL", 0.01)
    left = abandon_to_dead_owner(box, put(box, "left"))
    entry_id = left.partition(".")[0]
    job = watch(box, connection, leave=[entry_id])
    job.send(job="release", entry=entry_id)
    job.wait_for("results")
    job.stop()
    assert delivered == ["left"]


def test_entry_left_to_another_worker_is_delivered_once_it_is_waiting(box, connection, delivered):
    entry_id, _ = put_waiting(box, e=Event("n", uid="back"), good="")
    job = deliver(box, connection, leave=[entry_id])
    job.wait_for("idle")
    job.stop()
    assert delivered == ["back"]


def test_entry_of_a_dead_worker_is_adopted_and_delivered(box, connection, delivered):
    claim = put(box)
    job = deliver(box, connection, adopt=[[claim.entry.id, abandon_to_dead_owner(box, claim)]])
    adopted = job.wait_for("adopted")
    job.wait_for("idle")
    job.stop()
    assert adopted["entry"] == claim.entry.id
    assert adopted["claim"].startswith(claim.entry.id)
    assert delivered == ["u"]


def test_finished_entry_to_adopt_is_reported_as_ended(box, connection, delivered):
    gone = put(box, "gone")
    name = gone.name
    gone.postpone(not_due_yet())
    job = deliver(box, connection, adopt=[[gone.entry.id, name], ["8f14e45f-ceea-467f-a0e6-000000000001", "x.y-0"]])
    job.wait_for("idle")
    job.stop()
    assert sorted(item[2] for item in job.items()) == ["delivered", "waiting"]
    assert delivered == []


# Lanes.


def test_held_lane_waits_for_its_release(box, connection, delivered):
    put_waiting(box, e=Event("n", uid="u"), good="")
    job = deliver(box, connection, hold=[KEY])
    job.wait_for("total")
    job.send(job="release", lane=KEY)
    job.wait_for("idle")
    job.stop()
    assert delivered == ["u"]


@pytest.mark.parametrize("paused_by", ["job", "frame"])
def test_paused_lane_is_not_tried(box, connection, delivered, paused_by):
    put_waiting(box, good="")
    job = deliver(box, connection, **({"pause": [KEY]} if paused_by == "job" else {"hold": [KEY]}))
    if paused_by == "frame":
        job.send(job="pause", lane=KEY)
    job.wait_for("idle")
    job.stop()
    assert delivered == []
    assert [*names_by_state(box)] == ["waiting"]


def test_unknown_frame_is_ignored(delivering):
    delivering.set_lane("other", KEY)


# Watching the outbox.


def test_entry_added_during_watch_is_delivered(box, connection, delivered, monkeypatch):
    monkeypatch.setattr(deliver_job, "POLL", 0.01)
    job = watch(box, connection)
    put_waiting(box, e=Event("n", uid="late"), good="")
    job.wait_for_entry()
    job.stop()
    assert delivered == ["late"]


def test_outbox_failure_is_reported_once_and_delivery_continues_after_it(box, connection, delivered, monkeypatch):
    monkeypatch.setattr(deliver_job, "POLL", 0.01)
    put_waiting(box, e=Event("n", uid="u"), good="")
    away = f"{box.path}-away"
    os.rename(box.path, away)
    with open(box.path, "w"):
        pass
    passes, candidates = [], Outbox.candidates
    monkeypatch.setattr(Outbox, "candidates", lambda *args, **named: passes.append(1) or candidates(*args, **named))
    job = watch(box, connection)
    job.wait_for("trouble")
    count = len(passes)
    wait_until(lambda: len(passes) > count + 1)
    os.remove(box.path)
    shutil.move(away, box.path)
    job.wait_for("results")
    assert kinds(job.stop()).count("trouble") == 1
    assert delivered == ["u"]


def test_state_of_disk_and_pool_is_reported_at_intervals(box, connection, monkeypatch):
    monkeypatch.setattr(deliver_job, "STATE_INTERVAL", 0.01)
    job = watch(box, connection)
    state = job.wait_for("state")
    assert ([*state], state["exhausted"]) == (["disk", "exhausted"], False)
    job.stop()


# Adding entries, and draining.


def test_added_entry_is_delivered(box, connection, delivered, delivering):
    delivering.add([put(box)])
    delivering.stop(drain=True)
    assert delivered == ["u"]


def test_entry_stays_due_if_the_pool_is_full(box, delivered, delivering, monkeypatch):
    monkeypatch.setattr(type(delivering.pool), "is_full", True)
    delivering.add([put(box)])
    assert box.summary().counts["waiting"] == 1
    assert delivered == []
    delivering.stop()


def test_drain_delivers_due_entries(box, delivered, delivering):
    put_waiting(box, e=Event("n", uid="u"), good="")
    delivering.stop(drain=True)
    assert delivered == ["u"]


def test_frames_are_handled_during_a_drain(box, connection, delivered, monkeypatch):
    monkeypatch.setattr(deliver_job, "_DRAIN_CHECK_INTERVAL", 0.01)
    delivering = Delivering(make_job(box, hold=[KEY]), connection.reporter)
    put_waiting(box, e=Event("n", uid="u"), good="")
    checks, next_job = [], connection.reporter.next_job

    def send_a_frame_before_the_second_check(seconds):
        checks.append(seconds)
        if len(checks) == 2:
            connection.send({"job": "release", "lane": KEY})
        return next_job(seconds)

    monkeypatch.setattr(connection.reporter, "next_job", send_a_frame_before_the_second_check)
    delivering.stop(drain=True)
    assert delivered == ["u"]


def test_drain_ends_if_the_command_died(box, connection, delivered, monkeypatch):
    monkeypatch.setattr(deliver_job, "_DRAIN_CHECK_INTERVAL", 0.01)
    delivering = Delivering(make_job(box, hold=[KEY]), connection.reporter)
    put_waiting(box, good="")
    os.close(connection.to_worker)
    delivering.stop(drain=True)
    assert delivered == []
    assert [*names_by_state(box)] == ["waiting"]


def test_unreadable_outbox_is_reported_during_a_drain(tmp_path, connection):
    (tmp_path / "file").write_text("")
    Delivering(make_job(Outbox(tmp_path / "file")), connection.reporter).stop(drain=True)
    assert kinds(connection.receive()) == ["trouble"]


# Reports.


def test_many_results_are_sent_in_one_frame(connection, monkeypatch):
    monkeypatch.setattr(deliver_job, "_FLUSH_DELAY", 1000.0)
    reports = deliver_job.Reports(connection.reporter, quiet=False)
    for number in range(deliver_job.MAX_ITEMS):
        reports.ended(str(number), "waiting")
    ((kind, values),) = connection.receive()
    assert (kind, len(values["items"])) == ("results", deliver_job.MAX_ITEMS)


def test_log_of_the_pool_is_reported(connection):
    deliver_job.Reports(connection.reporter, quiet=False).log("text")
    assert connection.receive() == [("log", {"text": "text"})]


def test_only_the_latest_configurations_are_kept(connection, monkeypatch):
    monkeypatch.setattr(deliver_job, "_KNOWN_CONFIGS", 2)
    reports = deliver_job.Reports(connection.reporter, quiet=False)
    for name in ("a", "b", "b", "c"):
        reports.begin(Lane(name, "config"), [])
    assert reports.configs == {"b": "config", "c": "config"}
