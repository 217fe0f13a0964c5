"""The smtp handler with real SMTP servers, and servers that misbehave."""

from __future__ import annotations

import asyncio
import base64
import email
import gzip
import os
import random
import re
import smtplib
import socket
import ssl
import threading
import time
from email import policy
from email.header import decode_header, make_header
from unittest import mock

import pytest

import event
from event._event_copies import with_delivered, with_sending
from event._formats import attachments
from event._formats import mail as mail_format
from event._formats.address import parse_mailboxes
from event._net import deadline, smtp
from event._net.mail_server import MailServer
from event.handler.smtp import SMTPHandler
from servers.raw import raw_server
from servers.smtp import PASSWORD, smtp_server
from servers.tls import Authority

SENDER, ANN, BOB = "builds@example.com", "ann@example.com", "bob@example.com"
MIB = 1 << 20
FIELDS = ["Subject", "From", "To", "Date", "Message-ID", "In-Reply-To", "References", "Auto-Submitted"]
FIELDS += ["MIME-Version", "Content-Type"]


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def trusted(authority, monkeypatch):
    """Trust the authority's certificates; return the TLS context of a server on this machine."""
    monkeypatch.setenv("SSL_CERT_FILE", authority.path)
    return authority.context("127.0.0.1", "localhost")


@pytest.fixture
def secure(trusted):
    """Run a server with TLS."""
    with smtp_server(trusted) as server:
        yield server


@pytest.fixture
def plain(monkeypatch):
    """Run a server without TLS, and allow it in the environment."""
    monkeypatch.setenv("E3_ENABLE_FEATURE", "smtp_nossl")
    with smtp_server() as server:
        yield server


def closed(name="compile", **data):
    with event.Event(name, uid="u-1", **data) as made:
        pass
    return made


def attached(tmp_path, files, **data):
    """Return a closed event with attachments: {attachment name: (file name, content)}."""
    with event.Event("compile", uid="u-1", **data) as made:
        for number, (name, (file_name, content)) in enumerate(files.items()):
            directory = tmp_path / str(number)
            directory.mkdir()
            (directory / file_name).write_bytes(content)
            made.attach_file(directory / file_name, name)
    return made


def handler_for(*servers, to=ANN, subject="built", sender=SENDER, timeout=None):
    addresses = [s if isinstance(s, str) else f"127.0.0.1:{s.port}" for s in servers]
    handler = SMTPHandler(subject, sender, to, addresses)
    if timeout:
        handler.timeout = timeout
    return handler


def parsed(envelope):
    return email.message_from_bytes(envelope.content, policy=policy.default)


def only_mail(server):
    (envelope,) = server.envelopes
    return parsed(envelope)


def text_of(mail):
    return mail.get_body(("plain",)).get_content().replace("\r\n", "\n")


def part_named(mail, name):
    (part,) = [part for part in mail.iter_parts() if part.get_filename() == name]
    return part


def warnings_of(caplog):
    assert {record.levelname for record in caplog.records} <= {"WARNING"}
    assert {record.name for record in caplog.records} <= {"event"}
    return "\n".join(record.getMessage() for record in caplog.records)


# --- the mail ---


def test_an_event_arrives_over_tls(secure, tmp_path, caplog):
    sent = attached(tmp_path, {"log": ("build.txt", b"line\n")}, target="arm")

    assert handler_for(secure).send_event(sent)

    mail = only_mail(secure)
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
    assert secure.envelopes[0].mail_from == SENDER
    assert secure.envelopes[0].rcpt_tos == [ANN]
    assert secure.secured == [True]
    assert not caplog.records


def test_mail_text_has_the_data_and_the_attachment_names(secure, tmp_path):
    sent = attached(
        tmp_path,
        {"log": ("x", b"12345")},
        target="arm",
        counts={"errors": 2},
        long="y" * 500,
        lines="one\ntwo",
        city="Zürich",
        **{f"k{n}": n for n in range(60)},
    )

    assert handler_for(secure).send_event(sent)

    text = text_of(only_mail(secure)).splitlines()
    assert text[0] == "compile"
    assert {"target: arm", "counts.errors: 2", "lines: one two", "city: Zürich"} <= set(text)
    assert f"long: {'y' * 200}..." in text
    assert text[-3:] == ["...: and 16 more", "", "attached: log.txt (5 bytes)"]


@pytest.mark.parametrize(
    ("name", "file_name", "content", "kind"),
    [
        pytest.param("src", "a.tar.gz", b"\x1f\x8b", "application/x-tar-gz", id="gzipped tar"),
        pytest.param("log", "a.log.gz", b"\x1f\x8b", "application/octet-stream", id="gzipped text"),
        pytest.param("shot", "a.png", b"\x89PNG", "image/png", id="by the file's name"),
        pytest.param("a.png", "a", b"\x89PNG", "image/png", id="by the attachment's name"),
        pytest.param("core", "core", b"\0\xff", "application/octet-stream", id="unknown"),
        pytest.param("log", "a.txt", "Zürich\n".encode(), "text/plain", id="text"),
        pytest.param("log", "a.txt", b"Z\xfcrich\n", "text/plain", id="text of an unknown charset"),
    ],
)
def test_attachment_arrives_unchanged_with_its_type(secure, tmp_path, name, file_name, content, kind):  # noqa: PLR0913
    assert handler_for(secure).send_event(attached(tmp_path, {name: (file_name, content)}))

    part = part_named(only_mail(secure), "log.txt" if (name, kind) == ("log", "text/plain") else name)
    assert part.get_content_type() == kind
    assert part.get_payload(decode=True) == content
    if kind == "text/plain" and content.isascii() is False:
        assert part.get_content_charset() == ("utf-8" if b"\xfc" not in content else None)


def test_attached_mail_arrives_unchanged(secure, tmp_path):
    content = b"From: x@example.com\nSubject: =?utf-8?q?h=C3=A9?=\n\n.\nFrom me\r\nbare\rcr " + b"x" * 2000

    assert handler_for(secure).send_event(attached(tmp_path, {"mail.eml": ("mail.eml", content)}))

    part = part_named(only_mail(secure), "mail.eml")
    assert not part.is_multipart()
    assert part.get_payload(decode=True) == content


@pytest.mark.parametrize(
    "name",
    [
        "a b;c.txt",
        'q"uo\\te',
        "naïve.txt",
        "漢" * 300,
        "x" * 300,
        "../../up",
        "=?utf-8?q?a?=",
        "a\r\nX-Evil: 1",
        "a%b'c",
    ],
)
def test_an_attachment_keeps_its_name(secure, tmp_path, name):
    assert handler_for(secure).send_event(attached(tmp_path, {name: ("f", b"content")}))

    mail = email.message_from_bytes(secure.envelopes[0].content)
    attachment = mail.get_payload()[2]
    assert attachment.get_filename() == name
    assert sorted(attachment.keys()) == ["Content-Disposition", "Content-Transfer-Encoding", "Content-Type"]
    assert max(map(len, secure.envelopes[0].content.splitlines())) < 998


def test_undecodable_attachment_name_arrives(secure, tmp_path):
    assert handler_for(secure).send_event(attached(tmp_path, {"a\udcff": ("f", b"content")}, bad="\ud800"))

    assert part_named(only_mail(secure), "a?").get_payload(decode=True) == b"content"


