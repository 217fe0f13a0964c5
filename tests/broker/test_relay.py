"""The relay: it delivers each message, and no message delays the others."""

from __future__ import annotations

import json
import threading
import time

import pytest

from event._broker import BrokerURL, DirectSink, SinkResult
from event._broker import (
    relay as relay_module,
)
from helpers.brokers import DEAD_SUFFIX
from helpers.relays import (
    ACK,
    DEAD,
    DISK_IS_FULL,
    HANDLER_IS_DOWN,
    REQUEUE,
    RESET_STATE,
    STATE_HEADER,
    FakeSink,
    RelayThread,
    body,
    get_dead_letter,
    is_empty,
    running_relay,
    state_header,
    uid_of,
)
from helpers.waiting import wait_until

pytestmark = pytest.mark.usefixtures("short_delays")


# Deliveries


def test_delivered_messages_are_acknowledged_in_batches(any_queue):
    sink = FakeSink()
    any_queue.put(*(body(str(number)) for number in range(30)))
    with running_relay(any_queue, sink) as relay:
        wait_until(lambda: relay.finished == 30)
    assert sorted(sink.delivered, key=int) == [str(number) for number in range(30)]
    assert len(sink.batches) <= 20
    assert is_empty(any_queue)
    assert relay.reports == []


def test_batch_has_a_hundred_messages_at_most(queue):
    sink = FakeSink()
    queue.put(*(body(str(number)) for number in range(250)))
    with running_relay(queue, sink) as relay:
        wait_until(lambda: relay.finished == 250)
    assert max(map(len, sink.batches)) <= 100
    assert sink.delivered == [str(number) for number in range(250)]


def test_retry_skips_handlers_that_already_delivered(any_queue):
    sink = FakeSink(**{"1": [SinkResult(REQUEUE, "b: down", ["b"])] * 2})
    any_queue.put(body("1"), message_id="id-1")
    with running_relay(any_queue, sink) as relay:
        wait_until(lambda: relay.finished == 1)
    assert sink.delivered == ["1"] * 3
    assert sink.pending == {"1": ["b"]}
    assert is_empty(any_queue)
    assert (relay.dead_lettered, relay.reports) == (0, [])


def test_duplicate_message_is_delivered_once(queue):
    sink = FakeSink()
    for uid in "1212":
        queue.put(body(uid), message_id=f"id-{uid}")
    with running_relay(queue, sink) as relay:
        wait_until(lambda: relay.finished == 4)
        queue.put(body("1"), message_id="id-1")
        wait_until(lambda: relay.finished == 5)
    assert sink.delivered == ["1", "2"]
    assert is_empty(queue)


def test_relay_remembers_a_limited_number_of_delivered_messages(stream, monkeypatch):
    monkeypatch.setattr(relay_module, "_MAX_REMEMBERED", 1)
    sink = FakeSink()
    with running_relay(stream, sink) as relay:
        for number, uid in enumerate("1221", 1):
            stream.put(body(uid), message_id=f"id-{uid}")
            wait_until(lambda number=number: relay.finished == number)
    assert sink.delivered == ["1", "2", "1"]


class SinkForRelay:
    """The interface of a relay's sink for a `DirectSink`."""

    def __init__(self, sink):
        self._sink = sink

    def deliver(self, batch, idle):
        return self._sink.deliver(batch)


def test_relay_with_a_direct_sink_delivers_to_handlers(any_queue):
    delivered = []

    class Handler:
        def send_event(self, e):
            delivered.append(e.uid)
            return True

    any_queue.put(body("1"))
    with running_relay(any_queue, SinkForRelay(DirectSink({"a": Handler()}, 30.0, lambda *_: None))) as relay:
        wait_until(lambda: relay.finished == 1)
    assert delivered == ["1"]


# Dead letters


