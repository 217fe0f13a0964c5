"""Broker URLs, their secrets, and errors without secrets."""

from __future__ import annotations

import re
import ssl
import subprocess
import sys
from types import SimpleNamespace
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from event import EventError, PermanentError
from event._broker import BrokerError, BrokerURL, RefusedError, connect_publisher, load_client

SECRET = "t0psecret"


# URLs


@pytest.mark.parametrize(
    ("url", "shown", "family", "secret"),
    [
        pytest.param("amqp://h", "amqp://h", "amqp", False, id="host"),
        pytest.param("amqps://ci:t0psecret@h.example:5672/v", "amqps://h.example:5672", "amqp", True, id="all"),
        pytest.param("amqp://ci:t0p%2Fs@h/%2F", "amqp://h", "amqp", True, id="slash"),
        pytest.param("amqp://guest:guest@h", "amqp://h", "amqp", False, id="guest"),
        pytest.param("redis://:t0psecret@[::1]:6379/1", "redis://[::1]:6379", "redis", True, id="ipv6"),
        pytest.param("valkeys://h", "valkeys://h", "redis", False, id="valkey"),
        pytest.param("sqs://", "sqs://", "sqs", False, id="no-region"),
        pytest.param("SQS://eu-west-1", "sqs://eu-west-1", "sqs", False, id="upper-case"),
        pytest.param(" amqp://h ; amqps://:t0psecret@g ", "amqp://h", "amqp", True, id="several"),
        pytest.param("amqp://", "amqp://", "amqp", False, id="no-host"),
    ],
)
def test_url_is_parsed(url, shown, family, secret):
    parsed = BrokerURL(url)
    assert (parsed.shown, parsed.family, parsed.has_secret) == (shown, family, secret)
    assert len(parsed.addresses) == url.count(";") + 1
    assert "t0p" not in repr(parsed) + repr(parsed.addresses)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        pytest.param("amqp://u%40:p%3A@h/%2Fv", ("h", 5672, "u@", "p:", "/v", False), id="amqp"),
        pytest.param("amqps://h", ("h", 5671, "", "", "/", True), id="amqps"),
        pytest.param("amqp://h/", ("h", 5672, "", "", "/", False), id="default-virtual-host"),
        pytest.param("rediss://:p@h/3", ("h", 6379, "", "p", "3", True), id="rediss"),
        pytest.param("valkey://h:1", ("h", 1, "", "", "0", False), id="valkey"),
        pytest.param("redis://", ("localhost", 6379, "", "", "0", False), id="default-host"),
        pytest.param("sqs://eu-west-1", ("eu-west-1", 443, "", "", "", True), id="sqs"),
    ],
)
def test_address_has_the_defaults_of_its_scheme(url, expected):
    (address,) = BrokerURL(url).addresses
    assert (address.host, address.port, address.user, address.password, address.path, address.tls) == expected


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("", id="empty"),
        pytest.param(SECRET, id="no-scheme"),
        pytest.param("://t0psecret@h", id="empty-scheme"),
        pytest.param("amqp:ci:t0psecret@h", id="no-slashes"),
        pytest.param("amqp://h;", id="empty-second-node"),
        pytest.param("amqp://h;t0psecret", id="invalid-second-node"),
        pytest.param("amqp://ci:t0p/secret@h", id="slash"),
        pytest.param("amqp://ci:1/secret@h", id="slash-after-digits"),
        pytest.param("amqp://ci:1?secret@h", id="question-mark"),
        pytest.param("amqp://ci:1#secret@h", id="hash"),
        pytest.param("amqp://ci:t0p[secret@h", id="bracket"),
        pytest.param("amqp://ci:t0p secret@h", id="space"),
        pytest.param("amqp://ci:t0p\nsecret@h", id="line-break"),
        pytest.param("amqp://h:t0psecret", id="port"),
        pytest.param("amqp://h:99999", id="no-such-port"),
        pytest.param("kombu.transport:t0psecret://ci:t0psecret@h", id="scheme-with-a-dot"),
    ],
)
def test_malformed_url_is_an_error_without_the_url(url):
    with pytest.raises(EventError, match="broker: this is not a broker's URL; expected amqps://") as error:
        BrokerURL(url)
    assert not re.search("t0p|secret", str(error.value))
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__ or error.value.__context__ is None


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        pytest.param("http://ci:t0psecret@h", "the URL's scheme is http://; expected amqps://", id="scheme"),
        pytest.param("amqp://ci:t0psecret@h?heartbeat=t0psecret", "has a query or a fragment", id="query"),
        pytest.param("redis://h/t0psecret", "must be the number of a database", id="database"),
        pytest.param("sqs://AKIA:t0psecret@", "boto3 finds the credentials", id="credentials"),
        pytest.param("sqs://eu-west-1/t0psecret", "boto3 finds the credentials", id="sqs-path"),
        pytest.param("amqp://h;redis://:t0psecret@h", "different kinds of brokers", id="mixed"),
    ],
)
def test_unsupported_url_is_an_error_with_the_reason(url, reason):
    with pytest.raises(EventError, match=reason) as error:
        BrokerURL(url)
    assert SECRET not in str(error.value)


