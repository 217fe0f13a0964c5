"""TLS, and accounts in .netrc or in a server's URL."""

from __future__ import annotations

import base64
import re
import socket

import pytest

from event._net import smtp
from event._net.mail_server import MailServer
from event.handler.smtp import SMTPHandler
from helpers.mails import ANN, BOB, SENDER, closed_event, handler_for, logged_warnings, scripted_server, write_netrc
from servers.raw import raw_server
from servers.smtp import PASSWORD, smtp_server

# TLS


def test_certificate_of_an_unknown_authority_is_not_trusted(authority, caplog):
    with smtp_server(authority.context("127.0.0.1")) as server:
        assert not handler_for(server).send_event(closed_event())

    assert server.envelopes == []
    assert "certificate verify failed" in logged_warnings(caplog)
    assert "SSL_CERT_FILE" in logged_warnings(caplog)


def test_certificate_for_another_host_is_not_trusted(authority, tls_context, caplog):
    with smtp_server(authority.context("mail.example.com")) as server:
        assert not handler_for(server).send_event(closed_event())

    assert server.envelopes == []
    assert "127.0.0.1" in logged_warnings(caplog)
    assert "certificate verify failed" in logged_warnings(caplog)


@pytest.mark.parametrize("names", [["127.0.0.1"], ["mail.example.com"]])
def test_disabled_verification_logs_a_warning(authority, monkeypatch, caplog, names):
    monkeypatch.setenv("E3_ENABLE_FEATURE", "other, smtp_noverify")
    with smtp_server(authority.context(*names)) as server:
        assert handler_for(server).send_event(closed_event())

    assert server.secured == [True]
    assert "smtp_noverify in E3_ENABLE_FEATURE" in logged_warnings(caplog)


def test_nothing_is_sent_to_a_plain_server_unless_allowed(caplog):
    with smtp_server() as server:
        assert not handler_for(server, timeout=2.0).send_event(closed_event())

    assert server.envelopes == []
    assert "smtp_nossl in E3_ENABLE_FEATURE" in logged_warnings(caplog)


def test_plain_server_is_used_if_allowed(plain_server, caplog):
    assert handler_for(plain_server).send_event(closed_event())

    assert plain_server.secured == [False]
    assert not caplog.records


def test_servers_with_and_without_tls_can_be_combined(tls_context, monkeypatch, caplog):
    with smtp_server(tls_context, refuse=[BOB]) as first, smtp_server() as second:
        handler = handler_for(f"smtps://127.0.0.1:{first.port}", f"smtp://127.0.0.1:{second.port}", to=[ANN, BOB])
        assert handler.send_event(closed_event())

    assert (first.secured, second.secured) == ([True], [False])


def test_scheme_overrides_the_feature_smtp_nossl(tls_server, monkeypatch):
    monkeypatch.setenv("E3_ENABLE_FEATURE", "smtp_nossl")

    assert handler_for(f"smtps://127.0.0.1:{tls_server.port}").send_event(closed_event())


@pytest.mark.parametrize("starttls", [False, True])
def test_trailing_dot_of_a_server_name_is_ignored_in_its_certificate(tls_context, monkeypatch, starttls):
    real = socket.getaddrinfo
    asked = []

    def resolve(host, *args, **more):
        asked.append(host)
        return real("127.0.0.1", *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)  # not every system knows "localhost."
    with smtp_server(**({"tls_context": tls_context} if starttls else {"tls": tls_context})) as server:
        scheme = "smtp+starttls" if starttls else "smtps"
        assert handler_for(f"{scheme}://localhost.:{server.port}").send_event(closed_event())

    assert server.secured == [True]
    assert asked == ["localhost."]  # DNS needs the dot, which prevents search domains


# STARTTLS


def test_feature_smtp_nossl_uses_starttls_if_it_is_offered(tls_context, monkeypatch):
    monkeypatch.setenv("E3_ENABLE_FEATURE", "smtp_nossl")
    with smtp_server(tls_context=tls_context, require_starttls=True) as server:
        assert handler_for(server).send_event(closed_event())

    assert server.secured == [True]


