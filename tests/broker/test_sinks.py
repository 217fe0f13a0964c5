"""Where a relay's events go: into an outbox, or to the handlers at once."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import queue
import threading
import time
from pathlib import Path

import pytest

from event import Event, PermanentError
from event._broker import (
    AttachmentSource,
    DirectSink,
    Disposition,
    EventMessage,
    Incoming,
    InlineFile,
    OutboxSink,
    S3Reference,
    encode_message,
)
from event._net import s3
from event._outbox import Outbox
from event._trace_context import Span, active_span
from helpers.brokers import wait_until

ACK, REQUEUE, DEAD, KEEP = Disposition.ACK, Disposition.REQUEUE, Disposition.DEAD_LETTER, Disposition.KEEP
SPAN = Span("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")


def body(uid="1", span=None, outcome=None, **files):
    """Return a message's body; bytes are attachments in it, an S3Reference is one elsewhere."""
    event = Event("build", uid=uid, outcome=outcome)
    event.close()
    names = {name: (str(number), digest(content)) for number, (name, content) in enumerate(files.items())}
    held = {
        str(number): InlineFile.of(content) if isinstance(content, bytes) else content
        for number, content in enumerate(files.values())
    }
    return encode_message(EventMessage(f"id-{uid}", 1e9, event, names, held, span))


def digest(content):
    return hashlib.sha1(content).hexdigest() if isinstance(content, bytes) else "0" * 40


def deliver(sink, *bodies, pending=None):
    return sink.deliver([Incoming(each, pending) for each in bodies])


def outcomes(results):
    return [(result.disposition, result.pending, result.reason) for result in results]


# What both do

HANDLED = {"smtp": "a", "http": "b"}


@pytest.fixture
def store():
    return Store()


@pytest.fixture(params=["outbox", "direct"])
def sink(request, store, tmp_path):
    source = AttachmentSource("s3://bucket/events/", store)
    if request.param == "outbox":
        return OutboxSink(Outbox(tmp_path / "outbox"), HANDLED, source)
    return DirectSink({name: Handler() for name in HANDLED}, 30.0, lambda *_: None, source)


class Store:
    """A store that holds one object, or fails."""

    def __init__(self, *errors):
        self.errors = [*errors]

    def download(self, url, path, size, sha1):
        if self.errors:
            raise self.errors.pop(0)
        Path(path).write_bytes(b"from S3")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(b"\xff", "it is not an e3-event message: ", id="bytes"),
        pytest.param(b"[" * 100_000, "it is not an e3-event message: ", id="deep"),
        pytest.param(b'{"version": 99}', "it is not an e3-event message: ValueError: its version is 99", id="newer"),
        pytest.param(
            body(log=b"x").replace(b'"eA=="', b'"eQ=="'),
            "it is not an e3-event message: ValueError: its SHA-1",
            id="sha1",
        ),
        pytest.param(body(core=S3Reference(7, "s3://b/\ud800")), "an attachment is at s3://b/", id="place"),
        pytest.param(body(core=S3Reference(7, "s3://bucket/eventsX/1")), "an attachment is at s3://bucket/", id="near"),
    ],
)
def test_only_the_undeliverable_message_is_dead_lettered(sink, content, reason):
    bad, good = deliver(sink, content, body("2"))
    assert bad.disposition is DEAD
    assert bad.reason.startswith(reason)
    assert (good.disposition, good.pending) == (ACK, [])


@pytest.mark.parametrize(
    ("error", "disposition", "reason"),
    [
        pytest.param(
            s3.StoreError("503"), REQUEUE, "UnavailableError: an attachment cannot be fetched now", id="later"
        ),
        pytest.param(s3.NotThereError("no key"), DEAD, "an attachment is missing", id="missing"),
        pytest.param(s3.ContentError("too long"), DEAD, "too long", id="content"),
        pytest.param(OSError(errno.ENOSPC, "No space left on device", "f"), KEEP, "No space left on device", id="disk"),
        pytest.param(MemoryError(), KEEP, "MemoryError", id="memory"),
    ],
)
def test_unavailable_attachment_is_retried_or_dead_lettered(sink, store, error, disposition, reason):
    store.errors = [error]
    bad, good = deliver(sink, body(core=S3Reference(7, "s3://bucket/events/1")), body("2"))
    assert (bad.disposition, bad.pending) == (disposition, None)
    assert reason in bad.reason
    assert good.disposition is ACK


