"""Attachments: names, types, and which of them fit into a mail."""

from __future__ import annotations

import email
import gzip
import os
import random
from email import policy

import pytest

import event
from event._formats import attachments
from event._formats import mail as mail_format
from helpers.mails import (
    MIB,
    closed_event,
    event_with_files,
    handler_for,
    logged_warnings,
    parse_mail,
    part_named,
    received_mail,
    text_of,
)
from servers.raw import raw_server
from servers.smtp import smtp_server

# Names and types


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
def test_attachment_arrives_unchanged_with_its_type(tls_server, tmp_path, name, file_name, content, kind):  # noqa: PLR0913
    assert handler_for(tls_server).send_event(event_with_files(tmp_path, {name: (file_name, content)}))

    part = part_named(received_mail(tls_server), "log.txt" if (name, kind) == ("log", "text/plain") else name)
    assert part.get_content_type() == kind
    assert part.get_payload(decode=True) == content
    if kind == "text/plain" and content.isascii() is False:
        assert part.get_content_charset() == ("utf-8" if b"\xfc" not in content else None)


def test_attached_mail_arrives_unchanged(tls_server, tmp_path):
    content = b"From: x@example.com\nSubject: =?utf-8?q?h=C3=A9?=\n\n.\nFrom me\r\nbare\rcr " + b"x" * 2000

    assert handler_for(tls_server).send_event(event_with_files(tmp_path, {"mail.eml": ("mail.eml", content)}))

    part = part_named(received_mail(tls_server), "mail.eml")
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
def test_an_attachment_keeps_its_name(tls_server, tmp_path, name):
    assert handler_for(tls_server).send_event(event_with_files(tmp_path, {name: ("f", b"content")}))

    mail = email.message_from_bytes(tls_server.envelopes[0].content)
    attachment = mail.get_payload()[2]
    assert attachment.get_filename() == name
    assert sorted(attachment.keys()) == ["Content-Disposition", "Content-Transfer-Encoding", "Content-Type"]
    assert max(map(len, tls_server.envelopes[0].content.splitlines())) < 998


def test_undecodable_attachment_name_arrives(tls_server, tmp_path):
    assert handler_for(tls_server).send_event(event_with_files(tmp_path, {"a\udcff": ("f", b"content")}, bad="\ud800"))

    assert part_named(received_mail(tls_server), "a?").get_payload(decode=True) == b"content"


# Limits of the size


@pytest.mark.server
def test_attachments_without_room_are_omitted_and_listed(tls_server, tmp_path, monkeypatch, caplog):
    assert mail_format.MAX_SIZE == 40 * MIB
    monkeypatch.setattr(mail_format, "MAX_SIZE", 4 * MIB)  # a tenth, to save time
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

    assert handler_for(tls_server).send_event(sent)

    mail = received_mail(tls_server)
    names = [part.get_filename() for part in mail.iter_parts()][2:]
    assert names == ["first", "third", "small"]
    assert len(tls_server.envelopes[0].content) <= mail_format.MAX_SIZE
    text = text_of(mail)
    assert f"left out, no room: second ({5 * MIB // 4} bytes; a mail holds 4 MiB)" in text
    assert f"left out, no room: grown ({1 << 40} bytes; a mail holds 4 MiB)" in text
    assert f"the mail is not complete: left out, no room: second ({5 * MIB // 4} bytes" in logged_warnings(caplog)
    assert f"the mail is not complete: left out, no room: grown ({1 << 40} bytes" in logged_warnings(caplog)


