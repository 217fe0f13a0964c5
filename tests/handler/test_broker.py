"""The broker handler with a real RabbitMQ and Redis, moto's SQS and S3, and servers that misbehave."""

from __future__ import annotations

import copy
import gc
import hashlib
import itertools
import logging
import os
import pickle
import re
import select
import socket
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from urllib.parse import quote

import pika
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import event
from event import _files
from event._broker import InlineFile, decode_message
from event._broker import publisher as publisher_module
from event._outbox import Outbox
from event.handler.broker import BrokerHandler
from helpers.brokers import RabbitQueue, RedisQueue
from helpers.delivering import deliver
from servers.process import free_port
from servers.rabbitmq import LARGEST
from servers.raw import raw_server, silent_server
from servers.tls import Authority

QUICK = 3.0  # seconds; a longer time means that something was waited for
SHORT = 0.5  # seconds; the timeout of an attempt that must fail
SLACK = 1.5  # additional seconds on a busy machine


@pytest.fixture(params=["rabbitmq", "redis"])
def server(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def s3(moto, monkeypatch):
    moto.reset("builds")
    for name, value in moto.environment.items():
        monkeypatch.setenv(name, value)
    return moto


@pytest.fixture(scope="module")
def unused_port():
    """Return a port on which nothing listens."""
    holder, port = free_port()
    with holder:
        yield port


@pytest.fixture
def queue():
    """Return a queue name that no other test uses."""
    return f"test-{os.urandom(6).hex()}"


@pytest.fixture
def as_reference(monkeypatch):
    """Return a function that stores a URL in an environment variable and returns a reference to it."""

    def store(url, name="BROKER"):
        monkeypatch.setenv(name, url)
        return f"env:{name}"

    return store


@pytest.fixture
def handler(server, queue, as_reference):
    return BrokerHandler(as_reference(server.url), queue)


def finished(**data):
    made = event.Event("compile", **data)
    made.close()
    return made


def take_all(server, queue):
    """Take all messages from a queue with a client of the broker."""
    kind = RabbitQueue if server.url.startswith("amqp") else RedisQueue
    client = kind(server)
    client.name = queue
    try:
        return [*iter(client.get_message, None)]
    finally:
        client.close()


def messages(server, queue):
    return [decode_message(message.body) for message in take_all(server, queue)]


def the_message(server, queue):
    (message,) = messages(server, queue)
    return message


def content_of(message, number="0"):
    """Return the content of a file of a message."""
    (digest,) = [digest for file, digest in message.attachments.values() if file == number]
    return b"".join(message.files[number].chunks(digest))


@contextmanager
def admin_channel(server):
    """Yield a channel to RabbitMQ."""
    with pika.BlockingConnection(pika.URLParameters(f"{server.url}%2F")) as connection:
        yield connection.channel()


def event_records(caplog):
    """Return the records of the logger `event`; the clients have their own loggers."""
    return [record for record in caplog.records if record.name == "event"]


@contextmanager
def within(seconds):
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds


class Proxy:
    """Proxy between a client and a server.

    :ivar port: the port of the proxy
    :ivar replacement: iterator of the data that replaces the server's answers; None to forward the answers
    """

    def __init__(self, server, context=None):
        self.server = server
        self.context = context
        self.replacement = None
        self.count = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.stopped = threading.Event()
        self.threads = [threading.Thread(target=self.accept)]

    def __enter__(self):
        self.threads[0].start()
        return self

    def __exit__(self, *_error):
        self.stopped.set()
        for thread in self.threads:
            thread.join()
        self.listener.close()

    def url(self, scheme="", host="127.0.0.1"):
        """Return the server's URL with the port of the proxy."""
        own, _, rest = self.server.url.partition("://")
        return f"{scheme or own}://{rest.replace('127.0.0.1', host).replace(str(self.server.port), str(self.port))}"

    def wait(self):
        """Wait until all clients have disconnected and the server has their data."""
        for thread in self.threads[1:]:
            thread.join()

    def accept(self):
        while not self.stopped.is_set():
            if select.select([self.listener], [], [], 0.01)[0]:
                self.count += 1
                self.threads.append(threading.Thread(target=self.serve, args=[self.listener.accept()[0]]))
                self.threads[-1].start()

    def serve(self, client):
        with client, socket.create_connection(("127.0.0.1", self.server.port)) as server:
            client.settimeout(5)
            try:
                if self.context is None:
                    self.forward(client, server)
                else:
                    with self.context.wrap_socket(client, server_side=True) as secured:
                        self.forward(secured, server)
            except OSError:
                pass  # the client or the server has disconnected

    def forward(self, client, server):
        while not self.stopped.is_set():
            ready = select.select([client, server], [], [], 0.01)[0]
            if client in ready or (self.context and client.pending()):
                if not (data := client.recv(1 << 16)):
                    return
                server.sendall(data)
            if server in ready:
                if not (data := server.recv(1 << 16)):
                    return
                if self.replacement is None:
                    client.sendall(data)
            if self.replacement is not None:
                client.sendall(next(self.replacement))


# Messages


def test_message_contains_the_event(server, queue, handler, tmp_path):
    log = tmp_path / "build.log"
    log.write_bytes(b"done\n")
    with event.Event("compile", uid="42", target="ärm", flags={"b", "a"}) as made:
        made.attach_file(log)
    assert handler.send_event(made)
    (raw,) = take_all(server, queue)
    message = decode_message(raw.body)
    assert message.event.as_dict() == {**made.as_dict(), "flags": ["a", "b"]}
    assert message.event._closed
    assert message.attachments == {"log": ("0", hashlib.sha1(b"done\n").hexdigest())}
    assert message.files == {"0": InlineFile.of(b"done\n")}
    assert abs(message.created - time.time()) < 300
    assert message.span is None
    assert raw.id == message.id
    if properties := raw.properties:
        assert (properties.content_type, properties.content_encoding) == ("application/vnd.e3-event+json", "utf-8")
        assert properties.delivery_mode == 2


def test_current_span_is_in_the_message(server, queue, handler, monkeypatch):
    monkeypatch.setenv("TRACEPARENT", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    monkeypatch.setenv("TRACESTATE", "v=1")
    assert handler.send_event(finished())
    span = the_message(server, queue).span
    assert (span.traceparent, span.state) == (os.environ["TRACEPARENT"], "v=1")


def test_events_arrive_in_order_with_their_own_ids(server, queue, handler):
    assert all(handler.send_event(finished(number=number)) for number in range(5))
    got = messages(server, queue)
    assert [message.event.number for message in got] == [*range(5)]
    assert len({message.id for message in got}) == 5


def test_all_attempts_from_an_outbox_have_one_id(server, queue, as_reference, tmp_path):
    """The first attempt arrives, but its confirmation is lost."""
    with Proxy(server) as proxy:
        manager = event.EventManager(outbox=tmp_path / "outbox")
        manager.add_handler("broker", as_reference(proxy.url()), queue)
        assert manager.send_event(finished(number=0))
        manager.handlers["broker"].timeout = SHORT
        proxy.replacement = itertools.repeat(b"")
        assert not manager.send_event(finished(number=1))
        proxy.wait()
        proxy.replacement = None
        ((_, outcome),) = deliver(Outbox(manager.outbox), everything=True)
        assert outcome
    first, *others = messages(server, queue)
    assert [message.event.number for message in others] == [1, 1]
    assert {message.id for message in others} - {first.id} == {others[0].id}


def test_circular_data_is_refused_before_publishing(server, queue, handler):
    made = event.Event("compile", loop=[])
    made.loop.append(made.loop)
    with pytest.raises(event.EventError, match="loop' contains itself"):
        handler.send_event(made)
    assert handler.send_event(finished())
    assert len(messages(server, queue)) == 1


# Queues


def test_missing_queue_is_created_as_durable(rabbitmq, queue, as_reference):
    assert BrokerHandler(as_reference(rabbitmq.url), queue).send_event(finished())
    with admin_channel(rabbitmq) as channel:
        # A passive declaration fails if the queue is missing.
        assert channel.queue_declare(queue, passive=True).method.message_count == 1


@pytest.mark.parametrize(
    ("durable", "arguments"),
    [
        pytest.param(True, {"x-queue-type": "quorum"}, id="quorum"),
        pytest.param(True, {"x-max-length": 2}, id="limited"),
        pytest.param(False, {}, id="transient"),
    ],
)
def test_existing_queue_is_used_unchanged(rabbitmq, queue, as_reference, durable, arguments):
    handler = BrokerHandler(as_reference(rabbitmq.url), queue)
    with admin_channel(rabbitmq) as channel:
        channel.queue_declare(queue, durable=durable, auto_delete=False, arguments=arguments)
        assert handler.send_event(finished())
        assert channel.queue_declare(queue, passive=True).method.message_count == 1


def test_queue_removed_between_two_events_is_created_again(rabbitmq, queue, as_reference):
    handler = BrokerHandler(as_reference(rabbitmq.url), queue)
    assert handler.send_event(finished(number=1))
    with admin_channel(rabbitmq) as channel:
        channel.queue_delete(queue)
    assert handler.send_event(finished(number=2))
    assert handler.send_event(finished(number=3))
    assert [message.event.number for message in messages(rabbitmq, queue)] == [2, 3]


def test_full_queue_is_a_failure_until_it_has_room(rabbitmq, queue, as_reference, caplog):
    handler = BrokerHandler(as_reference(rabbitmq.url), queue)
    with admin_channel(rabbitmq) as channel:
        limit = {"x-max-length": 1, "x-overflow": "reject-publish"}
        channel.queue_declare(queue, durable=True, auto_delete=False, arguments=limit)
    assert handler.send_event(finished(number=1))
    assert not handler.send_event(finished(number=2))
    assert [record.levelname for record in event_records(caplog)] == ["WARNING"]
    assert "broker: env:BROKER: the broker has rejected the message; the queue may be full; <Event " in caplog.text
    assert the_message(rabbitmq, queue).event.number == 1
    assert handler.send_event(finished(number=3))


def test_message_above_the_size_limit_is_a_permanent_failure(rabbitmq, queue, as_reference, tmp_path):
    manager = event.EventManager(outbox=tmp_path / "outbox")
    manager.add_handler("broker", as_reference(rabbitmq.url), queue)
    (delivery,) = manager.dispatch(finished(text="x" * LARGEST))
    assert delivery.permanent
    assert delivery.reason.startswith("broker: env:BROKER: ")
    assert f"is larger than configured max size {LARGEST}" in delivery.reason
    assert manager.send_event(finished())
    assert len(messages(rabbitmq, queue)) == 1
    assert [*deliver(Outbox(manager.outbox), everything=True)] == []


def test_forbidden_queue_is_a_failure(rabbitmq, queue, as_reference, caplog):
    with admin_channel(rabbitmq) as channel:
        channel.queue_declare(queue, exclusive=True)
        assert not BrokerHandler(as_reference(rabbitmq.url), queue).send_event(finished())
    assert "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue" in caplog.text


# Secrets


@pytest.mark.parametrize("password", ["t0psecret!", "a/b@c:d?e#f", 'it\'s "q"\\n', "two  spaces", "ünïcode", "%41"])
@pytest.mark.parametrize("reference", [False, True], ids=["clear", "reference"])
def test_wrong_password_is_a_failure_without_the_password(server, queue, as_reference, caplog, password, reference):  # noqa: PLR0913
    caplog.set_level(logging.DEBUG)
    url = server.url.replace(server.password, quote(password, safe=""))
    manager = event.EventManager()
    manager.handlers["broker"] = BrokerHandler(as_reference(url) if reference else url, queue)
    with within(QUICK):
        outcome = manager.dispatch(finished())
    assert not outcome
    assert not manager.send_event(finished())
    assert re.search("ACCESS_REFUSED|invalid username-password pair", str(outcome))
    shown = caplog.text + str(outcome)
    forms = {password, quote(password, safe=""), repr(password)[1:-1], " ".join(password.split())}
    assert not [form for form in forms if form in shown]
    assert reference is not ("given in clear" in caplog.text)


def test_no_client_logs_the_password(server, handler, caplog):
    caplog.set_level(logging.DEBUG)
    assert handler.send_event(finished())
    assert server.password not in caplog.text
    assert any(record.name.startswith("pika") for record in caplog.records) or server.url.startswith("redis")


@pytest.mark.parametrize("scheme", ["amqp", "redis"])
def test_program_without_logging_prints_only_the_line_of_event(unused_port, scheme):
    """Without a handler, logging prints the warnings and errors of all loggers to stderr, also those of the clients."""
    code = f"""if True:
        import event
        from event.handler.broker import BrokerHandler

        made = event.Event("compile")
        made.close()
        assert not BrokerHandler("{scheme}://ci@127.0.0.1:{unused_port}").send_event(made)
    """
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert re.fullmatch(
        rf"broker: {scheme}://127.0.0.1:{unused_port}: .*; <Event 'compile' .*> is not delivered\n", done.stderr
    )


def test_wrong_password_is_logged_once_per_event(rabbitmq, queue, as_reference):
    """Some servers lock out a user after repeated attempts."""
    with Proxy(rabbitmq) as proxy:
        assert not BrokerHandler(as_reference(proxy.url().replace(rabbitmq.password, "wrong")), queue).send_event(
            finished()
        )
        assert proxy.count == 1


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        pytest.param("amqp://ci:t0psecret@127.0.0.1/", True, id="password"),
        pytest.param("redis://127.0.0.1/;redis://:t0psecret@127.0.0.1", True, id="password-in-another-one"),
        pytest.param("amqp://guest:guest@127.0.0.1/", False, id="guest"),
        pytest.param("amqp://ci@127.0.0.1/", False, id="user"),
        pytest.param("amqp://127.0.0.1/", False, id="no-user"),
    ],
)
def test_plain_password_is_a_warning_that_hides_it(caplog, as_reference, url, warned):
    BrokerHandler(as_reference(url))
    assert caplog.records == []
    BrokerHandler(url)
    assert ["the URL's password is given in clear" in record.message for record in caplog.records] == [True] * warned
    assert "t0psecret" not in caplog.text


