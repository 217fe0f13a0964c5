"""Brokers that are unreachable, silent or slow, and servers that are not brokers."""

from __future__ import annotations

import gc
import itertools
import re

import pytest

from event._broker import publisher as publisher_module
from event.handler.broker import BrokerHandler
from helpers.events import closed_event
from helpers.published import SHORT, SOON, event_records, take_messages, within
from servers.raw import raw_server, silent_server
from servers.tcp_proxy import Proxy
from servers.tls import Authority

# Unreachable and paused brokers


@pytest.mark.parametrize("server", ["redis", pytest.param("rabbitmq", marks=pytest.mark.long)], indirect=True)
def test_restarted_server_keeps_messages_and_is_reconnected(server, queue, handler, caplog):
    other = BrokerHandler(handler.url, queue)
    assert handler.send_event(closed_event(number=0))
    # A killed RabbitMQ may lose a queue that was just created.
    server.stop() if server.url.startswith("amqp") else server.kill()
    with within(SOON):
        is_sent = other.send_event(closed_event(number=1))
    server.start()
    assert not is_sent
    assert re.search("broker: env:BROKER: connection", caplog.text, re.IGNORECASE)
    assert other.send_event(closed_event(number=2))
    assert handler.send_event(closed_event(number=3))  # after its open connection was lost
    assert [message.event.number for message in take_messages(server, queue)] == [0, 2, 3]


@pytest.mark.parametrize("connected", [True, False], ids=["connected", "not-connected"])
def test_paused_server_is_a_failure_at_the_timeout(server, queue, handler, caplog, connected):
    other = BrokerHandler(handler.url, queue)
    handler.timeout = SHORT
    if connected:
        assert other.send_event(closed_event())  # creates the queue
        assert handler.send_event(closed_event())
    server.pause()
    try:
        with within(SOON):
            assert not handler.send_event(closed_event())
    finally:
        server.resume()
    assert re.search("timed out|no answer within", caplog.text, re.IGNORECASE)
    assert other.send_event(closed_event())


def method_frame(kind, method):
    """Return an AMQP frame for channel 0 with a method whose only argument is an empty text."""
    payload = kind.to_bytes(2, "big") + method.to_bytes(2, "big") + b"\0"
    return b"\x01\0\0" + len(payload).to_bytes(4, "big") + payload + b"\xce"


def test_broker_without_memory_is_a_failure_with_the_reason(rabbitmq, queue, as_reference, caplog):
    blocked, unblocked = (method_frame(10, method) for method in (60, 61))
    with Proxy(rabbitmq) as proxy:
        handler = BrokerHandler(as_reference(proxy.url()), queue)
        assert handler.send_event(closed_event())
        handler.timeout = SHORT
        proxy.replacement = itertools.chain([blocked], itertools.repeat(b""))
        with within(SOON):
            assert not handler.send_event(closed_event())
        assert "broker: env:BROKER: the broker accepts nothing at the moment: it is short of memory" in caplog.text
        caplog.clear()
        proxy.replacement = None
        handler.timeout = 30
        assert handler.send_event(closed_event())
        handler.timeout = SHORT
        proxy.replacement = itertools.chain([blocked, unblocked], itertools.repeat(b""))
        assert not handler.send_event(closed_event())
        assert "broker: env:BROKER: no answer within" in caplog.text


def test_large_message_to_a_stalled_broker_fails_at_the_timeout(rabbitmq, queue, as_reference):
    handler = BrokerHandler(as_reference(rabbitmq.url), queue)
    assert handler.send_event(closed_event())
    large = closed_event(text="x" * (16 << 20))
    handler.timeout = SHORT
    rabbitmq.pause()
    try:
        with within(SOON):
            assert not handler.send_event(large)
    finally:
        rabbitmq.resume()


# Several URLs


@pytest.mark.parametrize("first", ["unused-port", "silent", "wrong-password"])
@pytest.mark.parametrize(("timeout", "operation_timeout"), [(4, 10.0), (30, 1.0)])
def test_next_url_is_tried_if_the_first_fails(  # noqa: PLR0913
    rabbitmq, queue, as_reference, unused_port, monkeypatch, first, timeout, operation_timeout
):
    connect, attempts = publisher_module.connect_publisher, []

    def connect_and_count(*args):
        attempts.append(args)
        return connect(*args)

    monkeypatch.setattr("event._broker.amqp.OPERATION_TIMEOUT", operation_timeout)
    monkeypatch.setattr(publisher_module, "connect_publisher", connect_and_count)
    with silent_server() as silent:
        url = {
            "unused-port": f"amqp://127.0.0.1:{unused_port}",
            "silent": silent.replace("http", "amqp"),
            "wrong-password": rabbitmq.url.replace(rabbitmq.password, "wrong"),
        }[first]
        handler = BrokerHandler(as_reference(f"{url};{rabbitmq.url}"), queue, timeout=timeout)
        assert handler.send_event(closed_event())
        assert handler.send_event(closed_event())
        assert len(attempts) == 2  # one for each URL: the second event uses the open connection
    assert len(take_messages(rabbitmq, queue)) == 2


