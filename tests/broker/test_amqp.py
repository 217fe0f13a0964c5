"""RabbitMQ: types of queues, heartbeats, and publishing next to a consumer."""

from __future__ import annotations

import time

import pytest

from event._broker import (
    BrokerError,
    NotAcceptedError,
    OutgoingMessage,
    connect_consumer,
)
from helpers.brokers import DEAD_SUFFIX
from helpers.connections import bodies, consumer_of, crash_consumer, publish, publisher_of, receive
from helpers.waiting import wait_until

# Queues


def test_existing_queue_is_used_unchanged(rabbit):
    rabbit.declare({"x-queue-type": "classic", "x-max-length": 5})
    publish(rabbit, b"1")
    with consumer_of(rabbit) as consumer:
        assert bodies(receive(consumer)) == [b"1"]
    assert not rabbit.exists(rabbit.name + DEAD_SUFFIX)


def test_created_queue_is_a_durable_quorum_queue_that_drops_no_message(rabbit):
    publish(rabbit, b"1")
    # RabbitMQ refuses to declare an existing queue as durable, or with these arguments, if it has others.
    rabbit.declare(
        {
            "x-queue-type": "quorum",
            "x-delivery-limit": 20,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": rabbit.name + DEAD_SUFFIX,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        }
    )
    rabbit.declare({"x-queue-type": "quorum", "x-delivery-limit": 1_000_000}, rabbit.name + DEAD_SUFFIX)


def test_connection_can_be_used_after_a_full_queue_rejected_a_message(rabbit):
    rabbit.declare({"x-queue-type": "classic", "x-max-length": 1, "x-overflow": "reject-publish"})
    with publisher_of(rabbit) as publisher:
        publisher.publish(rabbit.name, OutgoingMessage(b"1"), 10.0)
        with pytest.raises(NotAcceptedError, match="rejected the message; the queue may be full"):
            publisher.publish(rabbit.name, OutgoingMessage(b"2"), 10.0)
        assert rabbit.get()[0] == b"1"
        publisher.publish(rabbit.name, OutgoingMessage(b"3"), 10.0)
    assert rabbit.get()[0] == b"3"


def test_exclusive_queue_of_another_connection_is_an_error(rabbit):
    with rabbit.channel() as channel:
        channel.queue_declare(rabbit.name, exclusive=True)
        with pytest.raises(BrokerError, match="RESOURCE_LOCKED"):
            connect_consumer(rabbit.url, rabbit.name)


def test_classic_queue_reports_but_does_not_count_redeliveries(rabbit):
    rabbit.declare({"x-queue-type": "classic"})
    rabbit.put(b"1")
    crash_consumer(rabbit, 1)
    with consumer_of(rabbit) as consumer:
        (message,) = receive(consumer)
        assert (message.redelivered, message.counted) == (1, False)


# Receiving


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
            acknowledge_until_refused(consumer, [message])


def acknowledge_until_refused(consumer, messages):
    """Acknowledge messages, and read from the connection until the broker has closed the channel."""
    consumer.acknowledge(messages)
    wait_until(consumer.keep_alive)


def test_keep_alive_sends_heartbeats(rabbit, monkeypatch):
    monkeypatch.setattr("event._broker.amqp_connection._HEARTBEAT", 2)
    rabbit.put(b"1")
    with consumer_of(rabbit) as consumer:
        (message,) = receive(consumer)
        end = time.monotonic() + 7  # RabbitMQ closes a connection that is silent for two to three heartbeats
        while time.monotonic() < end:
            consumer.keep_alive()
            time.sleep(0.1)
        consumer.acknowledge([message])
    assert rabbit.size() == 0
    assert rabbit.get() is None


# Requeuing and dead-lettering


def test_removed_dead_letter_queue_is_created_again(rabbit):
    rabbit.put(b"1", b"2")
    with consumer_of(rabbit) as consumer:
        one, two = receive(consumer, 2)
        consumer.dead_letter(one, {})
        with rabbit.channel() as channel:
            channel.queue_delete(rabbit.name + DEAD_SUFFIX)
        consumer.dead_letter(two, {})
    assert rabbit.get(rabbit.name + DEAD_SUFFIX)[0] == b"2"
    assert rabbit.size() == 0


def test_message_stays_unacknowledged_while_no_connection_can_requeue_it(rabbit, monkeypatch):
    def refuse(*_):
        raise BrokerError("no route to host")

    rabbit.put(b"1")
    with consumer_of(rabbit) as consumer:
        (message,) = receive(consumer)
        monkeypatch.setattr("event._broker.amqp.connect_publisher", refuse)
        with pytest.raises(NotAcceptedError, match="no route to host"):
            consumer.requeue(message, {})
        consumer.acknowledge([message])
    assert rabbit.size() == 0


def test_message_stays_unacknowledged_while_its_queue_is_full(rabbit):
    rabbit.declare({"x-queue-type": "classic", "x-max-length": 1, "x-overflow": "reject-publish"})
    rabbit.put(b"1")
    with consumer_of(rabbit, prefetch=1) as consumer:
        (message,) = receive(consumer)
        rabbit.put(b"2")
        with pytest.raises(NotAcceptedError, match="the queue may be full"):
            consumer.requeue(message, {})
        consumer.acknowledge([message])
        assert bodies(receive(consumer)) == [b"2"]
