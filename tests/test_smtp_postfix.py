"""The smtp handler with a real Postfix server."""

from __future__ import annotations

import gzip
import random

import pytest

import event
from event._event_copies import with_delivered, with_sending
from event.handler.smtp import SMTPHandler
from servers.postfix import postfix_server

ANN, BOB, ZOE = "ann@example.com", "bob@example.com", "zoë@example.com"
PEOPLE = [f"user{number}@example.com" for number in range(150)]
SIZE = 300_000


@pytest.fixture(scope="module")
def postfix():
    settings = {"smtpd_recipient_limit": 100, "message_size_limit": SIZE}
    with postfix_server(ANN, ZOE, *PEOPLE, **settings) as server:
        yield server


def handler_for(server, *to):
    return SMTPHandler("built", "builds@example.com", [*to], f"smtp://127.0.0.1:{server.port}")


def sent_with(tmp_path, content, name="build.log"):
    (tmp_path / name).write_bytes(content)
    with event.Event("compile") as made:
        made.attach_file(tmp_path / name)
    return made


def test_unknown_recipient_causes_no_duplicates_for_others(postfix):
    already = postfix.mails(ANN)
    done = ()
    for _ in range(4):
        sent = with_delivered(with_sending(event.Event("compile"), "sending-1"), done)
        with pytest.raises(event.PermanentError, match=f"{BOB} .550 5.1.1 .*User unknown") as raised:
            handler_for(postfix, ANN, BOB).send_event(sent)
        done = raised.value.done

    (mail,) = postfix.mails(ANN)[len(already) :]
    assert mail["Message-ID"] == "<sending-1@example.com>"
    assert mail["To"] == f"{ANN}, {BOB}"
    assert done == frozenset({ANN})


def test_recipients_above_the_transaction_limit_get_one_copy_each(postfix):
    assert handler_for(postfix, *PEOPLE).send_event(event.Event("compile"))

    assert [len(postfix.mails(to)) for to in PEOPLE] == [1] * 150


def test_a_non_ascii_recipient_gets_a_mail_without_bare_line_feeds(postfix, tmp_path):
    assert handler_for(postfix, ZOE).send_event(sent_with(tmp_path, b"one\ntwo\r\n"))

    (mail,) = postfix.mails(ZOE)
    assert [part.get_filename() for part in mail.iter_parts()] == [None, "event", "log.txt"]


def test_no_mail_is_larger_than_the_server_announces(postfix, tmp_path):
    # Sizes around the limit: Postfix also counts the header that it adds.
    for size in range(214_000, 219_000, 50):
        content = b"\0" + random.Random(size).randbytes(size)
        assert handler_for(postfix, PEOPLE[0]).send_event(sent_with(tmp_path, content, "core"))


def test_log_above_the_server_limit_is_compressed(postfix, tmp_path):
    log = b"".join(b"%08d compiling\n" % number for number in range(40_000))
    already = postfix.mails(ANN)

    assert handler_for(postfix, ANN).send_event(sent_with(tmp_path, log))

    (mail,) = postfix.mails(ANN)[len(already) :]
    *_, packed = mail.iter_parts()
    assert packed.get_filename() == "log.txt.gz"
    assert gzip.decompress(packed.get_payload(decode=True)) == log