def test_reference_is_resolved_on_send(server, queue, as_reference, caplog, monkeypatch):
    handler = BrokerHandler("env:BROKER", queue)
    assert not handler.send_event(finished())
    assert "broker: the URL: env:BROKER is not set" in caplog.text
    as_reference(server.url)
    assert handler.send_event(finished())
    as_reference(server.url.replace(server.password, "changed"))
    assert not handler.send_event(finished())
    as_reference("t0psecret")
    assert not handler.send_event(finished())
    assert "t0psecret" not in caplog.text
    as_reference(server.url)
    assert handler.send_event(finished())
    assert len(messages(server, queue)) == 2


def test_outbox_stores_only_references(redis, queue, tmp_path, monkeypatch, unused_port):
    monkeypatch.chdir(tmp_path)
    url = tmp_path / "url"
    url.write_text(f"redis://:t0psecret@127.0.0.1:{unused_port}")
    manager = event.EventManager(outbox=tmp_path / "outbox")
    manager.add_handler("broker", "file:url", queue)
    assert not manager.send_event(finished())
    stored = b"".join(path.read_bytes() for path in (tmp_path / "outbox").rglob("*") if path.is_file())
    assert f"file:{url}".encode() in stored.replace(b"\\\\", b"\\")
    assert b"t0psecret" not in stored
    url.write_text(redis.url)
    monkeypatch.chdir("/")
    ((_, outcome),) = deliver(Outbox(manager.outbox), everything=True)
    assert outcome
    assert len(messages(redis, queue)) == 1


