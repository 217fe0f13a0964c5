"""The job `relay`, in a thread of this process."""

from __future__ import annotations

import os
import threading
from hashlib import sha1
from types import MethodType

import pytest

from event import Event, PermanentError
from event._broker import EventMessage, InlineFile, encode_message
from event._net import s3
from event._outbox import Outbox
from event._outbox.lanes import Lane
from event._outbox.pool import DeliveryPool
from event._worker import relay_job
from helpers.entries import names, names_by_state, path_in, put_waiting
from worker.job_thread import JobThread, register_handlers

if os.name == "nt":
    pytest.skip("platform: the pipes are those of a POSIX system", allow_module_level=True)

ACK, REQUEUE, DEAD = "ack", "requeue", "dead-letter"


def encoded_message(uid="1", **files):
    """Return a message with an event and its attachments."""
    event = Event("build", uid=uid)
    event.close()
    names = {name: (str(number), sha1(content).hexdigest()) for number, (name, content) in enumerate(files.items())}
    inline = {str(number): InlineFile.of(content) for number, content in enumerate(files.values())}
    return encode_message(EventMessage(f"id-{uid}", 1e9, event, names, inline, None))


def relay(connection, *handlers, outbox=None, **values):
    defaults = {
        "outbox": outbox and str(outbox.path),
        "handlers": [[name, ""] for name in handlers or ("good",)],
        "timeout": 30.0,
        "jobs": 2,
        "everything": False,
        "quiet": False,
        "s3": "",
        "profile": None,
        "alone": False,
    }
    return JobThread(connection, relay_job.relay, {**defaults, **values})


def send_batch(job, *bodies, number=1, pending=None, served=None):
    """Send a batch to the job; return the result of each message."""
    sizes = [*map(len, bodies)]
    batch = {"job": "batch", "number": number, "sizes": sizes, "pending": pending or [None] * len(bodies)}
    job.send(**batch, served=served or {}, blob=b"".join(bodies))
    return job.wait_for("batch", lambda values: values["number"] == number)["results"]


def dispositions(results):
    return [result[0] for result in results]


# With an outbox.


def test_batch_is_delivered_from_the_outbox(box, connection, delivered):
    job = relay(connection, outbox=box)
    assert dispositions(send_batch(job, encoded_message("1"), b"malformed")) == [ACK, DEAD]
    job.wait_for_entry()
    reports = job.stop()
    assert delivered == ["1"]
    assert reports[-1][0] == "summary"
    assert names_by_state(box) == {}


def test_attachment_of_a_message_is_stored_with_the_event(box, connection, delivered):
    job = relay(connection, outbox=box, alone=True)
    assert dispositions(send_batch(job, encoded_message("1", log=b"compiled"))) == [ACK]
    job.stop()
    ((_, entry),) = box.entries("waiting")
    assert [*entry.event.get_attachments()] == ["log"]


def test_backlog_of_the_outbox_is_delivered(box, connection, delivered):
    put_waiting(box, e=Event("n", uid="u"), good="")
    job = relay(connection, outbox=box)
    job.wait_for_entry()
    job.stop(drain=True)
    assert delivered == ["u"]


def test_held_lane_is_served_after_a_release_frame(box, connection, delivered):
    key = Lane("good", "").key
    job = relay(connection, outbox=box, hold=[key])
    send_batch(job, encoded_message("1"))
    job.send(job="release", lane=key)
    job.wait_for_entry()
    job.stop()
    assert delivered == ["1"]


def link_counts(box):
    """Return the number of hard links of each claimed entry."""
    return [os.stat(path_in(box, "claimed", name)).st_nlink for name in names(box, "claimed")]


@pytest.mark.parametrize(("has_room", "links"), [(True, 2), (False, 1)])
def test_messages_share_a_file_only_if_the_pool_has_room(  # noqa: PLR0913  # parameters
    box, connection, delivered, monkeypatch, has_room, links
):
    monkeypatch.setattr(DeliveryPool, "has_room_for", lambda self, count, seconds: has_room)
    job = relay(connection, outbox=box, hold=[Lane("good", "").key])
    send_batch(job, encoded_message("1"), encoded_message("2"))
    assert link_counts(box) == [links, links]
    job.send(job="release", lane=Lane("good", "").key)
    job.stop(drain=True)
    assert sorted(delivered) == ["1", "2"]
    assert names_by_state(box) == {}


def test_messages_for_several_handlers_have_separate_files(box, connection, delivered):
    job = relay(connection, "good", "other", outbox=box, hold=[Lane(name, "").key for name in ("good", "other")])
    send_batch(job, encoded_message("1"), encoded_message("2"))
    assert link_counts(box) == [1, 1]
    job.stop()


