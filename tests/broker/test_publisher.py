"""What is tried when a message is published, how often, and which connections are kept."""

from __future__ import annotations

import gc
import os
import threading
import time
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
)
from event._broker import (
    publisher as module,
)

MESSAGE = OutgoingMessage(b"body", "id-1")


class Connection:
    """A connection that fails with one error after the other."""

    def __init__(self, broker):
        self.broker = broker
        self.closed = []
        self.abandoned = 0

    def publish(self, queue, message, timeout):
        self.broker.done.append("publish")
        if error := self.broker.next_error():
            raise error
        self.broker.published.append((queue, message))
        self.broker.together()

    def close(self, timeout):
        self.closed.append(timeout)

    def abandon(self):
        self.abandoned += 1


class Broker:
    """What connects, and what it has done; each step takes the next error."""

    def __init__(self):
        self.errors = []
        self.done = []
        self.published = []
        self.timeouts = []
        self.connections = []
        self.together = lambda: None

    def next_error(self):
        return self.errors.pop(0) if self.errors else None

    def connect(self, url, attempt, timeout):
        self.done.append(attempt)
        self.timeouts.append(timeout)
        if error := self.next_error():
            raise error
        self.connections.append(Connection(self))
        return self.connections[-1]


@pytest.fixture
def broker(monkeypatch):
    made = Broker()
    monkeypatch.setattr(module, "connect_publisher", made.connect)
    monkeypatch.setattr(module, "backoff", partial(backoff, chance=0.5))
    monkeypatch.setattr(module.time, "sleep", lambda seconds: made.done.append(f"{seconds:g} s"))
    return made


def publish(pool, timeout=30.0):
    pool.publish("q", MESSAGE, timeout)


DOWN, REFUSED = BrokerError("down"), RefusedError("refused")
THREE = "amqp://a;amqp://b;amqp://c"
FOUR = f"{THREE};amqp://d"


@pytest.mark.parametrize(
    ("url", "errors", "done", "ok"),
    [
        pytest.param("amqp://a", [], [0], True, id="at-once"),
        pytest.param("amqp://a", [DOWN], [0, "0.2 s", 1], True, id="the-second-time"),
        pytest.param("amqp://a", [DOWN, DOWN], [0, "0.2 s", 1, "0.4 s", 2], True, id="the-third-time"),
        pytest.param("amqp://a", [DOWN] * 3, [0, "0.2 s", 1, "0.4 s", 2], False, id="never"),
        pytest.param("amqp://a", [REFUSED], [0], False, id="refused"),
        pytest.param(THREE, [DOWN, DOWN], [0, 1, 2], True, id="another-one"),
        pytest.param(THREE, [DOWN] * 3, [0, 1, 2], False, id="all-down"),
        pytest.param(THREE, [REFUSED, DOWN], [0, 1, 2], True, id="refused-elsewhere"),
        pytest.param(THREE, [REFUSED] * 3, [0, 1, 2], False, id="refused-everywhere"),
        pytest.param(FOUR, [DOWN] * 3, [0, 1, 2, 3], True, id="the-fourth-one"),
        pytest.param("amqp://a;amqp://b", [DOWN] * 2, [0, 1, "0.2 s", 2], True, id="the-first-one-again"),
    ],
)
def test_publish_retries_after_the_documented_pauses(broker, url, errors, done, ok):
    broker.errors = [*errors]
    pool = PublisherPool(BrokerURL(url))
    if ok:
        publish(pool)
        assert broker.published == [("q", MESSAGE)]
    else:
        with pytest.raises(BrokerError) as raised:
            publish(pool)
        assert raised.value is errors[-1]
    assert [step for step in broker.done if step != "publish"] == done
    pool.close()


def test_unconfirmed_message_is_published_again(broker):
    broker.errors = [None, NotAcceptedError("full")]
    pool = PublisherPool(BrokerURL("amqp://a"))
    publish(pool)
    assert broker.done == [0, "publish", "0.2 s", 1, "publish"]
    assert broker.connections[0].closed == [0.0]
    pool.close()