@pytest.mark.parametrize(
    ("subject", "arrives"),
    [
        pytest.param("plain", "plain", id="plain"),
        pytest.param("", "", id="empty"),
        pytest.param("Größe ✓", "Größe ✓", id="non-ASCII"),
        pytest.param("a\r\nBcc: eve@example.com", "a Bcc: eve@example.com", id="line break"),
        pytest.param("a\n\nbody", "a body", id="end of the header"),
        pytest.param("a\u2028b\x85c\x00d", "a b c d", id="other breaks"),
        pytest.param("half \ud800", "half ?", id="half of a surrogate pair"),
        pytest.param("word " * 400, ("word " * 400).strip(), id="long"),
        pytest.param("x" * 2000, "x" * 2000, id="one long word"),
        pytest.param(404, "404", id="not a string"),
    ],
)
def test_subject_is_one_header_with_any_text(secure, subject, arrives):
    assert handler_for(secure, subject=subject).send_event(closed())

    mail = only_mail(secure)
    assert mail["Subject"] == arrives
    assert mail["Bcc"] is None
    assert mail.keys() == FIELDS
    assert max(map(len, secure.envelopes[0].content.splitlines())) < 998


def test_with_an_outcome_the_title_follows_the_subject(secure):
    assert handler_for(secure).send_event(closed(outcome="failure", exit_code=2, branch="main"))

    mail = only_mail(secure)
    assert mail["Subject"] == "built: compile failed on main (exit 2)"
    assert text_of(mail).startswith("compile failed on main (exit 2)\n\nbranch: main\n")
    assert "<h1" in mail.get_body(("html",)).get_content()


def test_templates_replace_the_title_and_the_text(secure):
    handler = handler_for(secure)
    handler.title, handler.body = "{name} is {state}", "See {build_url}."
    assert handler.send_event(closed(state="odd", ci={"build_url": "https://ci.test/7"}))

    mail = only_mail(secure)
    assert mail["Subject"] == "built: compile is odd"
    assert text_of(mail) == "See https://ci.test/7.\n"
    assert "See https://ci.test/7." in mail.get_body(("html",)).get_content()


def test_mails_of_the_same_step_are_one_thread(secure):
    handler = handler_for(secure)
    for data in ({"branch": "main"}, {"branch": "main", "outcome": "success"}, {"branch": "fix"}):
        assert handler.send_event(closed(**data))

    first, second, other = map(parsed, secure.envelopes)
    assert first["References"] == second["References"] == second["In-Reply-To"] != other["References"]
    assert len({mail["Message-ID"] for mail in (first, second, other)}) == 3


def test_more_than_five_pending_events_are_one_mail(secure, tmp_path):
    events = [closed(outcome="success") for _ in range(6)]
    events += [attached(tmp_path, {"log": ("f", b"x")}, outcome="failure", exit_code=2)]
    assert handler_for(secure).send_events(events) == [True] * 7

    mail = only_mail(secure)
    assert mail["Subject"] == "built: 7 events: 1 failed, 6 succeeded"
    lines = text_of(mail).splitlines()
    assert lines[0].startswith("compile failed (exit 2)")
    assert lines[-1] == "not attached: the files of these events (1)"
    _, data = mail.iter_parts()
    assert (data.get_content_type(), data.get_filename()) == ("application/json", "events")
    assert event._json.loads(data.get_content()) == [each.as_dict() for each in events]


def test_up_to_five_pending_events_are_a_mail_each_with_pauses(secure, monkeypatch):
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    assert handler_for(secure).send_events([closed() for _ in range(5)]) == [True] * 5
    assert len(secure.envelopes) == 5
    assert pauses == [1.0] * 4


def test_events_delivered_to_some_recipients_are_mailed_one_by_one(secure, monkeypatch):
    monkeypatch.setattr(SMTPHandler, "pace", 0.0)
    events = [closed() for _ in range(6)]
    events[3] = with_delivered(events[3], [ANN])
    assert handler_for(secure).send_events(events) == [True] * 6
    assert len(secure.envelopes) == 5


def test_subclass_with_its_own_send_event_gets_each_event(secure, monkeypatch):
    class Own(SMTPHandler):
        pace = 0.0

        def send_event(self, event):
            raise LookupError(event.uid)

    results = Own("s", SENDER, ANN, "mail").send_events([closed() for _ in range(6)])
    assert [type(result) for result in results] == [LookupError] * 6


def test_failed_digest_is_a_failure_of_each_event():
    results = handler_for("127.0.0.1:9").send_events([closed() for _ in range(6)])
    assert len(results) == 6
    assert all("smtp: 127.0.0.1:9: " in str(result) for result in results)


def test_each_failed_event_of_a_small_batch_has_its_own_reason():
    results = handler_for("127.0.0.1:9").send_events([closed("one"), closed("two")])
    assert [str(result).count("127.0.0.1:9: ") for result in results] == [1, 1]


def test_a_subclass_computes_the_subject(secure):
    class Mine(SMTPHandler):
        @property
        def subject(self):
            return f"[ci] {self.default_subject}"

    assert Mine("built", SENDER, ANN, f"127.0.0.1:{secure.port}").send_event(closed())

    assert only_mail(secure)["Subject"] == "[ci] built"


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
        pytest.param(f"A: {ANN};, {BOB}", [("", ANN), ("", BOB)], id="group and another"),
        pytest.param([f"A team: {ANN}, {BOB};"], [("", ANN), ("", BOB)], id="group in a list"),
        pytest.param(f'"Doe: x; y" <{ANN}>, B: <{BOB}>;', [("Doe: x; y", ANN), ("", BOB)], id="quoted colon"),
        pytest.param(f"Build: nightly <{ANN}>", [("Build: nightly", ANN)], id="colon in a name"),
        pytest.param([f'"{"Doe, " * 40}" <{ANN}>', BOB], [(("Doe, " * 40).strip(), ANN), ("", BOB)], id="long"),
    ],
)
def test_recipients_can_be_written_like_mail_headers(secure, to, boxes):
    assert handler_for(secure, to=to).send_event(closed())

    mail = only_mail(secure)
    assert [(a.display_name, a.addr_spec) for a in mail["To"].addresses] == boxes
    assert secure.envelopes[0].rcpt_tos == list(dict.fromkeys(address for _, address in boxes))
    assert mail["Bcc"] is None


@pytest.mark.parametrize("name", ["n" * 2000, ("Zoë, " * 400).strip(), ("Doe, " * 400).strip()])
def test_a_name_may_be_longer_than_a_line(secure, name):
    assert handler_for(secure, to=[f"{name} <{ANN}>"]).send_event(closed())

    (field,) = re.findall(rb"(?s)\nTo: (.*?) <ann@example.com>\r\n", secure.envelopes[0].content)
    assert str(make_header(decode_header(field.decode()))) == name
    assert max(map(len, secure.envelopes[0].content.splitlines())) < 998


def test_a_sender_may_have_a_name(secure):
    assert handler_for(secure, sender="Builds, nightly <builds@example.com>").send_event(closed())

    assert only_mail(secure)["From"].addresses[0].display_name == "Builds, nightly"
    assert secure.envelopes[0].mail_from == SENDER


def test_a_local_name_is_an_address(secure):
    assert handler_for(secure, sender="root", to="root").send_event(closed())

    assert secure.envelopes[0].rcpt_tos == ["root"]


def test_non_ascii_domain_is_sent_in_its_ascii_form(secure):
    assert handler_for(secure, to="ann@bücher.example").send_event(closed())

    assert secure.envelopes[0].rcpt_tos == ["ann@xn--bcher-kva.example"]


def test_domain_is_not_mapped_to_another_domain(secure):
    assert handler_for(secure, to="ann@straße.test", sender="b@βόλος.test").send_event(closed())

    assert secure.envelopes[0].rcpt_tos == ["ann@xn--strae-oqa.test"]
    assert secure.envelopes[0].mail_from == "b@xn--nxasmm1c.test"
    assert only_mail(secure)["To"] == "ann@xn--strae-oqa.test"


