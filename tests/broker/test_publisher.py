"""The pool of connections that publish: retries, failover to other nodes, and reuse of connections."""

from __future__ import annotations

import gc
import os
import threading
from functools import partial

import pytest

from event._backoff import backoff
from event._broker import (
    BrokerError,
    BrokerURL,
    NotAcceptedError,
    OutgoingMessage,
    PublisherPool,
    RefusedError,
    TooLargeError,
    publisher,
)

MESSAGE = OutgoingMessage(b"body", "id-1")


class FakeConnection:
    """A connection to a `FakeBroker`."""

    def __init__(self, broker):
        self.broker = broker
        self.close_timeouts = []
        self.is_abandoned = False

    def publish(self, queue, message, timeout):
        self.broker.actions.append("publish")
        if error := self.broker.next_error():
            raise error
        self.broker.published.append((queue, message))
        self.broker.after_publish()

    def close(self, timeout):
        self.close_timeouts.append(timeout)

    def abandon(self):
        self.is_abandoned = True


class FakeBroker:
    """A broker that records what a pool does. Each connection and each publish fails with the next of its errors.

    :ivar actions: "publish", the number of each attempt to connect, and the pauses
    """

    def __init__(self):
        self.errors = []
        self.actions = []
        self.published = []
        self.connect_timeouts = []
        self.connections = []
        self.after_publish = lambda: None

    def next_error(self):
        return self.errors.pop(0) if self.errors else None

    def connect(self, url, attempt, timeout):
        self.actions.append(attempt)
        self.connect_timeouts.append(timeout)
        if error := self.next_error():
            raise error
        self.connections.append(FakeConnection(self))
        return self.connections[-1]


@pytest.fixture
def broker(monkeypatch):
    broker = FakeBroker()
    monkeypatch.setattr(publisher, "connect_publisher", broker.connect)
    monkeypatch.setattr(publisher, "backoff", partial(backoff, chance=0.5))
    monkeypatch.setattr(publisher.time, "sleep", lambda seconds: broker.actions.append(f"{seconds:g} s"))
    return broker


def publish(pool, timeout=30.0):
    pool.publish("q", MESSAGE, timeout)


