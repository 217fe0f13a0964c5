"""Passwords and TLS."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from urllib.parse import quote

import pytest

import event
from event._outbox import Outbox
from event.handler.broker import BrokerHandler
from helpers.delivering import deliver
from helpers.events import closed_event
from helpers.published import SOON, take_messages, within
from servers.tcp_proxy import Proxy
from servers.tls import Authority

# Passwords


@pytest.mark.parametrize("password", ["t0psecret!", "a/b@c:d?e#f", 'it\'s "q"\\n', "two  spaces", "ünïcode", "%41"])
@pytest.mark.parametrize("reference", [False, True], ids=["clear", "reference"])
def test_wrong_password_is_a_failure_without_the_password(server, queue, as_reference, caplog, password, reference):  # noqa: PLR0913
    caplog.set_level(logging.DEBUG)
    url = server.url.replace(server.password, quote(password, safe=""))
    manager = event.EventManager()
    manager.handlers["broker"] = BrokerHandler(as_reference(url) if reference else url, queue)
    with within(SOON):
        outcome = manager.dispatch(closed_event())
    assert not outcome
    assert not manager.send_event(closed_event())
    assert re.search("ACCESS_REFUSED|invalid username-password pair", str(outcome))
    shown = caplog.text + str(outcome)
    forms = {password, quote(password, safe=""), repr(password)[1:-1], " ".join(password.split())}
    assert not [form for form in forms if form in shown]
    assert reference is not ("given in clear" in caplog.text)


def test_no_client_logs_the_password(server, handler, caplog):
    caplog.set_level(logging.DEBUG)
    assert handler.send_event(closed_event())
    assert server.password not in caplog.text
    assert any(record.name.startswith("pika") for record in caplog.records) or server.url.startswith("redis")


@pytest.mark.parametrize("scheme", ["amqp", "redis"])
def test_program_without_logging_prints_only_the_line_of_event(unused_port, scheme):
    """Without a handler for them, logging prints the warnings and errors of all loggers to stderr."""
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


def test_wrong_password_is_tried_once_per_event(rabbitmq, queue, as_reference):
    """Some servers lock out a user after repeated attempts."""
    with Proxy(rabbitmq) as proxy:
        url = proxy.url().replace(rabbitmq.password, "wrong")
        assert not BrokerHandler(as_reference(url), queue).send_event(closed_event())
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
    assert not handler.send_event(closed_event())
    assert "broker: the URL: env:BROKER is not set" in caplog.text
    as_reference(server.url)
    assert handler.send_event(closed_event())
    as_reference(server.url.replace(server.password, "changed"))
    assert not handler.send_event(closed_event())
    as_reference("t0psecret")
    assert not handler.send_event(closed_event())
    assert "t0psecret" not in caplog.text
    as_reference(server.url)
    assert handler.send_event(closed_event())
    assert len(take_messages(server, queue)) == 2


def test_outbox_stores_only_references(redis, queue, tmp_path, monkeypatch, unused_port):
    monkeypatch.chdir(tmp_path)
    url = tmp_path / "url"
    url.write_text(f"redis://:t0psecret@127.0.0.1:{unused_port}")
    manager = event.EventManager(outbox=tmp_path / "outbox")
    manager.add_handler("broker", "file:url", queue)
    assert not manager.send_event(closed_event())
    stored = b"".join(path.read_bytes() for path in (tmp_path / "outbox").rglob("*") if path.is_file())
    assert f"file:{url}".encode() in stored.replace(b"\\\\", b"\\")
    assert b"t0psecret" not in stored
    url.write_text(redis.url)
    monkeypatch.chdir("/")
    ((_, outcome),) = deliver(Outbox(manager.outbox), everything=True)
    assert outcome
    assert len(take_messages(redis, queue)) == 1


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
        assert handler.send_event(closed_event())
        assert handler.send_event(closed_event(text="x" * 100_000))
    assert len(take_messages(server, queue)) == 2


@pytest.mark.parametrize(
    ("names", "trusted", "reason"),
    [
        pytest.param(["127.0.0.1"], False, "unable to get local issuer", id="unknown-authority"),
        pytest.param(["elsewhere.example"], True, "mismatch", id="other-host"),
    ],
)
def test_nothing_is_sent_to_an_untrusted_server(  # noqa: PLR0913
    server, scheme, queue, as_reference, tmp_path, monkeypatch, caplog, names, trusted, reason
):
    authority = Authority(tmp_path)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", authority.path)
    with Proxy(server, authority.context(*names)) as proxy:
        assert not BrokerHandler(as_reference(proxy.url(scheme)), queue).send_event(closed_event())
    assert re.search(rf"certificate verify failed.*{reason}.*; SSL_CERT_FILE may name", caplog.text)