def test_refused_event_is_dead_lettered_and_can_be_relayed_from_there(queue):
    first_result = SinkResult(REQUEUE, "b: down", ["b"], {"c": "unknown recipient"})
    sink = FakeSink(**{"1": [first_result, SinkResult(ACK, pending=[])]})
    queue.put(body("1"))
    with running_relay(queue, sink) as relay:
        wait_until(lambda: relay.dead_lettered == 1)
    assert relay.reports == [f"a message is dead-lettered to {queue.name}.dead: refused for good: c: unknown recipient"]
    assert relay.finished == 1
    assert queue.size() == 0
    with running_relay(queue, sink, queue.name + DEAD_SUFFIX) as relay:
        wait_until(lambda: relay.finished == 1)
    assert sink.pending == {"1": ["c"]}
    assert is_empty(queue)


def test_dead_letter_has_an_unchanged_body_and_a_header_with_the_reason(any_queue):
    content = body("1")
    any_queue.put(content, headers=state_header(pending_handlers=["a"], attempts=5, first_seen=1e9))
    sink = FakeSink(**{"1": SinkResult(DEAD, "it is not\n an e3-event message \ud800" + "é" * 2000)})
    with running_relay(any_queue, sink):
        found, reason, left = get_dead_letter(any_queue)
    assert (found, left) == (content, {**RESET_STATE, "pending_handlers": ["a"]})
    assert reason.startswith("it is not an e3-event message ?éé")
    assert len(reason) <= 1005


def test_event_pending_for_a_handler_that_the_relay_lacks_is_dead_lettered(queue):
    queue.put(body("1"), headers=state_header(pending_handlers=["a", "x"]))
    with running_relay(queue, FakeSink(**{"1": SinkResult(ACK, pending=["x"])})):
        _, reason, left = get_dead_letter(queue)
    assert reason == "it is pending for x, which this relay does not have"
    assert left == {**RESET_STATE, "pending_handlers": ["x"]}


def test_event_is_dead_lettered_after_five_days_by_the_clock_of_the_relay(queue, monkeypatch):
    now = time.time()
    monkeypatch.setattr(relay_module.time, "time", lambda: now)
    monkeypatch.setattr(relay_module, "_MAX_DELAY", 0.05)
    queue.put(body("old"), headers=state_header(first_seen=now - 5 * 86400 - 1, attempts=7000, refused={"b": "no"}))
    queue.put(body("from the future"), headers=state_header(first_seen=now + 1e9))
    sink = FakeSink(old=HANDLER_IS_DOWN, **{"from the future": HANDLER_IS_DOWN})
    with running_relay(queue, sink) as relay:
        content, reason, left = get_dead_letter(queue)
        wait_until(lambda: len(sink.delivered) > 6)
    assert uid_of(content) == "old"
    assert reason == "given up after 7001 attempts: a: down"
    assert left["pending_handlers"] == ["a", "b"]
    assert relay.dead_lettered == 1
    assert json.loads(queue.get()[1][STATE_HEADER])["first_seen"] == now


# Messages that must wait


def test_message_is_delivered_when_it_is_due(rabbit):
    due = time.time() + 0.5
    delivered_at = []
    sink = FakeSink()
    sink.on_delivery = lambda uid: delivered_at.append(time.time())
    rabbit.put(body("1"), headers=state_header(due=due))
    with running_relay(rabbit, sink) as relay:
        wait_until(lambda: relay.finished == 1)
    assert len(delivered_at) == 1
    assert delivered_at[0] >= due


def test_message_that_is_not_due_does_not_delay_later_ones(queue):
    now = time.time()
    not_due = state_header(due=now + 3600, pending_handlers=["a"], attempts=9)
    queue.put(*(body(f"later {number}") for number in range(120)), headers=not_due)
    queue.put(body("now"))
    sink = FakeSink()
    with running_relay(queue, sink) as relay:
        wait_until(lambda: sink.delivered)
        assert sink.delivered == ["now"]
    assert relay.finished == 1
    wait_until(lambda: queue.size() == 120)
    left = [queue.get() for _ in range(120)]
    assert {uid_of(content) for content, _ in left} == {f"later {number}" for number in range(120)}
    for _, headers in left:
        content = json.loads(headers[STATE_HEADER])
        assert (content["pending_handlers"], content["attempts"]) == (["a"], 9)