def test_attachment_in_s3_is_fetched(sink):
    (result,) = deliver(sink, body(core=S3Reference(7, "s3://bucket/events/1")))
    assert (result.disposition, result.pending) == (ACK, [])


def test_attachments_in_s3_are_refused_without_a_configured_url(tmp_path):
    (result,) = deliver(DirectSink({}, 1.0, lambda *_: None), body(core=S3Reference(7, "s3://b/1")))
    assert result.reason == "an attachment is at s3://b/1, which is outside of --s3"


def test_handlers_unknown_to_the_relay_stay_pending(sink):
    (result,) = deliver(sink, body(), pending=["strange", "http"])
    assert (result.disposition, result.pending) == (ACK, ["strange"])
    (result,) = deliver(sink, body(), pending=["strange"])
    assert (result.disposition, result.pending) == (ACK, ["strange"])
    (result,) = deliver(sink, body(), pending=[])
    assert (result.disposition, result.pending) == (ACK, [])


# Into an outbox


@pytest.fixture
def box(tmp_path):
    return Outbox(tmp_path / "outbox")


@pytest.fixture
def outbox_sink(box):
    return OutboxSink(box, HANDLED)


def claims(box):
    """Claim all that is due."""
    return [claim for candidate in box.candidates() if (claim := box.claim(candidate))]


def test_events_are_due_in_the_outbox_under_their_ids(box, outbox_sink):
    results = deliver(outbox_sink, body("1", SPAN, log=b"compiled\n", core=bytes(1_000_000)), body("2"))
    assert [result.disposition for result in results] == [ACK, ACK]
    one, two = sorted((claim.entry for claim in claims_now(box)), key=lambda entry: entry.id)
    assert (one.id, one.handlers, one.event.uid) == ("id-1", HANDLED, "1")
    assert one.span.traceparent == SPAN.traceparent
    assert (two.id, two.span.span_id) == ("id-2", "0" * 16)


def claims_now(box):
    return [claim for candidate in box.candidates(everything=True) if (claim := box.claim(candidate))]


def test_attachments_are_written_once(box, outbox_sink, monkeypatch):
    content = os.urandom(3_000_000)
    deliver(outbox_sink, body(log=content))
    (claim,) = claims_now(box)
    ((path, _),) = claim.event().get_attachments().values()
    assert Path(path).read_bytes() == content
    assert claim.damage() is None
    assert os.listdir(os.path.join(box.path, "tmp")) == []


def test_entry_has_only_pending_handlers(box, outbox_sink):
    deliver(outbox_sink, body(), pending=["strange", "http"])
    (claim,) = claims_now(box)
    assert claim.entry.handlers == {"http": "b"}


def test_no_entry_is_put_if_all_handlers_are_unknown(box, outbox_sink):
    deliver(outbox_sink, body(), pending=["strange"])
    assert claims_now(box) == []


def test_messages_are_requeued_if_the_outbox_is_not_writable(tmp_path):
    (tmp_path / "file").touch()
    results = deliver(OutboxSink(Outbox(tmp_path / "file"), HANDLED), body("1"), body("2", log=b"x"))
    assert [result.disposition for result in results] == [KEEP, KEEP]


def test_entry_is_stored_even_if_it_cannot_be_handed_over(caplog):
    class Claim:
        def postpone(self, due):
            raise OSError(errno.ENOSPC, "no room")

    class Full(Outbox):
        def put_many(self, new):
            return [Claim() for _ in new]

    assert deliver(OutboxSink(Full("nowhere"), HANDLED), body())[0].disposition is ACK
    assert "stays claimed" in caplog.text