# Unreachable, silent and slow servers


@pytest.mark.parametrize("server", ["redis", pytest.param("rabbitmq", marks=pytest.mark.long)], indirect=True)
def test_restarted_server_keeps_messages_and_is_reconnected(server, queue, handler, caplog):
    other = BrokerHandler(handler.url, queue)
    assert handler.send_event(finished(number=0))
    # A killed RabbitMQ may lose a queue that was just created.
    server.stop() if server.url.startswith("amqp") else server.kill()
    with within(QUICK):
        is_sent = other.send_event(finished(number=1))
    server.start()
    assert not is_sent
    assert re.search("broker: env:BROKER: connection", caplog.text, re.IGNORECASE)
    assert other.send_event(finished(number=2))
    assert handler.send_event(finished(number=3))  # its open connection is dead
    assert [message.event.number for message in messages(server, queue)] == [0, 2, 3]


@pytest.mark.parametrize("connected", [True, False], ids=["connected", "not-connected"])
def test_paused_server_is_a_failure_at_the_timeout(server, queue, handler, caplog, connected):
    other = BrokerHandler(handler.url, queue)
    handler.timeout = SHORT
    if connected:
        assert other.send_event(finished())  # creates the queue
        assert handler.send_event(finished())
    server.pause()
    try:
        with within(SHORT + SLACK):
            assert not handler.send_event(finished())
    finally:
        server.resume()
    assert re.search("timed out|no answer within", caplog.text, re.IGNORECASE)
    assert other.send_event(finished())