def test_non_ascii_local_part_is_sent_if_the_server_supports_it(trusted, caplog):
    with smtp_server(trusted, enable_SMTPUTF8=False) as old, smtp_server(trusted) as new:
        assert handler_for(old, new, to="zoë@example.com", sender="jürg@bücher.example").send_event(closed())

    assert "SMTPUTF8 not supported by server" in warnings_of(caplog)
    assert new.envelopes[0].rcpt_tos == ["zoë@example.com"]
    assert new.envelopes[0].mail_from == "jürg@xn--bcher-kva.example"
    assert "To: zoë@example.com".encode() in new.envelopes[0].content


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
        assert handler.send_event(attached(tmp_path, files, text="a\nb", city="Zürich"))

    assert content.count(b"\n") == content.count(b"\r") == content.count(b"\r\n") > 20


# --- sizes ---


@pytest.mark.server
def test_attachments_without_room_are_omitted_and_listed(secure, tmp_path, monkeypatch, caplog):
    assert mail_format.MAX_SIZE == 40 * MIB
    monkeypatch.setattr(mail_format, "MAX_SIZE", 4 * MIB)  # ten times as fast
    big = tmp_path / "big"
    with event.Event("compile", uid="u-1") as sent:
        for name, size in (("first", 2 * MIB), ("second", 5 * MIB // 4), ("third", MIB // 2), ("small", 10)):
            path = tmp_path / name
            with open(path, "wb") as file:
                file.truncate(size)
            sent.attach_file(path, name)
        with open(big, "wb") as file:
            file.truncate(1000)
        sent.attach_file(big, "grown")
    os.truncate(big, 1 << 40)  # a sparse file; reading it would never end

    assert handler_for(secure).send_event(sent)

    mail = only_mail(secure)
    names = [part.get_filename() for part in mail.iter_parts()][2:]
    assert names == ["first", "third", "small"]
    assert len(secure.envelopes[0].content) <= mail_format.MAX_SIZE
    text = text_of(mail)
    assert f"left out, no room: second ({5 * MIB // 4} bytes; a mail holds 4 MiB)" in text
    assert f"left out, no room: grown ({1 << 40} bytes; a mail holds 4 MiB)" in text
    assert f"the mail is not complete: left out, no room: second ({5 * MIB // 4} bytes" in warnings_of(caplog)
    assert f"the mail is not complete: left out, no room: grown ({1 << 40} bytes" in warnings_of(caplog)


def announcing(size):
    """Return a plain server that announces the EHLO extension SIZE, and the data of the mail that it receives."""
    received = bytearray()

    def serve(connection, _stopped):
        answers = (b"220 hi\r\n", f"250-hi\r\n250 SIZE{size}\r\n".encode(), b"250 ok\r\n", b"250 ok\r\n")
        with connection, connection.makefile("rb") as file:
            for answer in answers:
                connection.sendall(answer)
                file.readline()
            connection.sendall(b"354 go\r\n")
            while not received.endswith(b"\r\n.\r\n"):
                received.extend(file.readline())
            connection.sendall(b"250 ok\r\n")

    return serve, received


@pytest.mark.parametrize(
    ("size", "fits"),
    [
        pytest.param(" 300000", False, id="too small"),
        pytest.param(" 600000", True, id="large enough"),
        pytest.param("", True, id="missing number"),
        pytest.param(" 0", True, id="no limit"),
        pytest.param(" " + "9" * 5000, True, id="absurd number"),
        pytest.param(" many", True, id="not a number"),
    ],
)
def test_the_servers_size_limit_decides_what_fits(monkeypatch, tmp_path, size, fits):
    monkeypatch.setenv("E3_ENABLE_FEATURE", "smtp_nossl")
    serve, received = announcing(size)
    sent = attached(tmp_path, {"core": ("core", bytes(300_000)), "log": ("f", b"x")})
    with raw_server(serve) as port:
        assert handler_for(f"127.0.0.1:{port}").send_event(sent)

    names = [
        part.get_filename() for part in email.message_from_bytes(received[:-5], policy=policy.default).iter_parts()
    ]
    assert names == [None, "event", "core", "log.txt"] if fits else [None, "event", "log.txt"]
    assert len(received) < 300_000 or fits


def test_a_mail_without_room_for_html_is_a_text(trusted):
    with smtp_server(trusted, data_size_limit=4500) as server:
        assert handler_for(server).send_event(closed(target="arm"))

    mail = only_mail(server)
    assert mail.get_body(("html",)) is None
    assert "target: arm" in text_of(mail)


def test_server_with_a_smaller_limit_than_the_data_is_skipped(trusted, caplog):
    sent = closed(huge="x" * 20_000)
    with smtp_server(trusted, data_size_limit=10_000) as small, smtp_server(trusted) as large:
        assert handler_for(small, large).send_event(sent)
        with pytest.raises(event.PermanentError, match="the data alone is over 7952 bytes"):
            handler_for(small).send_event(sent)

    assert (len(small.envelopes), len(large.envelopes)) == (0, 1)


def lines(count):
    return b"".join(b"%08d compiling\n" % number for number in range(count))


def noise(count):
    """Return text that does not compress well."""
    return b"".join(random.Random(number).randbytes(30).hex().encode() + b"\n" for number in range(count))


def test_a_text_without_room_is_compressed(trusted, tmp_path, caplog):
    log = lines(50_000)
    with smtp_server(trusted, data_size_limit=600_000) as server:
        sent = attached(tmp_path, {"log": ("build.log", log), "junit": ("j.xml", b"<x/>")})
        assert handler_for(server).send_event(sent)

    mail = only_mail(server)
    assert [part.get_filename() for part in mail.iter_parts()] == [None, "event", "log.txt.gz", "junit"]
    packed = part_named(mail, "log.txt.gz")
    assert packed.get_content_type() == "application/gzip"
    assert gzip.decompress(packed.get_payload(decode=True)) == log
    assert f"attached: log.txt.gz ({len(log)} bytes, compressed)" in text_of(mail)
    assert not caplog.records


def test_text_too_large_even_compressed_is_attached_from_its_end(trusted, tmp_path, caplog):
    log = noise(20_000)
    with smtp_server(trusted, data_size_limit=200_000) as server:
        sent = attached(tmp_path, {"log": ("build.txt", log), "other": ("o.txt", log), "small": ("s", b"small")})
        assert handler_for(server).send_event(sent)

    mail = only_mail(server)
    assert [part.get_filename() for part in mail.iter_parts()] == [None, "event", "log.txt", "other", "small"]
    for name in ("log.txt", "other"):
        end = part_named(mail, name).get_payload(decode=True)
        assert len(end) > 50_000
        assert log.endswith(b"\n" + end)
        text = f"attached: the last {len(end)} of {len(log)} bytes of {name}; no room for the rest"
        assert text in text_of(mail)
        assert f"the mail is not complete: {text}" in warnings_of(caplog)
    assert len(server.envelopes[0].content) <= 200_000


def test_the_end_of_a_text_begins_with_a_whole_character(trusted, tmp_path):
    log = "".join(random.Random(1).choices("äöüß漢字", k=400_000)).encode()
    with smtp_server(trusted, data_size_limit=200_000) as server:
        assert handler_for(server).send_event(attached(tmp_path, {"log": ("build.txt", log)}))

    assert log.decode().endswith(part_named(only_mail(server), "log.txt").get_payload(decode=True).decode())


def test_useless_short_end_of_a_text_is_omitted(trusted, tmp_path, caplog):
    with smtp_server(trusted, data_size_limit=5000) as server:
        assert handler_for(server).send_event(attached(tmp_path, {"log": ("build.txt", noise(1000))}))

    assert [part.get_filename() for part in only_mail(server).iter_parts()] == [None, "event"]
    assert "left out, no room: log.txt" in warnings_of(caplog)


def test_a_text_too_large_to_compress_shows_its_end(trusted, tmp_path, monkeypatch):
    monkeypatch.setattr(attachments, "COMPRESSIBLE", 100_000)
    with smtp_server(trusted, data_size_limit=100_000) as server:
        assert handler_for(server).send_event(attached(tmp_path, {"log": ("build.txt", lines(50_000))}))

    assert lines(50_000).endswith(part_named(only_mail(server), "log.txt").get_payload(decode=True))


def test_an_empty_attachment_is_named_and_not_attached(secure, tmp_path, caplog):
    assert handler_for(secure).send_event(attached(tmp_path, {"log": ("a.txt", b"")}))

    mail = only_mail(secure)
    assert [part.get_filename() for part in mail.iter_parts()] == [None, "event"]
    assert "no output: log.txt (0 bytes, not attached)" in text_of(mail)
    assert not caplog.records


@pytest.mark.server
def test_mail_can_be_exactly_as_large_as_the_limit(secure, tmp_path, monkeypatch):
    monkeypatch.setattr(mail_format, "MAX_SIZE", MIB)
    sent = attached(tmp_path, {"a": ("a", b"")})
    path = sent.get_attachments()["a"][0]
    sizes = []
    for size in range(756_000, 766_000, 1000):
        os.truncate(path, size)
        assert handler_for(secure).send_event(sent)
        sizes.append((len(parsed(secure.envelopes[-1]).get_payload()), len(secure.envelopes[-1].content)))

    with_attachment = [content for parts, content in sizes if parts == 3]
    assert max(content for _, content in sizes) <= MIB
    assert max(with_attachment) > MIB - 2000  # almost no room is wasted
    assert len(with_attachment) < len(sizes)


def test_growing_log_is_mailed_with_its_size_at_the_start(secure, tmp_path, monkeypatch):
    sent = attached(tmp_path, {"log": ("f", b"first")})
    path = sent.get_attachments()["log"][0]
    real = mail_format.fit

    def grown(files, room):
        with open(path, "ab") as file:
            file.write(b" and more")
        return real(files, room)

    monkeypatch.setattr(mail_format, "fit", grown)
    assert handler_for(secure).send_event(sent)

    assert part_named(only_mail(secure), "log.txt").get_payload(decode=True) == b"first"


def test_data_too_large_for_any_mail_is_a_permanent_failure(secure, monkeypatch):
    monkeypatch.setattr(mail_format, "MAX_SIZE", MIB)

    with pytest.raises(event.PermanentError, match="the data alone is over 1 MiB"):
        handler_for(secure).send_event(closed(huge="x" * MIB))

    assert secure.envelopes == []


def test_missing_attachment_is_a_failure(secure, tmp_path, caplog):
    sent = attached(tmp_path, {"log": ("f", b"x")})
    os.unlink(sent.get_attachments()["log"][0])

    assert not handler_for(secure).send_event(sent)

    assert secure.envelopes == []
    assert "no such file or directory: " in warnings_of(caplog)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="platform: no FIFOs")
def test_fifo_instead_of_an_attachment_is_a_failure(secure, tmp_path, caplog):
    sent = attached(tmp_path, {"log": ("f", b"x")})
    path = sent.get_attachments()["log"][0]
    os.unlink(path)
    os.mkfifo(path)

    assert not handler_for(secure).send_event(sent)

    assert "is not a regular file" in warnings_of(caplog)


# --- servers ---


def test_next_server_is_tried_if_the_first_fails(trusted, caplog):
    with smtp_server(trusted, refuse_data="554 no room") as full, smtp_server(trusted) as good:
        assert handler_for(full, good).send_event(closed())

    assert len(good.envelopes) == 1
    assert f"127.0.0.1:{full.port}: 554 no room" in warnings_of(caplog)


def test_no_server_is_tried_after_the_mail_was_accepted(trusted):
    with smtp_server(trusted) as first, smtp_server(trusted) as second:
        assert handler_for(first, " ", second).send_event(closed())

    assert (len(first.envelopes), len(second.envelopes)) == (1, 0)


def test_unreachable_server_is_skipped(secure, caplog):
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]

    assert handler_for(f"127.0.0.1:{port}", secure).send_event(closed())

    assert f"127.0.0.1:{port}: connection refused" in warnings_of(caplog)


