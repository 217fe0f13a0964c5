"""Several servers, refused recipients, and partial deliveries."""

from __future__ import annotations

import socket

import pytest

import event
from helpers.mails import (
    ANN,
    BOB,
    after_partial_delivery,
    closed_event,
    handler_for,
    logged_warnings,
    parse_mail,
    scripted_server,
)
from servers.raw import raw_server
from servers.smtp import smtp_server

# Several servers


def test_next_server_is_tried_if_the_first_fails(tls_context, caplog):
    with smtp_server(tls_context, refuse_data="554 no room") as full, smtp_server(tls_context) as good:
        assert handler_for(full, good).send_event(closed_event())

    assert len(good.envelopes) == 1
    assert f"127.0.0.1:{full.port}: 554 no room" in logged_warnings(caplog)


def test_no_server_is_tried_after_the_mail_was_accepted(tls_context):
    with smtp_server(tls_context) as first, smtp_server(tls_context) as second:
        assert handler_for(first, " ", second).send_event(closed_event())

    assert (len(first.envelopes), len(second.envelopes)) == (1, 0)


def test_unreachable_server_is_skipped(tls_server, caplog):
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]

    assert handler_for(f"127.0.0.1:{port}", tls_server).send_event(closed_event())

    assert f"127.0.0.1:{port}: connection refused" in logged_warnings(caplog)


def test_host_without_addresses_is_skipped(tls_server, caplog):
    assert handler_for("no-such-host.invalid", tls_server).send_event(closed_event())

    assert "no-such-host.invalid: name or service not known" in logged_warnings(caplog)


def test_server_can_have_an_ipv6_address(authority, tls_context):
    with smtp_server(authority.context("::1"), family=socket.AF_INET6) as server:
        assert handler_for(f"[::1]:{server.port}").send_event(closed_event())


def test_server_on_one_of_several_addresses_is_found(tls_context):
    with smtp_server(tls_context) as server:  # localhost may also be ::1, where nothing listens
        assert handler_for(f"localhost:{server.port}").send_event(closed_event())