def test_broker_without_memory_is_a_failure_with_the_reason(rabbitmq, queue, as_reference, caplog):
    blocked, unblocked = (method_frame(10, method) for method in (60, 61))
    with Proxy(rabbitmq) as proxy:
        handler = BrokerHandler(as_reference(proxy.url()), queue)
        assert handler.send_event(finished())
        handler.timeout = SHORT
        proxy.replacement = itertools.chain([blocked], itertools.repeat(b""))
        with within(SHORT + SLACK):
            assert not handler.send_event(finished())
        assert "broker: env:BROKER: the broker accepts nothing at the moment: it is short of memory" in caplog.text
        caplog.clear()
        proxy.replacement = None
        handler.timeout = 30
        assert handler.send_event(finished())
        handler.timeout = SHORT
        proxy.replacement = itertools.chain([blocked, unblocked], itertools.repeat(b""))
        assert not handler.send_event(finished())
        assert "broker: env:BROKER: no answer within" in caplog.text


def method_frame(kind, method):
    """Return an AMQP frame for channel 0 with a method whose only argument is an empty text."""
    payload = kind.to_bytes(2, "big") + method.to_bytes(2, "big") + b"\0"
    return b"\x01\0\0" + len(payload).to_bytes(4, "big") + payload + b"\xce"


@pytest.mark.parametrize("first", ["unused-port", "silent", "wrong-password"])
@pytest.mark.parametrize("timeout", [2, 30])
def test_next_url_is_tried_if_the_first_fails(  # noqa: PLR0913
    rabbitmq, queue, as_reference, unused_port, monkeypatch, first, timeout
):
    monkeypatch.setattr("event._broker.amqp.OPERATION_TIMEOUT", 1.0)
    with silent_server() as silent:
        url = {
            "unused-port": f"amqp://127.0.0.1:{unused_port}",
            "silent": silent.replace("http", "amqp"),
            "wrong-password": rabbitmq.url.replace(rabbitmq.password, "wrong"),
        }[first]
        handler = BrokerHandler(as_reference(f"{url};{rabbitmq.url}"), queue, timeout=timeout)
        with within(1 + SLACK):
            assert handler.send_event(finished())
        with within(0.9):
            assert handler.send_event(finished())  # on the open connection
    assert len(messages(rabbitmq, queue)) == 2


def test_each_of_many_urls_is_tried(redis, queue, as_reference, unused_port):
    url = ";".join([f"redis://127.0.0.1:{unused_port}"] * 4 + [redis.url])
    assert BrokerHandler(as_reference(url), queue).send_event(finished())
    assert len(messages(redis, queue)) == 1


def silence(connection, stopped):
    stopped.wait()


def drip(*items):
    def serve(connection, stopped):
        for item in itertools.chain(items[:-1], itertools.cycle(items[-1])):
            connection.sendall(bytes([item]) if isinstance(item, int) else item)
            if stopped.wait(0.01):
                return

    return serve


def hang_up(connection, stopped):
    connection.recv(1 << 16)
    connection.close()


def babble(connection, stopped):
    connection.recv(1 << 16)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 10)
    connection.close()


def unknown_frame(connection, stopped):
    connection.recv(1 << 16)
    connection.sendall(b"\x09\0\0\0\0\0\0\xce")  # a frame of an unknown type
    stopped.wait()


HEARTBEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"
HALF_A_FRAME = b"\x01\x00\x00\x00\x00\x10\x00" + b"\x00"
SLOW = [
    pytest.param("amqp", silence, id="amqp-silent"),
    pytest.param("amqp", drip(HEARTBEAT), id="amqp-dripping-frames"),
    pytest.param("amqp", drip(HALF_A_FRAME, b"x"), id="amqp-dripping-a-frame"),
    pytest.param("amqps", silence, id="amqps-silent"),
    pytest.param("redis", silence, id="redis-silent"),
    pytest.param("rediss", silence, id="rediss-silent"),
]


@pytest.mark.parametrize(("scheme", "serve"), SLOW)
def test_silent_server_is_a_failure_at_the_timeout(queue, caplog, scheme, serve):
    with raw_server(serve) as port:
        handler = BrokerHandler(f"{scheme}://127.0.0.1:{port}", queue, timeout=SHORT)
        with within(SHORT + SLACK):
            assert not handler.send_event(finished())
    (record,) = event_records(caplog)
    assert f"broker: {scheme}://127.0.0.1:{port}: " in record.message


@pytest.mark.parametrize(
    ("scheme", "serve"),
    [("amqp", hang_up), ("amqp", babble), ("amqp", unknown_frame), ("redis", hang_up), ("redis", babble)],
)
def test_server_that_is_no_broker_is_a_failure(queue, caplog, scheme, serve):
    timeout = SHORT if serve is unknown_frame else 30  # after it, the server is silent
    with raw_server(serve) as port, within(QUICK):
        assert not BrokerHandler(f"{scheme}://127.0.0.1:{port}", queue, timeout=timeout).send_event(finished())
    gc.collect()  # an open socket would warn
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
        assert handler.send_event(finished())
        handler.timeout = SHORT
        proxy.replacement = itertools.cycle(replacement)
        with within(SHORT + SLACK):
            assert not handler.send_event(finished())
        assert re.search("timed out|no answer within", caplog.text, re.IGNORECASE)
        proxy.replacement = None
        handler.timeout = 30
        assert handler.send_event(finished())


