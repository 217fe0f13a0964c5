"""From a broker's queue to a sink: nothing is lost, and no message stops the others."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from event import Event
from event._broker import (
    BrokerError,
    DirectSink,
    Disposition,
    EventMessage,
    Incoming,
    NotAcceptedError,
    Relay,
    RelayState,
    SinkResult,
    TooLargeError,
    decode_message,
    encode_message,
    verdict,
)
from event._broker import (
    redis as redis_adapter,
)
from event._broker import (
    relay as module,
)
from event._broker import (
    sqs as sqs_adapter,
)
from helpers.brokers import DEAD as DEAD_SUFFIX
from helpers.brokers import wait_until

ACK, REQUEUE, DEAD, KEEP = Disposition.ACK, Disposition.REQUEUE, Disposition.DEAD_LETTER, Disposition.KEEP
HEADER, REASON = "e3-event-relay", "e3-event-reason"
NEW = {
    "attempts": 0,
    "crash_count": 0,
    "due": 0.0,
    "first_seen": 0.0,
    "on_trial": False,
    "pending_handlers": None,
    "refused": {},
}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "_FIRST_DELAY", 0.02)
    monkeypatch.setattr(module, "_RECEIVE_TIMEOUT", 0.05)
    monkeypatch.setattr(module, "_MAX_PAUSE", 0.2)
    monkeypatch.setattr(sqs_adapter.SQSConsumer, "poll_interval", 1.0)


class Running:
    """A relay that runs in a thread; `reported` is what it reports."""

    def __init__(self, queue, sink, name=""):
        self.reported = []
        self.relay = Relay(queue.url, name or queue.name, sink, self.reported.append)
        self.flag = threading.Event()
        self.error = None
        self.thread = threading.Thread(target=self._run)

    def _run(self):
        try:
            self.relay.run(self.flag)
        except BaseException as error:
            self.error = error

    @property
    def finished(self):
        return self.relay.counts.finished

    def stop(self):
        self.flag.set()
        self.thread.join(60)
        assert not self.thread.is_alive()
        if self.error:
            raise self.error


class AsSink:
    """Makes a sink of the worker one of the relay."""

    def __init__(self, sink):
        self.sink = sink

    def deliver(self, batch, idle):
        idle()
        return self.sink.deliver(batch)


@contextmanager
def running(queue, sink, name=""):
    made = Running(queue, sink, name)
    made.thread.start()
    try:
        yield made
    finally:
        made.stop()


class Sink:
    """Says of each event, by uid, what is to become of it; of the others that they are delivered.

    :ivar batches: the uids of each batch
    :ivar pending: the pending handlers of each event, by uid
    """

    def __init__(self, **results):
        self.results = {uid: [*these] if isinstance(these, list) else these for uid, these in results.items()}
        self.batches = []
        self.pending = {}
        self.act = lambda uid: None

    def deliver(self, batch, idle):
        assert all(isinstance(incoming, Incoming) for incoming in batch)
        uids = [uid_of(incoming.body) for incoming in batch]
        self.batches.append(uids)
        self.pending.update((uid, incoming.pending) for uid, incoming in zip(uids, batch, strict=True))
        idle()
        return [self._result(uid) for uid in uids]

    def _result(self, uid):
        self.act(uid)
        found = self.results.get(uid, SinkResult(ACK, pending=[]))
        if isinstance(found, list):
            found = found.pop(0) if found else SinkResult(ACK, pending=[])
        return SinkResult(found.disposition, found.reason, found.pending, dict(found.refused), found.crashed)

    @property
    def got(self):
        return [uid for batch in self.batches for uid in batch]


def uid_of(body):
    try:
        return decode_message(body).event.uid
    except ValueError:
        return body.decode("utf-8", "replace")


def body(uid):
    event = Event("build", uid=uid)
    event.close()
    return encode_message(EventMessage(f"id-{uid}".replace(" ", "-"), time.time(), event, {}, {}))


def state(**content):
    return {HEADER: json.dumps(content)}


def dead_letter(queue):
    """Return the body, the reason and the state of the next dead-lettered message."""
    content, headers = wait_until(lambda: queue.get(queue.name + DEAD_SUFFIX))
    return content, headers[REASON], json.loads(headers[HEADER])


def is_empty(queue):
    """Return whether nothing waits; once the relay has ended, that nothing was held either."""
    return queue.size() == 0 and queue.size(queue.name + DEAD_SUFFIX) == 0


LATER = SinkResult(REQUEUE, "a: down", ["a"])
FULL = SinkResult(KEEP, "No space left on device")


# The usual case


def test_delivered_messages_are_acknowledged_in_batches(any_queue):
    sink = Sink()
    any_queue.put(*(body(str(number)) for number in range(30)))
    with running(any_queue, sink) as one:
        wait_until(lambda: one.finished == 30)
    assert sorted(sink.got, key=int) == [str(number) for number in range(30)]
    assert len(sink.batches) <= 20
    assert is_empty(any_queue)
    assert one.reported == []


def test_batch_has_a_hundred_messages_at_most(queue):
    sink = Sink()
    queue.put(*(body(str(number)) for number in range(250)))
    with running(queue, sink) as one:
        wait_until(lambda: one.finished == 250)
    assert max(map(len, sink.batches)) <= 100
    assert sink.got == [str(number) for number in range(250)]


def test_retry_skips_handlers_that_already_delivered(any_queue):
    sink = Sink(**{"1": [SinkResult(REQUEUE, "b: down", ["b"])] * 2})
    any_queue.put(body("1"), message_id="id-1")
    with running(any_queue, sink) as one:
        wait_until(lambda: one.finished == 1)
    assert sink.got == ["1"] * 3
    assert sink.pending == {"1": ["b"]}
    assert is_empty(any_queue)
    assert (one.relay.counts.dead_lettered, one.reported) == (0, [])


def test_refused_event_is_dead_lettered_and_can_be_relayed_from_there(queue):
    sink = Sink(**{"1": [SinkResult(REQUEUE, "b: down", ["b"], {"c": "nobody"}), SinkResult(ACK, pending=[])]})
    queue.put(body("1"))
    with running(queue, sink) as one:
        wait_until(lambda: one.relay.counts.dead_lettered == 1)
    line = f"a message is dead-lettered to {queue.name}.dead: refused for good: c: nobody"
    assert (one.reported, one.finished) == ([line], 1)
    assert queue.size() == 0
    with running(queue, sink, queue.name + DEAD_SUFFIX) as one:
        wait_until(lambda: one.finished == 1)
    assert sink.pending == {"1": ["c"]}
    assert is_empty(queue)


def test_dead_letter_has_the_same_body_and_the_reason_in_a_header(any_queue):
    content = body("1")
    any_queue.put(content, headers=state(pending_handlers=["a"], attempts=5, first_seen=1e9))
    sink = Sink(**{"1": SinkResult(DEAD, "it is not\n an e3-event message \ud800" + "é" * 2000)})
    with running(any_queue, sink):
        found, reason, left = dead_letter(any_queue)
    assert (found, left) == (content, {**NEW, "pending_handlers": ["a"]})
    assert reason.startswith("it is not an e3-event message ?éé")
    assert len(reason) <= 1005


def test_event_stays_pending_for_handlers_of_another_relay(queue):
    queue.put(body("1"), headers=state(pending_handlers=["a", "x"]))
    with running(queue, Sink(**{"1": SinkResult(ACK, pending=["x"])})):
        _, reason, left = dead_letter(queue)
    assert reason == "it is pending for x, which this relay does not have"
    assert left == {**NEW, "pending_handlers": ["x"]}


def test_event_is_dead_lettered_after_five_days_by_the_relay_clock(queue, monkeypatch):
    now = time.time()
    monkeypatch.setattr(module.time, "time", lambda: now)
    monkeypatch.setattr(module, "_MAX_DELAY", 0.05)
    queue.put(body("old"), headers=state(first_seen=now - 5 * 86400 - 1, attempts=7000, refused={"b": "no"}))
    queue.put(body("dated by a clock that was set back"), headers=state(first_seen=now + 1e9))
    sink = Sink(old=LATER, **{"dated by a clock that was set back": LATER})
    with running(queue, sink) as one:
        content, reason, left = dead_letter(queue)
        wait_until(lambda: len(sink.got) > 6)
    assert uid_of(content) == "old"
    assert reason == "given up after 7001 attempts: a: down"
    assert left["pending_handlers"] == ["a", "b"]
    assert one.relay.counts.dead_lettered == 1
    assert json.loads(queue.get()[1][HEADER])["first_seen"] == now


def test_duplicate_message_is_delivered_once(queue):
    sink = Sink()
    for uid in "1212":
        queue.put(body(uid), message_id=f"id-{uid}")
    with running(queue, sink) as one:
        wait_until(lambda: one.finished == 4)
        queue.put(body("1"), message_id="id-1")
        wait_until(lambda: one.finished == 5)
    assert sink.got == ["1", "2"]
    assert is_empty(queue)


def test_relay_remembers_a_limited_number_of_deliveries(stream, monkeypatch):
    monkeypatch.setattr(module, "_MAX_REMEMBERED", 1)
    sink = Sink()
    with running(stream, sink) as one:
        for number, uid in enumerate("1221", 1):
            stream.put(body(uid), message_id=f"id-{uid}")
            wait_until(lambda number=number: one.finished == number)
    assert sink.got == ["1", "2", "1"]


# Nothing stops the others


def test_message_that_is_not_due_does_not_delay_later_ones(queue):
    now = time.time()
    later = state(due=now + 3600, pending_handlers=["a"], attempts=9)
    queue.put(*(body(f"later {number}") for number in range(120)), headers=later)
    queue.put(body("now"))
    sink = Sink()
    with running(queue, sink) as one:
        wait_until(lambda: sink.got)
        assert sink.got == ["now"]
    assert one.finished == 1
    wait_until(lambda: queue.size() == 120)
    left = [queue.get() for _ in range(120)]
    assert {uid_of(content) for content, _ in left} == {f"later {number}" for number in range(120)}
    for _, headers in left:
        content = json.loads(headers[HEADER])
        assert (content["pending_handlers"], content["attempts"]) == (["a"], 9)


def test_due_time_far_in_the_future_waits_at_most_a_minute(stream, monkeypatch):
    monkeypatch.setattr(module, "_MAX_DELAY", 0.3)
    stream.put(body("1"), headers=state(due=9e10))
    start = time.monotonic()
    with running(stream, Sink()) as one:
        wait_until(lambda: one.finished == 1)
    assert time.monotonic() - start >= 0.3


def test_message_too_large_for_the_disk_is_retried_and_others_are_delivered(queue):
    sink = Sink(big=FULL)
    queue.put(body("big"), body("1"), body("2"))
    with running(queue, sink) as one:
        wait_until(lambda: one.finished == 2)
        assert "big" in sink.got
        queue.put(body("3"))
        wait_until(lambda: one.finished == 3)
        del sink.results["big"]
        wait_until(lambda: one.finished == 4)
    assert is_empty(queue)
    assert {*one.reported} <= {"events cannot be stored; receiving is paused: No space left on device"}


def test_message_that_never_fits_on_the_disk_is_dead_lettered(stream, monkeypatch):
    monkeypatch.setattr(module, "MESSAGE_LIFETIME", 0.3)
    stream.put(body("big"), body("1"))
    with running(stream, Sink(big=FULL)) as one:
        _, reason, left = dead_letter(stream)
        wait_until(lambda: one.finished == 2)
    assert reason.startswith("given up after ")
    assert reason.endswith(" attempts: No space left on device")
    assert left == NEW


def test_held_message_is_requeued_before_its_lease_expires(queue, monkeypatch):
    monkeypatch.setattr(module, "_MAX_HELD_SECONDS", 0.0)
    sink = Sink(big=[FULL] * 3)
    queue.put(body("big"))
    with running(queue, sink) as one:
        wait_until(lambda: one.finished == 1)
    assert sink.got == ["big"] * 4
    assert is_empty(queue)


def test_full_disk_pauses_the_relay_and_loses_nothing(queue):
    uids = [str(number) for number in range(130)]
    sink = Sink(**dict.fromkeys(uids, FULL))
    queue.put(*map(body, uids))
    with running(queue, sink) as one:
        wait_until(lambda: len(sink.batches) > 5)
        assert one.finished == 0
        sink.results.clear()
        wait_until(lambda: one.finished == 130)
    assert {*sink.got} == {*uids}
    assert is_empty(queue)
    assert one.reported == ["events cannot be stored; receiving is paused: No space left on device"]


# Crashes

CRASHING = """
import os, sys, threading
from event._broker import BrokerURL, DirectSink, Relay, redis, relay, verdict