def server_with_size_limit(size):
    """Return a function for `raw_server` that announces the extension SIZE, and the received mail.

    :param size: the text after "SIZE" in the reply to EHLO
    """
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
        pytest.param(" " + "9" * 5000, True, id="number of 5000 digits"),
        pytest.param(" many", True, id="not a number"),
    ],
)
def test_attachment_above_the_size_limit_of_the_server_is_omitted(monkeypatch, tmp_path, size, fits):
    monkeypatch.setenv("E3_ENABLE_FEATURE", "smtp_nossl")
    serve, received = server_with_size_limit(size)
    sent = event_with_files(tmp_path, {"core": ("core", bytes(300_000)), "log": ("f", b"x")})
    with raw_server(serve) as port:
        assert handler_for(f"127.0.0.1:{port}").send_event(sent)

    names = [
        part.get_filename() for part in email.message_from_bytes(received[:-5], policy=policy.default).iter_parts()
    ]
    assert names == [None, "event", "core", "log.txt"] if fits else [None, "event", "log.txt"]
    assert len(received) < 300_000 or fits


def test_mail_without_room_for_html_has_only_text(tls_context):
    with smtp_server(tls_context, data_size_limit=4500) as server:
        assert handler_for(server).send_event(closed_event(target="arm"))

    mail = received_mail(server)
    assert mail.get_body(("html",)) is None
    assert "target: arm" in text_of(mail)


def test_server_with_a_smaller_limit_than_the_data_is_skipped(tls_context, caplog):
    sent = closed_event(huge="x" * 20_000)
    with smtp_server(tls_context, data_size_limit=10_000) as small, smtp_server(tls_context) as large:
        assert handler_for(small, large).send_event(sent)
        with pytest.raises(event.PermanentError, match="the data alone is over 7952 bytes"):
            handler_for(small).send_event(sent)

    assert (len(small.envelopes), len(large.envelopes)) == (0, 1)


@pytest.mark.server
def test_mail_can_be_exactly_as_large_as_the_limit(tls_server, tmp_path, monkeypatch):
    monkeypatch.setattr(mail_format, "MAX_SIZE", MIB)
    sent = event_with_files(tmp_path, {"a": ("a", b"")})
    path = sent.get_attachments()["a"][0]
    sizes = []
    for size in range(756_000, 766_000, 1000):
        os.truncate(path, size)
        assert handler_for(tls_server).send_event(sent)
        sizes.append((len(parse_mail(tls_server.envelopes[-1]).get_payload()), len(tls_server.envelopes[-1].content)))

    with_attachment = [content for parts, content in sizes if parts == 3]
    assert max(content for _, content in sizes) <= MIB
    assert max(with_attachment) > MIB - 2000  # the attachment is omitted only if there is no room
    assert len(with_attachment) < len(sizes)


def test_data_too_large_for_any_mail_is_a_permanent_failure(tls_server, monkeypatch):
    monkeypatch.setattr(mail_format, "MAX_SIZE", MIB)

    with pytest.raises(event.PermanentError, match="the data alone is over 1 MiB"):
        handler_for(tls_server).send_event(closed_event(huge="x" * MIB))

    assert tls_server.envelopes == []


# Texts that are too large


def log_lines(count):
    return b"".join(b"%08d compiling\n" % number for number in range(count))


def random_lines(count):
    """Return lines that hardly compress."""
    return b"".join(random.Random(number).randbytes(30).hex().encode() + b"\n" for number in range(count))


def test_text_above_the_size_limit_is_compressed(tls_context, tmp_path, caplog):
    log = log_lines(50_000)
    with smtp_server(tls_context, data_size_limit=600_000) as server:
        sent = event_with_files(tmp_path, {"log": ("build.log", log), "junit": ("j.xml", b"<x/>")})
        assert handler_for(server).send_event(sent)

    mail = received_mail(server)
    assert [part.get_filename() for part in mail.iter_parts()] == [None, "event", "log.txt.gz", "junit"]
    compressed = part_named(mail, "log.txt.gz")
    assert compressed.get_content_type() == "application/gzip"
    assert gzip.decompress(compressed.get_payload(decode=True)) == log
    assert f"attached: log.txt.gz ({len(log)} bytes, compressed)" in text_of(mail)
    assert not caplog.records


