"""A relay whose broker fails: it holds the messages, connects again, and reports each problem once an hour."""

from __future__ import annotations

import threading
import time
from functools import partial

import pytest

from event._backoff import backoff
from event._broker import BrokerError, BrokerURL, NotAcceptedError, Relay, SinkResult, TooLargeError
from event._broker import (
    redis as redis_adapter,
)
from event._broker import (
    relay as relay_module,
)
from helpers.brokers import DEAD_SUFFIX
from helpers.relays import DEAD, HANDLER_IS_DOWN, FakeSink, body, get_dead_letter, is_empty, running_relay, state_header
from helpers.waiting import wait_until

pytestmark = pytest.mark.usefixtures("short_delays")


# Messages that cannot be requeued or dead-lettered


class FailingConsumer:
    """A consumer whose `dead_letter`, and unless `only_dead` also `requeue`, fails once with each of some errors."""

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
def use_failing_consumer(monkeypatch):
    """Return a function that lets relays use a `FailingConsumer`, and returns its list of remaining errors."""
    connect = relay_module.connect_consumer

    def prepare(*errors, only_dead=False):
        errors = [*errors]
        monkeypatch.setattr(
            relay_module,
            "connect_consumer",
            lambda *args, **more: FailingConsumer(connect(*args, **more), errors, only_dead),
        )
        return errors

    return prepare


@pytest.mark.parametrize("error", [NotAcceptedError("blocked"), TooLargeError("PRECONDITION_FAILED: size")])
def test_message_that_cannot_be_requeued_is_held(queue, use_failing_consumer, error):
    errors = use_failing_consumer(*[error] * 3)
    sink = FakeSink(**{"1": [HANDLER_IS_DOWN]})
    queue.put(body("1"))
    with running_relay(queue, sink) as relay:
        wait_until(lambda: relay.finished == 1)
    assert (sink.delivered, errors) == (["1", "1"], [])
    assert is_empty(queue)
    assert relay.reports == [f"a message cannot be put into {queue.name}, and is kept for now: {error}"]


def test_message_that_cannot_be_dead_lettered_is_held_while_others_are_delivered(queue, use_failing_consumer):
    errors = use_failing_consumer(*[NotAcceptedError("full")] * 4)
    queue.put(b"bad", body("1"))
    sink = FakeSink(bad=SinkResult(DEAD, "no"))
    with running_relay(queue, sink) as relay:
        wait_until(lambda: relay.finished == 2)
        assert get_dead_letter(queue)[0] == b"bad"
    assert sink.delivered.count("bad") == 1
    assert errors == []
    assert relay.reports[0] == f"a message cannot be put into {queue.name}.dead, and is kept for now: full"


def test_many_messages_that_cannot_be_dead_lettered_do_not_block_others(queue, use_failing_consumer):
    use_failing_consumer(*[NotAcceptedError("full")] * 100_000, only_dead=True)
    queue.put(*[b"bad"] * 120, body("1"))
    sink = FakeSink(bad=SinkResult(DEAD, "no"))
    with running_relay(queue, sink) as relay:
        wait_until(lambda: "1" in sink.delivered)
        assert relay.dead_lettered == 0
    wait_until(lambda: queue.size() == 120)


def test_message_that_is_not_due_is_held_if_it_cannot_be_requeued(stream, use_failing_consumer, monkeypatch):
    monkeypatch.setattr(relay_module, "_MAX_HELD", 0)
    errors = use_failing_consumer(NotAcceptedError("full"))
    stream.put(body("1"), headers=state_header(due=time.time() + 3600))
    with running_relay(stream, FakeSink()):
        wait_until(lambda: not errors)
    assert stream.size() == 1


# Lost connections


