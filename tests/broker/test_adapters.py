"""The port's contract, kept by each adapter against a real server; what each engine does by itself."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from urllib.parse import quote

import pytest

from event._broker import (
    BrokerError,
    BrokerURL,
    NotAcceptedError,
    OutgoingMessage,
    RefusedError,
    TooLargeError,
    connect_consumer,
    connect_publisher,
)
from event._broker import (
    queue as port,
)
from event._broker import (
    redis as redis_adapter,
)
from event._broker import (
    sqs as sqs_adapter,
)
from helpers.brokers import DEAD, wait_until


@contextlib.contextmanager
def consumer_of(queue, **options):
    consumer = connect_consumer(queue.url, queue.name, **options)
    try:
        yield consumer
    finally:
        consumer.close()


def receive(consumer, count=1):
    """Receive so many messages, however they come."""
    received = []
    end = time.monotonic() + 30
    while len(received) < count:
        received += consumer.receive(count - len(received), 1.0)
        assert time.monotonic() < end, f"only {received}"
    return received


def acknowledge_until_lost(consumer, messages):
    """Acknowledge, and go on until AMQP's socket has noticed what becomes of it."""
    consumer.acknowledge(messages)
    wait_until(consumer.keep_alive)


def bodies(messages):
    return sorted(message.body for message in messages)


# Publishing


def test_published_message_is_received_as_it_was(any_queue):
    publisher = connect_publisher(any_queue.url, 0, 10.0)
    publisher.publish(any_queue.name, OutgoingMessage(b'{"a": 1}', "id-1", {"x": "y"}), 10.0)
    publisher.publish(any_queue.name, OutgoingMessage(b"2"), 10.0)
    publisher.close(1.0)
    with consumer_of(any_queue) as consumer:
        one, two = sorted(receive(consumer, 2), key=lambda message: message.body == b"2")
        assert (one.body, one.id, one.headers["x"], one.redelivered) == (b'{"a": 1}', "id-1", "y", 0)
        assert (two.body, two.id) == (b"2", "")
        consumer.acknowledge([one, two])


def test_publishing_declares_queue_and_dead_letter_queue(any_queue):
    publisher = connect_publisher(any_queue.url, 0, 10.0)
    publisher.publish(any_queue.name, OutgoingMessage(b"1"), 10.0)
    publisher.close(1.0)
    assert any_queue.exists()
    assert any_queue.kind == "redis" or any_queue.exists(any_queue.name + DEAD)


def test_removed_queue_is_created_again(any_queue):
    publisher = connect_publisher(any_queue.url, 0, 10.0)
    publisher.publish(any_queue.name, OutgoingMessage(b"1"), 10.0)
    any_queue.delete()
    with contextlib.suppress(BrokerError):  # of RabbitMQ and SQS, which the pool repeats
        publisher.publish(any_queue.name, OutgoingMessage(b"2"), 10.0)
    publisher.publish(any_queue.name, OutgoingMessage(b"3"), 10.0)
    assert any_queue.size() > 0
    publisher.close(1.0)


# Receiving


def test_acknowledged_message_is_removed(any_queue):
    any_queue.put(b"1", b"2", b"3")
    with consumer_of(any_queue) as consumer:
        received = receive(consumer, 3)
        assert bodies(received) == [b"1", b"2", b"3"]
        consumer.acknowledge(received)
    assert any_queue.size() == 0


@pytest.mark.parametrize("acknowledged", [[0, 1], [1, 2], [1], [2, 0]])
def test_only_acknowledged_messages_are_removed(any_queue, acknowledged):
    any_queue.put(b"0", b"1", b"2")
    with consumer_of(any_queue) as consumer:
        received = sorted(receive(consumer, 3), key=lambda message: message.body)
        consumer.acknowledge([received[number] for number in acknowledged])
    left = {b"0", b"1", b"2"} - {b"%d" % number for number in acknowledged}
    wait_until(lambda: any_queue.size() == len(left))
    assert {any_queue.get()[0] for _ in left} == left


def test_batch_has_at_most_the_requested_size(any_queue):
    any_queue.put(*(b"%d" % number for number in range(25)))
    with consumer_of(any_queue) as consumer:
        first = consumer.receive(12, 5.0)
        assert 0 < len(first) <= 12
        rest = receive(consumer, 25 - len(first))
        assert len({*bodies(first), *bodies(rest)}) == 25