def test_host_without_addresses_is_skipped(secure, caplog):
    assert handler_for("no-such-host.invalid", secure).send_event(closed())

    assert "no-such-host.invalid: name or service not known" in warnings_of(caplog)


def test_only_refused_recipients_are_tried_at_the_next_server(trusted, caplog):
    with smtp_server(trusted, refuse=[BOB]) as first, smtp_server(trusted) as second:
        assert handler_for(first, second, to=[ANN, BOB]).send_event(closed())

    assert [e.rcpt_tos for e in first.envelopes] == [[ANN]]
    assert [e.rcpt_tos for e in second.envelopes] == [[BOB]]
    assert parsed(second.envelopes[0])["To"] == f"{ANN}, {BOB}"
    assert f"127.0.0.1:{first.port} refused {BOB}: 550 no such user here" in warnings_of(caplog)


def test_recipient_refused_by_all_servers_is_a_permanent_failure(trusted):
    with (
        smtp_server(trusted, refuse=[BOB]) as first,
        smtp_server(trusted, refuse="all") as second,
        pytest.raises(event.PermanentError, match=rf"refused for {BOB} \(550 no such user here\)") as error,
    ):
        handler_for(first, second, to=[ANN, BOB]).send_event(closed())

    assert [e.rcpt_tos for e in first.envelopes] == [[ANN]]
    assert second.envelopes == []
    assert error.value.done == frozenset({ANN})


def test_a_server_that_refuses_all_is_a_permanent_failure(trusted, caplog):
    with smtp_server(trusted, refuse="all") as server, pytest.raises(event.PermanentError, match=f"{ANN} .*, {BOB} "):
        handler_for(server, to=[ANN, BOB]).send_event(closed())

    logged = warnings_of(caplog)
    assert f"refused {ANN}: 550" in logged
    assert f"refused {BOB}: 550" in logged


def script(*lines):
    """Return a plain server that answers each line of the client with the next line, then hangs up."""

    def serve(connection, _stopped):
        with connection, connection.makefile("rb") as file:
            for line in lines:
                connection.sendall(line)
                file.readline()

    return serve


def test_recipients_not_sent_to_a_server_are_not_delivered(monkeypatch, caplog):
    monkeypatch.setenv("E3_ENABLE_FEATURE", "smtp_nossl")
    answers = (b"220 hi\r\n", b"250 hi\r\n", b"250 ok\r\n", b"421 \x1b[31mgoing\r\n")
    with raw_server(script(*answers)) as port:
        assert not handler_for(f"127.0.0.1:{port}", to=[ANN, BOB]).send_event(closed())

    logged = warnings_of(caplog)
    assert f"refused {ANN}: 421 [31mgoing" in logged
    assert f"refused {BOB}: the server hung up before" in logged


def test_server_that_refuses_in_its_greeting_is_skipped(monkeypatch, caplog):
    monkeypatch.setenv("E3_ENABLE_FEATURE", "smtp_nossl")
    with raw_server(script(b"554 go away\r\n")) as port:
        assert not handler_for(f"127.0.0.1:{port}").send_event(closed())

    assert f"127.0.0.1:{port}: 554 go away" in warnings_of(caplog)