def publish_at_the_same_time(broker, pool, count):
    """Publish from several threads, each of which needs a connection until all have published."""
    barrier = threading.Barrier(count)
    broker.after_publish = lambda: barrier.wait(30)
    threads = [threading.Thread(target=publish, args=[pool]) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


DOWN, REFUSED = BrokerError("down"), RefusedError("refused")
THREE_NODES = "amqp://a;amqp://b;amqp://c"
FOUR_NODES = f"{THREE_NODES};amqp://d"


@pytest.mark.parametrize(
    ("url", "errors", "actions", "ok"),
    [
        pytest.param("amqp://a", [], [0], True, id="first attempt"),
        pytest.param("amqp://a", [DOWN], [0, "0.2 s", 1], True, id="second attempt"),
        pytest.param("amqp://a", [DOWN, DOWN], [0, "0.2 s", 1, "0.4 s", 2], True, id="third attempt"),
        pytest.param("amqp://a", [DOWN] * 3, [0, "0.2 s", 1, "0.4 s", 2], False, id="no fourth attempt"),
        pytest.param("amqp://a", [REFUSED], [0], False, id="refused"),
        pytest.param(THREE_NODES, [DOWN, DOWN], [0, 1, 2], True, id="third node"),
        pytest.param(THREE_NODES, [DOWN] * 3, [0, 1, 2], False, id="all nodes down"),
        pytest.param(THREE_NODES, [REFUSED, DOWN], [0, 1, 2], True, id="refused by one node"),
        pytest.param(THREE_NODES, [REFUSED] * 3, [0, 1, 2], False, id="refused by all nodes"),
        pytest.param(FOUR_NODES, [DOWN] * 3, [0, 1, 2, 3], True, id="fourth node"),
        pytest.param("amqp://a;amqp://b", [DOWN] * 2, [0, 1, "0.2 s", 2], True, id="first node again"),
    ],
)
def test_publish_retries_after_the_documented_pauses(broker, url, errors, actions, ok):
    broker.errors = [*errors]
    pool = PublisherPool(BrokerURL(url))
    if ok:
        publish(pool)
        assert broker.published == [("q", MESSAGE)]
    else:
        with pytest.raises(BrokerError) as raised:
            publish(pool)
        assert raised.value is errors[-1]
    assert [action for action in broker.actions if action != "publish"] == actions
    pool.close()


def test_unconfirmed_message_is_published_again(broker):
    broker.errors = [None, NotAcceptedError("full")]
    pool = PublisherPool(BrokerURL("amqp://a"))
    publish(pool)
    assert broker.actions == [0, "publish", "0.2 s", 1, "publish"]
    assert broker.connections[0].close_timeouts == [0.0]
    pool.close()


def test_message_above_the_size_limit_is_not_published_again(broker):
    broker.errors = [None, TooLargeError("large")]
    with pytest.raises(TooLargeError):
        publish(PublisherPool(BrokerURL("amqp://a")))
    assert broker.actions == [0, "publish"]


def test_publish_is_not_retried_if_the_pause_exceeds_the_timeout(broker):
    broker.errors = [DOWN]
    with pytest.raises(BrokerError, match="down"):
        publish(PublisherPool(BrokerURL("amqp://a")), timeout=0.1)
    assert broker.actions == [0]


def test_pooled_connection_is_reused(broker):
    pool = PublisherPool(BrokerURL("amqp://a"))
    publish(pool)
    publish(pool)
    assert broker.actions == [0, "publish", "publish"]
    pool.close()
    assert len(broker.connections[0].close_timeouts) == 1


def test_failure_of_a_pooled_connection_does_not_count_as_an_attempt(broker):
    pool = PublisherPool(BrokerURL("amqp://a"))
    publish(pool)
    broker.actions.clear()
    broker.errors = [DOWN, DOWN, DOWN]
    publish(pool)
    assert broker.actions == ["publish", 0, "0.2 s", 1, "0.4 s", 2, "publish"]
    pool.close()


def test_connection_that_was_idle_too_long_is_closed(broker, monkeypatch):
    monkeypatch.setattr(publisher, "_MAX_IDLE_SECONDS", 0.0)
    pool = PublisherPool(BrokerURL("amqp://a"))
    publish(pool)
    publish(pool)
    assert broker.actions == [0, "publish", 0, "publish"]
    assert broker.connections[0].close_timeouts == [0.0]
    pool.close()


def test_connection_of_the_parent_process_is_abandoned(broker, monkeypatch):
    pool = PublisherPool(BrokerURL("amqp://a"))
    publish(pool)
    pid = os.getpid()
    monkeypatch.setattr(publisher.os, "getpid", lambda: pid + 1)
    publish(pool)
    assert broker.actions == [0, "publish", 0, "publish"]
    assert broker.connections[0].is_abandoned
    assert broker.connections[0].close_timeouts == []
    monkeypatch.setattr(publisher.os, "getpid", lambda: pid + 2)
    pool.close()
    assert broker.connections[1].is_abandoned
    assert broker.connections[1].close_timeouts == []


def test_each_node_gets_its_share_of_the_timeout(broker, monkeypatch):
    monkeypatch.setattr(publisher.time, "monotonic", lambda: 0.0)
    broker.errors = [DOWN] * 3
    with pytest.raises(BrokerError, match="down"):
        publish(PublisherPool(BrokerURL(THREE_NODES)))
    assert broker.connect_timeouts == [10, 15, 30]


def test_number_of_idle_connections_is_limited(broker):
    pool = PublisherPool(BrokerURL("amqp://a"))
    publish_at_the_same_time(broker, pool, 6)
    assert sum(bool(connection.close_timeouts) for connection in broker.connections) == 2
    pool.close()
    assert all(len(connection.close_timeouts) == 1 for connection in broker.connections)


def test_garbage_collected_pool_closes_its_connections(broker):
    pool = PublisherPool(BrokerURL("amqp://a"))
    publish(pool)
    del pool
    gc.collect()
    assert len(broker.connections[0].close_timeouts) == 1


def test_all_connections_together_are_closed_within_a_second(broker, monkeypatch):
    pool = PublisherPool(BrokerURL("amqp://a"))
    publish_at_the_same_time(broker, pool, 3)
    now = 0.0
    timeouts = []

    def close(timeout):
        nonlocal now
        now += 0.75
        timeouts.append(timeout)

    for connection in broker.connections:
        connection.close = close
    monkeypatch.setattr(publisher.time, "monotonic", lambda: now)
    pool.close()
    assert timeouts == [1.0, 0.25, 0.0]
