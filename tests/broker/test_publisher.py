"""What is tried when a message is published, how often, and which connections are kept."""

from __future__ import annotations

import gc
import threading
import time
from types import SimpleNamespace

import pytest

from event import _publisher
from event._broker import Broker, BrokerError, RefusedError
from event._clocked import Clock
from event._publisher import Publisher


@pytest.fixture
def memory():
    """Return the URL of a broker within this process."""
    return "memory://"


def drained(queue):
    """Take all messages from a queue of the broker within this process."""
    connection = Broker("memory://").connect(Clock(1, 1))
    try:
        channel = connection.default_channel
        return [*iter(lambda: channel.basic_get(queue, no_ack=True), None)]
    finally:
        connection.release()


def publish(publisher, queue="q", clock=None, **more):
    publisher.publish(queue, b"body", clock or Clock(30, 30), content_type="text/x", **more)


def test_what_kombu_speaks_besides_works_too(memory, request):
    queue = request.node.name
    publisher = Publisher(Broker(memory))
    publish(publisher, queue, message_id="1", headers={"a": "b"})
    publish(publisher, queue)
    first, second = drained(queue)
    assert (first.body, first.content_type, first.content_encoding) == (b"body", "text/x", "utf-8")
    assert (first.properties["message_id"], first.headers) == ("1", {"a": "b"})
    assert "message_id" not in second.properties
    publisher.close()
    assert publisher._idle == []


@pytest.fixture
def failing(monkeypatch):
    """Return a function that has each connection fail with one error after the other, and a list of what was done."""
    done = []

    def fail(*errors):
        left = [*errors]

        class Failing(Broker):
            def connect(self, clock, *, attempt=0, heartbeat=0):
                done.append(attempt)
                if left and (error := left.pop(0)):
                    raise error
                return Broker("memory://").connect(clock)

        return Failing

    monkeypatch.setattr(_publisher.time, "sleep", lambda seconds: done.append(f"{seconds:g} s"))
    fail.done = done
    return fail


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
def test_what_is_tried(failing, request, url, errors, done, ok):  # noqa: PLR0913  # a table
    publisher = Publisher(failing(*errors)(url))
    if ok:
        publish(publisher, request.node.name)
    else:
        with pytest.raises(BrokerError) as raised:
            publish(publisher, request.node.name)
        assert raised.value is errors[-1]
    assert failing.done == done
    publisher.close()


def test_nothing_is_tried_again_when_the_time_is_over(failing):
    with pytest.raises(BrokerError, match="down"):
        publish(Publisher(failing(DOWN)("amqp://a")), clock=Clock(0.1, 0.1))
    assert failing.done == [0]


def test_without_time_nothing_is_tried(memory):
    with pytest.raises(BrokerError, match="TimeoutError: the time for the whole sending is over"):
        publish(Publisher(Broker(memory)), clock=Clock(0, 1))


def test_a_kept_connection_that_fails_does_not_count(failing, request):
    publisher = Publisher(failing(None, DOWN, DOWN)("amqp://a"))
    publish(publisher, request.node.name)
    (line,) = publisher._idle
    line._producer = None  # it is dead
    publish(publisher, request.node.name)
    assert failing.done == [0, 0, "0.2 s", 1, "0.4 s", 2]
    publisher.close()


def test_the_urls_that_are_left_get_their_share_of_the_time(monkeypatch):
    shares = []

    class Failing(Broker):
        def connect(self, clock, *, attempt=0, heartbeat=0):
            shares.append(clock.deadline - time.monotonic())
            raise DOWN

    with pytest.raises(BrokerError, match="down"):
        publish(Publisher(Failing(THREE)), clock=Clock(30, 30))
    assert shares == pytest.approx([10, 15, 30], abs=1)


def test_of_many_connections_only_some_are_kept(memory, request):
    publisher = Publisher(Broker(memory))
    together = threading.Barrier(_publisher._KEPT + 2)
    closed = []

    class Line(_publisher._Line):
        def publish(self, *arguments):
            super().publish(*arguments)
            together.wait(10)

        def close(self, clock=None):
            closed.append(self)
            super().close(clock)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_publisher, "_Line", Line)
        threads = [
            threading.Thread(target=publish, args=[publisher, request.node.name]) for _ in range(together.parties)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (len(publisher._idle), len(closed)) == (_publisher._KEPT, 2)
    publisher.close()
    assert len(closed) == together.parties


def test_a_publisher_that_is_forgotten_takes_leave(memory, request):
    publisher = Publisher(Broker(memory))
    publish(publisher, request.node.name)
    (line,) = publisher._idle
    del publisher
    gc.collect()
    assert line._connection._closed


def test_all_goodbyes_together_have_one_clock(memory, request):
    clocks = []
    lines = [SimpleNamespace(close=clocks.append) for _ in range(3)]
    _publisher._close_all(lines)
    assert len({id(clock) for clock in clocks}) == 1
    assert clocks[0].left() <= 1
    assert lines == []
