"""The sinks of a relay: one stores events in an outbox, one gives them directly to handlers."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import queue
import threading
from pathlib import Path
from types import SimpleNamespace

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
from helpers.waiting import wait_until

ACK, REQUEUE, DEAD, KEEP = Disposition.ACK, Disposition.REQUEUE, Disposition.DEAD_LETTER, Disposition.KEEP
SPAN = Span("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")


def body(uid="1", span=None, outcome=None, **files):
    """Return a message's body. The attachments are `bytes`, stored in the message, or an `S3Reference`."""
    event = Event("build", uid=uid, outcome=outcome)
    event.close()
    attachments = {name: (str(number), digest(content)) for number, (name, content) in enumerate(files.items())}
    contents = {
        str(number): InlineFile.of(content) if isinstance(content, bytes) else content
        for number, content in enumerate(files.values())
    }
    return encode_message(EventMessage(f"id-{uid}", 1e9, event, attachments, contents, span))


def digest(content):
    return hashlib.sha1(content).hexdigest() if isinstance(content, bytes) else "0" * 40


def deliver(sink, *bodies, pending=None):
    return sink.deliver([Incoming(body, pending) for body in bodies])


def summaries(results):
    return [(result.disposition, result.pending, result.reason) for result in results]


# Both sinks

CONFIGURATIONS = {"smtp": "a", "http": "b"}


@pytest.fixture(params=["outbox", "direct"])
def sink(request, store, tmp_path):
    source = AttachmentSource("s3://bucket/events/", store)
    if request.param == "outbox":
        return OutboxSink(Outbox(tmp_path / "outbox"), CONFIGURATIONS, source)
    return DirectSink({name: Handler() for name in CONFIGURATIONS}, 30.0, lambda *_: None, source)


class FakeStore:
    """An S3 store. Each download fails with the next error, or if there is none, returns the same content."""

    def __init__(self, *errors):
        self.errors = [*errors]

    def download(self, url, path, size, sha1):
        if self.errors:
            raise self.errors.pop(0)
        Path(path).write_bytes(b"from S3")


@pytest.fixture
def store():
    return FakeStore()


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
        pytest.param(body(core=S3Reference(7, "s3://b/\ud800")), "an attachment is at s3://b/", id="elsewhere"),
        pytest.param(
            body(core=S3Reference(7, "s3://bucket/eventsX/1")), "an attachment is at s3://bucket/", id="same-prefix"
        ),
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


def test_attachment_in_s3_is_downloaded(sink):
    (result,) = deliver(sink, body(core=S3Reference(7, "s3://bucket/events/1")))
    assert (result.disposition, result.pending) == (ACK, [])


def test_attachments_in_s3_are_refused_without_a_configured_url(tmp_path):
    (result,) = deliver(DirectSink({}, 1.0, lambda *_: None), body(core=S3Reference(7, "s3://b/1")))
    assert result.reason == "an attachment is at s3://b/1, which is outside of --s3"


def test_handlers_unknown_to_the_relay_stay_pending(sink):
    (result,) = deliver(sink, body(), pending=["unknown", "http"])
    assert (result.disposition, result.pending) == (ACK, ["unknown"])
    (result,) = deliver(sink, body(), pending=["unknown"])
    assert (result.disposition, result.pending) == (ACK, ["unknown"])
    (result,) = deliver(sink, body(), pending=[])
    assert (result.disposition, result.pending) == (ACK, [])


# The outbox


@pytest.fixture
def box(tmp_path):
    return Outbox(tmp_path / "outbox")


@pytest.fixture
def outbox_sink(box):
    return OutboxSink(box, CONFIGURATIONS)


def claim_due(box):
    return [claim for candidate in box.candidates() if (claim := box.claim(candidate))]


def test_events_are_due_in_the_outbox_under_their_ids(box, outbox_sink):
    results = deliver(outbox_sink, body("1", SPAN, log=b"compiled\n", core=bytes(1_000_000)), body("2"))
    assert [result.disposition for result in results] == [ACK, ACK]
    one, two = sorted((claim.entry for claim in claim_due(box)), key=lambda entry: entry.id)
    assert (one.id, one.handlers, one.event.uid) == ("id-1", CONFIGURATIONS, "1")
    assert one.span.traceparent == SPAN.traceparent
    assert (two.id, two.span.span_id) == ("id-2", "0" * 16)


def test_attachments_are_stored_in_the_entry_and_not_left_in_tmp(box, outbox_sink):
    content = os.urandom(3_000_000)
    deliver(outbox_sink, body(log=content))
    (claim,) = claim_due(box)
    ((path, _),) = claim.event().get_attachments().values()
    assert Path(path).read_bytes() == content
    assert claim.damage() is None
    assert os.listdir(os.path.join(box.path, "tmp")) == []


def test_entry_has_only_pending_handlers(box, outbox_sink):
    deliver(outbox_sink, body(), pending=["unknown", "http"])
    (claim,) = claim_due(box)
    assert claim.entry.handlers == {"http": "b"}