def test_large_message_to_a_stalled_broker_fails_at_the_timeout(rabbitmq, queue, as_reference):
    handler = BrokerHandler(as_reference(rabbitmq.url), queue)
    assert handler.send_event(finished())
    large = finished(text="x" * (16 << 20))
    handler.timeout = SHORT
    rabbitmq.pause()
    try:
        with within(SHORT + SLACK):
            assert not handler.send_event(large)
    finally:
        rabbitmq.resume()


# Connections


def test_one_connection_serves_many_events(server, queue, as_reference):
    with Proxy(server) as proxy:
        handler = BrokerHandler(as_reference(proxy.url()), queue)
        assert handler.send_event(finished())
        made = proxy.count
        assert all(handler.send_event(finished()) for _ in range(5))
        assert proxy.count == made


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="platform: counts no references")
def test_published_message_is_freed_at_once(server, queue, as_reference):
    handler = BrokerHandler(as_reference(server.url), queue)
    published = finished()
    gc.collect()
    gc.disable()
    try:
        assert handler.send_event(published)
        left = [weakref.ref(published), weakref.ref(handler)]
        del published, handler
        assert [ref() for ref in left] == [None, None]
    finally:
        gc.enable()


def test_connection_unused_for_long_is_not_reused(server, queue, as_reference, monkeypatch):
    monkeypatch.setattr(publisher_module, "_MAX_IDLE_SECONDS", 0.0)
    with Proxy(server) as proxy:
        handler = BrokerHandler(as_reference(proxy.url()), queue)
        assert handler.send_event(finished())
        made = proxy.count
        assert handler.send_event(finished())
        assert proxy.count == 2 * made
    assert len(messages(server, queue)) == 2


def test_many_threads_share_a_handler(server, queue, handler):
    sent = [finished(number=number) for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(handler.send_event, sent))
    assert sorted(message.event.number for message in messages(server, queue)) == [*range(40)]


FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="platform: has no fork")


@FORK
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_forked_process_uses_its_own_connection(server, queue, as_reference, tls, tmp_path, monkeypatch):  # noqa: PLR0913
    authority = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", authority.path)
    scheme = {"amqp": "amqps", "redis": "rediss"}[server.url.partition(":")[0]] if tls else ""
    with Proxy(server, authority.context("127.0.0.1") if tls else None) as proxy:
        handler = BrokerHandler(as_reference(proxy.url(scheme)), queue)
        assert handler.send_event(finished(number=1))
        made = proxy.count
        child = os.fork()
        if child == 0:
            os._exit(0 if handler.send_event(finished(number=2)) else 1)  # pragma: no cover  # in the child
        assert os.waitpid(child, 0)[1] == 0
        assert proxy.count == 2 * made
        assert handler.send_event(finished(number=3))
        assert proxy.count == 2 * made
    assert [message.event.number for message in messages(server, queue)] == [1, 2, 3]


FORKING = """
import os, sys
import event

event.load_handlers_from_env()
assert event.send_event(event.Event("first"))
child = os.fork()
if child == 0:
    if sys.argv[1] == "child-sends":
        assert event.send_event(event.Event("child"))
else:
    if sys.argv[1] == "parent-sends":
        assert event.send_event(event.Event("meanwhile"))
    assert os.waitpid(child, 0)[1] == 0
    assert event.send_event(event.Event("last"))
"""


@FORK
@pytest.mark.parametrize(
    ("order", "names"),
    [
        pytest.param("child-sends", ["first", "child", "last"], id="child-sends"),
        pytest.param("parent-sends", ["first", "meanwhile", "last"], id="parent-sends"),
        pytest.param("none-sends", ["first", "last"], id="none-sends"),
    ],
)
def test_forked_process_does_not_close_the_connection_of_its_parent(server, queue, order, names):
    assert script(server.url, queue, FORKING, order) == ""
    assert [message.event.name for message in messages(server, queue)] == names


def environment(url, queue):
    source = os.path.dirname(os.path.dirname(event.__file__))
    handlers = f"broker=env:BROKER,{queue}"
    return {**os.environ, "PYTHONPATH": source, "E3_EVENT_HANDLERS": handlers, "BROKER": url}


STRICT = [sys.executable, "-X", "dev", "-W", "error", "-W", "ignore:.*multi-threaded:DeprecationWarning", "-c"]


def script(url, queue, text, *arguments):
    """Run a script in which warnings are errors; return its output."""
    done = subprocess.run(
        [*STRICT, text, *arguments],
        env=environment(url, queue),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda handler: pickle.loads(pickle.dumps(handler))])
def test_copied_handler_sends(redis, queue, as_reference, copied):
    handler = BrokerHandler(as_reference(redis.url), queue, limit=7, s3="s3://builds", timeout=9)
    assert handler.send_event(finished())
    other = copied(handler)
    assert other.send_event(finished())
    assert other.encode_config() == handler.encode_config()
    assert other._pool is not handler._pool
    assert len(messages(redis, queue)) == 2


# Process exit

ONE_EVENT = """
import event

event.load_handlers_from_env()
with event.Event("compile") as e:
    pass
assert event.send_event(e)
print("sent", flush=True)
input()
"""