def test_receive_from_an_empty_queue_ends_at_its_timeout(any_queue):
    with consumer_of(any_queue) as consumer:
        assert consumer.receive(10, 0.0) == []
        assert consumer.receive(10, 0.1) == []


def test_missing_queue_is_created(any_queue):
    with consumer_of(any_queue) as consumer:
        any_queue.put(b"1")
        assert bodies(receive(consumer)) == [b"1"]


def test_close_requeues_unacknowledged_messages(any_queue):
    any_queue.put(b"1", b"2")
    with consumer_of(any_queue) as consumer:
        first = receive(consumer, 2)
        consumer.acknowledge([message for message in first if message.body == b"1"])
    with consumer_of(any_queue) as consumer:
        (again,) = receive(consumer)
        assert again.body == b"2"
        assert again.redelivered <= 1, "a relay that ends is no crash"
        consumer.acknowledge([again])


def test_requeued_message_is_redelivered_with_its_new_headers(any_queue):
    any_queue.put(b"1", headers={"old": "x"}, message_id="id-1")
    with consumer_of(any_queue) as consumer:
        (message,) = receive(consumer)
        consumer.requeue(message, {"new": "y"})
        (again,) = receive(consumer)
        assert (again.body, again.id, again.redelivered) == (b"1", "id-1", 0)
        assert again.headers["new"] == "y"
        assert "old" not in again.headers
        consumer.acknowledge([again])
    assert any_queue.size() == 0


def test_dead_letter_is_only_in_the_dead_letter_queue(any_queue):
    any_queue.put(b"1")
    with consumer_of(any_queue) as consumer:
        (message,) = receive(consumer)
        consumer.dead_letter(message, {"reason": "z"})
    assert any_queue.size() == 0
    body, headers = any_queue.get(any_queue.name + DEAD)
    assert (body, headers["reason"]) == (b"1", "z")


def test_any_bytes_are_received_unchanged(queue):
    for body in (b"", b"\x1f\x8b\x08\0\xff", bytes(range(256))):
        queue.put(body)
        with consumer_of(queue) as consumer:
            (message,) = receive(consumer)
            assert message.body == body
            consumer.acknowledge([message])


# Crashes

CONSUME = """
import sys, time
from event._broker import BrokerURL, connect_consumer
consumer = connect_consumer(BrokerURL(sys.argv[1]), sys.argv[2])
received = []
while len(received) < int(sys.argv[3]):
    received += consumer.receive(10, 1.0)
print("received", flush=True)
time.sleep(60)
"""


