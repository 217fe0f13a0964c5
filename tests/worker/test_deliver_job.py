"""The jobs ``deliver`` and ``watch``, in this process."""

from __future__ import annotations

import os
import shutil
import threading

import pytest

from event import Event
from event._outbox import Outbox
from event._outbox.lanes import Lane
from event._outbox.pool import DeliveryPool
from event._worker import deliver_job
from event._worker.deliver_job import Delivering
from helpers.entries import abandon, dead_owner, names_by_state, not_due_yet, put_waiting
from worker.running import Running, register

if os.name == "nt":
    pytest.skip("platform: the pipes are those of a POSIX system", allow_module_level=True)

KEY = Lane("good", "").key


@pytest.fixture
def delivering(box, line):
    return Delivering(job(box), line.reporter)


def job(box, **values):
    return {"outbox": str(box.path), "everything": False, "timeout": 30.0, "jobs": 2, "quiet": False, **values}


def deliver(box, line, **values):
    return Running(line, deliver_job.deliver, job(box, **values))


def watch(box, line, **values):
    return Running(line, deliver_job.watch, job(box, **values))


def kinds(reports):
    return [kind for kind, _ in reports if kind != "state"]


def dead(box, claim):
    """Have a claim be that of a process that has ended; return its name."""
    return os.path.basename(abandon(box, claim, dead_owner()))


def put(box, uid="u", **handlers):
    return box.put(Event("n", uid=uid), handlers or {"good": ""})


# A single pass.


def test_missing_outbox_is_reported_as_absent(tmp_path, line):
    running = deliver(Outbox(tmp_path / "none"), line)
    running.until("absent")
    running.stop()


def test_each_step_of_a_due_delivery_is_reported(box, line, taken):
    entry_id, _ = put_waiting(box, e=Event("n", uid="u"), good="")
    running = deliver(box, line)
    running.until("idle")
    reports = running.stop()
    assert kinds(reports) == ["total", "begin", "results", "idle", "summary"]
    assert dict(reports)["total"] == {"total": 1}
    assert dict(reports)["begin"]["entries"][0][1:] == [entry_id, "n"]
    assert [item[:3] for item in running.items()] == [["result", entry_id, "good"], ["end", entry_id, "delivered"]]
    assert dict(reports)["summary"] == {"waiting": 0, "due": 0, "next_due": None}
    assert taken == ["u"]


def test_quiet_result_has_only_deliveries_to_print(box, line, taken):
    put_waiting(box, good="", bad="")
    running = deliver(box, line, quiet=True)
    running.until("idle")
    running.stop()
    assert {item[2]: len(item) for item in running.items() if item[0] == "result"} == {"good": 3, "bad": 4}


def test_everything_option_tries_all_entries(box, line, taken):
    put_waiting(box, not_due_yet(), good="")
    running = deliver(box, line, everything=True)
    assert running.until("total") == {"total": 1}
    running.until("idle")
    running.stop()
    assert len(taken) == 1


def test_directory_that_is_no_outbox_is_reported(tmp_path, line):
    (tmp_path / "file").write_text("")
    running = deliver(Outbox(tmp_path / "file"), line)
    assert running.until("trouble")["text"]
    assert "summary" not in kinds(running.stop())