@contextmanager
def sender(url, queue):
    """Run a process that sends an event, and that exits at the end of the block."""
    with subprocess.Popen(
        [*STRICT, ONE_EVENT],
        env=environment(url, queue),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        assert process.stdout.readline() == b"sent\n"
        yield process
        assert (process.communicate(b"\n")[0], process.returncode) == (b"", 0)


def test_process_closes_its_connection_at_exit(server, queue):
    before = server.log.stat().st_size
    with sender(server.url, queue):
        pass
    logged = server.log.read_bytes()[before:]
    assert b"unexpectedly" not in logged
    assert len(messages(server, queue)) == 1


def test_process_exits_soon_if_the_server_is_silent(server, queue):
    start = None
    try:
        with sender(server.url, queue):
            server.pause()
            start = time.monotonic()
        assert time.monotonic() - start < QUICK  # including a second to close the connection
    finally:
        server.resume()


# TLS


@pytest.fixture
def scheme(server):
    """Return the URL scheme for TLS, which a proxy adds to the server."""
    return {"amqp": "amqps", "redis": "rediss"}[server.url.partition(":")[0]]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_private_certificate_authority_is_trusted_if_configured(  # noqa: PLR0913
    server, scheme, queue, as_reference, tmp_path, monkeypatch, host
):
    authority = Authority(tmp_path)
    with Proxy(server, authority.context(host)) as proxy:
        monkeypatch.setenv("SSL_CERT_FILE", authority.path)
        handler = BrokerHandler(as_reference(proxy.url(scheme, host)), queue)
        assert handler.send_event(finished())
        assert handler.send_event(finished(text="x" * 100_000))
    assert len(messages(server, queue)) == 2


@pytest.mark.parametrize(
    ("names", "trusted", "why"),
    [
        pytest.param(["127.0.0.1"], False, "unable to get local issuer", id="unknown-authority"),
        pytest.param(["elsewhere.example"], True, "mismatch", id="other-host"),
    ],
)
def test_nothing_is_sent_to_an_untrusted_server(  # noqa: PLR0913
    server, scheme, queue, as_reference, tmp_path, monkeypatch, caplog, names, trusted, why
):
    authority = Authority(tmp_path)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", authority.path)
    with Proxy(server, authority.context(*names)) as proxy:
        assert not BrokerHandler(as_reference(proxy.url(scheme)), queue).send_event(finished())
    assert re.search(rf"certificate verify failed.*{why}.*; SSL_CERT_FILE may name", caplog.text)


# Attachments


def event_with(*files, **data):
    """Return an event with files attached under their names."""
    with event.Event("compile", **data) as made:
        for file in files:
            made.attach_file(file, file.name)
    return made


@pytest.fixture
def files(tmp_path):
    """Return a function that writes a file."""

    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


@pytest.fixture
def make_handler(redis, queue, as_reference):
    """Return a function that makes a handler with options. The size limit of Redis is too high to matter."""
    return lambda **options: BrokerHandler(as_reference(redis.url), queue, **options)


def test_attachments_are_in_the_message(redis, queue, make_handler, files):
    contents = {"build.log": b"done\n", "empty": b"", "core ä/\\": os.urandom(100_000)}
    made = event.Event("compile")
    for number, (name, content) in enumerate(contents.items()):
        made.attach_file(files(str(number), content), name)
    assert make_handler().send_event(made)
    message = the_message(redis, queue)
    assert {name: content_of(message, file) for name, (file, _) in message.attachments.items()} == contents


def test_attachments_together_respect_the_size_limit(redis, queue, make_handler, files, caplog):
    made = event_with(files("a", b"x" * 6), files("b", b"x" * 5), files("c", b"x" * 4), files("d", b""), uid="42")
    assert make_handler(limit=10).send_event(made)
    message = the_message(redis, queue)
    assert sorted(message.attachments) == ["a", "c", "d"]
    assert sorted(file.size for file in message.files.values()) == [0, 4, 6]
    (record,) = event_records(caplog)
    assert record.message == (
        f"broker: attachment 'b' of {made!r} is not sent: it has 5 bytes, and the message has room for 4; "
        "set s3=s3://... to upload it"
    )


@pytest.mark.parametrize(
    ("scheme", "largest"),
    [pytest.param("redis", 4 << 20, id="redis"), pytest.param("sqs", 150 << 10, id="sqs")],
)
def test_default_size_limit_is_that_of_the_broker(files, scheme, largest):
    fits, more = files("fits", b"x" * largest), files("more", b"y")
    handler = BrokerHandler(f"{scheme}://h")
    assert [*handler._message(event_with(fits), "1", scheme).attachments] == ["fits"]
    assert [*handler._message(event_with(fits, more), "1", scheme).attachments] == ["fits"]


def test_missing_or_irregular_attachment_is_omitted(  # noqa: PLR0913
    redis, queue, make_handler, files, tmp_path, caplog
):
    made = event_with(files("gone", b"1"), files("fifo", b"2"), files("directory", b"3"), files("log", b"4"))
    (tmp_path / "gone").unlink()
    for name in ("fifo", "directory"):
        (tmp_path / name).unlink()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "directory").mkdir()
    made._attachments["no-path"] = ("/\ud800", "0")
    with within(QUICK):
        assert make_handler().send_event(made)
    assert the_message(redis, queue).files == {"3": InlineFile.of(b"4")}
    matches = [re.search(r"attachment '(.*?)' of <.*> is not sent: (.*)", record.message) for record in caplog.records]
    found = dict(match.groups() for match in matches)
    assert found.pop("no-path").startswith("UnicodeEncodeError: ")
    assert found == {
        "gone": f"no such file or directory: '{tmp_path / 'gone'}'",
        "fifo": f"'{tmp_path / 'fifo'}' is not a regular file",
        "directory": f"'{tmp_path / 'directory'}' is not a regular file",
    }


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="platform: root reads everything")
def test_forbidden_attachment_is_omitted(redis, queue, make_handler, files, caplog):
    made = event_with(files("log", b"4"))
    os.chmod(made.get_attachments()["log"][0], 0)
    assert make_handler().send_event(made)
    assert the_message(redis, queue).files == {}


