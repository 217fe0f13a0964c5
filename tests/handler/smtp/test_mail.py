"""The content of a mail: subject, text, event data, threads and digests."""

from __future__ import annotations

import re
import time

import pytest

import event
from event._event_copies import with_delivered
from event.handler.smtp import SMTPHandler
from helpers.mails import (
    ANN,
    SENDER,
    after_partial_delivery,
    closed_event,
    event_with_files,
    handler_for,
    parse_mail,
    received_mail,
    text_of,
)
from servers.raw import raw_server

FIELDS = ["Subject", "From", "To", "Date", "Message-ID", "In-Reply-To", "References", "Auto-Submitted"]
FIELDS += ["MIME-Version", "Content-Type"]


def test_event_arrives_as_a_mail_over_tls(tls_server, tmp_path, caplog):
    sent = event_with_files(tmp_path, {"log": ("build.txt", b"line\n")}, target="arm")

    assert handler_for(tls_server).send_event(sent)

    mail = received_mail(tls_server)
    assert mail.get_content_type() == "multipart/mixed"
    assert (mail["Subject"], mail["From"], mail["To"]) == ("built", SENDER, ANN)
    assert mail["Date"].datetime.tzinfo is not None
    assert mail["Message-ID"].endswith("@example.com>")
    text, data, log = mail.iter_parts()
    assert (text.get_content_type(), text.get_filename()) == ("multipart/alternative", None)
    assert [part.get_content_type() for part in text.iter_parts()] == ["text/plain", "text/html"]
    assert (data.get_content_type(), data.get_filename()) == ("application/json", "event")
    assert data["Content-Transfer-Encoding"] == "base64"
    assert event._json.loads(data.get_content()) == sent.as_dict()
    assert (log.get_filename(), log.get_content_type(), log.get_content()) == ("log.txt", "text/plain", "line\n")
    assert tls_server.envelopes[0].mail_from == SENDER
    assert tls_server.envelopes[0].rcpt_tos == [ANN]
    assert tls_server.secured == [True]
    assert not caplog.records


def test_mail_text_has_the_data_and_the_attachment_names(tls_server, tmp_path):
    sent = event_with_files(
        tmp_path,
        {"log": ("x", b"12345")},
        target="arm",
        counts={"errors": 2},
        long="y" * 500,
        lines="one\ntwo",
        city="Zürich",
        **{f"k{n}": n for n in range(60)},
    )

    assert handler_for(tls_server).send_event(sent)

    text = text_of(received_mail(tls_server)).splitlines()
    assert text[0] == "compile"
    assert {"target: arm", "counts.errors: 2", "lines: one two", "city: Zürich"} <= set(text)
    assert f"long: {'y' * 200}..." in text
    assert text[-3:] == ["...: and 16 more", "", "attached: log.txt (5 bytes)"]


@pytest.mark.parametrize(
    ("subject", "received"),
    [
        pytest.param("plain", "plain", id="plain"),
        pytest.param("", "", id="empty"),
        pytest.param("Größe ✓", "Größe ✓", id="non-ASCII"),
        pytest.param("a\r\nBcc: eve@example.com", "a Bcc: eve@example.com", id="line break"),
        pytest.param("a\n\nbody", "a body", id="end of the header"),
        pytest.param("a\u2028b\x85c\x00d", "a b c d", id="other control characters"),
        pytest.param("half \ud800", "half ?", id="lone surrogate"),
        pytest.param("word " * 400, ("word " * 400).strip(), id="long"),
        pytest.param("x" * 2000, "x" * 2000, id="one long word"),
        pytest.param(404, "404", id="not a string"),
    ],
)
def test_subject_is_one_header_with_any_text(tls_server, subject, received):
    assert handler_for(tls_server, subject=subject).send_event(closed_event())

    mail = received_mail(tls_server)
    assert mail["Subject"] == received
    assert mail["Bcc"] is None
    assert mail.keys() == FIELDS
    assert max(map(len, tls_server.envelopes[0].content.splitlines())) < 998


def test_subject_of_an_event_with_an_outcome_has_the_title(tls_server):
    assert handler_for(tls_server).send_event(closed_event(outcome="failure", exit_code=2, branch="main"))

    mail = received_mail(tls_server)
    assert mail["Subject"] == "built: compile failed on main (exit 2)"
    assert text_of(mail).startswith("compile failed on main (exit 2)\n\nbranch: main\n")
    assert "<h1" in mail.get_body(("html",)).get_content()


def test_templates_replace_the_title_and_the_text(tls_server):
    handler = handler_for(tls_server)
    handler.title, handler.body = "{name} is {state}", "See {build_url}."
    assert handler.send_event(closed_event(state="slow", ci={"build_url": "https://ci.test/7"}))

    mail = received_mail(tls_server)
    assert mail["Subject"] == "built: compile is slow"
    assert text_of(mail) == "See https://ci.test/7.\n"
    assert "See https://ci.test/7." in mail.get_body(("html",)).get_content()


