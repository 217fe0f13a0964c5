"""Redis: the consumer group, its leases, memory and permissions."""

from __future__ import annotations

import contextlib
import pathlib
import re
from urllib.parse import quote

import pytest

from event._broker import (
    BrokerError,
    BrokerURL,
    NotAcceptedError,
    OutgoingMessage,
    RefusedError,
    connect_consumer,
    connect_publisher,
)
from event._broker import (
    redis as redis_adapter,
)
from helpers.brokers import DEAD_SUFFIX
from helpers.connections import bodies, consumer_of, crash_consumer, publisher_of, receive
from helpers.waiting import wait_until

# Consumers of the group


def test_acknowledged_or_dead_lettered_message_is_no_longer_pending(stream):
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


def test_closing_a_consumer_does_not_increase_the_redelivery_count(stream, monkeypatch):
    monkeypatch.setattr(redis_adapter, "_CLAIM_PAUSE", 0.0)
    stream.put(b"1")
    for _ in range(4):
        with consumer_of(stream) as consumer:
            assert receive(consumer)[0].redelivered == 0
    assert stream.consumers() == {"returned"}


@pytest.mark.usefixtures("short_lease")
def test_consumers_of_dead_relays_are_removed(stream, monkeypatch):
    stream.put(b"1")
    crash_consumer(stream, 1)
    (dead,) = stream.consumers()
    monkeypatch.setattr(redis_adapter, "CONSUMER_LIFETIME", 0.2)
    with consumer_of(stream) as consumer:

        def is_removed():
            if messages := consumer.receive(10, 0.05):
                consumer.acknowledge(messages)
            return dead not in stream.consumers()

        wait_until(is_removed)
        assert stream.size() == 0


def test_group_created_by_another_relay_is_used(stream, monkeypatch):
    stream.put(b"1")
    stream.client.xgroup_create(stream.name, "e3-event", "0")
    monkeypatch.setattr("redis.Redis.xinfo_groups", lambda *_: [])
    with consumer_of(stream) as consumer:
        consumer.acknowledge(receive(consumer))


# Leases


@pytest.mark.parametrize("extended", [True, False])
def test_message_is_claimed_by_others_unless_its_lease_is_extended(stream, monkeypatch, extended):
    monkeypatch.setattr(redis_adapter, "_CLAIM_PAUSE", 0.0)
    stream.put(b"1")
    with consumer_of(stream) as consumer, consumer_of(stream) as other:
        (message,) = receive(consumer)
        (owner,) = stream.consumers()
        # Let Redis believe that the lease of 60 seconds has just expired.
        stream.client.xclaim(stream.name, "e3-event", owner, 0, [message.ack_token], idle=61_000, justid=True)
        if extended:
            with monkeypatch.context() as patched:
                patched.setattr(redis_adapter, "MESSAGE_LEASE", 0.0)  # a quarter of it has passed already
                consumer.keep_alive()
        assert bodies(other.receive(1, 0.0)) == ([] if extended else [b"1"])
        consumer.acknowledge([message])


def test_pending_message_that_was_deleted_is_skipped(stream, monkeypatch):
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


def test_expired_message_is_claimed_behind_many_that_others_hold(stream, monkeypatch):
    """XAUTOCLAIM examines at most ten times as many messages as it may return, and returns where to continue."""
    monkeypatch.setattr(redis_adapter, "MESSAGE_LEASE", 30.0)
    monkeypatch.setattr(redis_adapter, "_CLAIM_PAUSE", 0.0)
    stream.put(*(b"%d" % number for number in range(30)))
    stream.client.xgroup_create(stream.name, "e3-event", "0")
    stream.client.xreadgroup("e3-event", "alive", {stream.name: ">"})
    last = stream.client.xrevrange(stream.name, count=1)[0][0]
    stream.client.xclaim(stream.name, "e3-event", "dead", 0, [last], idle=40_000, justid=True)
    with consumer_of(stream) as consumer:
        assert bodies(receive(consumer)) == [b"29"]


# Failures


@pytest.mark.usefixtures("short_lease")
def test_killed_redis_keeps_held_messages(stream):
    """A test of the relay kills RabbitMQ, which takes seconds to start."""
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
    with consumer_of(stream) as consumer, publisher_of(stream) as publisher:
        messages = receive(consumer, 2)
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
    assert stream.size() == 0


def test_queue_that_is_a_key_of_another_type_is_an_error(stream):
    stream.client.lpush(stream.name, "x")
    with pytest.raises(BrokerError, match="WRONGTYPE"):
        connect_consumer(stream.url, stream.name)


def test_message_stays_in_its_queue_if_the_dead_letter_queue_is_a_key_of_another_type(stream):
    stream.put(b"1")
    stream.client.set(stream.name + DEAD_SUFFIX, "a string")
    with consumer_of(stream) as consumer:
        (message,) = receive(consumer)
        with pytest.raises(NotAcceptedError, match="WRONGTYPE"):
            consumer.dead_letter(message, {"reason": "z"})
    assert stream.size() == 1


def test_documented_permissions_of_redis_are_enough(stream, monkeypatch):
    """The passwords of the two documented users contain characters that a URL must percent-encode."""
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
    for number in (b"1", b"2", b"3"):
        publisher.publish(stream.name, OutgoingMessage(number), 10.0)
    with pytest.raises(RefusedError, match="no permissions"):
        publisher.publish("other", OutgoingMessage(b"4"), 10.0)
    publisher.close(1.0)
    with contextlib.closing(connect_consumer(relay, stream.name)) as consumer:
        first, second, third = receive(consumer, 3)
        consumer.acknowledge([first])
        consumer.dead_letter(second, {})
        consumer.requeue(third, {})
        assert bodies(receive(consumer)) == [b"3"]
        monkeypatch.setattr(redis_adapter, "MESSAGE_LEASE", 0.0)
        consumer.keep_alive()
    assert stream.size(stream.name + DEAD_SUFFIX) == 1