def test_mail_counts_as_accepted_if_the_server_hangs_up_afterwards(monkeypatch, caplog):
    monkeypatch.setenv("E3_ENABLE_FEATURE", "smtp_nossl")
    received = []

    def serve(connection, _stopped):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection, connection.makefile("rb") as file:
            for line in (b"220 hi\r\n", b"250 hi\r\n", b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n"):
                for byte in line:
                    connection.sendall(bytes([byte]))  # slow, but it continues
                file.readline() if line[:3] != b"354" else None
            while file.readline() != b".\r\n":
                pass
            received.append(True)
            connection.sendall(b"250 ok\r\n")

    with raw_server(serve) as port:
        assert handler_for(f"127.0.0.1:{port}").send_event(closed())

    assert received == [True]
    assert not caplog.records


# --- partial deliveries ---


def delivered(sent, *keys, sending="sending-1"):
    """Return an event as an outbox passes it to a handler after a partial delivery."""
    return with_delivered(with_sending(sent, sending), keys)


def partial(handler, sent):
    with pytest.raises(event.PartialDeliveryError) as raised:
        handler.send_event(sent)
    return raised.value


def test_only_missing_recipients_are_tried_on_the_next_attempt(trusted):
    temporary = {BOB: "450 later"}
    with smtp_server(trusted, refuse=temporary) as server:
        handler = handler_for(server, to=[ANN, BOB])
        error = partial(handler, delivered(closed()))
        assert (error.done, error.remaining) == (frozenset({ANN}), (BOB,))

        error = partial(handler, delivered(closed(), *error.done))
        assert (error.done, error.remaining) == (frozenset({ANN}), (BOB,))

        temporary.clear()
        assert handler.send_event(delivered(closed(), *error.done))

    assert server.asked == [ANN, BOB, BOB, BOB]
    assert [e.rcpt_tos for e in server.envelopes] == [[ANN], [BOB]]
    assert {parsed(e)["Message-ID"] for e in server.envelopes} == {"<sending-1@example.com>"}


def test_permanently_refused_recipient_is_not_tried_again(trusted):
    answers = {BOB: "550 no such user", "cy@example.com": "450 later"}
    with smtp_server(trusted, refuse=answers) as server:
        handler = handler_for(server, to=[ANN, BOB, "cy@example.com"])
        error = partial(handler, delivered(closed()))
        assert error.remaining == ("cy@example.com",)

        del answers["cy@example.com"]
        with pytest.raises(event.PermanentError, match=BOB) as last:
            handler.send_event(delivered(closed(), *error.done))

    assert server.asked.count(BOB) == 1
    # If an operator fixes the mailbox and retries, only Bob gets the mail.
    assert last.value.done == frozenset({ANN, "cy@example.com"})


def test_attempt_without_progress_is_a_plain_failure(trusted, caplog):
    with smtp_server(trusted, refuse={ANN: "450 later", BOB: "451 later"}) as server:
        assert not handler_for(server, to=[ANN, BOB]).send_event(closed())

    assert f"no server accepted the mail for {ANN}, {BOB}; " in warnings_of(caplog)


def test_no_server_is_contacted_if_all_recipients_have_the_mail():
    with socket.create_server(("127.0.0.1", 0)) as unused:
        unreachable = f"127.0.0.1:{unused.getsockname()[1]}"

    assert handler_for(unreachable, to=[ANN, BOB]).send_event(delivered(closed(), ANN, BOB))


def test_a_refusal_is_final_only_if_every_server_has_refused(trusted):
    with socket.create_server(("127.0.0.1", 0)) as unused:
        unreachable = f"127.0.0.1:{unused.getsockname()[1]}"
    with smtp_server(trusted, refuse=[BOB]) as first:
        for servers in ((first, unreachable), (unreachable, first)):
            assert partial(handler_for(*servers, to=[ANN, BOB]), closed()).remaining == (BOB,)


@pytest.mark.parametrize(
    ("answer", "permanent"),
    [
        pytest.param("554 no", True, id="refused"),
        pytest.param("552 5.3.4 too large", True, id="too large"),
        pytest.param("451 later", False, id="later"),
        pytest.param("530 login first", False, id="another account may succeed"),
    ],
)
def test_reply_5xx_to_the_mail_is_final(trusted, caplog, answer, permanent):
    with smtp_server(trusted, refuse_data=answer) as server:
        if permanent:
            with pytest.raises(event.PermanentError, match=f"refused for {ANN} .{answer}"):
                handler_for(server).send_event(closed())
        else:
            assert not handler_for(server).send_event(closed())

    assert f": {answer}" in warnings_of(caplog)


def test_connection_lost_after_the_mail_is_a_temporary_failure(monkeypatch, caplog):
    monkeypatch.setenv("E3_ENABLE_FEATURE", "smtp_nossl")
    answers = (b"220 hi\r\n", b"250 hi\r\n", b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n")
    with raw_server(script(*answers)) as port:
        assert not handler_for(f"127.0.0.1:{port}").send_event(closed())

    assert "Connection unexpectedly closed" in warnings_of(caplog)


def test_recipients_above_the_limit_get_another_transaction(trusted):
    people = [f"user{number}@example.com" for number in range(25)]
    with smtp_server(trusted, most=10) as server:
        assert handler_for(server, to=people).send_event(closed())

    assert [len(e.rcpt_tos) for e in server.envelopes] == [10, 10, 5]
    assert [to for e in server.envelopes for to in e.rcpt_tos] == people
    assert len({parsed(e)["Message-ID"] for e in server.envelopes}) == 1


def test_full_mailbox_does_not_cause_endless_transactions(trusted):
    with (
        smtp_server(trusted, refuse={BOB: "552 5.2.2 mailbox full"}) as server,
        pytest.raises(event.PermanentError, match="mailbox full"),
    ):
        handler_for(server, to=[ANN, BOB]).send_event(closed())

    assert server.asked == [ANN, BOB, BOB]


@pytest.mark.parametrize("sending", ["a b@c>\r\nBcc: eve@example.com", "x" * 500, "\ud800", "ü"])
def test_unusual_sending_id_has_a_stable_message_id(secure, sending):
    for _ in range(2):
        assert handler_for(secure).send_event(delivered(closed(), sending=sending))

    first, second = (parsed(e)["Message-ID"] for e in secure.envelopes)
    assert first == second
    assert re.fullmatch("<[0-9a-f]{64}@example.com>", first)


# --- timeouts ---


def silent(_connection, stopped):
    stopped.wait()


def dripping(connection, stopped):
    """Send an endless greeting, a byte at a time."""
    connection.sendall(b"220")
    while not stopped.wait(0.05):
        connection.sendall(b"-")


def dripping_lines(connection, stopped):
    connection.sendall(b"220-hi\r\n")
    while not stopped.wait(0.05):
        connection.sendall(b"220-hi\r\n")


def over_tls(tls, serve):
    def secured(connection, stopped):
        with tls.wrap_socket(connection, server_side=True) as wrapped:
            serve(wrapped, stopped)

    return secured


@pytest.mark.parametrize("serve", [silent, dripping, dripping_lines])
@pytest.mark.parametrize("tls", [pytest.param(True, id="TLS"), pytest.param(False, id="plain")])
def test_server_with_endless_replies_does_not_block(trusted, monkeypatch, tmp_path, caplog, serve, tls):  # noqa: PLR0913
    if not tls:
        monkeypatch.setenv("E3_ENABLE_FEATURE", "smtp_nossl")
    threads = threading.active_count()
    sent = attached(tmp_path, {"log": ("f", b"x")})
    with raw_server(over_tls(trusted, serve) if tls else serve) as port:
        handler = handler_for(f"127.0.0.1:{port}", timeout=1.0)
        assert not handler.send_event(sent)  # without the limit it would never return
        assert threading.active_count() == threads + 1  # the server's

    assert "smtp: 127.0.0.1:" in warnings_of(caplog)


def dripping_handshake(connection, stopped):
    """Begin a TLS record of 16 KiB (RFC 8446, section 5.1), and continue a byte at a time."""
    connection.sendall(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc")
    while not stopped.wait(0.05):
        connection.sendall(b"\x00")


@pytest.mark.parametrize("tls", [pytest.param(True, id="TLS"), pytest.param(False, id="plain")])
def test_server_that_reads_slowly_does_not_block(trusted, monkeypatch, tmp_path, caplog, tls):
    if not tls:
        monkeypatch.setenv("E3_ENABLE_FEATURE", "smtp_nossl")
    swallowed = []

    def serve(connection, stopped):
        for line in (b"220 hi\r\n", b"250 hi\r\n", b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n"):
            connection.sendall(line)
            if line[:3] != b"354":
                connection.recv(1000)
        while not stopped.wait(0.05):
            swallowed.append(len(connection.recv(1 << 16)))

    with raw_server(over_tls(trusted, serve) if tls else serve) as port:
        sent = attached(tmp_path, {"big": ("big", bytes(14 * MIB))})
        assert not handler_for(f"127.0.0.1:{port}", timeout=1.0).send_event(sent)

    assert sum(swallowed) < 14 * MIB  # the handler gave up before the end
    assert "smtp: 127.0.0.1:" in warnings_of(caplog)


@pytest.mark.parametrize("serve", [silent, dripping_handshake])
def test_slow_tls_handshake_does_not_block(trusted, caplog, serve):
    with raw_server(serve) as port:
        assert not handler_for(f"127.0.0.1:{port}", timeout=0.5).send_event(closed())

    assert re.search(f"127.0.0.1:{port}: .*(timed out|timeout has expired)", warnings_of(caplog))


def test_a_dripping_server_leaves_time_for_the_next(secure, trusted):
    with raw_server(over_tls(trusted, dripping)) as port:
        handler = handler_for(f"127.0.0.1:{port}", secure, timeout=4.0)
        assert handler.send_event(closed())


def test_timeout_without_time_left_is_a_failure(secure, caplog):
    handler = handler_for(secure)
    handler.timeout = 0.0

    assert not handler.send_event(closed())

    assert "the total timeout has expired" in warnings_of(caplog)


def test_mail_counts_as_accepted_if_the_server_is_silent_at_quit(monkeypatch, trusted):
    monkeypatch.setattr(smtp, "GOODBYE_TIMEOUT", 0.2)

    async def no_answer(*_args):
        await asyncio.Event().wait()

    with smtp_server(trusted) as server:
        server.handle_QUIT = no_answer
        started = time.monotonic()
        assert handler_for(server, timeout=600.0).send_event(closed())

    assert time.monotonic() - started < 200  # without the limit, a single wait takes longer


def test_silence_at_quit_does_not_use_up_a_short_timeout():
    longest = smtp.GOODBYE_TIMEOUT
    assert longest <= 5.0 / 4  # a quarter of --timeout in the recipes for GitHub and GitLab


# --- TLS ---


def test_a_server_of_an_unknown_authority_is_not_trusted(authority, caplog):
    with smtp_server(authority.context("127.0.0.1")) as server:
        assert not handler_for(server).send_event(closed())

    assert server.envelopes == []
    assert "certificate verify failed" in warnings_of(caplog)
    assert "SSL_CERT_FILE" in warnings_of(caplog)


def test_a_certificate_for_another_host_is_not_trusted(authority, trusted, caplog):
    with smtp_server(authority.context("mail.example.com")) as server:
        assert not handler_for(server).send_event(closed())

    assert server.envelopes == []
    assert "127.0.0.1" in warnings_of(caplog)
    assert "certificate verify failed" in warnings_of(caplog)


@pytest.mark.parametrize("names", [["127.0.0.1"], ["mail.example.com"]])
def test_disabled_verification_logs_a_warning(authority, monkeypatch, caplog, names):
    monkeypatch.setenv("E3_ENABLE_FEATURE", "other, smtp_noverify")
    with smtp_server(authority.context(*names)) as server:
        assert handler_for(server).send_event(closed())

    assert server.secured == [True]
    assert "smtp_noverify in E3_ENABLE_FEATURE" in warnings_of(caplog)


def test_nothing_is_sent_to_a_plain_server_unless_allowed(caplog):
    with smtp_server() as server:
        assert not handler_for(server, timeout=2.0).send_event(closed())

    assert server.envelopes == []
    assert "smtp_nossl in E3_ENABLE_FEATURE" in warnings_of(caplog)


def test_plain_server_is_used_if_allowed(plain, caplog):
    assert handler_for(plain).send_event(closed())

    assert plain.secured == [False]
    assert not caplog.records


def test_a_plain_server_that_offers_starttls_is_used_over_tls(trusted, monkeypatch):
    monkeypatch.setenv("E3_ENABLE_FEATURE", "smtp_nossl")
    with smtp_server(tls_context=trusted, require_starttls=True) as server:
        assert handler_for(server).send_event(closed())

    assert server.secured == [True]


def test_starttls_is_verified_and_never_skipped(authority, monkeypatch, caplog):
    monkeypatch.setenv("E3_ENABLE_FEATURE", "smtp_nossl")
    with smtp_server(tls_context=authority.context("127.0.0.1")) as server:
        assert not handler_for(server).send_event(closed())

    assert server.envelopes == []
    assert "certificate verify failed" in warnings_of(caplog)


def test_refused_starttls_does_not_fall_back_to_plain_text(monkeypatch, caplog):
    monkeypatch.setenv("E3_ENABLE_FEATURE", "smtp_nossl")
    with raw_server(script(b"220 hi\r\n", b"250-hi\r\n250 STARTTLS\r\n", b"454 not now\r\n")) as port:
        assert not handler_for(f"127.0.0.1:{port}").send_event(closed())

    assert ": 454 not now" in warnings_of(caplog)


# --- host names ---


@pytest.mark.parametrize(
    ("name", "greeting"),
    [
        pytest.param("ci-7.example.com", "ci-7.example.com", id="full name"),
        pytest.param("jörg-pc.example", "[127.0.0.1]", id="non-ASCII"),
        pytest.param("ci-7", "[127.0.0.1]", id="short name"),
        pytest.param("a b.example", "[127.0.0.1]", id="invalid name"),
    ],
)
def test_helo_name_needs_no_dns(secure, monkeypatch, name, greeting):
    def forbidden(*_args):
        raise AssertionError("it may take minutes")

    monkeypatch.setattr(socket, "getfqdn", forbidden)
    monkeypatch.setattr(socket, "gethostname", lambda: name)

    assert handler_for(secure).send_event(closed())
    assert secure.greeted == [greeting]


def test_helo_name_over_ipv6_is_the_address(authority, trusted, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "ci-7")
    with smtp_server(authority.context("::1"), family=socket.AF_INET6) as server:
        assert handler_for(f"[::1]:{server.port}").send_event(closed())

    assert server.greeted == ["[IPv6:::1]"]


@pytest.mark.parametrize("starttls", [False, True])
def test_trailing_dot_of_a_server_name_is_ignored_in_its_certificate(trusted, monkeypatch, starttls):
    real = socket.getaddrinfo
    asked = []

    def resolve(host, *args, **more):
        asked.append(host)
        return real("127.0.0.1", *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)  # not every system knows "localhost."
    with smtp_server(**({"tls_context": trusted} if starttls else {"tls": trusted})) as server:
        scheme = "smtp+starttls" if starttls else "smtps"
        assert handler_for(f"{scheme}://localhost.:{server.port}").send_event(closed())

    assert server.secured == [True]
    assert asked == ["localhost."]  # DNS needs the dot, which prevents search domains


def endless_lines(connection, stopped):
    connection.recv(1000)
    while not stopped.is_set():
        connection.sendall(b"250-X\r\n" * 10_000)


def endless_line(connection, stopped):
    connection.recv(1000)
    while not stopped.is_set():
        connection.sendall(b"250-" + b"x" * 100_000)


@pytest.mark.parametrize("serve", [endless_lines, endless_line])
def test_endless_reply_is_read_only_up_to_the_limit(monkeypatch, caplog, serve):
    monkeypatch.setenv("E3_ENABLE_FEATURE", "smtp_nossl")
    received = []
    real = deadline.Socket.recv_into

    def counted(self, *args):
        received.append(real(self, *args))
        return received[-1]

    monkeypatch.setattr(deadline.Socket, "recv_into", counted)

    def greeting(connection, stopped):
        connection.sendall(b"220 hi\r\n")
        serve(connection, stopped)

    with raw_server(greeting) as port:
        assert not handler_for(f"127.0.0.1:{port}").send_event(closed())

    assert sum(received) < 3 * smtp.MAX_REPLY
    assert re.search("an answer is longer than 65536 bytes|a line of an answer is too long", warnings_of(caplog))


@pytest.mark.parametrize("greeting", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"1\r\n", b"\r\n"])
def test_server_of_another_protocol_is_reported(caplog, greeting):
    with raw_server(lambda connection, stopped: connection.sendall(greeting)) as port:
        assert not handler_for(f"smtp://127.0.0.1:{port}").send_event(closed())
    assert "the server does not answer as SMTP does; is this its port?" in warnings_of(caplog)


def test_reply_with_an_overlong_line_is_a_temporary_failure(caplog):
    def serve(connection, stopped):
        connection.sendall(b"220 hi\r\n")
        connection.recv(1 << 16)
        connection.sendall(b"250 hi\r\n")
        connection.recv(1 << 16)
        connection.sendall(b"250 " + b"x" * 10_000 + b"\r\n")

    with raw_server(serve) as port:
        assert not handler_for(f"smtp://127.0.0.1:{port}").send_event(closed())
    assert "a line of an answer is too long" in warnings_of(caplog)


# --- login ---


def netrc(home, host="127.0.0.1", password=PASSWORD, name=".netrc"):
    path = home / name
    path.write_text(f"machine {host} login ann password {password}\n", encoding="utf-8")
    return path


@pytest.fixture
def guarded(trusted):
    """Run a server with TLS that requires a login."""
    with smtp_server(trusted, auth_required=True) as server:
        yield server


@pytest.mark.parametrize("name", [".netrc", "_netrc"])
def test_the_account_of_netrc_logs_in(guarded, home, caplog, name):
    netrc(home, name=name)

    assert handler_for(guarded).send_event(closed())

    assert guarded.logins == [("ann", PASSWORD)]
    assert not caplog.records


def test_netrc_variable_sets_another_file(guarded, home, monkeypatch):
    netrc(home, password="wrong")
    monkeypatch.setenv("NETRC", str(netrc(home, name="mine")))

    assert handler_for(guarded).send_event(closed())


def test_wrong_password_is_a_failure_without_the_password(guarded, home, caplog):
    netrc(home, password="hunter2")

    assert not handler_for(guarded).send_event(closed())

    assert "535 " in warnings_of(caplog)
    assert "hunter2" not in caplog.text


def test_an_account_that_the_server_echoes_is_not_shown(trusted, home, caplog):
    netrc(home)
    plain = base64.b64encode(f"\0ann\0{PASSWORD}".encode()).decode()
    login = base64.b64encode(PASSWORD.encode()).decode()
    with smtp_server(trusted, auth_required=True, refuse_data=f"451 {plain} {login} {PASSWORD}") as server:
        assert not handler_for(server).send_event(closed())
    assert "451 *** *** ***" in warnings_of(caplog)
    assert not [text for text in (plain[8:], login[:8], PASSWORD) if text in caplog.text]


def test_unencodable_password_is_a_failure_without_the_password(guarded, monkeypatch, caplog):
    # Not from a file: the netrc module of Python 3.10 reads only ASCII.
    monkeypatch.setattr(MailServer, "account", lambda _server: ("ann", "hunter-grün"))

    assert not handler_for(guarded).send_event(closed())

    assert "is not ASCII; a login can send only ASCII" in warnings_of(caplog)
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
def test_no_login_without_an_account(guarded, home, caplog, content):
    (home / ".netrc").write_text(content)

    assert not handler_for(guarded).send_event(closed())

    assert guarded.logins == []
    assert "530 5.7.0 Authentication required" in warnings_of(caplog)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(b"machine 127.0.0.1 login ann hunter2\n", "line ", id="malformed"),
        pytest.param(b"machine 127.0.0.1 login ann password \xff\xfe\n", "UnicodeDecodeError", id="not text"),
    ],
)
def test_a_netrc_that_cannot_be_read_is_reported_without_its_content(secure, home, caplog, content, reason):
    (home / ".netrc").write_bytes(content)

    assert handler_for(secure).send_event(closed())

    assert re.search(rf"\({reason}\d*\); going on without login", warnings_of(caplog))
    assert "hunter2" not in caplog.text


def test_account_is_ignored_if_the_server_has_no_login(secure, home, caplog):
    netrc(home)

    assert handler_for(secure).send_event(closed())

    assert secure.logins == []
    assert not caplog.records


def test_plain_text_password_is_only_sent_to_this_machine(home, monkeypatch, caplog):
    monkeypatch.setenv("E3_ENABLE_FEATURE", "smtp_nossl")
    netrc(home)
    with smtp_server(auth_required=True) as server:
        assert handler_for(server).send_event(closed())
        monkeypatch.setattr(smtp, "is_private", lambda sock: False)  # no other machine is available here
        assert not handler_for(server).send_event(closed())

    assert server.logins == [("ann", PASSWORD)]
    assert "others could read the password" in warnings_of(caplog)


# --- servers by URL ---


def test_a_plain_server_and_one_with_tls_are_used_together(trusted, monkeypatch, caplog):
    with smtp_server(trusted, refuse=[BOB]) as first, smtp_server() as second:
        handler = handler_for(f"smtps://127.0.0.1:{first.port}", f"smtp://127.0.0.1:{second.port}", to=[ANN, BOB])
        assert handler.send_event(closed())

    assert (first.secured, second.secured) == ([True], [False])


def test_scheme_overrides_the_feature_smtp_nossl(secure, monkeypatch):
    monkeypatch.setenv("E3_ENABLE_FEATURE", "smtp_nossl")

    assert handler_for(f"smtps://127.0.0.1:{secure.port}").send_event(closed())


def test_starttls_is_required_by_its_scheme(trusted, caplog):
    with smtp_server(tls_context=trusted) as good, smtp_server() as bad:
        assert handler_for(f"smtp+starttls://127.0.0.1:{good.port}").send_event(closed())
        assert not handler_for(f"smtp+starttls://127.0.0.1:{bad.port}").send_event(closed())

    assert good.secured == [True]
    assert bad.envelopes == []
    assert "STARTTLS extension not supported" in warnings_of(caplog)


def test_a_server_that_offers_starttls_gets_tls_with_the_scheme_smtp(trusted):
    with smtp_server(tls_context=trusted) as server:
        assert handler_for(f"smtp://127.0.0.1:{server.port}").send_event(closed())

    assert server.secured == [True]


def test_an_account_in_the_url_logs_in(guarded, tmp_path, home, monkeypatch, caplog):
    netrc(home, password="wrong")
    monkeypatch.setenv("SMTP_PASSWORD", PASSWORD)
    (tmp_path / "secret file").write_text(f"{PASSWORD}\n")
    for password in ("env:SMTP_PASSWORD", f"file:{tmp_path}/secret file", f"file:{tmp_path}/secret%20file"):
        assert handler_for(f"smtps://ann%40x:{password}@127.0.0.1:{guarded.port}").send_event(closed())

    assert guarded.logins == [("ann@x", PASSWORD)] * 3
    assert not caplog.records


def test_unresolved_reference_is_a_failure(guarded, caplog):
    assert not handler_for(f"smtps://ann:env:NO_SUCH@127.0.0.1:{guarded.port}").send_event(closed())

    assert f"smtps://127.0.0.1:{guarded.port}: smtp: the password for" in warnings_of(caplog)
    assert "env:NO_SUCH is not set or empty" in warnings_of(caplog)


def test_plain_password_works_with_a_warning_that_hides_it(guarded, caplog):
    assert handler_for(f"smtps://ann:{PASSWORD}@127.0.0.1:{guarded.port}").send_event(closed())

    assert "the password in a server's URL is given in clear" in warnings_of(caplog)
    assert PASSWORD not in caplog.text
    assert PASSWORD not in repr(MailServer.parse(f"smtps://ann:{PASSWORD}@mail"))


def test_a_wrong_password_in_the_url_is_not_shown(guarded, monkeypatch, caplog):
    monkeypatch.setenv("SMTP_PASSWORD", "hunter2")

    assert not handler_for(f"smtps://ann:env:SMTP_PASSWORD@127.0.0.1:{guarded.port}").send_event(closed())

    assert "535 " in warnings_of(caplog)
    assert "hunter2" not in caplog.text


def test_a_reference_to_a_file_is_absolute_in_an_outbox(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    servers = ["smtps://a%40b:file:pw %40x@mail:1", "smtps://a:env:P@mail", "mail"]
    handler = SMTPHandler("s", SENDER, ANN, servers)
    elsewhere = SMTPHandler(**SMTPHandler.decode_config(handler.config_for_outbox()))

    assert handler.encode_config() == f"s,{SENDER},{ANN},{','.join(servers)}"
    assert elsewhere.smtp_servers[1:] == servers[1:]
    assert handler.passwords == ["file:pw @x", "env:P"]
    assert elsewhere.passwords == [f"file:{tmp_path}/pw @x", "env:P"]
    assert MailServer.parse(elsewhere.smtp_servers[0]).user == "a@b"


# --- configuration ---


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
def test_a_server_is_a_host_a_port_and_its_encryption(server, expected):
    parsed = MailServer.parse(server)

    assert (parsed.host, parsed.port, parsed.encryption) == expected
    assert "env:P" not in parsed.shown


def test_the_feature_smtp_nossl_decides_for_servers_without_a_scheme(monkeypatch):
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


def test_an_ipv6_server_is_reached(authority, trusted):
    with smtp_server(authority.context("::1"), family=socket.AF_INET6) as server:
        assert handler_for(f"[::1]:{server.port}").send_event(closed())


def test_a_host_is_tried_at_all_its_addresses(trusted):
    with smtp_server(trusted) as server:  # localhost may also be ::1, where nothing listens
        assert handler_for(f"localhost:{server.port}").send_event(closed())


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
        pytest.param("<>", id="nothing in brackets"),
        pytest.param("a@b@c", id="two at-signs"),
        pytest.param("a@" + "ü" * 80, id="invalid domain"),
        pytest.param("a\udcff@x", id="not text"),
        pytest.param("a@b\u200dc.test", id="zero-width joiner"),
        pytest.param("a@x\uff20evil.test", id="an at-sign of another width"),
        pytest.param("smtps://ci:hunter2@mail", id="a server instead of an address"),
    ],
)
def test_invalid_address_is_refused(address):
    for sender, to in ((address, ANN), (SENDER, address), (SENDER, [address])):
        with pytest.raises(event.EventError, match=r"is (not a|no) mail address") as error:
            SMTPHandler("s", sender, to, "mail")
        assert "hunter2" not in str(error.value)