def test_subclass_can_compute_the_subject(tls_server):
    class PrefixedHandler(SMTPHandler):
        @property
        def subject(self):
            return f"[ci] {self.default_subject}"

    assert PrefixedHandler("built", SENDER, ANN, f"127.0.0.1:{tls_server.port}").send_event(closed_event())

    assert received_mail(tls_server)["Subject"] == "[ci] built"


def test_mails_of_the_same_step_are_one_thread(tls_server):
    handler = handler_for(tls_server)
    for data in ({"branch": "main"}, {"branch": "main", "outcome": "success"}, {"branch": "fix"}):
        assert handler.send_event(closed_event(**data))

    first, second, other = map(parse_mail, tls_server.envelopes)
    assert first["References"] == second["References"] == second["In-Reply-To"] != other["References"]
    assert len({mail["Message-ID"] for mail in (first, second, other)}) == 3


@pytest.mark.parametrize("sending", ["a b@c>\r\nBcc: eve@example.com", "x" * 500, "\ud800", "ü"])
def test_unusual_sending_id_has_a_stable_message_id(tls_server, sending):
    for _ in range(2):
        assert handler_for(tls_server).send_event(after_partial_delivery(closed_event(), sending=sending))

    first, second = (parse_mail(e)["Message-ID"] for e in tls_server.envelopes)
    assert first == second
    assert re.fullmatch("<[0-9a-f]{64}@example.com>", first)


@pytest.mark.parametrize("to", [ANN, "zoë@example.com"])
def test_every_line_ends_with_crlf_on_the_wire(monkeypatch, tmp_path, to):
    monkeypatch.setenv("E3_ENABLE_FEATURE", "smtp_nossl")
    content = bytearray()

    def serve(connection, _stopped):
        answers = (b"220 hi\r\n", b"250-hi\r\n250-SMTPUTF8\r\n250 8BITMIME\r\n", b"250 ok\r\n", b"250 ok\r\n")
        with connection, connection.makefile("rb") as file:
            for answer in answers:
                connection.sendall(answer)
                file.readline()
            connection.sendall(b"354 go\r\n")
            while not content.endswith(b"\r\n.\r\n"):
                content.extend(file.readline())
            connection.sendall(b"250 ok\r\n")

    files = {"a\nb": ("log.txt", b"one\ntwo\r\nthree\r"), "ü" * 100: ("f", b"x")}
    with raw_server(serve) as port:
        handler = handler_for(f"127.0.0.1:{port}", to=to, subject="ü" * 200)
        assert handler.send_event(event_with_files(tmp_path, files, text="a\nb", city="Zürich"))

    assert content.count(b"\n") == content.count(b"\r") == content.count(b"\r\n") > 20


# Several pending events


def test_more_than_five_pending_events_are_one_mail(tls_server, tmp_path):
    events = [closed_event(outcome="success") for _ in range(6)]
    events += [event_with_files(tmp_path, {"log": ("f", b"x")}, outcome="failure", exit_code=2)]
    assert handler_for(tls_server).send_events(events) == [True] * 7

    mail = received_mail(tls_server)
    assert mail["Subject"] == "built: 7 events: 1 failed, 6 succeeded"
    lines = text_of(mail).splitlines()
    assert lines[0].startswith("compile failed (exit 2)")
    assert lines[-1] == "not attached: the files of these events (1)"
    _, data = mail.iter_parts()
    assert (data.get_content_type(), data.get_filename()) == ("application/json", "events")
    assert event._json.loads(data.get_content()) == [each.as_dict() for each in events]


def test_up_to_five_pending_events_are_a_mail_each_with_pauses(tls_server, monkeypatch):
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    assert handler_for(tls_server).send_events([closed_event() for _ in range(5)]) == [True] * 5
    assert len(tls_server.envelopes) == 5
    assert pauses == [1.0] * 4


def test_events_delivered_to_some_recipients_are_mailed_one_by_one(tls_server, monkeypatch):
    monkeypatch.setattr(SMTPHandler, "pace", 0.0)
    events = [closed_event() for _ in range(6)]
    events[3] = with_delivered(events[3], [ANN])
    assert handler_for(tls_server).send_events(events) == [True] * 6
    assert len(tls_server.envelopes) == 5


def test_subclass_with_its_own_send_event_gets_each_event(tls_server, monkeypatch):
    class OwnHandler(SMTPHandler):
        pace = 0.0

        def send_event(self, event):
            raise LookupError(event.uid)

    results = OwnHandler("s", SENDER, ANN, "mail").send_events([closed_event() for _ in range(6)])
    assert [type(result) for result in results] == [LookupError] * 6


def test_failed_digest_is_a_failure_of_each_event():
    results = handler_for("127.0.0.1:9").send_events([closed_event() for _ in range(6)])
    assert len(results) == 6
    assert all("smtp: 127.0.0.1:9: " in str(result) for result in results)


def test_each_failed_event_of_a_small_batch_has_its_own_reason():
    results = handler_for("127.0.0.1:9").send_events([closed_event("one"), closed_event("two")])
    assert [str(result).count("127.0.0.1:9: ") for result in results] == [1, 1]