def crash(queue, count):
    """Kill a process that has received some messages."""
    url = queue.server.url if queue.kind != "sqs" else "sqs://us-east-1"
    command = [sys.executable, "-c", CONSUME, url, queue.name, str(count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "received\n"
        process.send_signal(signal.SIGKILL)


@pytest.fixture
def short_lease(monkeypatch):
    """Let a lease end soon; the process that is killed has the usual one, of which Redis asks nothing."""
    monkeypatch.setattr(redis_adapter, "MESSAGE_LEASE", 0.2)
    monkeypatch.setattr(redis_adapter, "_CLAIM_PAUSE", 0.05)


@pytest.mark.usefixtures("short_lease")
def test_broker_counts_redeliveries_after_crashes(queue):
    queue.put(b"1", b"2")
    for number in (1, 2):
        crash(queue, 2)
        if queue.kind == "redis":
            time.sleep(0.3)  # the lease
        with consumer_of(queue) as consumer:
            again = receive(consumer, 2)
            assert bodies(again) == [b"1", b"2"]
            assert {message.redelivered for message in again} == {2 * number - 1} or queue.kind == "redis"
            assert all(message.counted for message in again)


def test_sqs_counts_receipts(sqs, monkeypatch):
    monkeypatch.setattr(sqs_adapter, "_VISIBILITY", 0)
    sqs.put(b"1")
    with consumer_of(sqs) as consumer:
        assert [receive(consumer)[0].redelivered for _ in range(3)] == [0, 1, 2]


def test_classic_queue_only_reports_that_a_message_was_redelivered(rabbit):
    rabbit.make({"x-queue-type": "classic"})
    rabbit.put(b"1")
    crash(rabbit, 1)
    with consumer_of(rabbit) as consumer:
        (message,) = receive(consumer)
        assert (message.redelivered, message.counted) == (1, False)


# Keeping alive


def test_extended_lease_is_not_claimed_by_others(stream, monkeypatch):
    monkeypatch.setattr(redis_adapter, "MESSAGE_LEASE", 1.0)
    monkeypatch.setattr(redis_adapter, "_CLAIM_PAUSE", 0.0)
    stream.put(b"1")
    with consumer_of(stream) as consumer, consumer_of(stream) as other:
        (message,) = receive(consumer)
        end = time.monotonic() + 2.0
        while time.monotonic() < end:
            consumer.keep_alive()
            assert other.receive(1, 0.1) == []
        consumer.acknowledge([message])


def test_extending_the_lease_of_no_message_is_no_error(any_queue, monkeypatch):
    for adapter in (redis_adapter, sqs_adapter):
        monkeypatch.setattr(adapter, "MESSAGE_LEASE", 0.0)
    with consumer_of(any_queue) as consumer:
        consumer.keep_alive()
        any_queue.put(b"1")
        assert bodies(receive(consumer)) == [b"1"]


def test_visibility_of_held_messages_is_extended(sqs, monkeypatch):
    monkeypatch.setattr(sqs_adapter, "MESSAGE_LEASE", 0.0)
    monkeypatch.setattr(sqs_adapter, "_VISIBILITY", 1)
    sqs.put(b"1", b"2")
    with consumer_of(sqs) as consumer:
        held = receive(consumer, 2)
        monkeypatch.setattr(sqs_adapter, "_VISIBILITY", 600)
        consumer.keep_alive()
        with consumer_of(sqs) as other:
            assert other.receive(10, 1.5) == []
        consumer.acknowledge(held)
        consumer.keep_alive()


def test_heartbeats_are_answered_while_a_relay_works(rabbit):
    rabbit.put(b"1")
    with consumer_of(rabbit) as consumer:
        (message,) = receive(consumer)
        consumer.keep_alive()
        consumer.acknowledge([message])


# Redis


def test_acknowledged_message_is_no_longer_pending(stream):
    stream.put(b"1", b"2")
    with consumer_of(stream) as consumer:
        messages = receive(consumer, 2)
        consumer.acknowledge(messages[:1])
        consumer.dead_letter(messages[1], {})
        assert stream.client.xpending(stream.name, "e3-event")["pending"] == 0


def test_consumer_is_removed_when_it_closes(stream):
    stream.put(b"1")
    with consumer_of(stream) as consumer:
        consumer.acknowledge(receive(consumer))
        assert len(stream.consumers()) == 1
    assert stream.consumers() == set()


def test_requeued_message_keeps_its_count(stream, monkeypatch):
    monkeypatch.setattr(redis_adapter, "_CLAIM_PAUSE", 0.0)
    stream.put(b"1")
    for _ in range(4):
        with consumer_of(stream) as consumer:
            assert receive(consumer)[0].redelivered == 0
    assert stream.consumers() == {"returned"}


@pytest.mark.usefixtures("short_lease")
def test_consumers_of_dead_relays_are_removed(stream, monkeypatch):
    stream.put(b"1")
    crash(stream, 1)
    (dead,) = stream.consumers()
    monkeypatch.setattr(redis_adapter, "CONSUMER_LIFETIME", 0.2)
    with consumer_of(stream) as consumer:

        def is_removed():
            consumer.acknowledge(messages) if (messages := consumer.receive(10, 0.05)) else None
            return dead not in stream.consumers()

        wait_until(is_removed)
        assert stream.size() == 0


def test_deleted_pending_message_is_skipped(stream, monkeypatch):
    monkeypatch.setattr(redis_adapter, "MESSAGE_LEASE", 0.0)
    monkeypatch.setattr(redis_adapter, "_CLAIM_PAUSE", 0.0)
    stream.put(b"1", b"2")
    stream.client.xgroup_create(stream.name, "e3-event", "0")
    stream.client.xreadgroup("e3-event", "dead", {stream.name: ">"})
    stream.client.xdel(stream.name, stream.client.xrange(stream.name)[0][0])
    with consumer_of(stream) as consumer:
        messages = receive(consumer)
        assert bodies(messages) == [b"2"]
        consumer.acknowledge(messages)
        consumer.receive(1, 0.0)
    assert stream.client.xpending(stream.name, "e3-event")["pending"] == 0


def test_messages_beyond_the_first_that_others_hold_are_claimed(stream, monkeypatch):
    """XAUTOCLAIM looks at ten times as many as it may return, and says where to go on."""
    monkeypatch.setattr(redis_adapter, "MESSAGE_LEASE", 30.0)
    monkeypatch.setattr(redis_adapter, "_CLAIM_PAUSE", 0.0)
    stream.put(*(b"%d" % number for number in range(30)))
    stream.client.xgroup_create(stream.name, "e3-event", "0")
    stream.client.xreadgroup("e3-event", "alive", {stream.name: ">"})
    last = stream.client.xrevrange(stream.name, count=1)[0][0]
    stream.client.xclaim(stream.name, "e3-event", "dead", 0, [last], idle=40_000, justid=True)
    with consumer_of(stream) as consumer:
        assert bodies(receive(consumer)) == [b"29"]


def test_key_of_another_type_is_not_read_as_a_queue(stream):
    stream.client.lpush(stream.name, "x")
    with pytest.raises(BrokerError, match="WRONGTYPE"):
        connect_consumer(stream.url, stream.name)


def test_queue_removed_meanwhile_is_a_lost_connection(any_queue):
    with consumer_of(any_queue) as consumer:
        any_queue.put(b"1")
        receive(consumer)
        any_queue.delete()

        def is_lost():
            try:
                consumer.receive(1, 0.1)
                consumer.keep_alive()
            except BrokerError:
                return True
            return False

        wait_until(is_lost)
    with consumer_of(any_queue):
        assert any_queue.exists()


# RabbitMQ


def test_existing_queue_is_used_unchanged(rabbit):
    rabbit.make({"x-queue-type": "classic", "x-max-length": 5})
    publisher = connect_publisher(rabbit.url, 0, 10.0)
    publisher.publish(rabbit.name, OutgoingMessage(b"1"), 10.0)
    publisher.close(1.0)
    with consumer_of(rabbit) as consumer:
        assert bodies(receive(consumer)) == [b"1"]
    assert not rabbit.exists(rabbit.name + DEAD)


def test_declared_queue_is_a_quorum_queue_that_drops_nothing(rabbit):
    publisher = connect_publisher(rabbit.url, 0, 10.0)
    publisher.publish(rabbit.name, OutgoingMessage(b"1"), 10.0)
    publisher.close(1.0)
    rabbit.make(
        {
            "x-queue-type": "quorum",
            "x-delivery-limit": 20,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": rabbit.name + DEAD,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        }
    )  # an error if it were another one
    rabbit.make({"x-queue-type": "quorum", "x-delivery-limit": 1_000_000}, rabbit.name + DEAD)


def test_full_queue_rejects_and_the_connection_stays(rabbit):
    rabbit.make({"x-queue-type": "classic", "x-max-length": 1, "x-overflow": "reject-publish"})
    publisher = connect_publisher(rabbit.url, 0, 10.0)
    publisher.publish(rabbit.name, OutgoingMessage(b"1"), 10.0)
    with pytest.raises(NotAcceptedError, match="rejected the message; the queue may be full"):
        publisher.publish(rabbit.name, OutgoingMessage(b"2"), 10.0)
    assert rabbit.get()[0] == b"1"
    publisher.publish(rabbit.name, OutgoingMessage(b"3"), 10.0)
    publisher.close(1.0)


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"n": 1, "t": {"a": [1, None, True]}}, id="other-types"),
        pytest.param({"ok": "yes", "n": 2**40}, id="numbers"),
    ],
)
def test_headers_that_are_not_strings_are_left_out(rabbit, headers):
    rabbit.put(b"1", headers=headers)
    with consumer_of(rabbit) as consumer:
        (message,) = receive(consumer)
        assert message.headers == {name: value for name, value in headers.items() if isinstance(value, str)}


