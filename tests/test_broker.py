"""A broker's URL, what is tried and how often, and sockets that go by a clock; real brokers are in tests/handler."""

from __future__ import annotations

import gc
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace
from urllib.parse import quote

import amqp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from event import EventError, PermanentError, _broker, _wire
from event._broker import Broker, BrokerError, Publisher, RefusedError, TooLargeError
from event._clocked import Clock
from servers.smtp import Authority, raw_server

SECRET = "t0psecret"


# URLs


@pytest.mark.parametrize(
    ("url", "shown", "secret"),
    [
        pytest.param("amqp://h", "amqp://h", False, id="host"),
        pytest.param("amqps://ci:t0psecret@h.example:5672/v", "amqps://h.example:5672", True, id="all"),
        pytest.param("amqp://ci:t0p%2Fs@h/%2F", "amqp://h", True, id="slash"),
        pytest.param("amqp://guest:guest@h", "amqp://h", False, id="guest"),
        pytest.param("redis://:t0psecret@[::1]:6379/1", "redis://[::1]:6379", True, id="ipv6"),
        pytest.param("sqs://AKIA:t0psecret@", "sqs://", True, id="no-host"),
        pytest.param("SQS://", "SQS://", False, id="upper-case"),
        pytest.param(" amqp://h ; redis://:t0psecret@g ", "amqp://h", True, id="several"),
        pytest.param("memory://", "memory://", False, id="memory"),
        pytest.param("redis+socket:///run/redis.sock", "redis+socket://", False, id="socket"),
        pytest.param("amqp://h/v?heartbeat=5", "amqp://h", False, id="query"),
    ],
)
def test_a_url_is_understood(url, shown, secret):
    broker = Broker(url)
    assert (broker.shown, broker.has_secret) == (shown, secret)
    assert broker.scheme == shown.partition(":")[0]
    assert len(broker) == url.count(";") + 1


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("", id="empty"),
        pytest.param(SECRET, id="no-scheme"),
        pytest.param("://t0psecret@h", id="empty-scheme"),
        pytest.param("amqp:ci:t0psecret@h", id="no-slashes"),
        pytest.param("amqp://h;", id="empty-second-one"),
        pytest.param("amqp://h;t0psecret", id="no-second-one"),
        pytest.param("amqp://ci:t0p/secret@h", id="slash"),
        pytest.param("amqp://ci:1/secret@h", id="slash-behind-digits"),
        pytest.param("amqp://ci:1?secret@h", id="question-mark"),
        pytest.param("amqp://ci:1#secret@h", id="hash"),
        pytest.param("amqp://ci:t0p[secret@h", id="bracket"),
        pytest.param("amqp://ci:t0p secret@h", id="space"),
        pytest.param("amqp://ci:t0p\nsecret@h", id="line-break"),
        pytest.param("amqp://h:t0psecret", id="port"),
        pytest.param("amqp://h:99999", id="no-such-port"),
    ],
)
def test_what_is_no_url_is_an_error_that_does_not_show_it(url):
    with pytest.raises(EventError, match="broker: the URL is none; expected one of kombu's, such as amqps://") as error:
        Broker(url)
    assert not re.search("t0p|secret", str(error.value))
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__ or error.value.__context__ is None


@pytest.mark.parametrize("scheme", ["http", "os.path", "antigravity.x", "kombu.transport.memory:Transport", "x+amqp"])
def test_a_scheme_that_kombu_does_not_know_is_an_error_and_imports_nothing(scheme):
    with pytest.raises(EventError, match=r"broker: kombu knows no .*://; expected amqps://, rediss:// or another of"):
        Broker(f"{scheme}://ci:t0psecret@h")
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    "url",
    ["amqp://ci:t0psecret@h?colour=t0psecret", "rediss://h?ssl_cert_reqs=t0psecret", "redis://h?password=t0psecret"],
)
def test_an_option_that_kombu_does_not_take_is_an_error_that_does_not_show_it(url):
    with pytest.raises(
        EventError, match=r"kombu does not take the URL \(\w+Error\); an option in its query is"
    ) as error:
        Broker(url)
    assert SECRET not in str(error.value)