def test_worker_without_threads_is_reported(box, line, monkeypatch):
    def fail(_thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(deliver_job.Thread, "start", fail)
    monkeypatch.setattr(deliver_job, "RESTART_DELAY", 0.0)
    deliver_job.deliver(job(box), b"", line.reporter)
    line.give({"job": "stop"})
    deliver_job.watch(job(box), b"", line.reporter)
    text = "no thread can be started; check the limits for processes and memory"
    assert line.heard() == [("trouble", {"text": text})] * 2


def test_stopped_pass_does_not_report_idle(box, line, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()
    register(monkeypatch, good=lambda _: begun.set() or go_on.wait(60))
    for _ in range(3):
        put_waiting(box, good="")
    running = deliver(box, line, jobs=1)
    running.until("begin")
    running.tell(job="stop")
    go_on.set()
    assert "summary" in kinds(running.end())


def test_pass_with_an_exhausted_pool_does_not_report_idle(box, line, delivering, monkeypatch):
    put_waiting(box, not_due_yet(), good="")
    monkeypatch.setattr(DeliveryPool, "wait", lambda *_: False)
    delivering.once(everything=False)
    assert kinds(line.heard()) == ["total"]
    delivering.stop()


# What the command knows of workers that have died.


def test_claim_held_by_another_worker_is_skipped(box, line, taken):
    left, _ = (dead(box, put(box, uid)) for uid in ("left", "free"))
    running = deliver(box, line, leave=[left.partition(".")[0]])
    running.until("idle")
    running.stop()
    assert taken == ["free"]
    assert names_by_state(box) == {"claimed": [left]}


def test_claim_given_up_by_another_worker_is_taken_over(box, line, taken):
    left = dead(box, put(box, "left"))
    entry_id = left.partition(".")[0]
    running = watch(box, line, leave=[entry_id])
    running.tell(job="release", entry=entry_id)
    running.until("results")
    running.stop()
    assert taken == ["left"]


def test_entry_released_by_another_worker_is_delivered(box, line, taken):
    entry_id, _ = put_waiting(box, e=Event("n", uid="back"), good="")
    running = deliver(box, line, leave=[entry_id])
    running.until("idle")
    running.stop()
    assert taken == ["back"]


def test_entry_of_a_dead_worker_is_adopted_and_delivered(box, line, taken):
    claim = put(box)
    running = deliver(box, line, adopt=[[claim.entry.id, dead(box, claim)]])
    adopted = running.until("adopted")
    running.until("idle")
    running.stop()
    assert adopted["entry"] == claim.entry.id
    assert adopted["claim"].startswith(claim.entry.id)
    assert taken == ["u"]


def test_finished_entry_to_adopt_is_reported_as_ended(box, line, taken):
    gone = put(box, "gone")
    name = gone.name
    gone.postpone(not_due_yet())
    running = deliver(box, line, adopt=[[gone.entry.id, name], ["8f14e45f-ceea-467f-a0e6-000000000001", "x.y-0"]])
    running.until("idle")
    running.stop()
    assert sorted(item[2] for item in running.items()) == ["delivered", "waiting"]
    assert taken == []


# Lanes.


def test_held_lane_waits_for_its_release(box, line, taken):
    put_waiting(box, e=Event("n", uid="u"), good="")
    running = deliver(box, line, hold=[KEY])
    running.until("total")
    running.tell(job="release", lane=KEY)
    running.until("idle")
    running.stop()
    assert taken == ["u"]


@pytest.mark.parametrize("at_once", [True, False])
def test_resting_lane_is_not_tried(box, line, taken, at_once):
    put_waiting(box, good="")
    running = deliver(box, line, **({"pause": [KEY]} if at_once else {"hold": [KEY]}))
    if not at_once:
        running.tell(job="pause", lane=KEY)
    running.until("idle")
    running.stop()
    assert taken == []
    assert [*names_by_state(box)] == ["waiting"]


def test_unknown_frame_is_ignored(delivering):
    delivering.set_lane("other", KEY)


# To watch.


def test_entry_added_during_watch_is_delivered(box, line, taken, monkeypatch):
    monkeypatch.setattr(deliver_job, "POLL", 0.01)
    running = watch(box, line)
    put_waiting(box, e=Event("n", uid="late"), good="")
    running.until("results", lambda values: values["items"][-1][0] == "end")
    running.stop()
    assert taken == ["late"]


def test_outbox_failure_and_its_recovery_are_each_reported_once(box, line, taken, monkeypatch):
    monkeypatch.setattr(deliver_job, "POLL", 0.01)
    put_waiting(box, e=Event("n", uid="u"), good="")
    away = f"{box.path}-away"
    os.rename(box.path, away)
    with open(box.path, "w"):
        pass
    running = watch(box, line)
    running.until("trouble")
    os.remove(box.path)
    shutil.move(away, box.path)
    running.until("trouble", lambda values: values["text"] == "")
    running.until("results")
    reports = running.stop()
    assert [bool(values["text"]) for kind, values in reports if kind == "trouble"] == [True, False]
    assert taken == ["u"]


def test_state_of_disk_and_pool_is_reported_at_intervals(box, line, monkeypatch):
    monkeypatch.setattr(deliver_job, "STATE_INTERVAL", 0.01)
    running = watch(box, line)
    state = running.until("state")
    assert ([*state], state["exhausted"]) == (["disk", "exhausted"], False)
    running.stop()


# To add an entry, and to drain.


def test_entry_just_put_is_delivered(box, line, taken, delivering):
    delivering.add([put(box)])
    delivering.stop(drain=True)
    assert taken == ["u"]


def test_entry_stays_due_if_the_pool_is_full(box, taken, delivering, monkeypatch):
    monkeypatch.setattr(type(delivering.pool), "is_full", True)
    delivering.add([put(box)])
    assert box.summary().counts["waiting"] == 1
    assert taken == []
    delivering.stop()


def test_drain_delivers_due_entries(box, taken, delivering):
    put_waiting(box, e=Event("n", uid="u"), good="")
    delivering.stop(drain=True)
    assert taken == ["u"]


def test_frames_during_drain_are_obeyed(box, line, taken, monkeypatch):
    monkeypatch.setattr(deliver_job, "_DRAIN_CHECK_INTERVAL", 0.01)
    delivering = Delivering(job(box, hold=[KEY]), line.reporter)
    put_waiting(box, e=Event("n", uid="u"), good="")
    timer = threading.Timer(0.1, line.give, [{"job": "release", "lane": KEY}])
    timer.start()
    delivering.stop(drain=True)
    timer.join()
    assert taken == ["u"]


def test_drain_ends_if_the_command_died(box, line, taken, monkeypatch):
    monkeypatch.setattr(deliver_job, "_DRAIN_CHECK_INTERVAL", 0.01)
    delivering = Delivering(job(box, hold=[KEY]), line.reporter)
    put_waiting(box, good="")
    os.close(line.to_worker)
    delivering.stop(drain=True)
    assert taken == []
    assert [*names_by_state(box)] == ["waiting"]


def test_drain_of_an_unreadable_outbox_reports_a_failure(tmp_path, line):
    (tmp_path / "file").write_text("")
    Delivering(job(Outbox(tmp_path / "file")), line.reporter).stop(drain=True)
    assert kinds(line.heard()) == ["trouble"]


# Reports.


def test_many_results_are_sent_in_one_frame(line, monkeypatch):
    monkeypatch.setattr(deliver_job, "_FLUSH_DELAY", 1000.0)
    reports = deliver_job.Reports(line.reporter, quiet=False)
    for number in range(deliver_job.MAX_ITEMS):
        reports.ended(str(number), "waiting")
    ((kind, values),) = line.heard()
    assert (kind, len(values["items"])) == ("results", deliver_job.MAX_ITEMS)


def test_log_of_the_pool_is_a_log_frame(line):
    deliver_job.Reports(line.reporter, quiet=False).log("text")
    assert line.heard() == [("log", {"text": "text"})]


def test_only_the_latest_configurations_are_remembered(line, monkeypatch):
    monkeypatch.setattr(deliver_job, "_KNOWN_CONFIGS", 2)
    reports = deliver_job.Reports(line.reporter, quiet=False)
    for name in ("a", "b", "b", "c"):
        reports.begin(Lane(name, "config"), [])
    assert reports.configs == {"b": "config", "c": "config"}