def test_channel_closed_by_the_broker_is_a_lost_connection(rabbit):
    rabbit.put(b"1")
    with consumer_of(rabbit) as consumer:
        (message,) = receive(consumer)
        consumer.acknowledge([message])
        with pytest.raises(BrokerError, match="unknown delivery tag"):
            acknowledge_until_lost(consumer, [message])


# Trouble


@pytest.mark.parametrize(
    ("kind", "path", "error", "text"),
    [
        pytest.param("rabbit", "amqp://tests:t0psecret@127.0.0.1:{}/", RefusedError, "ACCESS_REFUSED", id="password"),
        pytest.param("rabbit", "amqp://tests:{1}@127.0.0.1:{0}/none", RefusedError, "NOT_ALLOWED", id="virtual-host"),
        pytest.param("rabbit", "amqps://tests:t0psecret@127.0.0.1:{}/", BrokerError, "TLS", id="no-tls"),
        pytest.param(
            "stream", "redis://:t0psecret@127.0.0.1:{}/", RefusedError, "invalid username-password", id="redis-password"
        ),
        pytest.param("stream", "redis://:{1}@127.0.0.1:{0}/77", BrokerError, "DB index", id="redis-database"),
        pytest.param("rabbit", "amqp://:t0psecret@127.0.0.1:1/", BrokerError, "refused", id="nobody"),
        pytest.param("stream", "redis://:t0psecret@127.0.0.1:1/", BrokerError, "refused", id="no-redis"),
    ],
)
def test_failed_connection_reports_the_reason_without_the_password(request, kind, path, error, text):
    queue = request.getfixturevalue(kind)
    url = BrokerURL(path.format(queue.server.port, queue.server.password))
    for connect in (lambda: connect_publisher(url, 0, 5.0), lambda: connect_consumer(url, queue.name)):
        with pytest.raises(error, match=text) as raised:
            connect()
        assert type(raised.value) is error
        assert "t0psecret" not in str(raised.value)
        assert queue.server.password not in str(raised.value)