def test_message_above_the_size_limit_is_not_published_again(broker):
    broker.errors = [None, TooLargeError("large")]
    with pytest.raises(TooLargeError):
        publish(PublisherPool(BrokerURL("amqp://a")))
    assert broker.done == [0, "publish"]


def test_publish_is_not_retried_after_the_deadline(broker):
    broker.errors = [DOWN]
    with pytest.raises(BrokerError, match="down"):
        publish(PublisherPool(BrokerURL("amqp://a")), timeout=0.1)
    assert broker.done == [0]


def test_pooled_connection_is_reused(broker):
    pool = PublisherPool(BrokerURL("amqp://a"))
    publish(pool)
    publish(pool)
    assert broker.done == [0, "publish", "publish"]
    pool.close()
    assert len(broker.connections[0].closed) == 1


def test_failure_of_a_pooled_connection_does_not_count_as_an_attempt(broker):
    pool = PublisherPool(BrokerURL("amqp://a"))
    publish(pool)
    broker.done.clear()
    broker.errors = [DOWN, DOWN, DOWN]
    publish(pool)
    assert broker.done == ["publish", 0, "0.2 s", 1, "0.4 s", 2, "publish"]
    pool.close()


def test_connection_unused_for_long_is_closed(broker, monkeypatch):
    monkeypatch.setattr(module, "_MAX_IDLE_SECONDS", 0.0)
    pool = PublisherPool(BrokerURL("amqp://a"))
    publish(pool)
    publish(pool)
    assert broker.done == [0, "publish", 0, "publish"]
    assert broker.connections[0].closed == [0.0]
    pool.close()


def test_connection_of_the_parent_process_is_abandoned(broker, monkeypatch):
    pool = PublisherPool(BrokerURL("amqp://a"))
    publish(pool)
    pid = os.getpid()
    monkeypatch.setattr(module.os, "getpid", lambda: pid + 1)
    publish(pool)
    assert broker.done == [0, "publish", 0, "publish"]
    assert (broker.connections[0].closed, broker.connections[0].abandoned) == ([], 1)
    monkeypatch.setattr(module.os, "getpid", lambda: pid + 2)
    pool.close()
    assert (broker.connections[1].closed, broker.connections[1].abandoned) == ([], 1)


def test_each_node_gets_its_share_of_the_time(broker):
    broker.errors = [DOWN] * 3
    with pytest.raises(BrokerError, match="down"):
        publish(PublisherPool(BrokerURL(THREE)))
    assert broker.timeouts == pytest.approx([10, 15, 30], abs=1)


def test_number_of_pooled_connections_is_limited(broker):
    pool = PublisherPool(BrokerURL("amqp://a"))
    barrier = threading.Barrier(6)
    broker.together = lambda: barrier.wait(30)
    threads = [threading.Thread(target=publish, args=[pool]) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(bool(connection.closed) for connection in broker.connections) == 2
    pool.close()
    assert all(len(connection.closed) == 1 for connection in broker.connections)


def test_garbage_collected_pool_closes_its_connections(broker):
    pool = PublisherPool(BrokerURL("amqp://a"))
    publish(pool)
    del pool
    gc.collect()
    assert len(broker.connections[0].closed) == 1


def test_closing_all_connections_takes_at_most_a_second(broker):
    pool = PublisherPool(BrokerURL("amqp://a"))
    barrier = threading.Barrier(2)
    broker.together = lambda: barrier.wait(30)
    threads = [threading.Thread(target=publish, args=[pool]) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    start = time.monotonic()
    for connection in broker.connections:
        connection.close = lambda timeout, connection=connection: connection.closed.append(start + timeout)
    pool.close()
    assert all(connection.closed[0] <= start + 1.0 for connection in broker.connections)
