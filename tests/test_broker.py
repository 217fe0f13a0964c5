"""A broker's URL, its secrets and its errors; real brokers are in tests/handler."""

from __future__ import annotations

import re
import ssl
import subprocess
import sys
from types import SimpleNamespace
from urllib.parse import quote

import amqp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from event import EventError, PermanentError, _broker
from event._broker import Broker, BrokerError, RefusedError, TooLargeError
from event._clocked import Clock

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


# Queues and hosts


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


def test_without_a_host_the_certificate_is_to_be_this_machines():
    assert Broker("amqps://")._addresses[0].connection(Clock(1, 1)).watch.host == "localhost"
