"""Taking messages from a broker: each stays the broker's until it is acknowledged."""

from __future__ import annotations

import pickle
import struct
import subprocess
import sys
import threading
import time
import zlib

import amqp
import kombu
import pytest

from brokers import settle, until
from event import _broker, _intake, _redis_list
from event._broker import Broker, BrokerError
from event._intake import Intake


def connect(queue, taker="relay", **options):
    return _intake.connect(queue.broker, queue.name, taker, **options)


def take(intake, count=1):
    """Take messages, as they come."""
    return [until(lambda: intake.take(0.1)) for _ in range(count)]


def bodies(taken):
    return [one.body for one in taken]


def impatient(monkeypatch, seconds=1.0):
    """Have silence count for something after a second."""
    monkeypatch.setattr(_intake, "STEP", seconds)
    monkeypatch.setattr(_broker, "STEP", seconds)
    monkeypatch.setattr(_intake, "_HEARTBEAT", seconds)
    monkeypatch.setattr(_redis_list, "LEASE", seconds)
    monkeypatch.setattr(_intake, "_PULSE", seconds / 10)


# What is taken.


def test_a_message_is_taken_and_forgotten_when_it_is_acknowledged(queue):
    queue.put(b"1", headers={"h": "x"})
    with connect(queue) as intake:
        assert not intake.forgets
        (taken,) = take(intake)
        assert (taken.body, taken.headers, taken.again) == (b"1", {"h": "x"}, False)
        intake.acknowledge(taken)
        assert intake.take(0.0) is None
    assert queue.size() == 0


def test_the_queue_is_made_where_it_is_missing(queue):
    with connect(queue) as intake:
        assert intake.take(0.01) is None
        queue.put(b"1")
        assert bodies(take(intake)) == [b"1"]


def test_what_is_not_acknowledged_comes_again_in_its_order(queue):
    queue.put(b"1", b"2", b"3")
    with connect(queue) as intake:
        taken = take(intake, 3)
        intake.acknowledge(taken[1])
    assert not intake._pulse.is_alive()
    with connect(queue, "another") as intake:
        assert bodies(take(intake, 2)) == [b"1", b"3"]


def test_nobody_holds_more_than_so_many(queue):
    queue.put(*(str(number).encode() for number in range(_intake.HELD + 1)))
    with connect(queue) as intake:
        taken = take(intake, _intake.HELD)
        assert intake.take(0.1) is None
        assert queue.size() == 1
        intake.acknowledge(taken[0])
        assert bodies(take(intake)) == [str(_intake.HELD).encode()]


def test_while_it_pauses_nothing_comes_that_is_not_taken(queue):
    queue.put(b"1", b"2")
    with connect(queue) as intake:
        (first,) = take(intake)
        until(lambda: queue.size() == (0 if queue.kind == "rabbitmq" else 1))
        assert bodies(intake.pause()) == ([b"2"] if queue.kind == "rabbitmq" else [])
        queue.put(b"3")
        assert queue.size() == (1 if queue.kind == "rabbitmq" else 2)
        intake.acknowledge(first)
        intake.resume()
        assert bodies(take(intake)) == ([b"3"] if queue.kind == "rabbitmq" else [b"2"])


KILLED = """
import os, signal, sys
from event import _intake
from event._broker import Broker

intake = _intake.connect(Broker(sys.argv[1]), sys.argv[2], "dead")
while not intake.take(0.1):
    pass
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_had_comes_again_and_tells_so(queue, monkeypatch):
    queue.put(b"1")
    done = subprocess.run([sys.executable, "-c", KILLED, queue.server.url, queue.name], check=False)
    assert done.returncode < 0
    if queue.kind == "redis":  # its lease has ended
        queue.client.delete(*queue.keys("alive"))
    with connect(queue) as intake:
        (taken,) = take(intake)
        assert (taken.body, taken.again) == (b"1", True)


# What a message asks for.


class Bomb:
    """What opens a file where it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_what_is_packed_is_not_unpacked_and_what_is_pickled_not_unpickled(queue, tmp_path):
    packed = zlib.compress(bytes(10_000_000))
    pickled = pickle.dumps(Bomb(tmp_path / "bomb"))
    queue.put(packed, headers={"compression": "application/x-gzip"})
    queue.put(pickled, headers={"serializer": "pickle"}, content_type="application/x-python-serialize")
    with connect(queue) as intake:
        assert bodies(take(intake, 2)) == [packed, pickled]
    assert not (tmp_path / "bomb").exists()


@pytest.mark.parametrize("encoding", ["utf-16", "utf-7", "punycode", "zlib", "no such", "utf-8"])
def test_a_body_comes_as_it_is_whatever_its_content_encoding(rabbit, encoding):
    rabbit.put(b"+AOk-abc", content_encoding=encoding)
    with connect(rabbit) as intake:
        assert bodies(take(intake)) == [b"+AOk-abc"]


def table(content):
    return struct.pack(">HI", 0x2000, len(content)) + content


def nested(depth):
    content = b""
    for _ in range(depth):
        content = b"\0F" + struct.pack(">I", len(content)) + content
    return content