def test_due_time_far_in_the_future_waits_at_most_a_minute(stream, monkeypatch):
    monkeypatch.setattr(relay_module, "_MAX_DELAY", 0.3)
    stream.put(body("1"), headers=state_header(due=9e10))
    start = time.monotonic()
    with running_relay(stream, FakeSink()) as relay:
        wait_until(lambda: relay.finished == 1)
    assert time.monotonic() - start >= 0.3


# A full disk


def test_message_too_large_for_the_disk_is_retried_while_others_are_delivered(queue):
    sink = FakeSink(big=DISK_IS_FULL)
    queue.put(body("big"), body("1"), body("2"))
    with running_relay(queue, sink) as relay:
        wait_until(lambda: relay.finished == 2)
        assert "big" in sink.delivered
        queue.put(body("3"))
        wait_until(lambda: relay.finished == 3)
        del sink.results["big"]
        wait_until(lambda: relay.finished == 4)
    assert is_empty(queue)
    assert {*relay.reports} <= {"events cannot be stored; receiving is paused: No space left on device"}


def test_message_that_never_fits_on_the_disk_is_dead_lettered(stream, monkeypatch):
    monkeypatch.setattr(relay_module, "MESSAGE_LIFETIME", 0.3)
    stream.put(body("big"), body("1"))
    with running_relay(stream, FakeSink(big=DISK_IS_FULL)) as relay:
        _, reason, left = get_dead_letter(stream)
        wait_until(lambda: relay.finished == 2)
    assert reason.startswith("given up after ")
    assert reason.endswith(" attempts: No space left on device")
    assert left == RESET_STATE


def test_held_message_is_requeued_before_its_lease_expires(queue, monkeypatch):
    monkeypatch.setattr(relay_module, "_MAX_HELD_SECONDS", 0.0)
    sink = FakeSink(big=[DISK_IS_FULL] * 3)
    queue.put(body("big"))
    with running_relay(queue, sink) as relay:
        wait_until(lambda: relay.finished == 1)
    assert sink.delivered == ["big"] * 4
    assert is_empty(queue)


def test_full_disk_pauses_the_relay_and_loses_nothing(queue):
    uids = [str(number) for number in range(130)]
    sink = FakeSink(**dict.fromkeys(uids, DISK_IS_FULL))
    queue.put(*map(body, uids))
    with running_relay(queue, sink) as relay:
        wait_until(lambda: len(sink.batches) > 5)
        assert relay.finished == 0
        sink.results.clear()
        wait_until(lambda: relay.finished == 130)
    assert {*sink.delivered} == {*uids}
    assert is_empty(queue)
    assert relay.reports == ["events cannot be stored; receiving is paused: No space left on device"]


# Stopping


def test_stopped_relay_finishes_its_batch_and_leaves_the_rest(queue):
    started, may_finish = threading.Event(), threading.Event()
    sink = FakeSink()
    sink.on_delivery = lambda uid: (started.set(), may_finish.wait(60))
    queue.put(body("1"), headers=state_header(due=time.time() + 3600))
    queue.put(body("2"))
    with running_relay(queue, sink) as relay:
        assert started.wait(60)
        queue.put(body("3"))
        relay.stop_flag.set()
        may_finish.set()
    assert sink.delivered == ["2"]
    wait_until(lambda: queue.size() == 2)
    assert {uid_of(queue.get()[0]) for _ in range(2)} == {"1", "3"}


def test_relay_stops_while_its_broker_is_unreachable(monkeypatch):
    monkeypatch.setattr(relay_module, "_FIRST_DELAY", 3600.0)
    relay = RelayThread(BrokerURL("amqp://127.0.0.1:1"), "q", FakeSink())
    wait_until(lambda: relay.reports)
    relay.stop()
    assert relay.reports[0].startswith("amqp://127.0.0.1:1 cannot be reached: ")


def test_relay_stops_while_the_disk_is_full(stream, monkeypatch):
    for name in ("_FIRST_DELAY", "_MAX_DELAY"):
        monkeypatch.setattr(relay_module, name, 3600.0)
    stream.put(body("1"))
    with running_relay(stream, FakeSink(**{"1": DISK_IS_FULL})) as relay:
        wait_until(lambda: relay.reports)
    assert stream.size() == 1