def test_next_address_of_a_host_is_tried(tls_server, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as unused:
        unused_port = unused.getsockname()[1]
    real = socket.getaddrinfo

    def resolve_to_two(host, port, **more):
        return real(host, unused_port, **more) + real(host, port, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolve_to_two)  # no host with two addresses is available here
    assert handler_for(tls_server).send_event(closed_event())


# Refusals


def test_only_refused_recipients_are_tried_at_the_next_server(tls_context, caplog):
    with smtp_server(tls_context, refuse=[BOB]) as first, smtp_server(tls_context) as second:
        assert handler_for(first, second, to=[ANN, BOB]).send_event(closed_event())

    assert [e.rcpt_tos for e in first.envelopes] == [[ANN]]
    assert [e.rcpt_tos for e in second.envelopes] == [[BOB]]
    assert parse_mail(second.envelopes[0])["To"] == f"{ANN}, {BOB}"
    assert f"127.0.0.1:{first.port} refused {BOB}: 550 no such user here" in logged_warnings(caplog)


def test_recipient_refused_by_all_servers_is_a_permanent_failure(tls_context):
    with (
        smtp_server(tls_context, refuse=[BOB]) as first,
        smtp_server(tls_context, refuse="all") as second,
        pytest.raises(event.PermanentError, match=rf"refused for {BOB} \(550 no such user here\)") as error,
    ):
        handler_for(first, second, to=[ANN, BOB]).send_event(closed_event())

    assert [e.rcpt_tos for e in first.envelopes] == [[ANN]]
    assert second.envelopes == []
    assert error.value.done == frozenset({ANN})


def test_server_that_refuses_all_recipients_is_a_permanent_failure(tls_context, caplog):
    with (
        smtp_server(tls_context, refuse="all") as server,
        pytest.raises(event.PermanentError, match=f"{ANN} .*, {BOB} "),
    ):
        handler_for(server, to=[ANN, BOB]).send_event(closed_event())

    logged = logged_warnings(caplog)
    assert f"refused {ANN}: 550" in logged
    assert f"refused {BOB}: 550" in logged


def test_recipients_not_sent_to_a_server_are_not_delivered(monkeypatch, caplog):
    monkeypatch.setenv("E3_ENABLE_FEATURE", "smtp_nossl")
    answers = (b"220 hi\r\n", b"250 hi\r\n", b"250 ok\r\n", b"421 \x1b[31mgoing\r\n")
    with raw_server(scripted_server(*answers)) as port:
        assert not handler_for(f"127.0.0.1:{port}", to=[ANN, BOB]).send_event(closed_event())

    logged = logged_warnings(caplog)
    assert f"refused {ANN}: 421 [31mgoing" in logged
    assert f"refused {BOB}: the server hung up before" in logged


def test_server_that_refuses_in_its_greeting_is_skipped(monkeypatch, caplog):
    monkeypatch.setenv("E3_ENABLE_FEATURE", "smtp_nossl")
    with raw_server(scripted_server(b"554 go away\r\n")) as port:
        assert not handler_for(f"127.0.0.1:{port}").send_event(closed_event())

    assert f"127.0.0.1:{port}: 554 go away" in logged_warnings(caplog)


@pytest.mark.parametrize(
    ("answer", "permanent"),
    [
        pytest.param("554 no", True, id="refused"),
        pytest.param("552 5.3.4 too large", True, id="too large"),
        pytest.param("451 later", False, id="later"),
        pytest.param("530 login first", False, id="login required"),
    ],
)
def test_reply_5xx_to_the_mail_is_a_permanent_failure(tls_context, caplog, answer, permanent):
    with smtp_server(tls_context, refuse_data=answer) as server:
        if permanent:
            with pytest.raises(event.PermanentError, match=f"refused for {ANN} .{answer}"):
                handler_for(server).send_event(closed_event())
        else:
            assert not handler_for(server).send_event(closed_event())

    assert f": {answer}" in logged_warnings(caplog)


def test_connection_lost_after_the_mail_is_a_temporary_failure(monkeypatch, caplog):
    monkeypatch.setenv("E3_ENABLE_FEATURE", "smtp_nossl")
    answers = (b"220 hi\r\n", b"250 hi\r\n", b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n")
    with raw_server(scripted_server(*answers)) as port:
        assert not handler_for(f"127.0.0.1:{port}").send_event(closed_event())

    assert "Connection unexpectedly closed" in logged_warnings(caplog)


def test_recipients_above_the_limit_get_another_transaction(tls_context):
    people = [f"user{number}@example.com" for number in range(25)]
    with smtp_server(tls_context, most=10) as server:
        assert handler_for(server, to=people).send_event(closed_event())

    assert [len(e.rcpt_tos) for e in server.envelopes] == [10, 10, 5]
    assert [to for e in server.envelopes for to in e.rcpt_tos] == people
    assert len({parse_mail(e)["Message-ID"] for e in server.envelopes}) == 1


def test_full_mailbox_does_not_cause_endless_transactions(tls_context):
    with (
        smtp_server(tls_context, refuse={BOB: "552 5.2.2 mailbox full"}) as server,
        pytest.raises(event.PermanentError, match="mailbox full"),
    ):
        handler_for(server, to=[ANN, BOB]).send_event(closed_event())

    assert server.asked == [ANN, BOB, BOB]


# Partial deliveries


def error_of_partial_delivery(handler, sent):
    with pytest.raises(event.PartialDeliveryError) as raised:
        handler.send_event(sent)
    return raised.value


def test_only_missing_recipients_are_tried_on_the_next_attempt(tls_context):
    temporary = {BOB: "450 later"}
    with smtp_server(tls_context, refuse=temporary) as server:
        handler = handler_for(server, to=[ANN, BOB])
        error = error_of_partial_delivery(handler, after_partial_delivery(closed_event()))
        assert (error.done, error.remaining) == (frozenset({ANN}), (BOB,))

        error = error_of_partial_delivery(handler, after_partial_delivery(closed_event(), *error.done))
        assert (error.done, error.remaining) == (frozenset({ANN}), (BOB,))

        temporary.clear()
        assert handler.send_event(after_partial_delivery(closed_event(), *error.done))

    assert server.asked == [ANN, BOB, BOB, BOB]
    assert [e.rcpt_tos for e in server.envelopes] == [[ANN], [BOB]]
    assert {parse_mail(e)["Message-ID"] for e in server.envelopes} == {"<sending-1@example.com>"}


def test_permanently_refused_recipient_is_not_tried_again(tls_context):
    answers = {BOB: "550 no such user", "cy@example.com": "450 later"}
    with smtp_server(tls_context, refuse=answers) as server:
        handler = handler_for(server, to=[ANN, BOB, "cy@example.com"])
        error = error_of_partial_delivery(handler, after_partial_delivery(closed_event()))
        assert error.remaining == ("cy@example.com",)

        del answers["cy@example.com"]
        with pytest.raises(event.PermanentError, match=BOB) as last:
            handler.send_event(after_partial_delivery(closed_event(), *error.done))

    assert server.asked.count(BOB) == 1
    # If an operator fixes the mailbox and retries, only Bob gets the mail.
    assert last.value.done == frozenset({ANN, "cy@example.com"})


def test_attempt_without_progress_is_a_plain_failure(tls_context, caplog):
    with smtp_server(tls_context, refuse={ANN: "450 later", BOB: "451 later"}) as server:
        assert not handler_for(server, to=[ANN, BOB]).send_event(closed_event())

    assert f"no server accepted the mail for {ANN}, {BOB}; " in logged_warnings(caplog)


def test_no_server_is_contacted_if_all_recipients_have_the_mail():
    with socket.create_server(("127.0.0.1", 0)) as unused:
        unreachable = f"127.0.0.1:{unused.getsockname()[1]}"

    assert handler_for(unreachable, to=[ANN, BOB]).send_event(after_partial_delivery(closed_event(), ANN, BOB))


def test_refusal_is_permanent_only_if_every_server_has_refused(tls_context):
    with socket.create_server(("127.0.0.1", 0)) as unused:
        unreachable = f"127.0.0.1:{unused.getsockname()[1]}"
    with smtp_server(tls_context, refuse=[BOB]) as first:
        for servers in ((first, unreachable), (unreachable, first)):
            assert error_of_partial_delivery(handler_for(*servers, to=[ANN, BOB]), closed_event()).remaining == (BOB,)


# The name in HELO


@pytest.mark.parametrize(
    ("name", "greeting"),
    [
        pytest.param("ci-7.example.com", "ci-7.example.com", id="full name"),
        pytest.param("jörg-pc.example", "[127.0.0.1]", id="non-ASCII"),
        pytest.param("ci-7", "[127.0.0.1]", id="short name"),
        pytest.param("a b.example", "[127.0.0.1]", id="invalid name"),
    ],
)
def test_helo_name_needs_no_dns(tls_server, monkeypatch, name, greeting):
    def forbidden(*_args):
        raise AssertionError("a DNS lookup may take minutes")

    monkeypatch.setattr(socket, "getfqdn", forbidden)
    monkeypatch.setattr(socket, "gethostname", lambda: name)

    assert handler_for(tls_server).send_event(closed_event())
    assert tls_server.greeted == [greeting]


def test_helo_name_over_ipv6_is_the_address(authority, tls_context, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "ci-7")
    with smtp_server(authority.context("::1"), family=socket.AF_INET6) as server:
        assert handler_for(f"[::1]:{server.port}").send_event(closed_event())

    assert server.greeted == ["[IPv6:::1]"]