@pytest.mark.parametrize(
    ("url", "module", "brings"),
    [
        pytest.param("redis://:t0psecret@h", "redis", "e3-event[broker]", id="redis"),
        pytest.param("rediss://h", "redis", "e3-event[broker]", id="rediss"),
        pytest.param("redis+socket:///run/redis.sock", "redis", "e3-event[broker]", id="redis-socket"),
        pytest.param("sentinel://h", "redis", "e3-event[broker]", id="sentinel"),
        pytest.param("sqs://AKIA:t0psecret@", "boto3", "kombu[sqs]", id="sqs"),
        pytest.param("SQS://", "boto3", "kombu[sqs]", id="sqs-in-capitals"),
        pytest.param("mongodb://h", "pymongo", "kombu[mongodb]", id="mongodb"),
        pytest.param("sqla+postgresql://ci:t0psecret@h/d", "sqlalchemy", "kombu[sqlalchemy]", id="sqlalchemy"),
        pytest.param("kafka://h", "confluent_kafka", "kombu[confluentkafka]", id="kafka"),
        pytest.param("etcd://h", "etcd", "python-etcd", id="etcd"),
        pytest.param("amqp://h;sqs://", "boto3", "kombu[sqs]", id="the-second-one"),
    ],
)
def test_a_client_that_is_missing_is_an_error_with_the_pip_line(monkeypatch, url, module, brings):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(EventError, match=rf'needs more \(.*\); pip install "{re.escape(brings)}" brings it') as error:
        Broker(url)
    assert SECRET not in str(error.value)
    assert error.value.__suppress_context__ or error.value.__context__ is None


def test_amqp_needs_none_of_the_others():
    code = "import sys; from event._broker import Broker; Broker('amqps://h'); print('redis' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        pytest.param("amqp://h", "amqp://h", True, id="the-same"),
        pytest.param("amqp://a:b@h", "amqp://c:d@h/", True, id="another-user"),
        pytest.param("amqp://h", "amqp://H:5672", True, id="default-port"),
        pytest.param("redis://h/0", "redis://h:6379/0", True, id="default-port-of-redis"),
        pytest.param("amqp://", "pyamqp://localhost", True, id="default-host"),
        pytest.param("amqp://127.0.0.1", "amqp://localhost", True, id="this-machine"),
        pytest.param("amqp://h/%61", "amqp://h/a", True, id="encoded"),
        pytest.param("amqp://g;amqp://h", "amqp://h", True, id="one-of-several"),
        pytest.param("amqp://h", "amqp://g", False, id="another-host"),
        pytest.param("amqp://h", "amqps://h", False, id="another-default-port"),
        pytest.param("amqp://h:1", "amqp://h:2", False, id="another-port"),
        pytest.param("amqp://h/a", "amqp://h/b", False, id="another-virtual-host"),
    ],
)
def test_brokers_are_the_same_where_they_lead_to_one_place(one, other, same):
    assert Broker(one).is_same(Broker(other)) is same
    assert Broker(other).is_same(Broker(one)) is same


# Secrets


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=8), st.integers(0, 3))
def test_a_text_is_masked_however_the_password_stands_in_it(password, form):
    encoded = quote(password, safe="")
    shown = [password, encoded, repr(password)[1:-1], " ".join(password.split())][form]
    masked = Broker(f"amqp://ci:{encoded}@h").masked(f"<{shown}>")
    assert masked == "<***>" or (not shown and masked == "<>")


@pytest.mark.parametrize("url", ["amqp://h", "amqp://guest:guest@h", "amqp://ci@h"])
def test_what_is_no_secret_is_not_masked(url):
    assert Broker(url).masked("guest ci h") == "guest ci h"


# Errors


def amqp_error(code, text):
    return amqp.exceptions.error_for_code(code, text, (60, 40), amqp.exceptions.ChannelError)


