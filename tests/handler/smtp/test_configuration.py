"""The configuration of the smtp handler, and clients of smtplib that a user's tests replace."""

from __future__ import annotations

import email
import smtplib
from email import policy
from unittest import mock

import pytest

import event
from event._formats.address import parse_mailboxes
from event._net.mail_server import MailServer
from event.handler.smtp import SMTPHandler
from helpers.mails import ANN, BOB, SENDER, closed_event, logged_warnings, part_named, write_netrc

# Servers


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        pytest.param("mail.example.com", ("mail.example.com", 465, "tls"), id="host"),
        pytest.param(" mail:2525 ", ("mail", 2525, "tls"), id="host and port"),
        pytest.param("127.0.0.1:25", ("127.0.0.1", 25, "tls"), id="IPv4 and port"),
        pytest.param("[::1]:2525", ("::1", 2525, "tls"), id="IPv6 and port"),
        pytest.param("[::1]", ("::1", 465, "tls"), id="IPv6"),
        pytest.param("fe80::1", ("fe80::1", 465, "tls"), id="bare IPv6"),
        pytest.param("bücher.example:25", ("xn--bcher-kva.example", 25, "tls"), id="IDN"),
        pytest.param("straße.test", ("xn--strae-oqa.test", 465, "tls"), id="IDNA 2008"),
        pytest.param("smtps://mail", ("mail", 465, "tls"), id="smtps"),
        pytest.param("smtp+starttls://mail/", ("mail", 587, "starttls"), id="STARTTLS"),
        pytest.param("smtp://mail", ("mail", 25, "opportunistic"), id="smtp"),
        pytest.param("smtps://[::1]:2525", ("::1", 2525, "tls"), id="URL with IPv6"),
        pytest.param("smtps://ci:env:P@mail:1", ("mail", 1, "tls"), id="URL with account"),
    ],
)
def test_server_is_parsed(server, expected):
    parsed = MailServer.parse(server)

    assert (parsed.host, parsed.port, parsed.encryption) == expected
    assert "env:P" not in parsed.shown


def test_feature_smtp_nossl_applies_to_servers_without_a_scheme(monkeypatch):
    monkeypatch.setenv("E3_ENABLE_FEATURE", "smtp_nossl")

    assert [(MailServer.parse(text).port, MailServer.parse(text).encryption) for text in ("mail", "smtps://mail")] == [
        (25, "opportunistic"),
        (465, "tls"),
    ]


@pytest.mark.parametrize(
    "server",
    [
        *("mail:", "mail:x", "mail:0", "mail:65536", "mail:-1", "mail:٣", ":25", "[::1", "[::1]x", "[::1]:", "[]"),
        *("a b", "a\nb", "m:" + "9" * 9999, "a\u200db.test", "x\uff20y.test", "ü" * 80, "mail/path"),
        *("http://mail", "smtps://", "smtps://mail/path", "smtps://mail?x=1", "smtps://ci@mail", "smtps://:pw@mail"),
        *("ci:hunter2@mail", "smtps://ci:hunter2@mail:x", "smtps://ci:hunter2@a b", "ci:hunter2"),
    ],
)
def test_invalid_server_is_refused_and_not_shown(server):
    with pytest.raises(event.EventError, match=r"expected HOST, HOST:PORT, \[IPV6\]:PORT or a URL") as error:
        SMTPHandler("s", SENDER, ANN, server)

    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize("servers", ["", " ", [], ["", " "]])
def test_handler_without_a_server_is_refused(servers):
    with pytest.raises(event.EventError, match="no server; expected smtp=SUBJECT,FROM,TO,SERVER"):
        SMTPHandler("s", SENDER, ANN, servers)


# Attributes and configuration


def test_attributes_are_those_of_e3():
    handler = SMTPHandler("s", SENDER, ANN, "mail")

    assert vars(handler) == {
        "default_subject": "s",
        "from_addr": SENDER,
        "to_addr": ANN,
        "smtp_servers": ["mail"],
        "title": "",
        "body": "",  # not in e3
    }
    assert handler.subject == "s"


def test_templates_are_part_of_the_configuration():
    config = "s,f@x,t@x,mail,title={name}%2C {outcome},body=Hi"
    handler = SMTPHandler(**SMTPHandler.decode_config(config))
    assert (handler.smtp_servers, handler.title, handler.body) == (["mail"], "{name}, {outcome}", "Hi")
    assert handler.encode_config() == config
    with pytest.raises(event.EventError, match="3 values; expected smtp=SUBJECT"):
        SMTPHandler.decode_config("s,f@x,t@x,title=x")