def test_each_of_many_urls_is_tried(redis, queue, as_reference, unused_port):
    url = ";".join([f"redis://127.0.0.1:{unused_port}"] * 4 + [redis.url])
    assert BrokerHandler(as_reference(url), queue).send_event(closed_event())
    assert len(take_messages(redis, queue)) == 1


# Servers that misbehave


def stay_silent(connection, stopped):
    stopped.wait()


def drip(*items):
    """Return a function for `raw_server` that sends each item, and the bytes of the last one again and again."""

    def serve(connection, stopped):
        for item in itertools.chain(items[:-1], itertools.cycle(items[-1])):
            connection.sendall(bytes([item]) if isinstance(item, int) else item)
            if stopped.wait(0.01):
                return

    return serve


def disconnect(connection, stopped):
    connection.recv(1 << 16)
    connection.close()


def answer_as_http(connection, stopped):
    connection.recv(1 << 16)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 10)
    connection.close()


def send_unknown_frame(connection, stopped):
    connection.recv(1 << 16)
    connection.sendall(b"\x09\0\0\0\0\0\0\xce")  # a frame of an unknown type
    stopped.wait()


HEARTBEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"

HALF_A_FRAME = b"\x01\x00\x00\x00\x00\x10\x00" + b"\x00"

SILENT_SERVERS = [
    pytest.param("amqp", stay_silent, id="amqp-silent"),
    pytest.param("amqp", drip(HEARTBEAT), id="amqp-dripping-frames"),
    pytest.param("amqp", drip(HALF_A_FRAME, b"x"), id="amqp-dripping-a-frame"),
    pytest.param("amqps", stay_silent, id="amqps-silent"),
    pytest.param("redis", stay_silent, id="redis-silent"),
    pytest.param("rediss", stay_silent, id="rediss-silent"),
]


@pytest.mark.parametrize(("scheme", "serve"), SILENT_SERVERS)
def test_silent_server_is_a_failure_at_the_timeout(queue, caplog, scheme, serve):
    with raw_server(serve) as port:
        handler = BrokerHandler(f"{scheme}://127.0.0.1:{port}", queue, timeout=SHORT)
        with within(SOON):
            assert not handler.send_event(closed_event())
    (record,) = event_records(caplog)
    assert f"broker: {scheme}://127.0.0.1:{port}: " in record.message


@pytest.mark.parametrize(
    ("scheme", "serve"),
    [
        ("amqp", disconnect),
        ("amqp", answer_as_http),
        ("amqp", send_unknown_frame),
        ("redis", disconnect),
        ("redis", answer_as_http),
    ],
)
def test_server_that_is_not_a_broker_is_a_failure(queue, caplog, scheme, serve):
    timeout = SHORT if serve is send_unknown_frame else 30  # this server does not disconnect
    with raw_server(serve) as port, within(SOON):
        assert not BrokerHandler(f"{scheme}://127.0.0.1:{port}", queue, timeout=timeout).send_event(closed_event())
    gc.collect()  # an open socket would be a ResourceWarning, which is an error here
    (record,) = event_records(caplog)
    assert f"broker: {scheme}://127.0.0.1:{port}: " in record.message


@pytest.mark.parametrize(
    "replacement",
    [
        pytest.param([b""], id="silent"),
        pytest.param([HEARTBEAT], id="dripping-frames"),
        pytest.param([HALF_A_FRAME, *[b"x"] * 10_000], id="dripping-a-frame"),
    ],
)
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_broker_that_stops_answering_is_a_failure_at_the_timeout(  # noqa: PLR0913
    rabbitmq, queue, as_reference, caplog, replacement, tls, tmp_path, monkeypatch
):
    authority = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", authority.path)
    with Proxy(rabbitmq, authority.context("127.0.0.1") if tls else None) as proxy:
        handler = BrokerHandler(as_reference(proxy.url("amqps" if tls else "")), queue)
        assert handler.send_event(closed_event())
        handler.timeout = SHORT
        proxy.replacement = itertools.cycle(replacement)
        with within(SOON):
            assert not handler.send_event(closed_event())
        assert re.search("timed out|no answer within", caplog.text, re.IGNORECASE)
        proxy.replacement = None
        handler.timeout = 30
        assert handler.send_event(closed_event())
