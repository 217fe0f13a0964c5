"""Senders and recipients."""

from __future__ import annotations

import re
from email.header import decode_header, make_header

import pytest

import event
from event.handler.smtp import SMTPHandler
from helpers.mails import ANN, BOB, SENDER, closed_event, handler_for, logged_warnings, received_mail
from servers.smtp import smtp_server


@pytest.mark.parametrize(
    ("to", "boxes"),
    [
        pytest.param(ANN, [("", ANN)], id="one"),
        pytest.param(f"{ANN},{BOB}", [("", ANN), ("", BOB)], id="two, as e3 writes them"),
        pytest.param([ANN, BOB], [("", ANN), ("", BOB)], id="list"),
        pytest.param((ANN, f"{BOB}, {ANN}"), [("", ANN), ("", BOB), ("", ANN)], id="list with a list in it"),
        pytest.param(f"Ann <{ANN}>", [("Ann", ANN)], id="name"),
        pytest.param(f'"Doe, Ann" <{ANN}>, {BOB}', [("Doe, Ann", ANN), ("", BOB)], id="quoted comma"),
        pytest.param([f"Doe, Ann <{ANN}>", BOB], [("Doe, Ann", ANN), ("", BOB)], id="comma in a list's element"),
        pytest.param(f'"Müller, Zoë" <{ANN}>', [("Müller, Zoë", ANN)], id="non-ASCII and comma"),
        pytest.param(f'"Ann \\"A\\" \\\\ D" <{ANN}>', [('Ann "A" \\ D', ANN)], id="escapes"),
        pytest.param(f"{ANN} (Ann D)", [("Ann D", ANN)], id="comment"),
        pytest.param([f"Ann\r\nBcc: x <{ANN}>"], [("Ann Bcc: x", ANN)], id="line break in a name"),
        pytest.param('"john doe"@example.com', [("", '"john doe"@example.com')], id="quoted local part"),
        pytest.param("root@[127.0.0.1]", [("", "root@[127.0.0.1]")], id="address literal"),
        pytest.param(f"Team: {ANN}, Bob <{BOB}>;", [("", ANN), ("Bob", BOB)], id="group"),
        pytest.param(f"A: {ANN};, {BOB}", [("", ANN), ("", BOB)], id="group and address"),
        pytest.param([f"A team: {ANN}, {BOB};"], [("", ANN), ("", BOB)], id="group in a list"),
        pytest.param(f'"Doe: x; y" <{ANN}>, B: <{BOB}>;', [("Doe: x; y", ANN), ("", BOB)], id="quoted colon"),
        pytest.param(f"Build: nightly <{ANN}>", [("Build: nightly", ANN)], id="colon in a name"),
        pytest.param([f'"{"Doe, " * 40}" <{ANN}>', BOB], [(("Doe, " * 40).strip(), ANN), ("", BOB)], id="long"),
    ],
)
def test_recipients_can_be_written_like_mail_headers(tls_server, to, boxes):
    assert handler_for(tls_server, to=to).send_event(closed_event())

    mail = received_mail(tls_server)
    assert [(a.display_name, a.addr_spec) for a in mail["To"].addresses] == boxes
    assert tls_server.envelopes[0].rcpt_tos == list(dict.fromkeys(address for _, address in boxes))
    assert mail["Bcc"] is None


@pytest.mark.parametrize("name", ["n" * 2000, ("Zoë, " * 400).strip(), ("Doe, " * 400).strip()])
def test_name_of_a_recipient_can_be_longer_than_a_line(tls_server, name):
    assert handler_for(tls_server, to=[f"{name} <{ANN}>"]).send_event(closed_event())

    (field,) = re.findall(rb"(?s)\nTo: (.*?) <ann@example.com>\r\n", tls_server.envelopes[0].content)
    assert str(make_header(decode_header(field.decode()))) == name
    assert max(map(len, tls_server.envelopes[0].content.splitlines())) < 998


def test_sender_can_have_a_name(tls_server):
    assert handler_for(tls_server, sender="Builds, nightly <builds@example.com>").send_event(closed_event())

    assert received_mail(tls_server)["From"].addresses[0].display_name == "Builds, nightly"
    assert tls_server.envelopes[0].mail_from == SENDER


def test_local_user_name_is_a_valid_address(tls_server):
    assert handler_for(tls_server, sender="root", to="root").send_event(closed_event())

    assert tls_server.envelopes[0].rcpt_tos == ["root"]


def test_non_ascii_domain_is_sent_in_its_ascii_form(tls_server):
    assert handler_for(tls_server, to="ann@bücher.example").send_event(closed_event())

    assert tls_server.envelopes[0].rcpt_tos == ["ann@xn--bcher-kva.example"]


def test_domain_is_not_mapped_to_another_domain(tls_server):
    assert handler_for(tls_server, to="ann@straße.test", sender="b@βόλος.test").send_event(closed_event())

    assert tls_server.envelopes[0].rcpt_tos == ["ann@xn--strae-oqa.test"]
    assert tls_server.envelopes[0].mail_from == "b@xn--nxasmm1c.test"
    assert received_mail(tls_server)["To"] == "ann@xn--strae-oqa.test"


def test_non_ascii_local_part_is_sent_if_the_server_supports_it(tls_context, caplog):
    with smtp_server(tls_context, enable_SMTPUTF8=False) as old, smtp_server(tls_context) as new:
        assert handler_for(old, new, to="zoë@example.com", sender="jürg@bücher.example").send_event(closed_event())

    assert "SMTPUTF8 not supported by server" in logged_warnings(caplog)
    assert new.envelopes[0].rcpt_tos == ["zoë@example.com"]
    assert new.envelopes[0].mail_from == "jürg@xn--bcher-kva.example"
    assert "To: zoë@example.com".encode() in new.envelopes[0].content


@pytest.mark.parametrize(
    "address",
    [
        pytest.param("", id="empty"),
        pytest.param(" , ,", id="only commas"),
        pytest.param("undisclosed-recipients:;", id="empty group"),
        pytest.param("a@x; b@x", id="semicolon as a separator"),
        pytest.param("a@x\r\nRCPT TO: eve@example.com", id="line break"),
        pytest.param("a b@example.com", id="space"),
        pytest.param("Ann <a@x> trailing", id="text after the address"),
        pytest.param("<>", id="empty brackets"),
        pytest.param("a@b@c", id="two at-signs"),
        pytest.param("a@" + "ü" * 80, id="invalid domain"),
        pytest.param("a\udcff@x", id="undecodable"),
        pytest.param("a@b\u200dc.test", id="zero-width joiner"),
        pytest.param("a@x\uff20evil.test", id="full-width at-sign"),
        pytest.param("smtps://ci:hunter2@mail", id="a server instead of an address"),
    ],
)
def test_invalid_address_is_refused(address):
    for sender, to in ((address, ANN), (SENDER, address), (SENDER, [address])):
        with pytest.raises(event.EventError, match=r"is (not a|no) mail address") as error:
            SMTPHandler("s", sender, to, "mail")
        assert "hunter2" not in str(error.value)


def test_address_changed_to_an_invalid_one_fails_on_send(tls_server, caplog):
    handler = handler_for(tls_server)
    handler.to_addr = "eve@x\nBcc: eve@x"

    assert not handler.send_event(closed_event())

    assert "is not a mail address" in logged_warnings(caplog)