# The short run restarts RabbitMQ in tests/cli/test_relay.py and in tests/test_relay_crash.py.
@pytest.mark.parametrize(
    "queue",
    [pytest.param("stream", id="redis"), pytest.param("rabbit", id="rabbitmq", marks=pytest.mark.long)],
    indirect=True,
)
def test_relay_reconnects_to_a_broker_that_died_during_a_delivery(queue, monkeypatch):
    monkeypatch.setattr(redis_adapter, "MESSAGE_LEASE", 0.5)
    monkeypatch.setattr(redis_adapter, "_CLAIM_PAUSE", 0.05)
    started, may_finish = threading.Event(), threading.Event()
    sink = FakeSink()
    sink.on_delivery = lambda uid: (started.set(), may_finish.wait(60)) if uid == "1" else None
    queue.put(body("1"), message_id="id-1")
    queue.server.stop()  # if RabbitMQ is killed, it may lose a queue that was just created
    with running_relay(queue, sink) as relay:
        wait_until(lambda: relay.reports)
        queue.server.start()
        assert started.wait(60)
        queue.server.kill()
        may_finish.set()
        wait_until(lambda: any("is lost" in text for text in relay.reports))
        queue.server.start()
        wait_until(lambda: relay.finished == 1)
        queue.put(body("2"))
        wait_until(lambda: "2" in sink.delivered)
    assert sink.delivered == ["1", "2"]  # "1" was redelivered, but the relay remembered its id
    assert queue.get(queue.name + DEAD_SUFFIX) is None
    shown = queue.url.shown
    assert relay.reports[0].startswith(f"{shown} cannot be reached: ")
    assert f"{shown} is reachable again" in relay.reports
    assert queue.server.password not in str(relay.reports)


def test_delivery_is_completed_although_keep_alive_fails(stream, monkeypatch):
    def lose(self):
        raise BrokerError("lost")

    monkeypatch.setattr(redis_adapter.RedisConsumer, "keep_alive", lose)
    stream.put(body("1"))
    with running_relay(stream, FakeSink()) as relay:
        wait_until(lambda: relay.finished == 1)


class FakeStopFlag:
    """A flag that is set after a number of waits, and does not wait.

    :ivar waits: the seconds of each wait
    """

    def __init__(self, count, after_wait=lambda: None):
        self.waits = []
        self._count = count
        self._after_wait = after_wait

    def is_set(self):
        return len(self.waits) == self._count

    def wait(self, timeout):
        self.waits.append(timeout)
        self._after_wait()


@pytest.fixture
def refuse_connections(monkeypatch):
    """Return a function that lets each attempt to connect fail with the next of some errors."""

    def prepare(*errors):
        remaining = iter(errors)

        def refuse(*_args, **_options):
            raise BrokerError(next(remaining))

        monkeypatch.setattr(relay_module, "connect_consumer", refuse)

    return prepare


def test_same_problem_is_reported_again_after_an_hour(monkeypatch, refuse_connections):
    now = 0.0

    def pass_twenty_minutes():
        nonlocal now
        now += 1200.0

    refuse_connections("down", "full", "down", "down", "down")
    monkeypatch.setattr(relay_module.time, "monotonic", lambda: now)
    reports = []
    relay = Relay(BrokerURL("amqp://h"), "q", FakeSink(), reports.append)
    relay.run(FakeStopFlag(5, pass_twenty_minutes))
    assert [report.rpartition(" ")[2] for report in reports] == ["down", "full", "down"]


def test_delay_between_attempts_to_connect_doubles_up_to_a_minute(monkeypatch, refuse_connections):
    refuse_connections(*["down"] * 8)
    monkeypatch.setattr(relay_module, "_FIRST_DELAY", 1.0)
    monkeypatch.setattr(relay_module, "backoff", partial(backoff, chance=0.5))
    stop = FakeStopFlag(8)
    Relay(BrokerURL("amqp://h"), "q", FakeSink(), lambda _text: None).run(stop)
    assert stop.waits == [1, 2, 4, 8, 16, 32, 60, 60]