def test_no_entry_is_created_if_all_handlers_are_unknown(box, outbox_sink):
    deliver(outbox_sink, body(), pending=["unknown"])
    assert claim_due(box) == []


def test_messages_are_kept_if_the_outbox_is_not_writable(tmp_path):
    (tmp_path / "file").touch()
    results = deliver(OutboxSink(Outbox(tmp_path / "file"), CONFIGURATIONS), body("1"), body("2", log=b"x"))
    assert [result.disposition for result in results] == [KEEP, KEEP]


def test_message_is_acknowledged_although_its_entry_cannot_be_released(caplog):
    class Claim:
        entry = SimpleNamespace(id="id-1")

        def postpone(self, due):
            raise OSError(errno.ENOSPC, "no room")

    class FullOutbox(Outbox):
        def put_many(self, new, *, together):
            return [Claim() for _ in new]

    assert deliver(OutboxSink(FullOutbox("/missing"), CONFIGURATIONS), body())[0].disposition is ACK
    assert "stays claimed" in caplog.text


def test_messages_are_dead_lettered_on_an_unexpected_outbox_error():
    class FailingOutbox(Outbox):
        def put_many(self, new, *, together):
            raise ValueError("a bug")

    results = deliver(OutboxSink(FailingOutbox("/missing"), CONFIGURATIONS), body("1"), body("2"))
    assert [result.disposition for result in results] == [DEAD, DEAD]


# The handlers


class Handler:
    """A handler that records the events, the content of their attachments, and the active spans.

    :param result: called with each event; its value is the result of `send_event`
    """

    def __init__(self, result=lambda e: True):
        self.result = result
        self.received = []
        self.spans = []

    def send_event(self, e):
        self.received.append(
            (e.uid, {name: Path(path).read_bytes() for name, (path, _) in e.get_attachments().items()})
        )
        self.spans.append(active_span.get())
        return self.result(e)


def return_false(_):
    return False


def fail_permanently(_):
    raise PermanentError("unknown recipient")


def raise_an_error(_):
    raise ValueError("broken")


def exit_the_program(_):
    raise SystemExit(3)


def direct(report=lambda *_: None, timeout=30.0, **handlers):
    return DirectSink(handlers, timeout, report)


def test_each_handler_gets_each_event_in_order():
    handlers = {"a": Handler(), "b": Handler()}
    reported = []
    sink = direct(lambda message, delivery: reported.append((message.id, delivery.handler, delivery.ok)), **handlers)
    results = deliver(sink, body("1", SPAN, log=b"x"), body("2"))
    assert summaries(results) == [(ACK, [], "")] * 2
    for handler in handlers.values():
        assert handler.received == [("1", {"log": b"x"}), ("2", {})]
        assert [span.span_id for span in handler.spans] == [SPAN.span_id, "0" * 16]
    assert sorted(reported) == [(f"id-{n}", name, True) for n in "12" for name in "ab"]


def test_failed_handlers_stay_pending_and_refused_ones_do_not():
    sink = direct(
        a=Handler(),
        b=Handler(return_false),
        c=Handler(fail_permanently),
        d=Handler(raise_an_error),
        e=Handler(exit_the_program),
    )
    (result,) = deliver(sink, body())
    assert (result.disposition, result.pending) == (REQUEUE, ["b", "d", "e"])
    assert result.refused == {"c": "unknown recipient"}
    assert result.reason in {
        "b: the handler returned False",
        "d: ValueError: broken",
        "e: SystemExit: 3",
    }


def test_batch_is_kept_on_a_memory_error():
    class HandlersWithoutMemory(dict):
        def items(self):
            raise MemoryError

    sink = DirectSink(HandlersWithoutMemory(a=Handler()), 30.0, lambda *_: None)
    assert summaries(deliver(sink, body("1"), body("2"))) == [(KEEP, None, "MemoryError")] * 2


def test_event_that_only_permanent_failures_prevent_is_acknowledged():
    (result,) = deliver(direct(a=Handler(), b=Handler(fail_permanently)), body())
    assert (result.disposition, result.pending, result.refused) == (ACK, [], {"b": "unknown recipient"})


def test_redelivery_skips_handlers_that_already_delivered():
    handlers = {"a": Handler(), "b": Handler()}
    (result,) = deliver(direct(**handlers), body(), pending=["b"])
    assert (result.disposition, result.pending) == (ACK, [])
    assert (handlers["a"].received, len(handlers["b"].received)) == ([], 1)


def test_failing_report_does_not_change_the_result():
    def report(*_):
        raise OSError("broken pipe")

    handler = Handler()
    assert deliver(direct(report, a=handler), body())[0].disposition is ACK
    assert len(handler.received) == 1