def test_address_changed_to_an_invalid_one_fails_on_send(secure, caplog):
    handler = handler_for(secure)
    handler.to_addr = "eve@x\nBcc: eve@x"

    assert not handler.send_event(closed())

    assert "is not a mail address" in warnings_of(caplog)


@pytest.mark.parametrize("servers", ["", " ", [], ["", " "]])
def test_handler_without_a_server_is_refused(servers):
    with pytest.raises(event.EventError, match="no server; expected smtp=SUBJECT,FROM,TO,SERVER"):
        SMTPHandler("s", SENDER, ANN, servers)


def test_the_attributes_are_those_of_e3():
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
    again = SMTPHandler(**SMTPHandler.decode_config(config))

    assert config == f"100%%2C a%7Cb %252C,Builds%2C all <{SENDER}>,{written},[::1]:25,mail"
    assert vars(again) == vars(handler)
    assert parse_mailboxes(again.to_addr) == parse_mailboxes(to)


@pytest.mark.parametrize("config", ["", "s", "s,f,t"])
def test_short_configuration_is_an_error_with_what_is_expected(config):
    with pytest.raises(event.EventError, match=r"expected smtp=SUBJECT,FROM,TO,SERVER\[,SERVER\.\.\.\]"):
        SMTPHandler.decode_config(config)