def test_silent_broker_is_an_error_at_the_timeout(queue, monkeypatch):
    monkeypatch.setattr(port, "OPERATION_TIMEOUT", 0.5)
    for adapter in ("amqp", "redis"):
        monkeypatch.setattr(f"event._broker.{adapter}.OPERATION_TIMEOUT", 0.5)
    publisher = connect_publisher(queue.url, 0, 0.5)
    publisher.publish(queue.name, OutgoingMessage(b"1"), 5.0)
    queue.server.pause()
    try:
        for act in (
            lambda: publisher.publish(queue.name, OutgoingMessage(b"2"), 0.5),
            lambda: connect_publisher(queue.url, 0, 0.5),
            lambda: connect_consumer(queue.url, queue.name),
        ):
            start = time.monotonic()
            with pytest.raises(BrokerError):
                act()
            assert time.monotonic() - start < 20
        publisher.close(0.5)
    finally:
        queue.server.resume()


@pytest.mark.usefixtures("short_lease")
def test_killed_redis_keeps_held_messages(stream):
    """RabbitMQ takes seconds to start: a test of the relay kills it."""
    stream.put(b"1", b"2")
    consumer = connect_consumer(stream.url, stream.name)
    messages = receive(consumer, 2)
    stream.server.kill()
    with pytest.raises(BrokerError):
        consumer.acknowledge(messages)
    consumer.close()
    stream.server.start()
    with consumer_of(stream) as consumer:
        again = receive(consumer, 2)
        assert bodies(again) == [b"1", b"2"]
        consumer.acknowledge(again)


def test_full_redis_rejects_messages_and_can_be_emptied(stream):
    stream.put(b"1", b"2")
    with consumer_of(stream) as consumer:
        messages = receive(consumer, 2)
        publisher = connect_publisher(stream.url, 0, 5.0)
        stream.client.config_set("maxmemory", 1)
        try:
            with pytest.raises(NotAcceptedError, match="accepts nothing at the moment"):
                publisher.publish(stream.name, OutgoingMessage(b"3"), 5.0)
            for move in (consumer.requeue, consumer.dead_letter):
                with pytest.raises(NotAcceptedError):
                    move(messages[0], {})
            consumer.acknowledge(messages)
            with consumer_of(stream) as other:
                assert other.receive(1, 0.0) == []
            with pytest.raises(NotAcceptedError):  # there is no room for a new stream
                connect_consumer(stream.url, f"{stream.name}-new")
        finally:
            stream.client.config_set("maxmemory", 0)
            publisher.close(1.0)
    assert stream.size() == 0