def test_handler_whose_thread_cannot_start_has_failed(monkeypatch):
    start = threading.Thread.start

    def refuse(self):
        if self.name == "event a":
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    results = deliver(direct(a=Handler(), b=Handler()), body("1"), body("2"))
    reason = "a: not tried: no thread can be started (RuntimeError: can't start new thread)"
    assert summaries(results) == [(REQUEUE, ["a"], reason)] * 2


@pytest.fixture
def hung_delivery(monkeypatch):
    """Deliver two events to a handler that hangs with the first one, and to another handler.

    The clock passes the timeout when the other handler gets its last event, so no thread must be fast.
    """
    now = 0.0
    hangs, may_finish = threading.Event(), threading.Event()

    def hang(e):
        if e.uid == "1":
            hangs.set()
            may_finish.wait(60)
        return True

    def pass_timeout(e):
        nonlocal now
        if e.uid == "2":
            assert hangs.wait(60)
            now = 31.0
        return True

    monkeypatch.setattr("event._broker.direct_sink.time", SimpleNamespace(monotonic=lambda: now))
    hanging, reported = Handler(hang), []

    def report(message, delivery):
        reported.append((message.id, delivery.handler, delivery.ok))

    sink = direct(report, a=hanging, b=Handler(pass_timeout))
    results = deliver(sink, body("1"), body("2"))
    yield SimpleNamespace(sink=sink, results=results, hanging=hanging, reported=reported, may_finish=may_finish)
    may_finish.set()
    wait_until(lambda: sink.hung == 0)


def test_hung_handler_delays_neither_other_handlers_nor_later_events(hung_delivery):
    assert summaries(hung_delivery.results) == [(REQUEUE, ["a"], "a: not done within 30 s"), (ACK, [], "")]
    assert [uid for uid, _ in hung_delivery.hanging.received] == ["1", "2"]
    assert hung_delivery.sink.hung == 1


def test_late_result_of_a_handler_is_ignored(hung_delivery):
    hung_delivery.may_finish.set()
    wait_until(lambda: hung_delivery.sink.hung == 0)
    assert sorted(hung_delivery.reported) == [
        ("id-1", "a", False),
        ("id-1", "b", True),
        ("id-2", "a", True),
        ("id-2", "b", True),
    ]


def test_result_that_arrives_at_the_timeout_counts(monkeypatch):
    class QueueWithLateResult(queue.SimpleQueue):
        """The first `get` raises `Empty` although there is a result."""

        is_first = True

        def get(self, timeout):
            if not self.is_first:
                return super().get(timeout=timeout)
            self.is_first = False
            wait_until(lambda: self.qsize() == 1)
            raise queue.Empty

    monkeypatch.setattr(queue, "SimpleQueue", QueueWithLateResult)
    assert [result.disposition for result in deliver(direct(a=Handler()), body("1"), body("2"))] == [ACK, ACK]


def test_event_that_times_out_has_failed():
    may_finish = threading.Event()
    results = deliver(direct(timeout=0.1, a=Handler(lambda e: may_finish.wait(60))), body("1"))
    may_finish.set()
    assert summaries(results) == [(REQUEUE, ["a"], "a: not done within 0.1 s")]


def test_attachments_are_removed_after_delivery(monkeypatch, tmp_path):
    directory = tmp_path / "temporary"
    directory.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(directory))
    has_attachment = Handler(lambda e: bool(os.listdir(directory)))
    assert deliver(direct(a=has_attachment), body(log=b"x"))[0].disposition is ACK
    assert os.listdir(directory) == []


def test_message_is_kept_if_no_temporary_directory_can_be_created(monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", "/missing")
    one, two = deliver(direct(a=Handler()), body("1", log=b"x"), body("2"))
    assert (one.disposition, two.disposition) == (KEEP, ACK)


def test_repr_of_a_message_does_not_contain_its_body():
    assert "secret" not in repr(Incoming(json.dumps("secret").encode()))


# Conditions


def test_relay_applies_the_conditions_of_its_handlers():
    handlers = {"a@failure": Handler(), "b": Handler()}
    results = deliver(direct(**handlers), body("1", outcome="success"), body("2", outcome="failure"))
    assert summaries(results) == [(ACK, [], "")] * 2
    assert [[uid for uid, _ in handler.received] for handler in handlers.values()] == [["2"], ["1", "2"]]


def test_redelivered_event_goes_to_its_pending_handlers_whatever_their_conditions():
    handlers = {"a@failure": Handler()}
    assert summaries(deliver(direct(**handlers), body("1"), pending=["a@failure"])) == [(ACK, [], "")]
    assert len(handlers["a@failure"].received) == 1


def test_previous_outcomes_are_stored_in_the_outbox(tmp_path):
    box = Outbox(tmp_path / "outbox")
    sink = OutboxSink(box, {"a@fixed": "x"})
    results = deliver(sink, body("1", outcome="failure"), body("2", outcome="success"), body("3", outcome="success"))
    assert summaries(results) == [(ACK, [], "")] * 3
    assert [claim.entry.event.uid for claim in claim_due(box)] == ["2"]
