"""Messages that crash relays or workers: they are delivered alone, and at last dead-lettered."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from event._broker import REASON_HEADER, RelayState, SinkResult, verdict
from event._broker import (
    relay as relay_module,
)
from helpers.brokers import DEAD_SUFFIX
from helpers.relays import (
    HANDLER_IS_DOWN,
    REQUEUE,
    RESET_STATE,
    STATE_HEADER,
    FakeSink,
    body,
    get_dead_letter,
    running_relay,
    state_header,
    uid_of,
)
from helpers.waiting import wait_until

pytestmark = pytest.mark.usefixtures("short_delays")

CRASHING = """
import os, sys, threading
from event._broker import BrokerURL, DirectSink, Relay, redis, relay, verdict

redis.MESSAGE_LEASE = 1.0
redis._CLAIM_PAUSE = 0.05
verdict.MAX_CRASHES = 6  # instead of 8, to save time
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
    path = tmp_path / "delivered"
    crashes = 0

    def is_done():
        delivered = {*path.read_text().split()} if path.exists() else set()
        return delivered == {"1", "2", "3"} and queue.size(queue.name + DEAD_SUFFIX) == 1

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
    content, reason, left = get_dead_letter(queue)
    assert uid_of(content) == "killer"
    assert (reason, left) == ("6 relays or workers crashed while they processed it", RESET_STATE)
    assert crashes == 6


def test_message_is_dead_lettered_after_eight_worker_crashes(stream):
    crash = SinkResult(REQUEUE, "its process ended with SIGSEGV", crashed=True)
    sink = FakeSink(killer=crash)
    stream.put(body("killer"), body("1"))
    with running_relay(stream, sink):
        _, reason, left = get_dead_letter(stream)
    assert (reason, left) == ("8 relays or workers crashed while they processed it", RESET_STATE)
    assert sink.delivered.count("killer") == 8
    batches_after_two_crashes = [batch for batch in sink.batches if "killer" in batch][2:]
    assert batches_after_two_crashes == [["killer"]] * 6


@pytest.mark.parametrize(("crashes", "on_trial"), [(7, False), (8, True), (8, False)])
def test_suspect_message_is_delivered_if_its_eighth_crash_was_counted_in_advance(rabbit, crashes, on_trial):
    left = {"pending_handlers": ["a"], "refused": {"c": "no"}}
    rabbit.put(body("1"), headers=state_header(crash_count=crashes, on_trial=on_trial, **left))
    sink = FakeSink()
    with running_relay(rabbit, sink) as relay:
        wait_until(lambda: relay.finished == 1)
    is_delivered = crashes == 7 or on_trial
    assert sink.delivered == ["1"] * is_delivered
    reason = rabbit.get(rabbit.name + DEAD_SUFFIX)[1][REASON_HEADER]
    assert reason.startswith("refused" if is_delivered else "8 relays")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param({}, {"crash_count": 1, "on_trial": False}, id="first"),
        pytest.param({"crash_count": 7, "on_trial": True}, {"crash_count": 7, "on_trial": False}, id="trial"),
    ],
)
def test_relay_counts_crashes_in_the_message_if_the_broker_does_not(rabbit, monkeypatch, content, expected):
    monkeypatch.setattr(relay_module, "_FIRST_DELAY", 3600.0)
    monkeypatch.setattr(relay_module, "_MAX_DELAY", 3600.0)
    rabbit.declare({"x-queue-type": "classic"})
    rabbit.put(body("1"), headers=state_header(**content))
    rabbit.put(body("2"))
    with rabbit.channel() as channel:
        channel.basic_get(rabbit.name)  # without an acknowledgement: RabbitMQ redelivers the message
    with running_relay(rabbit, FakeSink()) as relay:
        wait_until(lambda: relay.finished == 1)  # the second message; the relay has requeued the first one before
    requeued = json.loads(wait_until(rabbit.get)[1][STATE_HEADER])
    assert {name: requeued[name] for name in expected} == expected


def test_suspect_messages_are_delivered_alone_after_the_others(stream):
    sink = FakeSink()
    stream.put(body("1"), body("2"), headers=state_header(crash_count=2))
    stream.put(body("3"))
    with running_relay(stream, sink) as relay:
        wait_until(lambda: relay.finished == 3)
    assert sink.batches[0] == ["3"]
    assert sorted(map(tuple, sink.batches[1:])) == [("1",), ("2",)]


def test_each_suspect_message_is_requeued_once_and_delivered_alone(stream):
    sink = FakeSink()
    stream.put(*(body(str(number)) for number in range(100)), headers=state_header(crash_count=2))
    with running_relay(stream, sink) as relay:
        wait_until(lambda: relay.finished == 100)
    assert all(len(batch) == 1 for batch in sink.batches)
    assert stream.client.xinfo_stream(stream.name)["entries-added"] == 200


@pytest.mark.parametrize(("crashes", "limit"), [(2, 100), (3, 10), (4, 1), (7, 1)])
def test_fewer_messages_are_on_trial_together_after_more_crashes(crashes, limit):
    assert verdict.trial_limit(crashes) == limit


def test_crash_count_is_reset_after_a_finished_attempt(stream, monkeypatch):
    monkeypatch.setattr(relay_module, "_FIRST_DELAY", 60.0)
    stream.put(body("1"), headers=state_header(crash_count=7, on_trial=True))

    def newest_state():
        ((_, fields),) = stream.client.xrevrange(stream.name, count=1)
        return fields[STATE_HEADER.encode()]

    with running_relay(stream, FakeSink(**{"1": HANDLER_IS_DOWN})):
        wait_until(lambda: b'"attempts": 1' in newest_state())
    assert RelayState.from_headers(stream.get()[1]).crash_count == 0