# SQS


def test_message_rejected_by_sqs_is_too_large(sqs):
    publisher = connect_publisher(sqs.url, 0, 10.0)
    with pytest.raises(TooLargeError):
        publisher.publish(sqs.name, OutgoingMessage(b"x" * (2 << 20)), 10.0)
    publisher.close(1.0)


def test_sqs_queues_have_the_longest_retention(sqs):
    with consumer_of(sqs):
        for queue in (sqs.name, sqs.name + DEAD):
            assert sqs.attributes(queue)["MessageRetentionPeriod"] == str(14 * 86400)


def test_sqs_delays_requeued_messages(sqs):
    sqs.put(b"1")
    with consumer_of(sqs) as consumer:
        (message,) = receive(consumer)
        consumer.requeue(message, {}, 600.0)
        assert consumer.receive(1, 1.0) == []


def test_unreachable_sqs_is_an_error_at_the_timeout(sqs, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    publisher = connect_publisher(sqs.url, 0, 2.0)
    with pytest.raises(BrokerError, match=r"127\.0\.0\.1:1"):
        publisher.publish(sqs.name, OutgoingMessage(b"1"), 2.0)
    publisher.close(1.0)
    with pytest.raises(BrokerError):
        connect_consumer(sqs.url, sqs.name)


def test_invalid_region_is_an_error(sqs, monkeypatch):
    monkeypatch.setenv("AWS_DEFAULT_REGION", "no region !")
    with pytest.raises(BrokerError, match=r"(?i)region|endpoint"):
        connect_consumer(BrokerURL("sqs://"), sqs.name)


# Forks


def test_abandoned_connection_stays_with_the_parent(any_queue):
    publisher = connect_publisher(any_queue.url, 0, 10.0)
    publisher.publish(any_queue.name, OutgoingMessage(b"1"), 10.0)
    pid = os.fork()
    if not pid:
        publisher.abandon()
        del publisher
        os._exit(0)
    os.waitpid(pid, 0)
    publisher.publish(any_queue.name, OutgoingMessage(b"2"), 10.0)
    publisher.close(1.0)
    wait_until(lambda: any_queue.size() == 2)


def test_abandoned_connection_leaves_no_socket(any_queue):
    publisher = connect_publisher(any_queue.url, 0, 10.0)
    publisher.publish(any_queue.name, OutgoingMessage(b"1"), 10.0)
    publisher.abandon()
    assert any_queue.size() == 1


# What a relay's own publishing meets


def test_removed_dead_letter_queue_is_created_again(rabbit):
    rabbit.put(b"1", b"2")
    with consumer_of(rabbit) as consumer:
        one, two = receive(consumer, 2)
        consumer.dead_letter(one, {})
        with rabbit.channel() as channel:
            channel.queue_delete(rabbit.name + DEAD)
        consumer.dead_letter(two, {})
    assert rabbit.get(rabbit.name + DEAD)[0] == b"2"
    assert rabbit.size() == 0


def test_message_stays_received_while_no_connection_can_publish_it(rabbit, monkeypatch):
    def refuse(*_):
        raise BrokerError("nobody there")

    rabbit.put(b"1")
    with consumer_of(rabbit) as consumer:
        (message,) = receive(consumer)
        monkeypatch.setattr("event._broker.amqp.connect_publisher", refuse)
        with pytest.raises(NotAcceptedError, match="nobody there"):
            consumer.requeue(message, {})
        consumer.acknowledge([message])
    assert rabbit.size() == 0


def test_message_stays_received_while_its_queue_is_full(rabbit):
    rabbit.make({"x-queue-type": "classic", "x-max-length": 1, "x-overflow": "reject-publish"})
    rabbit.put(b"1")
    with consumer_of(rabbit, prefetch=1) as consumer:
        (message,) = receive(consumer)
        rabbit.put(b"2")
        with pytest.raises(NotAcceptedError, match="the queue may be full"):
            consumer.requeue(message, {})
        consumer.acknowledge([message])
        assert bodies(receive(consumer)) == [b"2"]


def test_queue_of_another_connection_is_an_error(rabbit):
    with rabbit.channel() as channel:
        channel.queue_declare(rabbit.name, exclusive=True)
        with pytest.raises(BrokerError, match="RESOURCE_LOCKED"):
            connect_consumer(rabbit.url, rabbit.name)


def test_message_stays_if_its_dead_letter_queue_is_a_key_of_another_type(stream):
    stream.put(b"1")
    stream.client.set(stream.name + DEAD, "a string")
    with consumer_of(stream) as consumer:
        (message,) = receive(consumer)
        with pytest.raises(NotAcceptedError, match="WRONGTYPE"):
            consumer.dead_letter(message, {"reason": "z"})
    assert stream.size() == 1


def test_group_created_by_another_relay_is_used(stream, monkeypatch):
    stream.put(b"1")
    stream.client.xgroup_create(stream.name, "e3-event", "0")
    monkeypatch.setattr("redis.Redis.xinfo_groups", lambda *_: [])
    with consumer_of(stream) as consumer:
        consumer.acknowledge(receive(consumer))


class FailingSQS:
    """A client each of whose calls fails with a code; a deletion fails for one of its entries."""

    def __init__(self, code):
        self.code = code

    def __getattr__(self, name):
        def fail(**_):
            from botocore.exceptions import ClientError

            raise ClientError({"Error": {"Code": self.code, "Message": "no"}}, name)

        return fail

    def delete_message_batch(self, **_):
        return {"Failed": [{"Id": "0", "Message": "gone"}]}


@pytest.mark.parametrize(
    ("code", "error"),
    [("AccessDenied", RefusedError), ("RequestThrottled", NotAcceptedError), ("InternalError", BrokerError)],
)
def test_sqs_errors_are_classified(code, error):
    publisher = sqs_adapter.SQSPublisher(BrokerURL("sqs://"), FailingSQS(code))
    with pytest.raises(error) as raised:
        publisher.publish("q", OutgoingMessage(b"1"), 1.0)
    assert type(raised.value) is error


def test_deletion_refused_by_sqs_is_an_error(sqs):
    with consumer_of(sqs) as consumer:
        sqs.put(b"1")
        messages = receive(consumer)
        client, consumer._client = consumer._client, FailingSQS("")
        with pytest.raises(BrokerError, match="a message was not deleted: gone"):
            consumer.acknowledge(messages)
        consumer._client = client


def test_fifo_queue_of_sqs_is_refused(sqs):
    with pytest.raises(RefusedError, match="FIFO queues are not supported"):
        connect_publisher(sqs.url, 0, 10.0).publish("builds.fifo", OutgoingMessage(b"{}"), 10.0)
    with pytest.raises(RefusedError, match="FIFO queues are not supported"):
        connect_consumer(sqs.url, "builds.fifo")


def test_documented_permissions_of_redis_are_enough(stream, monkeypatch):
    """Its users, with a password that has to be percent-encoded, publish and do all that a relay does."""
    page = pathlib.Path(__file__).parents[2] / "docs" / "howto" / "relay.md"
    commands = re.findall(r"ACL SETUSER .*", page.read_text("utf-8"))
    users = [f"{command.split()[2]}-{stream.name}" for command in commands]
    password = "p%2F@:;/#?\u00e9"
    for command, user in zip(commands, users, strict=True):
        rules = [rule.replace("builds", stream.name).replace("PASSWORD", password) for rule in command.split()[3:]]
        stream.client.execute_command("ACL", "SETUSER", user, *rules)
    urls = [f"redis://{user}:{quote(password, safe='')}@127.0.0.1:{stream.server.port}/0" for user in users]
    sender, relay = map(BrokerURL, urls)
    publisher = connect_publisher(sender, 0, 10.0)
    for body in (b"1", b"2", b"3"):
        publisher.publish(stream.name, OutgoingMessage(body), 10.0)
    with pytest.raises(RefusedError, match="no permissions"):
        publisher.publish("other", OutgoingMessage(b"4"), 10.0)
    publisher.close(1.0)
    with contextlib.closing(connect_consumer(relay, stream.name)) as consumer:
        first, second, third = receive(consumer, 3)
        consumer.acknowledge([first])
        consumer.dead_letter(second, {})
        consumer.requeue(third, {})
        assert [message.body for message in receive(consumer)] == [b"3"]
        monkeypatch.setattr(redis_adapter, "MESSAGE_LEASE", 0.0)
        consumer.keep_alive()
    assert stream.size(stream.name + DEAD) == 1