def test_scheme_smtp_uses_starttls_if_it_is_offered(tls_context):
    with smtp_server(tls_context=tls_context) as server:
        assert handler_for(f"smtp://127.0.0.1:{server.port}").send_event(closed_event())

    assert server.secured == [True]


def test_starttls_is_verified_and_never_skipped(authority, monkeypatch, caplog):
    monkeypatch.setenv("E3_ENABLE_FEATURE", "smtp_nossl")
    with smtp_server(tls_context=authority.context("127.0.0.1")) as server:
        assert not handler_for(server).send_event(closed_event())

    assert server.envelopes == []
    assert "certificate verify failed" in logged_warnings(caplog)


def test_refused_starttls_does_not_fall_back_to_plain_text(monkeypatch, caplog):
    monkeypatch.setenv("E3_ENABLE_FEATURE", "smtp_nossl")
    with raw_server(scripted_server(b"220 hi\r\n", b"250-hi\r\n250 STARTTLS\r\n", b"454 not now\r\n")) as port:
        assert not handler_for(f"127.0.0.1:{port}").send_event(closed_event())

    assert ": 454 not now" in logged_warnings(caplog)


def test_starttls_is_required_by_its_scheme(tls_context, caplog):
    with smtp_server(tls_context=tls_context) as good, smtp_server() as bad:
        assert handler_for(f"smtp+starttls://127.0.0.1:{good.port}").send_event(closed_event())
        assert not handler_for(f"smtp+starttls://127.0.0.1:{bad.port}").send_event(closed_event())

    assert good.secured == [True]
    assert bad.envelopes == []
    assert "STARTTLS extension not supported" in logged_warnings(caplog)


# Accounts in .netrc


@pytest.mark.parametrize("name", [".netrc", "_netrc"])
def test_account_in_netrc_is_used_for_the_login(login_server, home, caplog, name):
    write_netrc(home, name=name)

    assert handler_for(login_server).send_event(closed_event())

    assert login_server.logins == [("ann", PASSWORD)]
    assert not caplog.records


def test_netrc_variable_sets_another_file(login_server, home, monkeypatch):
    write_netrc(home, password="wrong")
    monkeypatch.setenv("NETRC", str(write_netrc(home, name="mine")))

    assert handler_for(login_server).send_event(closed_event())


def test_wrong_password_is_a_failure_without_the_password(login_server, home, caplog):
    write_netrc(home, password="hunter2")

    assert not handler_for(login_server).send_event(closed_event())

    assert "535 " in logged_warnings(caplog)
    assert "hunter2" not in caplog.text


def test_account_that_the_server_echoes_is_masked(tls_context, home, caplog):
    write_netrc(home)
    plain = base64.b64encode(f"\0ann\0{PASSWORD}".encode()).decode()
    login = base64.b64encode(PASSWORD.encode()).decode()
    with smtp_server(tls_context, auth_required=True, refuse_data=f"451 {plain} {login} {PASSWORD}") as server:
        assert not handler_for(server).send_event(closed_event())
    assert "451 *** *** ***" in logged_warnings(caplog)
    assert not [text for text in (plain[8:], login[:8], PASSWORD) if text in caplog.text]


def test_unencodable_password_is_a_failure_without_the_password(login_server, monkeypatch, caplog):
    # Not from a file: the netrc module of Python 3.10 reads only ASCII.
    monkeypatch.setattr(MailServer, "account", lambda _server: ("ann", "hunter-grün"))

    assert not handler_for(login_server).send_event(closed_event())

    assert "is not ASCII; a login can send only ASCII" in logged_warnings(caplog)
    assert "hunter" not in caplog.text
    assert "xfc" not in caplog.text


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("machine other.example login ann password x\n", id="another host"),
        pytest.param("default login ann password x\n", id="default"),
        pytest.param("machine 127.0.0.1 password x\n", id="no login"),
        pytest.param("", id="empty"),
    ],
)
def test_no_login_without_an_account(login_server, home, caplog, content):
    (home / ".netrc").write_text(content)

    assert not handler_for(login_server).send_event(closed_event())

    assert login_server.logins == []
    assert "530 5.7.0 Authentication required" in logged_warnings(caplog)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(b"machine 127.0.0.1 login ann hunter2\n", "line ", id="malformed"),
        pytest.param(b"machine 127.0.0.1 login ann password \xff\xfe\n", "UnicodeDecodeError", id="not text"),
    ],
)
def test_unreadable_netrc_is_reported_without_its_content(tls_server, home, caplog, content, reason):
    (home / ".netrc").write_bytes(content)

    assert handler_for(tls_server).send_event(closed_event())

    assert re.search(rf"\({reason}\d*\); going on without login", logged_warnings(caplog))
    assert "hunter2" not in caplog.text