def test_handler_round_trips_through_the_environment(secure, monkeypatch):
    event.add_handler("smtp", "built", SENDER, [ANN, BOB], f"127.0.0.1:{secure.port}")
    event.handler_config_as_env()
    manager = event.EventManager()
    manager.load_handlers_from_env()

    assert manager.send_event(closed())
    assert secure.envelopes[0].rcpt_tos == [ANN, BOB]


# --- clients that users' tests replace ---


@pytest.mark.parametrize(
    "result", [pytest.param(mock.MagicMock(), id="mock"), pytest.param({}, id="dict"), pytest.param(None, id="None")]
)
@pytest.mark.parametrize("kind", ["SMTP_SSL", "SMTP"])
def test_mock_instead_of_the_client_gets_one_sendmail_call(monkeypatch, home, kind, result):
    if kind == "SMTP":
        monkeypatch.setenv("E3_ENABLE_FEATURE", "smtp_nossl")
    netrc(home, host="mail")
    with mock.patch(f"smtplib.{kind}") as client:
        client.return_value.sendmail.return_value = result
        assert SMTPHandler("built", f"B <{SENDER}>", f"{ANN},{BOB}", "mail:1").send_event(closed(city="Zürich"))

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

    assert SMTPHandler("built", SENDER, ANN, "mail").send_event(closed())
    assert sent == [("mail", SENDER, [ANN])]