def test_attachment_with_a_read_error_is_omitted(  # noqa: PLR0913
    redis, queue, make_handler, files, caplog, monkeypatch
):
    made = event_with(files("log", b"4"))
    monkeypatch.setattr(_files, "open_regular", lambda path: os.open(path, os.O_WRONLY))
    assert make_handler().send_event(made)
    assert the_message(redis, queue).files == {}
    assert "attachment 'log' of <Event" in caplog.text


def test_changed_attachment_is_sent_with_its_current_content(redis, queue, make_handler, files):
    log = files("log", b"started\n")
    made = event_with(log)
    log.write_bytes(b"started\ndone\n")
    assert make_handler().send_event(made)
    assert the_message(redis, queue).files == {"0": InlineFile.of(b"started\ndone\n")}


@pytest.fixture
def growing(monkeypatch):
    """Return a list of paths; each of these files grows whenever its size is read."""
    fstat = os.fstat

    def grow(fd):
        status = fstat(fd)
        if path := next((p for p in grow.paths if os.path.samestat(os.stat(p), status)), None):
            with open(path, "ab") as file:
                file.write(b"more\n")
        return status

    grow.paths = []
    monkeypatch.setattr(os, "fstat", grow)
    return grow.paths


@pytest.mark.parametrize("limit", [None, 0], ids=["message", "s3"])
def test_growing_log_is_sent_with_its_size_at_the_start(redis, queue, make_handler, files, s3, growing, limit):  # noqa: PLR0913
    content = b"0123456789abcdef" * (600_000 if limit == 0 else 1)  # more than one part of an upload
    log = files("log", content)
    made = event_with(log)
    growing.append(log)
    assert make_handler(limit=limit, s3="s3://builds/ci").send_event(made)
    message = the_message(redis, queue)
    sent = content + b"more\n"  # the file grew once when it was opened
    assert file_content(s3, message) == sent
    assert message.attachments["log"][1] == hashlib.sha1(sent).hexdigest()
    assert log.read_bytes() == sent + b"more\n"


def file_content(s3, message):
    """Return the content of the only file."""
    (file,) = message.files.values()
    if isinstance(file, InlineFile):
        return content_of(message)
    bucket, _, key = file.url.removeprefix("s3://").partition("/")
    content = s3.get(bucket, key)["Body"]
    assert len(content) == file.size
    return content


def test_attachments_above_the_size_limit_are_stored_in_s3(redis, queue, make_handler, files, s3, caplog):  # noqa: PLR0913
    made = event_with(files("a b.log", b"x" * 11), files("small", b"y"))
    assert make_handler(limit=10, s3="s3://builds/ci/").send_event(made)
    message = the_message(redis, queue)
    assert s3.keys("builds") == [f"ci/{message.id}/a b.log"]
    stored = message.files["0"]
    assert (stored.url, stored.size) == (f"s3://builds/ci/{message.id}/a b.log", 11)
    assert message.attachments["a b.log"] == ("0", hashlib.sha1(b"x" * 11).hexdigest())
    assert message.files["1"] == InlineFile.of(b"y")
    assert s3.get("builds", f"ci/{message.id}/a b.log")["Body"] == b"x" * 11
    assert s3.get("builds", f"ci/{message.id}/a b.log")["ServerSideEncryption"] == "AES256"
    assert [record for record in caplog.records if record.name == "event"] == []


def test_object_names_stay_below_the_configured_url(redis, queue, make_handler, files, s3):
    made = event.Event("compile")
    for number, name in enumerate(["../../x", "a/b", "ä", "."]):
        made.attach_file(files(str(number), b"x" * 11), name)
    assert make_handler(limit=0, s3="s3://builds").send_event(made)
    message = the_message(redis, queue)
    keys = s3.keys("builds")
    assert len(keys) == 4
    assert all(re.fullmatch(rf"{message.id}/[^/]+", key) for key in keys)
    assert {file.url for file in message.files.values()} == {f"s3://builds/{key}" for key in keys}


def test_retry_after_an_s3_failure_uses_the_same_key(  # noqa: PLR0913
    redis, queue, as_reference, files, s3, caplog, tmp_path, monkeypatch, unused_port
):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{unused_port}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    manager = event.EventManager(outbox=tmp_path / "outbox")
    manager.add_handler("broker", as_reference(redis.url), queue, limit=0, s3="s3://builds")
    made = event_with(files("log", b"x"))
    assert not manager.send_event(made)
    assert re.search(r"broker: env:BROKER: .*127.0.0.1", caplog.text)
    assert take_all(redis, queue) == []
    ((candidate, _),) = Outbox(manager.outbox).entries("waiting")
    sending = candidate.id
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    ((_, outcome),) = deliver(Outbox(manager.outbox), everything=True)
    assert outcome
    assert s3.keys("builds") == [f"{sending}/log"]
    assert the_message(redis, queue).id == sending


# SQS


def test_event_is_published_to_sqs(sqs, files):
    handler = BrokerHandler("sqs://us-east-1", sqs.name)
    assert handler.send_event(event_with(files("log", b"x" * 1000), uid="42"))
    message = decode_message(sqs.get()[0])
    assert (message.event.uid, content_of(message)) == ("42", b"x" * 1000)


def test_batch_is_published_with_a_result_for_each_event(server, queue, handler):
    loop = finished()
    loop._data["self"] = loop._data
    one, two, three = handler.send_events([finished(uid="1"), loop, finished(uid="3")])
    assert (one, three) == (True, True)
    assert isinstance(two, event.EventError)
    assert [message.event.uid for message in messages(server, queue)] == ["1", "3"]


# The configuration