def test_worker_for_a_single_message_only_stores_the_entry(box, connection, delivered):
    job = relay(connection, outbox=box, alone=True)
    job.send(job="pause", lane="a")  # it has no lane, so it ignores the frame
    assert dispositions(send_batch(job, encoded_message("1"))) == [ACK]
    job.stop()
    assert delivered == []
    assert box.summary().due == 1


def test_message_is_not_acknowledged_if_the_outbox_fails(tmp_path, connection, delivered):
    (tmp_path / "outbox").write_text("in the way")
    job = relay(connection, outbox=Outbox(tmp_path / "outbox"), alone=True)
    ((disposition, reason, *_),) = send_batch(job, encoded_message("1"))
    assert disposition != ACK
    assert reason
    job.stop()


def test_relay_job_ends_if_the_command_died(box, connection, delivered):
    job = relay(connection, outbox=box)
    os.close(connection.to_worker)
    assert job.join()[-1][0] == "summary"


# Without an outbox.


def test_each_handler_result_is_reported_without_an_outbox(connection, delivered):
    job = relay(connection, "good", "bad", "refusing")
    ((disposition, reason, pending, refused),) = send_batch(job, encoded_message("1"))
    reports = job.stop()
    assert (disposition, pending) == (REQUEUE, ["bad"])
    assert reason.startswith("bad: ")
    assert [*refused] == ["refusing"]
    deliveries = {values["handler"]: values for kind, values in reports if kind == "delivery"}
    assert {name: (values["ok"], values["permanent"]) for name, values in deliveries.items()} == {
        "good": (True, False),
        "bad": (False, False),
        "refusing": (False, True),
    }
    assert {(values["entry"], values["name"]) for values in deliveries.values()} == {("id-1", "build")}


def test_only_pending_handlers_get_the_event(connection, delivered):
    job = relay(connection, "good", "bad")
    assert dispositions(send_batch(job, encoded_message("1"), pending=[["good"]])) == [ACK]
    job.stop()
    assert delivered == ["1"]


def test_handler_that_was_served_does_not_get_the_event_again(connection, delivered):
    job = relay(connection, "good")
    served = {"id-1": ["good"]}
    results = send_batch(
        job,
        encoded_message("1"),
        encoded_message("2"),
        encoded_message("1"),
        b"malformed",
        pending=[["good"]] * 4,
        served=served,
    )
    job.stop()
    assert dispositions(results) == [ACK, ACK, ACK, DEAD]
    assert delivered == ["2"]


def test_attachments_are_only_fetched_below_the_configured_url(connection, delivered, monkeypatch):
    stores = []
    monkeypatch.setattr(s3, "Store", lambda profile: stores.append(profile))
    job = relay(connection, s3="s3://bucket/events/", profile="ci")
    assert dispositions(send_batch(job, encoded_message("1"))) == [ACK]
    job.stop()
    assert stores == ["ci"]


def test_worker_that_cannot_start_threads_asks_for_a_new_worker(connection, delivered, monkeypatch):
    start = threading.Thread.start

    def refuse(thread):
        if isinstance(getattr(thread, "_target", None), MethodType):
            raise RuntimeError("can't start new thread")
        start(thread)

    job = relay(connection)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert dispositions(send_batch(job, encoded_message("1"))) == [REQUEUE]
    assert job.wait_for("state") == {"disk": 0.0, "exhausted": True}
    job.stop()
    assert delivered == []


def test_worker_with_too_many_hung_threads_asks_for_a_new_worker(connection, monkeypatch):
    monkeypatch.setattr(relay_job, "HUNG_LIMIT", 1)
    monkeypatch.setattr(relay_job.DirectSink, "hung", property(lambda sink: 1))
    job = relay(connection)
    send_batch(job, encoded_message("1"))
    assert job.wait_for("state") == {"disk": 0.0, "exhausted": True}
    job.stop()


def test_reasons_of_failures_hold_no_secret(connection, monkeypatch):
    monkeypatch.setenv("UP_TOKEN", "hunter2hunter2")

    def refuse(_event):
        raise PermanentError("no hunter2hunter2 and no plugin-pin")

    def fail(_event):
        raise RuntimeError("no hunter2hunter2 and no plugin-pin")

    register_handlers(monkeypatch, refusing=refuse, failing=fail)
    job = relay(connection, handlers=[["refusing", "plugin-pin"], ["failing", "failing,plugin-pin"]])
    ((disposition, reason, _, refused),) = send_batch(job, encoded_message("1"))
    job.stop()
    assert disposition == REQUEUE
    assert reason == "failing: RuntimeError: no *** and no ***"
    assert refused == {"refusing": "no *** and no ***"}


def test_long_reason_is_shortened_in_the_report(connection, monkeypatch):
    def fail(_event):
        raise ValueError("x" * 5000)

    register_handlers(monkeypatch, long=fail)
    job = relay(connection, "long")
    ((_, reason, *_),) = send_batch(job, encoded_message("1"))
    job.stop()
    assert len(reason) == relay_job.MAX_REPORTED_REASON