class Raw(amqp.Message):
    """A message whose properties are bytes."""

    def _serialize_properties(self):
        return self.properties["raw"]


@pytest.mark.parametrize("body", [pytest.param(b"1", id="body"), pytest.param(b"", id="no body")])
@pytest.mark.parametrize(
    "properties",
    [
        pytest.param(table(b"\x01tT" + struct.pack(">Q", 1_780_000_000_000)), id="a time in milliseconds"),
        pytest.param(table(nested(5000)), id="deep"),
        pytest.param(b"\x80\0\x02\xff\xfe", id="a content type that is not UTF-8"),
    ],
)
def test_headers_that_cannot_be_read_are_none_and_hold_nobody(rabbit, properties, body):
    rabbit.put()
    with rabbit.channel() as channel:
        for raw in (properties, b"\0\0"):
            message = Raw(body)
            message.properties = {"raw": raw}
            channel.basic_publish(message, routing_key=rabbit.name)
    with connect(rabbit) as intake:
        taken = take(intake, 2)
        assert [(one.body, one.headers) for one in taken] == [(body, {})] * 2
        for one in taken:
            intake.acknowledge(one)
    assert rabbit.size() == 0


def test_a_routing_key_that_cannot_be_read_holds_nobody(rabbit):
    rabbit.put()
    with rabbit.channel() as channel:
        channel.exchange_declare("everything", "fanout")
        channel.queue_bind(rabbit.name, "everything")
        channel.basic_publish(amqp.Message(b"1"), exchange="everything", routing_key=b"\xff\xfe")
    with connect(rabbit) as intake:
        (taken,) = take(intake)
        assert (taken.body, taken.again) == (b"1", False)
    with connect(rabbit) as intake:
        (taken,) = take(intake)
        assert (taken.body, taken.again) == (b"1", True)


def test_an_item_of_a_list_that_is_no_message_is_taken_as_it_is(listed):
    listed.client.lpush(listed.name, b"\xff no JSON")
    listed.put(b"2")
    with connect(listed) as intake:
        assert bodies(take(intake, 2)) == [b"\xff no JSON", b"2"]


# What kombu has beside these two.


def test_a_transport_that_forgets_what_is_not_acknowledged_is_given_it_back(request):
    name = request.node.name
    with kombu.Connection("memory://") as connection:
        producer = connection.Producer()
        for number in range(3):
            producer.publish(str(number).encode() * 3, routing_key=name, compression="zlib")
    broker = Broker("memory://")
    with _intake.connect(broker, name, "relay") as intake:
        assert intake.forgets
        taken = take(intake, 3)
        assert [zlib.decompress(one.body) for one in taken] == [b"000", b"111", b"222"]
        intake.acknowledge(taken[1])
    with _intake.connect(broker, name, "relay") as intake:
        taken = take(intake, 2)
        assert [zlib.decompress(one.body) for one in taken] == [b"000", b"222"]
        for one in taken:
            intake.acknowledge(one)
        assert intake.take(0.0) is None


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param({"delivery_info": ["redelivered"]}, id="a list for what was delivered"),
        pytest.param({"delivery_info": None}, id="nothing for what was delivered"),
    ],
)
def test_an_odd_message_of_a_virtual_transport_is_taken(request, odd):
    name = request.node.name
    with kombu.Connection("memory://") as connection:
        channel = connection.default_channel
        properties = {"delivery_tag": "1", **odd}
        channel._put(name, {"body": 10**12, "headers": [], "properties": properties})
    with _intake.connect(Broker("memory://"), name, "relay") as intake:
        (taken,) = take(intake)
        assert (taken.body, taken.headers, taken.again) == (b"", {}, False)
        intake.acknowledge(taken)


# The connection.


def test_a_broker_that_falls_silent_while_the_connection_is_made_is_not_waited_for(queue, monkeypatch):
    impatient(monkeypatch)
    declare = _intake.declare

    def silence(*arguments):
        queue.server.pause()
        declare(*arguments)

    monkeypatch.setattr(_intake, "declare", silence)
    begin = time.monotonic()
    try:
        with pytest.raises(BrokerError):
            connect(queue)
    finally:
        queue.server.resume()
    assert time.monotonic() - begin < 15


def test_a_broker_that_falls_silent_is_lost(queue, monkeypatch):
    impatient(monkeypatch)
    with connect(queue) as intake:
        intake.take(0.01)
        queue.server.pause()
        try:
            with pytest.raises(BrokerError):
                until(lambda: intake.take(0.1))
        finally:
            queue.server.resume()


def test_a_redis_that_is_full_can_be_connected_to_and_emptied(listed):
    listed.put(b"1")
    limit = listed.client.config_get("maxmemory")["maxmemory"]
    listed.client.config_set("maxmemory", 1)
    try:
        with connect(listed) as intake:
            (taken,) = take(intake)
            intake.acknowledge(taken)
    finally:
        listed.client.config_set("maxmemory", limit)
    assert (taken.body, listed.size()) == (b"1", 0)