@pytest.mark.parametrize("config", ["s,f@x,t@x,mail", "s,f@x,t@x, a , b:25", "50%,f@x,t@x,a,,b", "50%20,f,t,a,"])
def test_configuration_of_e3_round_trips(config):
    assert SMTPHandler(**SMTPHandler.decode_config(config)).encode_config() == config


@pytest.mark.parametrize(
    ("to", "written"),
    [
        pytest.param([ANN], ANN, id="list of one, which e3 reads"),
        pytest.param([ANN, BOB], f"{ANN}%2C {BOB}", id="list"),
        pytest.param(f"{ANN},{BOB}", f"{ANN}%2C{BOB}", id="string of two"),
        pytest.param([f"Doe, Zoë | <{ANN}>"], f'"Doe%2C Zoë %7C" <{ANN}>', id="name"),
    ],
)
def test_configuration_round_trips(to, written):
    handler = SMTPHandler("100%, a|b %2C", f"Builds, all <{SENDER}>", to, ["[::1]:25", "mail"])
    config = handler.encode_config()
    decoded = SMTPHandler(**SMTPHandler.decode_config(config))

    assert config == f"100%%2C a%7Cb %252C,Builds%2C all <{SENDER}>,{written},[::1]:25,mail"
    assert vars(decoded) == vars(handler)
    assert parse_mailboxes(decoded.to_addr) == parse_mailboxes(to)


@pytest.mark.parametrize("config", ["", "s", "s,f,t"])
def test_short_configuration_is_an_error_with_what_is_expected(config):
    with pytest.raises(event.EventError, match=r"expected smtp=SUBJECT,FROM,TO,SERVER\[,SERVER\.\.\.\]"):
        SMTPHandler.decode_config(config)


def test_handler_round_trips_through_the_environment(tls_server, monkeypatch):
    event.add_handler("smtp", "built", SENDER, [ANN, BOB], f"127.0.0.1:{tls_server.port}")
    event.handler_config_as_env()
    manager = event.EventManager()
    manager.load_handlers_from_env()

    assert manager.send_event(closed_event())
    assert tls_server.envelopes[0].rcpt_tos == [ANN, BOB]


# Clients that a user's tests replace


@pytest.mark.parametrize(
    "result", [pytest.param(mock.MagicMock(), id="mock"), pytest.param({}, id="dict"), pytest.param(None, id="None")]
)
@pytest.mark.parametrize("kind", ["SMTP_SSL", "SMTP"])
def test_mock_instead_of_the_client_gets_one_sendmail_call(monkeypatch, home, kind, result):
    if kind == "SMTP":
        monkeypatch.setenv("E3_ENABLE_FEATURE", "smtp_nossl")
    write_netrc(home, host="mail")
    with mock.patch(f"smtplib.{kind}") as client:
        client.return_value.sendmail.return_value = result
        assert SMTPHandler("built", f"B <{SENDER}>", f"{ANN},{BOB}", "mail:1").send_event(closed_event(city="Zürich"))

    client.return_value.sendmail.assert_called_once()
    sender, recipients, text = client.return_value.sendmail.call_args.args
    assert (sender, recipients) == (SENDER, [ANN, BOB])
    assert isinstance(text, str)
    assert text.isascii()
    assert part_named(email.message_from_string(text, policy=policy.default), "event").get_content()
    client.return_value.quit.assert_called_once()


def test_class_instead_of_the_client_only_needs_sendmail(monkeypatch):
    sent = []

    class Client:
        def __init__(self, host, port, **options):
            self.host = host

        def sendmail(self, sender, recipients, text):
            sent.append((self.host, sender, recipients))

    monkeypatch.setattr(smtplib, "SMTP_SSL", Client)

    assert SMTPHandler("built", SENDER, ANN, "mail").send_event(closed_event())
    assert sent == [("mail", SENDER, [ANN])]


def test_refusal_by_a_mock_client_is_a_failure(caplog):
    with mock.patch("smtplib.SMTP_SSL") as client:
        client.return_value.sendmail.side_effect = [{ANN: (450, b"no")}, smtplib.SMTPRecipientsRefused({})]
        assert not SMTPHandler("built", SENDER, ANN, ["a", "b"]).send_event(closed_event())

    assert client.return_value.sendmail.call_count == 2
    assert f"a refused {ANN}: 450 no" in logged_warnings(caplog)


def test_server_is_skipped_if_its_client_raises(caplog):
    with mock.patch("smtplib.SMTP_SSL", side_effect=RuntimeError("boom")):
        assert not SMTPHandler("built", SENDER, ANN, "mail").send_event(closed_event())

    assert "mail: RuntimeError: boom" in logged_warnings(caplog)