class AuthenticationError(Exception):
    """As redis-py names it."""


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        pytest.param(OSError("no t0psecret"), BrokerError, r"^OSError: no \*\*\*$", id="system"),
        pytest.param(KeyError(1), BrokerError, "^KeyError: 1$", id="another"),
        pytest.param(TimeoutError(), BrokerError, "^TimeoutError$", id="without-words"),
        pytest.param(amqp_error(403, "ACCESS_REFUSED"), RefusedError, "ACCESS_REFUSED", id="refused"),
        pytest.param(amqp_error(530, "NOT_ALLOWED - vhost x"), RefusedError, "NOT_ALLOWED", id="no-virtual-host"),
        pytest.param(AuthenticationError("invalid"), RefusedError, "invalid", id="redis"),
        pytest.param(
            amqp_error(406, "PRECONDITION_FAILED - message size 17 is larger than configured max size 16"),
            TooLargeError,
            "message size 17",
            id="too-large",
        ),
        pytest.param(
            amqp_error(406, "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'size' in vhost '/'"),
            BrokerError,
            "inequivalent arg",
            id="a-queue-named-size",
        ),
        pytest.param(
            ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] no"),
            BrokerError,
            "CERTIFICATE_VERIFY_FAILED.*; SSL_CERT_FILE may name the certificates of a private authority",
            id="certificate",
        ),
    ],
)
def test_an_error_of_a_client_becomes_ours_without_its_traceback(error, kind, text):
    with pytest.raises(kind, match=text) as raised, Broker("amqp://ci:t0psecret@h").trouble():
        raise error
    assert type(raised.value) is kind
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__


@pytest.mark.parametrize(
    "error", [BrokerError("ours"), PermanentError("ours"), EventError("ours"), KeyboardInterrupt()]
)
def test_other_errors_pass(error):
    with pytest.raises(type(error)) as raised, Broker("amqp://h").trouble("h"):
        raise error
    assert raised.value is error


def test_an_error_tells_where_it_happened_where_there_is_a_choice():
    with pytest.raises(BrokerError, match=r"^here: OSError: no$"), Broker("amqp://h").trouble("here"):
        raise OSError("no")


# Publishing


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