def test_text_too_large_even_compressed_is_attached_from_its_end(tls_context, tmp_path, caplog):
    log = random_lines(20_000)
    with smtp_server(tls_context, data_size_limit=200_000) as server:
        sent = event_with_files(
            tmp_path, {"log": ("build.txt", log), "other": ("o.txt", log), "small": ("s", b"small")}
        )
        assert handler_for(server).send_event(sent)

    mail = received_mail(server)
    assert [part.get_filename() for part in mail.iter_parts()] == [None, "event", "log.txt", "other", "small"]
    for name in ("log.txt", "other"):
        end = part_named(mail, name).get_payload(decode=True)
        assert len(end) > 50_000
        assert log.endswith(b"\n" + end)
        text = f"attached: the last {len(end)} of {len(log)} bytes of {name}; no room for the rest"
        assert text in text_of(mail)
        assert f"the mail is not complete: {text}" in logged_warnings(caplog)
    assert len(server.envelopes[0].content) <= 200_000


def test_end_of_a_text_begins_with_a_complete_character(tls_context, tmp_path):
    log = "".join(random.Random(1).choices("äöüß漢字", k=400_000)).encode()
    with smtp_server(tls_context, data_size_limit=200_000) as server:
        assert handler_for(server).send_event(event_with_files(tmp_path, {"log": ("build.txt", log)}))

    assert log.decode().endswith(part_named(received_mail(server), "log.txt").get_payload(decode=True).decode())


def test_useless_short_end_of_a_text_is_omitted(tls_context, tmp_path, caplog):
    with smtp_server(tls_context, data_size_limit=5000) as server:
        assert handler_for(server).send_event(event_with_files(tmp_path, {"log": ("build.txt", random_lines(1000))}))

    assert [part.get_filename() for part in received_mail(server).iter_parts()] == [None, "event"]
    assert "left out, no room: log.txt" in logged_warnings(caplog)


def test_text_too_large_to_compress_is_attached_from_its_end(tls_context, tmp_path, monkeypatch):
    monkeypatch.setattr(attachments, "COMPRESSIBLE", 100_000)
    with smtp_server(tls_context, data_size_limit=100_000) as server:
        assert handler_for(server).send_event(event_with_files(tmp_path, {"log": ("build.txt", log_lines(50_000))}))

    assert log_lines(50_000).endswith(part_named(received_mail(server), "log.txt").get_payload(decode=True))


# Unusual files


def test_an_empty_attachment_is_named_and_not_attached(tls_server, tmp_path, caplog):
    assert handler_for(tls_server).send_event(event_with_files(tmp_path, {"log": ("a.txt", b"")}))

    mail = received_mail(tls_server)
    assert [part.get_filename() for part in mail.iter_parts()] == [None, "event"]
    assert "no output: log.txt (0 bytes, not attached)" in text_of(mail)
    assert not caplog.records


def test_growing_log_is_mailed_with_its_size_at_the_start(tls_server, tmp_path, monkeypatch):
    sent = event_with_files(tmp_path, {"log": ("f", b"first")})
    path = sent.get_attachments()["log"][0]
    fit = mail_format.fit

    def grow_and_fit(files, room):
        with open(path, "ab") as file:
            file.write(b" and more")
        return fit(files, room)

    monkeypatch.setattr(mail_format, "fit", grow_and_fit)
    assert handler_for(tls_server).send_event(sent)

    assert part_named(received_mail(tls_server), "log.txt").get_payload(decode=True) == b"first"


def test_missing_attachment_is_a_failure(tls_server, tmp_path, caplog):
    sent = event_with_files(tmp_path, {"log": ("f", b"x")})
    os.unlink(sent.get_attachments()["log"][0])

    assert not handler_for(tls_server).send_event(sent)

    assert tls_server.envelopes == []
    assert "no such file or directory: " in logged_warnings(caplog)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="platform: no FIFOs")
def test_fifo_instead_of_an_attachment_is_a_failure(tls_server, tmp_path, caplog):
    sent = event_with_files(tmp_path, {"log": ("f", b"x")})
    path = sent.get_attachments()["log"][0]
    os.unlink(path)
    os.mkfifo(path)

    assert not handler_for(tls_server).send_event(sent)

    assert "is not a regular file" in logged_warnings(caplog)
