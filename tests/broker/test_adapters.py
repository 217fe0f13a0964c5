"""The common interface of the brokers, each against a real server."""

from __future__ import annotations

import contextlib
import gc
import os
from functools import partial

import pytest

from event._broker import (
    BrokerError,
    BrokerURL,
    OutgoingMessage,
    RefusedError,
    connect_consumer,
    connect_publisher,
)
from event._broker import (
    redis as redis_adapter,
)
from event._broker import (
    sqs as sqs_adapter,
)
from helpers.brokers import DEAD_SUFFIX
from helpers.connections import bodies, consumer_of, crash_consumer, publish, publisher_of, receive
from helpers.waiting import wait_until

# Publishing


def test_published_message_is_received_unchanged(any_queue):
    with publisher_of(any_queue) as publisher:
        publisher.publish(any_queue.name, OutgoingMessage(b'{"a": 1}', "id-1", {"x": "y"}), 10.0)
        publisher.publish(any_queue.name, OutgoingMessage(b"2"), 10.0)
    with consumer_of(any_queue) as consumer:
        one, two = sorted(receive(consumer, 2), key=lambda message: message.body == b"2")
        assert (one.body, one.id, one.headers["x"], one.redelivered) == (b'{"a": 1}', "id-1", "y", 0)
        assert (two.body, two.id) == (b"2", "")
        consumer.acknowledge([one, two])


def test_publishing_creates_the_queue_and_its_dead_letter_queue(any_queue):
    publish(any_queue, b"1")
    assert any_queue.exists()
    if any_queue.kind != "redis":  # Redis creates a stream with its first message
        assert any_queue.exists(any_queue.name + DEAD_SUFFIX)


def test_removed_queue_is_created_again(any_queue):
    with publisher_of(any_queue) as publisher:
        publisher.publish(any_queue.name, OutgoingMessage(b"1"), 10.0)
        any_queue.delete()
        with contextlib.suppress(BrokerError):  # RabbitMQ and SQS report that the queue is gone; the pool then retries
            publisher.publish(any_queue.name, OutgoingMessage(b"2"), 10.0)
        publisher.publish(any_queue.name, OutgoingMessage(b"3"), 10.0)
    assert any_queue.size() > 0


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
    remaining = {b"0", b"1", b"2"} - {b"%d" % number for number in acknowledged}
    wait_until(lambda: any_queue.size() == len(remaining))
    assert {any_queue.get()[0] for _ in remaining} == remaining


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


def test_receiving_creates_a_missing_queue(any_queue):
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
        assert again.redelivered <= 1, "a consumer that was closed counts as a crash"
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
    body, headers = any_queue.get(any_queue.name + DEAD_SUFFIX)
    assert (body, headers["reason"]) == (b"1", "z")


def test_any_bytes_are_received_unchanged(queue):
    for body in (b"", b"\x1f\x8b\x08\0\xff", bytes(range(256))):
        queue.put(body)
        with consumer_of(queue) as consumer:
            (message,) = receive(consumer)
            assert message.body == body
            consumer.acknowledge([message])


@pytest.mark.usefixtures("short_lease")
def test_broker_counts_redeliveries_after_crashes(queue):
    queue.put(b"1", b"2")
    for number in (1, 2):
        crash_consumer(queue, 2)
        with consumer_of(queue) as consumer:
            again = receive(consumer, 2)
            assert bodies(again) == [b"1", b"2"]
            # RabbitMQ also counts that the consumer of the first turn was closed.
            assert {message.redelivered for message in again} == {number if queue.kind == "redis" else 2 * number - 1}
            assert all(message.counted for message in again)


def test_keep_alive_without_messages_is_not_an_error(any_queue, monkeypatch):
    for adapter in (redis_adapter, sqs_adapter):
        monkeypatch.setattr(adapter, "MESSAGE_LEASE", 0.0)
    with consumer_of(any_queue) as consumer:
        consumer.keep_alive()
        any_queue.put(b"1")
        assert bodies(receive(consumer)) == [b"1"]


# Lost connections


def test_removed_queue_is_a_lost_connection_for_its_consumer(any_queue):
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
        pytest.param("rabbit", "amqp://:t0psecret@127.0.0.1:1/", BrokerError, "refused", id="no-rabbitmq"),
        pytest.param("stream", "redis://:t0psecret@127.0.0.1:1/", BrokerError, "refused", id="no-redis"),
    ],
)
def test_failed_connection_reports_the_reason_without_the_password(request, kind, path, error, text):
    queue = request.getfixturevalue(kind)
    url = BrokerURL(path.format(queue.server.port, queue.server.password))
    for connect in (partial(connect_publisher, url, 0, 5.0), partial(connect_consumer, url, queue.name)):
        with pytest.raises(error, match=text) as raised:
            connect()
        assert type(raised.value) is error
        assert "t0psecret" not in str(raised.value)
        assert queue.server.password not in str(raised.value)


@pytest.mark.timeout(60)  # a call without a timeout would not return
def test_silent_broker_is_an_error_at_the_timeout(queue, monkeypatch):
    publisher = connect_publisher(queue.url, 0, 2.0)
    publisher.publish(queue.name, OutgoingMessage(b"1"), 10.0)
    for adapter in ("amqp", "redis"):
        monkeypatch.setattr(f"event._broker.{adapter}.OPERATION_TIMEOUT", 0.5)
    queue.server.pause()
    try:
        for use in (
            partial(publisher.publish, queue.name, OutgoingMessage(b"2"), 0.5),
            partial(connect_publisher, queue.url, 0, 0.5),
            partial(connect_consumer, queue.url, queue.name),
        ):
            with pytest.raises(BrokerError):
                use()
        publisher.close(0.5)
    finally:
        queue.server.resume()


# Forks


def test_parent_can_publish_after_its_child_abandoned_the_connection(any_queue):
    with publisher_of(any_queue) as publisher:
        publisher.publish(any_queue.name, OutgoingMessage(b"1"), 10.0)
        pid = os.fork()
        if not pid:
            publisher.abandon()
            del publisher
            os._exit(0)
        os.waitpid(pid, 0)
        publisher.publish(any_queue.name, OutgoingMessage(b"2"), 10.0)
    wait_until(lambda: any_queue.size() == 2)


def test_abandoned_connection_leaves_no_socket(any_queue):
    publisher = connect_publisher(any_queue.url, 0, 10.0)
    publisher.publish(any_queue.name, OutgoingMessage(b"1"), 10.0)
    publisher.abandon()
    del publisher
    gc.collect()  # an open socket would be a ResourceWarning, which is an error here
    assert any_queue.size() == 1