@pytest.mark.parametrize(
    ("url", "module", "extra"),
    [
        pytest.param("amqps://:t0psecret@h", "pika", "broker", id="pika"),
        pytest.param("redis://:t0psecret@h", "redis", "broker", id="redis"),
        pytest.param("valkeys://h", "redis", "broker", id="valkey"),
        pytest.param("sqs://", "boto3", "sqs", id="sqs"),
    ],
)
def test_missing_client_is_an_error_with_the_pip_line(monkeypatch, url, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(EventError, match=rf'pip install "e3-event\[{extra}\]"') as error:
        load_client(BrokerURL(url))
    assert SECRET not in str(error.value)


@pytest.mark.parametrize(("url", "client"), [("amqps://h", "pika"), ("redis://h", "redis"), ("sqs://h", "boto3")])
def test_scheme_imports_only_its_client(url, client):
    code = (
        f"import sys; from event._broker import BrokerURL, load_client; load_client(BrokerURL({url!r}));"
        "print([name for name in ('pika', 'redis', 'boto3') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"['{client}']"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        pytest.param("amqp://h", "amqp://h", True, id="identical"),
        pytest.param("amqp://a:b@h", "amqp://c:d@h/", True, id="another-user"),
        pytest.param("amqp://h", "amqp://H:5672", True, id="default-port"),
        pytest.param("redis://h", "valkey://h:6379/0", True, id="default-port-of-redis"),
        pytest.param("amqp://", "amqp://localhost", True, id="default-host"),
        pytest.param("amqp://127.0.0.1", "amqp://localhost", True, id="this-machine"),
        pytest.param("amqp://h/%61", "amqp://h/a", True, id="encoded"),
        pytest.param("amqp://g;amqp://h", "amqp://h", True, id="one-of-several"),
        pytest.param("sqs://", "sqs://", True, id="sqs"),
        pytest.param("amqp://h", "amqp://g", False, id="another-host"),
        pytest.param("amqp://h", "amqps://h", False, id="another-default-port"),
        pytest.param("amqp://h:1", "amqp://h:2", False, id="another-port"),
        pytest.param("amqp://h/a", "amqp://h/b", False, id="another-virtual-host"),
        pytest.param("redis://h/1", "redis://h/2", False, id="another-database"),
    ],
)
def test_urls_are_the_same_if_they_lead_to_the_same_broker(one, other, same):
    assert BrokerURL(one).is_same(BrokerURL(other)) is same
    assert BrokerURL(other).is_same(BrokerURL(one)) is same


# Secrets


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=8), st.integers(0, 3))
def test_password_is_masked_in_every_encoding(password, form):
    encoded = quote(password, safe="")
    shown = [password, encoded, repr(password)[1:-1], " ".join(password.split())][form]
    masked = BrokerURL(f"amqp://ci:{encoded}@h").mask(f"<{shown}>")
    assert masked == "<***>" or (not shown and masked == "<>")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("dTpodW50ZXIyaHVudGVyMg==", "***"),  # u:hunter2hunter2
        ("AHUAaHVudGVyMmh1bnRlcjI=", "AHUA***"),  # PLAIN of AMQP
        ("HUNTER2HUNTER2", "***"),
    ],
)
def test_echoed_password_is_masked(text, shown):
    assert BrokerURL("amqp://u:hunter2hunter2@h").mask(f"no {text}") == f"no {shown}"


@pytest.mark.parametrize("url", ["amqp://h", "amqp://guest:guest@h", "amqp://ci@h"])
def test_nothing_is_masked_for_a_url_without_a_secret(url):
    assert BrokerURL(url).mask("guest ci h") == "guest ci h"


# Errors


@pytest.fixture
def failing_adapter(monkeypatch):
    """Replace the adapter by one whose `connect_publisher` raises `adapter.error`."""
    adapter = SimpleNamespace(broker_error=lambda error: error)

    def connect(*_arguments):
        raise adapter.error

    adapter.connect_publisher = connect
    monkeypatch.setattr("event._broker.queue.load_client", lambda _url: adapter)
    return adapter


def untrusted_certificate():
    error = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed")
    error.reason, error.verify_message = "CERTIFICATE_VERIFY_FAILED", "self-signed"
    return error


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        pytest.param(OSError("no t0psecret"), BrokerError, r"^no \*\*\*$", id="system"),
        pytest.param(KeyError(1), BrokerError, "^KeyError: 1$", id="other"),
        pytest.param(RefusedError("no t0psecret"), RefusedError, r"^no \*\*\*$", id="refused"),
        pytest.param(PermanentError("no\n t0psecret"), PermanentError, r"^no \*\*\*$", id="permanent"),
        pytest.param(
            untrusted_certificate(),
            BrokerError,
            "^TLS: certificate verify failed: self-signed; SSL_CERT_FILE may name the certificates of a private",
            id="certificate",
        ),
    ],
)
def test_client_error_becomes_a_broker_error_without_secrets(failing_adapter, error, kind, text):
    failing_adapter.error = error
    with pytest.raises(kind, match=text) as raised:
        connect_publisher(BrokerURL("amqp://ci:t0psecret@h"), 0, 1.0)
    assert type(raised.value) is kind
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__


def test_interrupt_while_connecting_is_not_converted(failing_adapter):
    failing_adapter.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        connect_publisher(BrokerURL("amqp://h"), 0, 1.0)


@pytest.mark.parametrize(("url", "text"), [("amqp://a;amqp://b", "^amqp://b: no$"), ("amqp://b", "^no$")])
def test_error_names_the_node_if_there_are_several(failing_adapter, url, text):
    failing_adapter.error = OSError("no")
    with pytest.raises(BrokerError, match=text):
        connect_publisher(BrokerURL(url), 1, 1.0)