def test_messages_are_dead_lettered_on_an_unexpected_outbox_error():
    class Broken(Outbox):
        def put_many(self, new):
            raise ValueError("of a kind that nobody has thought of")

    results = deliver(OutboxSink(Broken("nowhere"), HANDLED), body("1"), body("2"))
    assert [result.disposition for result in results] == [DEAD, DEAD]


# To the handlers


class Handler:
    """Does what it is told to, and keeps what it gets."""

    def __init__(self, act=lambda e: True):
        self.act = act
        self.got = []
        self.spans = []

    def send_event(self, e):
        self.got.append((e.uid, {name: Path(path).read_bytes() for name, (path, _) in e.get_attachments().items()}))
        self.spans.append(active_span.get())
        return self.act(e)


def fails(_):
    return False


def refuses(_):
    raise PermanentError("nobody of that name")


def breaks(_):
    raise ValueError("broken")


def leaves(_):
    raise SystemExit(3)


def direct(report=lambda *_: None, timeout=30.0, **handlers):
    return DirectSink(handlers, timeout, report)


def test_each_handler_gets_each_event_in_order():
    handlers = {"a": Handler(), "b": Handler()}
    reported = []
    sink = direct(lambda message, delivery: reported.append((message.id, delivery.handler, delivery.ok)), **handlers)
    results = deliver(sink, body("1", SPAN, log=b"x"), body("2"))
    assert outcomes(results) == [(ACK, [], "")] * 2
    for handler in handlers.values():
        assert handler.got == [("1", {"log": b"x"}), ("2", {})]
        assert [span.span_id for span in handler.spans] == [SPAN.span_id, "0" * 16]
    assert sorted(reported) == [(f"id-{n}", name, True) for n in "12" for name in "ab"]


def test_failed_handlers_stay_pending_with_the_reason():
    sink = direct(a=Handler(), b=Handler(fails), c=Handler(refuses), d=Handler(breaks), e=Handler(leaves))
    (result,) = deliver(sink, body())
    assert (result.disposition, result.pending) == (REQUEUE, ["b", "d", "e"])
    assert result.refused == {"c": "nobody of that name"}
    assert result.reason in {
        "b: the handler returned False",
        "d: ValueError: broken",
        "e: SystemExit: 3",
    }


def test_batch_is_requeued_on_a_memory_error(monkeypatch):
    def fail(*_args):
        raise MemoryError

    monkeypatch.setattr("event._broker.direct_sink.skipped", fail)
    handler = Handler()
    results = deliver(direct(a=handler), body("1"), body("2"))
    assert outcomes(results) == [(KEEP, None, "MemoryError")] * 2
    assert handler.got == []


def test_refused_event_is_not_tried_again():
    (result,) = deliver(direct(a=Handler(), b=Handler(refuses)), body())
    assert (result.disposition, result.pending, result.refused) == (ACK, [], {"b": "nobody of that name"})


def test_redelivery_skips_handlers_that_already_delivered():
    handlers = {"a": Handler(), "b": Handler()}
    (result,) = deliver(direct(**handlers), body(), pending=["b"])
    assert (result.disposition, result.pending) == (ACK, [])
    assert (handlers["a"].got, len(handlers["b"].got)) == ([], 1)


def test_hung_handler_delays_neither_other_handlers_nor_later_events():
    go = threading.Event()
    hanging, other = Handler(lambda e: e.uid != "1" or go.wait(60)), Handler()
    sink = direct(timeout=0.2, a=hanging, b=other)
    try:
        one, two = deliver(sink, body("1"), body("2"))
        assert (one.disposition, one.pending) == (REQUEUE, ["a"])
        assert one.reason == "a: not done within 0.2 s"
        assert two.disposition is ACK
        assert sink.hung == 1
        assert [uid for uid, _ in hanging.got] == ["1", "2"]
    finally:
        go.set()


def test_failing_report_does_not_change_the_result():
    def report(*_):
        raise OSError("nobody listens")

    handler = Handler()
    assert deliver(direct(report, a=handler), body())[0].disposition is ACK
    assert len(handler.got) == 1