def test_refusal_by_a_mock_client_is_a_failure(caplog):
    with mock.patch("smtplib.SMTP_SSL") as client:
        client.return_value.sendmail.side_effect = [{ANN: (450, b"no")}, smtplib.SMTPRecipientsRefused({})]
        assert not SMTPHandler("built", SENDER, ANN, ["a", "b"]).send_event(closed())

    assert client.return_value.sendmail.call_count == 2
    assert f"a refused {ANN}: 450 no" in warnings_of(caplog)


def test_server_is_skipped_if_its_client_raises(caplog):
    with mock.patch("smtplib.SMTP_SSL", side_effect=RuntimeError("boom")):
        assert not SMTPHandler("built", SENDER, ANN, "mail").send_event(closed())

    assert "mail: RuntimeError: boom" in warnings_of(caplog)


def test_interrupt_while_connecting_propagates_and_closes_the_socket(monkeypatch):
    def interrupted(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(ssl.SSLContext, "wrap_socket", interrupted)
    with raw_server(silent) as port, pytest.raises(KeyboardInterrupt):
        handler_for(f"127.0.0.1:{port}").send_event(closed())


def test_a_host_is_tried_at_its_next_address(secure, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as unused:
        unused_port = unused.getsockname()[1]
    real = socket.getaddrinfo

    def two(host, port, **more):
        return real(host, unused_port, **more) + real(host, port, **more)

    monkeypatch.setattr(socket, "getaddrinfo", two)  # no host with two addresses is available here
    assert handler_for(secure).send_event(closed())