def test_a_queue_is_not_made_where_it_is_not_known_to_be_missing():
    asked = []

    def queue_declare(**arguments):
        asked.append(arguments)
        raise TimeoutError

    connection = SimpleNamespace(
        channel=lambda: SimpleNamespace(queue_declare=queue_declare), transport=SimpleNamespace(driver_type="amqp")
    )
    with pytest.raises(TimeoutError):
        _broker.declare(connection, "q")
    assert asked == [{"queue": "q", "passive": True}]


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

    monkeypatch.setattr(_broker.time, "sleep", lambda seconds: done.append(f"{seconds:g} s"))
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
    together = threading.Barrier(_broker._KEPT + 2)
    closed = []

    class Line(_broker._Line):
        def publish(self, *arguments):
            super().publish(*arguments)
            together.wait(10)

        def close(self, clock=None):
            closed.append(self)
            super().close(clock)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_broker, "_Line", Line)
        threads = [
            threading.Thread(target=publish, args=[publisher, request.node.name]) for _ in range(together.parties)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (len(publisher._idle), len(closed)) == (_broker._KEPT, 2)
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
    _broker._close_all(lines)
    assert len({id(clock) for clock in clocks}) == 1
    assert clocks[0].left() <= 1
    assert lines == []


# Sockets


@pytest.fixture
def pair():
    """Give two connected sockets, the first one with a clock."""
    listener = socket.create_server(("127.0.0.1", 0))
    with listener:
        watch = _wire.Watch(Clock(5, 5), "127.0.0.1", 5.0)
        ours = _wire.open_socket("127.0.0.1", listener.getsockname()[1], watch, None)
        theirs, _ = listener.accept()
    with ours, theirs:
        yield ours, theirs


@contextmanager
def over(seconds):
    """Hold that something is given up, and when."""
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        yield
    assert seconds <= time.monotonic() - start < seconds + 1


RECEIVE = [
    pytest.param(lambda sock: sock.recv(10), id="recv"),
    pytest.param(lambda sock: sock.recv_into(bytearray(10)), id="recv_into"),
]


@pytest.mark.parametrize("receive", RECEIVE)
@pytest.mark.parametrize(
    ("whole", "step", "own", "expected"),
    [
        pytest.param(0.1, 5, None, 0.1, id="the-whole"),
        pytest.param(5, 0.1, None, 0.1, id="a-step"),
        pytest.param(5, 5, 0.1, 0.1, id="its-own"),
        pytest.param(0.1, 5, 3, 0.1, id="the-whole-before-its-own"),
        pytest.param(5, 5, 0, 0, id="no-wait"),
        pytest.param(0, 5, None, 0, id="no-time-at-all"),
    ],
)
def test_a_wait_ends_with_what_ends_first(pair, receive, whole, step, own, expected):  # noqa: PLR0913  # a table
    ours, _ = pair
    ours.settimeout(own)
    ours.watch.clock = Clock(whole, step)
    with over(expected):
        receive(ours)
    assert ours.gettimeout() == own


@pytest.mark.parametrize("receive", RECEIVE)
def test_what_drips_does_not_make_the_whole_longer(pair, receive):
    ours, theirs = pair
    ours.watch.clock = Clock(0.3, 5)
    with over(0.3):
        while True:
            theirs.sendall(b"x")
            receive(ours)
            time.sleep(0.01)


def test_what_came_is_received_without_a_wait_too(pair):
    ours, theirs = pair
    theirs.sendall(b"abcd")
    assert ours.recv(1) == b"a"
    ours.settimeout(0)
    buffer = bytearray(5)
    assert (ours.recv_into(buffer, 1), buffer) == (1, b"b\0\0\0\0")
    assert (ours.recv_into(buffer), buffer) == (2, b"cd\0\0\0")


def test_sending_ends_with_the_clock_however_much_it_is(pair):
    ours, _ = pair
    ours.watch.clock = Clock(0.3, 5)
    with over(0.3):
        ours.sendall(bytes(64 << 20))


def test_between_two_uses_only_each_wait_has_an_end():
    watch = _wire.Watch(Clock(0, 0), "h", 3.0)
    with watch.by(Clock(5, 5)):
        assert watch.clock.left() > 3
    assert watch.clock.left() == 3
    with pytest.raises(ValueError, match="x"), watch.by(Clock(5, 5)):
        raise ValueError("x")
    assert watch.clock.left() == 3


def test_a_system_that_cannot_tell_a_dead_connection_sooner_has_one_too(monkeypatch):
    monkeypatch.delattr(socket, "TCP_USER_TIMEOUT", raising=False)
    watch = _wire.Watch(Clock(5, 5), "h", 5.0)
    with (
        raw_server(lambda connection, stopped: connection.sendall(b"x")) as port,
        _wire.open_socket("127.0.0.1", port, watch, None) as sock,
    ):
        assert sock.recv(1) == b"x"


@pytest.mark.parametrize(
    ("host", "error"),
    [
        pytest.param("127.0.0.1", ssl.SSLCertVerificationError, id="not-trusted"),
        pytest.param("", ValueError, id="nobody-to-trust"),
    ],
)
def test_nothing_stays_open_where_tls_fails(tmp_path, monkeypatch, host, error):
    made = []
    create = _wire.connected
    monkeypatch.setattr(_wire, "connected", lambda *arguments: made.append(create(*arguments)) or made[0])
    monkeypatch.setattr(_wire.Socket, "close", lambda self: (made.append(self), socket.socket.close(self))[1])
    context = Authority(tmp_path).context("127.0.0.1")

    def serve(connection, stopped):
        with context.wrap_socket(connection, server_side=True):
            pass

    with raw_server(serve) as port, pytest.raises(error):
        _wire.open_socket("127.0.0.1", port, _wire.Watch(Clock(5, 5), host, 5.0), {"ssl_check_hostname": True})
    assert len(made) > 1
    assert [sock.fileno() for sock in made] == [-1] * len(made)


def test_without_a_host_the_certificate_is_to_be_this_machines():
    assert Broker("amqps://")._addresses[0].connection(Clock(1, 1)).watch.host == "localhost"


def test_a_file_that_the_url_names_and_that_is_missing_is_told_before_anything_is_connected():
    with pytest.raises(FileNotFoundError):
        _wire.open_socket("no-such-host.invalid", 1, _wire.Watch(Clock(5, 5), "h", 5.0), {"ssl_ca_certs": "/missing"})