redis.MESSAGE_LEASE = 1.0
redis._CLAIM_PAUSE = 0.05
verdict.MAX_CRASHES = 6
relay._FIRST_DELAY = 0.1
url, queue, path = sys.argv[1:]


class Handler:
    def send_event(self, e):
        if e.uid == "killer":
            os._exit(7)
        with open(path, "a") as file:
            file.write(e.uid + "\\n")
        return True


class Sink:
    direct = DirectSink({"a": Handler()}, 30.0, lambda message, delivery: None)

    def deliver(self, batch, idle):
        return self.direct.deliver(batch)


Relay(BrokerURL(url), queue, Sink(), print).run(threading.Event())
"""


def test_message_is_dead_lettered_after_eight_relay_crashes(queue, tmp_path):
    queue.put(body("1"), body("killer"), body("2"), body("3"))
    path = tmp_path / "got"
    crashes = 0

    def is_done():
        got = {*path.read_text().split()} if path.exists() else set()
        return got == {"1", "2", "3"} and queue.size(queue.name + DEAD_SUFFIX) == 1

    while True:
        with subprocess.Popen([sys.executable, "-c", CRASHING, queue.server.url, queue.name, str(path)]) as relay:
            try:
                wait_until(lambda: relay.poll() is not None or is_done(), 60)
                if relay.poll() is None:
                    break
            finally:
                relay.kill()
        assert relay.returncode == 7
        crashes += 1
        assert crashes < 10
    content, reason, left = dead_letter(queue)
    assert uid_of(content) == "killer"
    assert (reason, left) == ("6 relays or workers crashed while they processed it", NEW)
    assert crashes == 6


def test_message_is_dead_lettered_after_eight_crashes_of_its_worker(stream):
    crash = SinkResult(REQUEUE, "its process ended with SIGSEGV", crashed=True)
    sink = Sink(killer=crash)
    stream.put(body("killer"), body("1"))
    with running(stream, sink):
        _, reason, left = dead_letter(stream)
    assert (reason, left) == ("8 relays or workers crashed while they processed it", NEW)
    assert sink.got.count("killer") == 8
    alone = [batch for batch in sink.batches if "killer" in batch][2:]
    assert alone == [["killer"]] * 6, "after two crashes it is tried alone"


@pytest.mark.parametrize(("crashes", "on_trial"), [(7, False), (8, True), (8, False)])
def test_suspect_message_is_tried_until_eight_crashes(rabbit, crashes, on_trial):
    left = {"pending_handlers": ["a"], "refused": {"c": "no"}}
    rabbit.put(body("1"), headers=state(crash_count=crashes, on_trial=on_trial, **left))
    sink = Sink()
    with running(rabbit, sink) as one:
        wait_until(lambda: one.finished == 1)
    is_tried = crashes == 7 or on_trial
    assert sink.got == ["1"] * is_tried
    reason = rabbit.get(rabbit.name + DEAD_SUFFIX)[1][REASON]
    assert reason.startswith("refused" if is_tried else "8 relays")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param({}, {"crash_count": 1, "on_trial": False}, id="first"),
        pytest.param({"crash_count": 7, "on_trial": True}, {"crash_count": 7, "on_trial": False}, id="trial"),
    ],
)
def test_crash_count_is_in_the_message_if_the_broker_does_not_count(rabbit, monkeypatch, content, expected):
    monkeypatch.setattr(module, "_FIRST_DELAY", 3600.0)
    monkeypatch.setattr(module, "_MAX_DELAY", 3600.0)
    rabbit.make({"x-queue-type": "classic"})
    rabbit.put(body("1"), headers=state(**content))
    with rabbit.channel() as channel:
        channel.basic_get(rabbit.name)  # it comes again
    with running(rabbit, Sink()) as one:
        wait_until(lambda: one.relay._held)
    found = json.loads(wait_until(lambda: rabbit.get())[1][HEADER])
    assert {name: found[name] for name in expected} == expected


def test_suspect_messages_are_tried_after_the_others(stream, monkeypatch):
    """Two that are tried by turns; one that is no suspect is not held up."""
    sink = Sink()
    stream.put(body("1"), body("2"), headers=state(crash_count=2))
    stream.put(body("3"))
    with running(stream, sink) as one:
        wait_until(lambda: one.finished == 3)
    assert sink.batches[0] == ["3"]
    assert sorted(map(tuple, sink.batches[1:])) == [("1",), ("2",)]


def test_suspect_messages_after_two_crashes_are_requeued_once_each(stream):
    sink = Sink()
    stream.put(*(body(str(number)) for number in range(100)), headers=state(crash_count=2))
    with running(stream, sink) as one:
        wait_until(lambda: one.finished == 100)
    assert all(len(batch) == 1 for batch in sink.batches)
    assert stream.client.xinfo_stream(stream.name)["entries-added"] == 200


@pytest.mark.parametrize(("crashes", "limit"), [(2, 100), (3, 10), (4, 1), (7, 1)])
def test_fewer_suspect_messages_are_on_trial_the_more_crashes_they_have(crashes, limit):
    assert verdict.trial_limit(crashes) == limit


def test_crash_count_is_reset_after_a_finished_attempt(stream, monkeypatch):
    monkeypatch.setattr(module, "_FIRST_DELAY", 60.0)
    stream.put(body("1"), headers=state(crash_count=7, on_trial=True))
    sink = Sink(**{"1": LATER})
    with running(stream, sink):
        wait_until(lambda: sink.got)
        content = wait_until(lambda: stream.client.xrevrange(stream.name, count=1)[0][1].get(HEADER.encode()))
        wait_until(lambda: b'"attempts": 1' in stream.client.xrevrange(stream.name, count=1)[0][1][HEADER.encode()])
    assert content
    assert RelayState.from_headers(stream.get()[1]).crash_count == 0


# Publishing fails


class FailingConsumer:
    """A consumer that cannot publish for a while."""

    def __init__(self, consumer, errors, only_dead):
        self._consumer = consumer
        self._errors = errors
        self._only_dead = only_dead

    def __getattr__(self, name):
        return getattr(self._consumer, name)

    def dead_letter(self, *args):
        if self._errors:
            raise self._errors.pop(0)
        self._consumer.dead_letter(*args)

    def requeue(self, *args):
        if self._errors and not self._only_dead:
            raise self._errors.pop(0)
        self._consumer.requeue(*args)


@pytest.fixture
def fail(monkeypatch):
    """Return a function that has publishing fail, with one error after the other."""
    connect = module.connect_consumer

    def prepare(*errors, only_dead=False):
        errors = [*errors]
        monkeypatch.setattr(
            module,
            "connect_consumer",
            lambda *args, **more: FailingConsumer(connect(*args, **more), errors, only_dead),
        )
        return errors

    return prepare


@pytest.mark.parametrize("error", [NotAcceptedError("blocked"), TooLargeError("PRECONDITION_FAILED: size")])
def test_message_that_cannot_be_requeued_is_held(queue, fail, error):
    errors = fail(*[error] * 3)
    sink = Sink(**{"1": [LATER]})
    queue.put(body("1"))
    with running(queue, sink) as one:
        wait_until(lambda: one.finished == 1)
    assert (sink.got, errors) == (["1", "1"], [])
    assert is_empty(queue)
    assert one.reported == [f"a message cannot be put into {queue.name}, and is kept for now: {error}"]


def test_message_that_cannot_be_dead_lettered_is_held_and_others_delivered(queue, fail):
    errors = fail(*[NotAcceptedError("full")] * 4)
    queue.put(b"bad", body("1"))
    sink = Sink(bad=SinkResult(DEAD, "no"))
    with running(queue, sink) as one:
        wait_until(lambda: one.finished == 2)
        assert dead_letter(queue)[0] == b"bad"
    assert sink.got.count("bad") == 1
    assert errors == []
    assert one.reported[0] == f"a message cannot be put into {queue.name}.dead, and is kept for now: full"


def test_many_held_dead_letters_leave_room_for_others(queue, fail):
    fail(*[NotAcceptedError("full")] * 100_000, only_dead=True)
    queue.put(*[b"bad"] * 120, body("1"))
    sink = Sink(bad=SinkResult(DEAD, "no"))
    with running(queue, sink) as one:
        wait_until(lambda: "1" in sink.got)
        assert one.relay.counts.dead_lettered == 0
    wait_until(lambda: queue.size() == 120)


def test_message_that_is_not_due_is_held_if_it_cannot_be_requeued(stream, fail, monkeypatch):
    monkeypatch.setattr(module, "_MAX_HELD", 0)
    errors = fail(NotAcceptedError("full"))
    stream.put(body("1"), headers=state(due=time.time() + 3600))
    with running(stream, Sink()):
        wait_until(lambda: not errors)
    assert stream.size() == 1


# The broker, and the end


# The short run restarts RabbitMQ in tests/cli/test_relay.py and in tests/test_relay_crash.py.
@pytest.mark.parametrize(
    "queue",
    [pytest.param("stream", id="redis"), pytest.param("rabbit", id="rabbitmq", marks=pytest.mark.long)],
    indirect=True,
)
def test_relay_reconnects_to_a_broker_that_died_during_a_delivery(queue, monkeypatch):
    monkeypatch.setattr(redis_adapter, "MESSAGE_LEASE", 0.5)
    monkeypatch.setattr(redis_adapter, "_CLAIM_PAUSE", 0.05)
    going, go = threading.Event(), threading.Event()
    sink = Sink()
    sink.act = lambda uid: (going.set(), go.wait(60)) if uid == "1" else None
    queue.put(body("1"), message_id="id-1")
    queue.server.stop()  # RabbitMQ that is killed may forget a queue that it was just asked to make
    with running(queue, sink) as one:
        wait_until(lambda: one.reported)
        queue.server.start()
        assert going.wait(60)
        queue.server.kill()
        go.set()
        wait_until(lambda: any("is lost" in text for text in one.reported))
        queue.server.start()
        wait_until(lambda: one.finished == 1)
        queue.put(body("2"))
        wait_until(lambda: "2" in sink.got)
    assert sink.got == ["1", "2"], "it came again, and the relay knew its id"
    assert queue.get(queue.name + DEAD_SUFFIX) is None
    shown = queue.url.shown
    assert one.reported[0].startswith(f"{shown} cannot be reached: ")
    assert f"{shown} is reachable again" in one.reported
    assert queue.server.password not in str(one.reported)


def test_held_messages_are_received_again_after_a_lost_connection(rabbit):
    sink = Sink()
    rabbit.put(body("1"), headers=state(due=time.time() + 0.5))
    with running(rabbit, sink) as one:
        wait_until(lambda: one.finished == 1)
    assert sink.got == ["1"]


def test_stopped_relay_finishes_its_batch_and_leaves_the_rest(queue):
    going, go = threading.Event(), threading.Event()
    sink = Sink()
    sink.act = lambda uid: (going.set(), go.wait(60))
    queue.put(body("1"), headers=state(due=time.time() + 3600))
    queue.put(body("2"))
    one = Running(queue, sink)
    one.thread.start()
    assert going.wait(60)
    queue.put(body("3"))
    one.flag.set()
    go.set()
    one.stop()
    assert sink.got == ["2"]
    wait_until(lambda: queue.size() == 2)
    assert {uid_of(queue.get()[0]) for _ in range(2)} == {"1", "3"}


def test_relay_stops_while_its_broker_is_unreachable(monkeypatch):
    from event._broker import BrokerURL

    class Away:
        url = BrokerURL("amqp://127.0.0.1:1")
        name = "q"

    monkeypatch.setattr(module, "_FIRST_DELAY", 3600.0)
    with running(Away, Sink()) as one:
        wait_until(lambda: one.reported)
    assert one.reported[0].startswith("amqp://127.0.0.1:1 cannot be reached: ")


def test_relay_stops_while_the_disk_is_full(stream, monkeypatch):
    for name in ("_FIRST_DELAY", "_MAX_DELAY"):
        monkeypatch.setattr(module, name, 3600.0)
    stream.put(body("1"))
    with running(stream, Sink(**{"1": FULL})) as one:
        wait_until(lambda: one.reported)
    assert stream.size() == 1


def test_connection_lost_during_a_delivery_is_noticed_afterwards(stream, monkeypatch):
    def lose(self):
        raise BrokerError("lost")

    monkeypatch.setattr(redis_adapter.RedisConsumer, "keep_alive", lose)
    stream.put(body("1"))
    with running(stream, Sink()) as one:
        wait_until(lambda: one.finished == 1)


def test_same_problem_is_reported_again_after_an_hour(monkeypatch):
    reported = []
    reporter = module._Reporter(reported.append)
    now = time.monotonic()
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    for text in ("down", "full", "down"):
        reporter(text)
    assert reported == ["down", "full"]
    now += 3601
    reporter("down")
    assert reported == ["down", "full", "down"]


def test_delay_doubles_up_to_a_minute_and_varies(monkeypatch):
    monkeypatch.setattr(module, "_FIRST_DELAY", 1.0)
    for failures, longest in [(-1, 1), (0, 1), (1, 2), (5, 32), (6, 60), (10**9, 60)]:
        delays = [module._delay(failures) for _ in range(50)]
        assert all(0.75 * longest <= delay <= 1.25 * longest for delay in delays)
        assert len(set(delays)) > 1


def test_relay_without_an_outbox_delivers_complete_events(any_queue):
    got = []

    class Handler:
        def send_event(self, e):
            got.append(e.uid)
            return True

    any_queue.put(body("1"))
    with running(any_queue, AsSink(DirectSink({"a": Handler()}, 30.0, lambda *_: None))) as one:
        wait_until(lambda: one.finished == 1)
    assert got == ["1"]