def test_what_was_held_when_the_broker_was_killed_comes_again(rabbit):
    rabbit.put()  # the queue is made
    settle(rabbit.server)
    rabbit.put(b"1", b"2")
    with connect(rabbit) as intake:
        take(intake, 2)
        rabbit.server.kill()
        with pytest.raises(BrokerError):
            until(lambda: intake.take(0.1))
        with pytest.raises(BrokerError):
            connect(rabbit)
        rabbit.server.start()
        with pytest.raises(BrokerError):  # it has ended
            intake.take(0.0)
    with connect(rabbit) as intake:
        assert [(one.body, one.again) for one in take(intake, 2)] == [(b"1", True), (b"2", True)]


def test_a_redis_that_was_killed_knows_afterwards_what_is_held(listed):
    listed.put(b"1", b"2")
    with connect(listed) as intake:
        taken = take(intake, 2)
        listed.server.kill()
        with pytest.raises(BrokerError):
            intake.take(0.0)
        with pytest.raises(BrokerError):
            connect(listed)
        listed.server.start()
    with connect(listed) as intake:
        taken = take(intake, 2)
        assert [(one.body, one.again) for one in taken] == [(b"1", True), (b"2", True)]
        listed.server.kill()
        listed.server.start()
        intake.acknowledge(taken[0])
    assert listed.get()[0] == b"2"
    assert listed.get() is None


def test_while_its_caller_is_busy_the_broker_knows_that_it_is_there(queue, monkeypatch):
    impatient(monkeypatch)
    queue.put(b"1")
    with connect(queue) as busy, connect(queue, "another") as other:
        (taken,) = take(busy)
        end = time.monotonic() + 3
        while time.monotonic() < end:
            assert other.take(0.1) is None
        busy.acknowledge(taken)
        assert busy.take(0.1) is None
    assert queue.size() == 0


def test_a_caller_that_hangs_loses_what_it_has(queue, monkeypatch):
    impatient(monkeypatch)
    monkeypatch.setattr(_intake, "_LONGEST", 0.1)
    queue.put(b"1")
    with connect(queue, patience=0.1) as hung:
        take(hung)
        with connect(queue, "another", patience=60) as other:
            (taken,) = take(other)
            assert (taken.body, taken.again) == (b"1", True)
        if queue.kind == "rabbitmq":
            with pytest.raises(BrokerError):
                until(lambda: hung.take(0.1))


def test_a_loss_that_was_noticed_while_the_caller_was_busy_is_told_with_its_next_call(queue, monkeypatch):
    impatient(monkeypatch)
    queue.put(b"1")
    with connect(queue) as intake:
        take(intake)
        queue.server.pause()
        try:
            until(lambda: not intake._pulse.is_alive())
        finally:
            queue.server.resume()
        monkeypatch.setattr(intake, "_source", None)  # it is not asked
        with pytest.raises(BrokerError):
            intake.take(0.0)


def test_what_comes_while_it_tells_that_it_is_there_is_taken_next(rabbit, monkeypatch):
    monkeypatch.setattr(_intake, "_PULSE", 0.01)
    with connect(rabbit) as intake:
        monkeypatch.setattr(intake._source, "_silence", 0.0)
        rabbit.put(b"1", b"2")
        until(lambda: len(intake._source._come) == 2)
        monkeypatch.setattr(intake._source, "_silence", 60.0)
        assert bodies([intake.take(0.0), intake.take(0.0)]) == [b"1", b"2"]


def test_a_queue_that_is_removed_is_a_lost_connection_and_is_made_anew(rabbit):
    with connect(rabbit) as intake:
        rabbit.delete()
        with pytest.raises(BrokerError):
            until(lambda: intake.take(0.1))
    with connect(rabbit) as intake:
        rabbit.put(b"1")
        assert bodies(take(intake)) == [b"1"]


def test_a_channel_that_the_broker_closes_is_a_lost_connection(rabbit):
    rabbit.put(b"1")
    with connect(rabbit) as intake:
        (taken,) = take(intake)
        intake._source._channel.basic_ack(taken.handle + 7)
        with pytest.raises(BrokerError, match="unknown delivery tag"):
            until(lambda: intake.take(0.1))
    with connect(rabbit) as intake:
        assert bodies(take(intake)) == [b"1"]


def test_an_intake_that_fails_as_it_begins_leaves_no_connection(queue, monkeypatch):
    left = []
    monkeypatch.setattr(_intake, "leave", lambda connection, broker: left.append(_broker.leave(connection, broker)))
    monkeypatch.setattr(threading.Thread, "start", lambda self: (_ for _ in ()).throw(RuntimeError("no more threads")))
    with pytest.raises(BrokerError, match="no more threads"):
        connect(queue)
    assert len(left) == 1


def test_whatever_the_client_raises_is_a_lost_connection(queue):
    class Source:
        forgets = False

        def take(self, wait):
            raise amqp.PreconditionFailed("size")  # else it is a message that is too large

    intake = Intake(queue.broker, kombu.Connection("memory://"), Source(), 0.0)
    with pytest.raises(BrokerError, match="size"):
        intake.take(0.0)
    intake.close()