def test_handler_without_a_thread_has_failed(monkeypatch):
    start = threading.Thread.start

    def refuse(self):
        if self.name == "event a":
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    (one, two) = deliver(direct(a=Handler(), b=Handler()), body("1"), body("2"))
    assert (
        outcomes([one])
        == outcomes([two])
        == [(REQUEUE, ["a"], "a: not tried: no thread can be started (RuntimeError: can't start new thread)")]
    )


def test_late_result_of_a_handler_is_ignored():
    """The thread that was left behind ends after its event; another one has gone on."""
    go, done = threading.Event(), []
    handler = Handler(lambda e: e.uid != "1" or (go.wait(60), done.append(1)))
    sink = direct(timeout=0.1, a=handler)
    deliver(sink, body("1"), body("2"))
    go.set()
    end = time.monotonic() + 30
    while not done:
        assert time.monotonic() < end
    assert sorted(uid for uid, _ in handler.got) == ["1", "2"]


def test_result_that_arrives_at_the_timeout_counts(monkeypatch):
    class Late(queue.SimpleQueue):
        waited = False

        def get(self, timeout):
            """Say at first that nothing has come in time, though the handler has finished."""
            if self.waited:
                return super().get(timeout=timeout)
            self.waited = True
            wait_until(lambda: self.qsize() == 1)
            raise queue.Empty

    monkeypatch.setattr(queue, "SimpleQueue", Late)
    assert [result.disposition for result in deliver(direct(a=Handler()), body("1"), body("2"))] == [ACK, ACK]


def test_event_that_times_out_does_not_delay_later_ones():
    go = threading.Event()
    handler = Handler(lambda e: e.uid != "1" or go.wait(60))
    one, two = deliver(direct(timeout=0.5, a=handler), body("1"), body("2"))
    go.set()
    assert outcomes([one]) == [(REQUEUE, ["a"], "a: not done within 0.5 s")]
    assert two.disposition is ACK


def test_last_event_that_times_out_has_failed():
    go = threading.Event()
    (one,) = deliver(direct(timeout=0.1, a=Handler(lambda e: go.wait(60))), body("1"))
    go.set()
    assert outcomes([one]) == [(REQUEUE, ["a"], "a: not done within 0.1 s")]


def test_attachments_are_removed_after_delivery(monkeypatch, tmp_path):
    directory = tmp_path / "temporary"
    directory.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(directory))
    handler = Handler(lambda e: bool(os.listdir(directory)))
    assert deliver(direct(a=handler), body(log=b"x"))[0].disposition is ACK
    assert os.listdir(directory) == []


def test_message_is_requeued_if_no_temporary_directory_can_be_made(monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    handler = Handler()
    one, two = deliver(direct(a=handler), body("1", log=b"x"), body("2"))
    assert (one.disposition, two.disposition) == (KEEP, ACK)


def test_repr_shows_no_message():
    assert "secret" not in repr(Incoming(json.dumps("secret").encode()))


# Conditions


def test_relay_applies_the_conditions_of_its_handlers():
    handlers = {"a@failure": Handler(), "b": Handler()}
    results = deliver(direct(**handlers), body("1", outcome="success"), body("2", outcome="failure"))
    assert outcomes(results) == [(ACK, [], "")] * 2
    assert [[uid for uid, _ in handler.got] for handler in handlers.values()] == [["2"], ["1", "2"]]


def test_redelivered_event_goes_to_its_pending_handlers():
    handlers = {"a@failure": Handler()}
    assert outcomes(deliver(direct(**handlers), body("1"), pending=["a@failure"])) == [(ACK, [], "")]
    assert len(handlers["a@failure"].got) == 1


def test_relay_stores_the_last_outcome_in_its_outbox(tmp_path):
    box = Outbox(tmp_path / "outbox")
    sink = OutboxSink(box, {"a@fixed": "x"}, lambda: None, outbox=box.path)
    results = deliver(sink, body("1", outcome="failure"), body("2", outcome="success"), body("3", outcome="success"))
    assert outcomes(results) == [(ACK, [], "")] * 3
    assert [claim.entry.event.uid for claim in claims(box)] == ["2"]