@pytest.mark.parametrize(
    ("config", "arguments"),
    [
        pytest.param("amqp://h", {"url": "amqp://h"}, id="url"),
        pytest.param("amqp://h,", {"url": "amqp://h"}, id="empty-is-default"),
        pytest.param("env:B,ci", {"url": "env:B", "queue": "ci"}, id="queue"),
        pytest.param("amqp://h/a%2Cb,,timeout=5", {"url": "amqp://h/a,b", "timeout": "5"}, id="comma"),
        pytest.param("env:B,,limit=0,s3=s3://b/p=q", {"url": "env:B", "limit": "0", "s3": "s3://b/p=q"}, id="s3"),
        pytest.param("env:B,,profile=ci,sse=aws:kms", {"url": "env:B", "profile": "ci", "sse": "aws:kms"}, id="aws"),
        pytest.param("env:B,ci,sse=", {"url": "env:B", "queue": "ci", "sse": ""}, id="no-encryption"),
    ],
)  # fmt: skip
def test_configuration_is_parsed(config, arguments):
    assert BrokerHandler.decode_config(config) == arguments
    BrokerHandler(**arguments)


@pytest.mark.parametrize("field", ["t0psecret", "t0psecret=1", "=", "", "Limit=1"])
def test_configuration_with_extra_fields_is_refused_and_not_shown(field):
    with pytest.raises(event.EventError, match=r"broker: value 4 of the configuration is not understood; exp") as error:
        BrokerHandler.decode_config(f"env:B,ci,timeout=3,{field}")
    assert "t0psecret" not in str(error.value)


REFERENCES = st.sampled_from(["env:", "file:"]).flatmap(lambda kind: st.text().map(lambda name: kind + name))
QUEUES = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=50)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    url=REFERENCES | st.just("amqp://h/a,b|c%252C"),
    queue=QUEUES,
    limit=st.none() | st.integers(0, 1 << 40),
    s3=st.just("") | st.text(st.sampled_from("ab,|%2C="), min_size=1).map("s3://b/{}".format),
    profile=st.none() | st.text(min_size=1),
    sse=st.none() | st.text(),
    timeout=st.floats(0.001, 1e9),
)
def test_configuration_round_trips(url, queue, **more):
    handler = BrokerHandler(url, queue, **more)
    config = handler.encode_config()
    assert "|" not in config
    other = BrokerHandler(**BrokerHandler.decode_config(config))
    assert {**vars(other), "_store": None} == {**vars(handler), "_store": None}
    assert (other._store is None) == (handler._store is None)


def test_configuration_is_minimal():
    assert BrokerHandler("amqp://h").encode_config() == "amqp://h,e3-event"
    assert BrokerHandler("amqp://h", "ci", timeout=5, limit=0).encode_config() == "amqp://h,ci,limit=0,timeout=5.0"


def test_outbox_configuration_has_absolute_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert BrokerHandler("file:url").config_for_outbox() == f"file:{os.path.abspath('url')},e3-event"
    assert BrokerHandler("file:~/url").config_for_outbox() == f"file:{os.path.expanduser('~')}/url,e3-event"
    assert BrokerHandler("env:URL").config_for_outbox() == "env:URL,e3-event"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        pytest.param({"url": ""}, "this is not a broker's URL", id="no-url"),
        pytest.param({"url": "t0psecret"}, "this is not a broker's URL", id="no-scheme"),
        pytest.param({"url": "amqp://ci:t0p/secret@h/"}, "this is not a broker's URL", id="slash-in-the-password"),
        pytest.param({"queue": ""}, "the queue name must be at most 240 bytes", id="no-queue"),
        pytest.param({"queue": "t0psecret\n@h"}, "the queue name must be at most 240 bytes", id="line-break"),
        pytest.param({"queue": "t0p" * 100}, "the queue name must be at most 240 bytes", id="long-queue"),
        pytest.param({"queue": "t0psecret\ud800"}, "240 bytes of printable characters", id="lone-surrogate"),
        pytest.param({"limit": "much"}, "limit is 'much'; expected a number, 0 or more", id="limit"),
        pytest.param({"limit": -1}, "limit is -1; expected a number, 0 or more", id="negative-limit"),
        pytest.param({"s3": "builds"}, "the URL is 'builds'; expected s3://BUCKET/PREFIX", id="s3"),
        pytest.param({"timeout": "soon"}, "timeout is 'soon'; expected a positive number", id="timeout"),
        pytest.param({"timeout": 0}, "timeout is 0; expected a positive number", id="zero-timeout"),
        pytest.param({"timeout": float("nan")}, "timeout is nan; expected a positive number", id="nan"),
        pytest.param({"timeout": float("inf")}, "timeout is inf; expected a positive number", id="infinity"),
        pytest.param({"timeout": None}, "timeout is None; expected a positive number", id="none"),
    ],
)
def test_invalid_argument_is_an_error_without_secrets(arguments, why):
    with pytest.raises(event.EventError, match=re.escape(why)) as error:
        BrokerHandler(**{"url": "amqp://127.0.0.1/", **arguments})
    assert "t0p" not in str(error.value)
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__ or error.value.__context__ is None


def test_missing_library_is_an_error_with_the_pip_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "pika", None)
    with pytest.raises(event.EventError, match=r'pip install "e3-event\[broker\]"'):
        BrokerHandler("amqp://h/")


def test_s3_url_requires_boto3(monkeypatch):
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(event.EventError, match=r'pip install "e3-event\[s3\]"'):
        BrokerHandler("amqp://h/", s3="s3://builds")


def test_loading_the_module_loads_no_library():
    code = "import sys, event.handler.broker; print([m for m in ('pika', 'redis', 'ssl', 'boto3') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, check=True)
    assert done.stdout.strip() == b"[]"