def test_account_is_ignored_if_the_server_has_no_login(tls_server, home, caplog):
    write_netrc(home)

    assert handler_for(tls_server).send_event(closed_event())

    assert tls_server.logins == []
    assert not caplog.records


def test_plain_text_password_is_only_sent_to_this_machine(home, monkeypatch, caplog):
    monkeypatch.setenv("E3_ENABLE_FEATURE", "smtp_nossl")
    write_netrc(home)
    with smtp_server(auth_required=True) as server:
        assert handler_for(server).send_event(closed_event())
        monkeypatch.setattr(smtp, "is_private", lambda sock: False)  # no other machine is available here
        assert not handler_for(server).send_event(closed_event())

    assert server.logins == [("ann", PASSWORD)]
    assert "others could read the password" in logged_warnings(caplog)


# Accounts in the URL of a server


def test_account_in_the_url_is_used_for_the_login(login_server, tmp_path, home, monkeypatch, caplog):
    write_netrc(home, password="wrong")
    monkeypatch.setenv("SMTP_PASSWORD", PASSWORD)
    (tmp_path / "secret file").write_text(f"{PASSWORD}\n")
    for password in ("env:SMTP_PASSWORD", f"file:{tmp_path}/secret file", f"file:{tmp_path}/secret%20file"):
        assert handler_for(f"smtps://ann%40x:{password}@127.0.0.1:{login_server.port}").send_event(closed_event())

    assert login_server.logins == [("ann@x", PASSWORD)] * 3
    assert not caplog.records


def test_unresolved_reference_is_a_failure(login_server, caplog):
    assert not handler_for(f"smtps://ann:env:NO_SUCH@127.0.0.1:{login_server.port}").send_event(closed_event())

    assert f"smtps://127.0.0.1:{login_server.port}: smtp: the password for" in logged_warnings(caplog)
    assert "env:NO_SUCH is not set or empty" in logged_warnings(caplog)


def test_plain_password_works_with_a_warning_that_hides_it(login_server, caplog):
    assert handler_for(f"smtps://ann:{PASSWORD}@127.0.0.1:{login_server.port}").send_event(closed_event())

    assert "the password in a server's URL is given in clear" in logged_warnings(caplog)
    assert PASSWORD not in caplog.text
    assert PASSWORD not in repr(MailServer.parse(f"smtps://ann:{PASSWORD}@mail"))


def test_wrong_password_in_the_url_is_not_shown(login_server, monkeypatch, caplog):
    monkeypatch.setenv("SMTP_PASSWORD", "hunter2")

    assert not handler_for(f"smtps://ann:env:SMTP_PASSWORD@127.0.0.1:{login_server.port}").send_event(closed_event())

    assert "535 " in logged_warnings(caplog)
    assert "hunter2" not in caplog.text


def test_reference_to_a_file_is_absolute_in_an_outbox(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    servers = ["smtps://a%40b:file:pw %40x@mail:1", "smtps://a:env:P@mail", "mail"]
    handler = SMTPHandler("s", SENDER, ANN, servers)
    stored = SMTPHandler(**SMTPHandler.decode_config(handler.config_for_outbox()))

    assert handler.encode_config() == f"s,{SENDER},{ANN},{','.join(servers)}"
    assert stored.smtp_servers[1:] == servers[1:]
    assert handler.passwords == ["file:pw @x", "env:P"]
    assert stored.passwords == [f"file:{tmp_path}/pw @x", "env:P"]
    assert MailServer.parse(stored.smtp_servers[0]).user == "a@b"
