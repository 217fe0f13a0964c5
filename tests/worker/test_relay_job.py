"""The job ``relay``, in this process."""

from __future__ import annotations

import os
import threading
from hashlib import sha1
from types import MethodType

import pytest

from event import Event
from event._broker import EventMessage, InlineFile, encode_message
from event._net import s3
from event._outbox import Outbox
from event._outbox.lanes import Lane
from event._outbox.pool import DeliveryPool
from event._worker import relay_job
from helpers.entries import names_by_state, put_waiting
from worker.running import Running, register

if os.name == "nt":
    pytest.skip("platform: the pipes are those of a POSIX system", allow_module_level=True)

ACK, REQUEUE, DEAD = "ack", "requeue", "dead-letter"


def body(uid="1", **files):
    event = Event("build", uid=uid)
    event.close()
    names = {name: (str(number), sha1(content).hexdigest()) for number, (name, content) in enumerate(files.items())}
    held = {str(number): InlineFile.of(content) for number, content in enumerate(files.values())}
    return encode_message(EventMessage(f"id-{uid}", 1e9, event, names, held, None))


def relay(line, *handlers, outbox=None, **values):
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
    return Running(line, relay_job.relay, {**defaults, **values})


def give(running, *bodies, number=1, pending=None, served=None):
    """Give a batch; return what is to become of its messages."""
    sizes = [*map(len, bodies)]
    batch = {"job": "batch", "number": number, "sizes": sizes, "pending": pending or [None] * len(bodies)}
    running.tell(**batch, served=served or {}, blob=b"".join(bodies))
    return running.until("batch", lambda values: values["number"] == number)["results"]


def dispositions(results):
    return [result[0] for result in results]


def delivered(running):
    running.until("results", lambda values: values["items"][-1][0] == "end")


# With an outbox.


def test_batch_is_delivered_from_the_outbox(box, line, taken):
    running = relay(line, outbox=box)
    assert dispositions(give(running, body("1"), b"malformed")) == [ACK, DEAD]
    delivered(running)
    reports = running.stop()
    assert taken == ["1"]
    assert reports[-1][0] == "summary"
    assert names_by_state(box) == {}


def test_attachment_of_a_message_is_stored_with_the_event(box, line, taken):
    running = relay(line, outbox=box, alone=True)
    assert dispositions(give(running, body("1", log=b"compiled"))) == [ACK]
    running.stop()
    ((_, entry),) = box.entries("waiting")
    assert [*entry.event.get_attachments()] == ["log"]


def test_backlog_of_the_outbox_is_delivered(box, line, taken):
    put_waiting(box, e=Event("n", uid="u"), good="")
    running = relay(line, outbox=box)
    delivered(running)
    running.stop(drain=True)
    assert taken == ["u"]


def test_held_lane_is_released_by_a_frame(box, line, taken):
    key = Lane("good", "").key
    running = relay(line, outbox=box, hold=[key])
    give(running, body("1"))
    running.tell(job="release", lane=key)
    delivered(running)
    running.stop()
    assert taken == ["1"]


@pytest.mark.parametrize(("has_room", "links"), [(True, 2), (False, 1)])
def test_messages_with_room_in_the_pool_share_a_file(  # noqa: PLR0913  # what it varies
    box, line, taken, monkeypatch, has_room, links
):
    monkeypatch.setattr(DeliveryPool, "has_room_for", lambda self, count, seconds: has_room)
    running = relay(line, outbox=box, hold=[Lane("good", "").key])
    give(running, body("1"), body("2"))
    assert [os.stat(box.path + f"/claimed/{name}").st_nlink for name in names_by_state(box)["claimed"]] == [
        links,
        links,
    ]
    running.tell(job="release", lane=Lane("good", "").key)
    running.stop(drain=True)
    assert sorted(taken) == ["1", "2"]
    assert names_by_state(box) == {}


def test_messages_for_several_handlers_have_separate_files(box, line, taken):
    running = relay(line, "good", "other", outbox=box, hold=[Lane(name, "").key for name in ("good", "other")])
    give(running, body("1"), body("2"))
    assert [os.stat(box.path + f"/claimed/{name}").st_nlink for name in names_by_state(box)["claimed"]] == [1, 1]
    running.stop()


def test_worker_for_a_single_message_only_stores_the_entry(box, line, taken):
    running = relay(line, outbox=box, alone=True)
    running.tell(job="pause", lane="another frame")
    assert dispositions(give(running, body("1"))) == [ACK]
    running.stop()
    assert taken == []
    assert box.summary().due == 1


def test_message_is_not_acknowledged_if_the_outbox_fails(tmp_path, line, taken):
    (tmp_path / "outbox").write_text("in the way")
    running = relay(line, outbox=Outbox(tmp_path / "outbox"), alone=True)
    ((disposition, reason, *_),) = give(running, body("1"))
    assert disposition != ACK
    assert reason
    running.stop()


def test_relay_job_ends_if_the_command_died(box, line, taken):
    running = relay(line, outbox=box)
    os.close(line.to_worker)
    assert running.end()[-1][0] == "summary"


# Without one.


def test_each_handler_result_is_reported_without_an_outbox(line, taken):
    running = relay(line, "good", "bad", "refusing")
    ((disposition, reason, pending, refused),) = give(running, body("1"))
    reports = running.stop()
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


def test_only_pending_handlers_get_the_event(line, taken):
    running = relay(line, "good", "bad")
    assert dispositions(give(running, body("1"), pending=[["good"]])) == [ACK]
    running.stop()
    assert taken == ["1"]


def test_finished_handler_does_not_get_the_event_again(line, taken):
    running = relay(line, "good")
    served = {"id-1": ["good"]}
    results = give(running, body("1"), body("2"), body("1"), b"malformed", pending=[["good"]] * 4, served=served)
    running.stop()
    assert dispositions(results) == [ACK, ACK, ACK, DEAD]
    assert taken == ["2"]


def test_attachments_are_only_fetched_below_the_configured_url(line, taken, monkeypatch):
    stores = []
    monkeypatch.setattr(s3, "Store", lambda profile: stores.append(profile))
    running = relay(line, s3="s3://bucket/events/", profile="ci")
    assert dispositions(give(running, body("1"))) == [ACK]
    running.stop()
    assert stores == ["ci"]


def test_worker_that_cannot_start_threads_asks_for_a_new_worker(line, taken, monkeypatch):
    start = threading.Thread.start

    def refuse(thread):
        if isinstance(getattr(thread, "_target", None), MethodType):
            raise RuntimeError("can't start new thread")
        start(thread)

    running = relay(line)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert dispositions(give(running, body("1"))) == [REQUEUE]
    assert running.until("state") == {"disk": 0.0, "exhausted": True}
    running.stop()
    assert taken == []


def test_worker_with_too_many_hung_threads_asks_for_a_new_worker(line, monkeypatch):
    monkeypatch.setattr(relay_job, "HUNG_LIMIT", 1)
    monkeypatch.setattr(relay_job.DirectSink, "hung", property(lambda sink: 1))
    running = relay(line)
    give(running, body("1"))
    assert running.until("state") == {"disk": 0.0, "exhausted": True}
    running.stop()


def test_long_reason_is_shortened_in_the_report(line, monkeypatch):
    def fail(_event):
        raise ValueError("x" * 5000)

    register(monkeypatch, long=fail)
    running = relay(line, "long")
    ((_, reason, *_),) = give(running, body("1"))
    running.stop()
    assert len(reason) == relay_job.MAX_REPORTED_REASON
