"""Attachments: in the message, in S3, or omitted."""

from __future__ import annotations

import hashlib
import os
import re

import pytest

import event
from event import _files
from event._broker import InlineFile, decode_message
from event._broker import message as message_module
from event._outbox import Outbox
from event.handler.broker import BrokerHandler
from helpers.delivering import deliver
from helpers.published import (
    SOON,
    content_of,
    event_records,
    event_with_files,
    take_all,
    take_only_message,
    within,
)

# In the message


def test_attachments_are_in_the_message(redis, queue, make_handler, files):
    contents = {"build.log": b"done\n", "empty": b"", "core ä/\\": os.urandom(100_000)}
    made = event.Event("compile")
    for number, (name, content) in enumerate(contents.items()):
        made.attach_file(files(str(number), content), name)
    assert make_handler().send_event(made)
    message = take_only_message(redis, queue)
    assert {name: content_of(message, file) for name, (file, _) in message.attachments.items()} == contents


def test_attachments_together_respect_the_size_limit(redis, queue, make_handler, files, caplog):
    made = event_with_files(files("a", b"x" * 6), files("b", b"x" * 5), files("c", b"x" * 4), files("d", b""), uid="42")
    assert make_handler(limit=10).send_event(made)
    message = take_only_message(redis, queue)
    assert sorted(message.attachments) == ["a", "c", "d"]
    assert sorted(file.size for file in message.files.values()) == [0, 4, 6]
    (record,) = event_records(caplog)
    assert record.message == (
        f"broker: attachment 'b' of {made!r} is not sent: it has 5 bytes, and the message has room for 4; "
        "set s3=s3://... to upload it"
    )


def test_default_size_limit_for_redis_is_4_mib(redis, queue, make_handler, files):
    assert make_handler().send_event(event_with_files(files("fits", b"x" * (4 << 20)), files("more", b"y")))
    assert [*take_only_message(redis, queue).attachments] == ["fits"]


def test_default_size_limit_for_sqs_is_150_kib(sqs, files):
    handler = BrokerHandler("sqs://us-east-1", sqs.name)
    assert handler.send_event(event_with_files(files("fits", b"x" * (150 << 10)), files("more", b"y")))
    assert [*decode_message(sqs.get()[0]).attachments] == ["fits"]


# Unusual files


def test_missing_or_irregular_attachment_is_omitted(  # noqa: PLR0913
    redis, queue, make_handler, files, tmp_path, caplog
):
    made = event_with_files(files("gone", b"1"), files("fifo", b"2"), files("directory", b"3"), files("log", b"4"))
    (tmp_path / "gone").unlink()
    for name in ("fifo", "directory"):
        (tmp_path / name).unlink()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "directory").mkdir()
    made._attachments["no-path"] = ("/\ud800", "0")
    with within(SOON):
        assert make_handler().send_event(made)
    assert take_only_message(redis, queue).files == {"3": InlineFile.of(b"4")}
    matches = [re.search(r"attachment '(.*?)' of <.*> is not sent: (.*)", record.message) for record in caplog.records]
    found = dict(match.groups() for match in matches)
    assert found.pop("no-path").startswith("UnicodeEncodeError: ")
    assert found == {
        "gone": f"no such file or directory: '{tmp_path / 'gone'}'",
        "fifo": f"'{tmp_path / 'fifo'}' is not a regular file",
        "directory": f"'{tmp_path / 'directory'}' is not a regular file",
    }


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="platform: root reads everything")
def test_forbidden_attachment_is_omitted(redis, queue, make_handler, files, caplog):
    made = event_with_files(files("log", b"4"))
    os.chmod(made.get_attachments()["log"][0], 0)
    assert make_handler().send_event(made)
    assert take_only_message(redis, queue).files == {}


def test_attachment_with_a_read_error_is_omitted(  # noqa: PLR0913
    redis, queue, make_handler, files, caplog, monkeypatch
):
    made = event_with_files(files("log", b"4"))
    monkeypatch.setattr(_files, "open_regular", lambda path: os.open(path, os.O_WRONLY))
    assert make_handler().send_event(made)
    assert take_only_message(redis, queue).files == {}
    assert "attachment 'log' of <Event" in caplog.text


def test_changed_attachment_is_sent_with_its_current_content(redis, queue, make_handler, files):
    log = files("log", b"started\n")
    made = event_with_files(log)
    log.write_bytes(b"started\ndone\n")
    assert make_handler().send_event(made)
    assert take_only_message(redis, queue).files == {"0": InlineFile.of(b"started\ndone\n")}


@pytest.fixture
def growing(monkeypatch):
    """Return a list of paths. Each of these files grows when its size is read."""
    fstat = os.fstat

    def grow(fd):
        status = fstat(fd)
        if path := next((p for p in grow.paths if os.path.samestat(os.stat(p), status)), None):
            with open(path, "ab") as file:
                file.write(b"more\n")
        return status

    grow.paths = []
    monkeypatch.setattr(os, "fstat", grow)
    return grow.paths


@pytest.mark.parametrize("limit", [None, 0], ids=["message", "s3"])
def test_growing_log_is_sent_with_its_size_at_the_start(redis, queue, make_handler, files, s3, growing, limit):  # noqa: PLR0913
    content = b"0123456789abcdef" * (600_000 if limit == 0 else 1)  # more than one part of an upload
    log = files("log", content)
    made = event_with_files(log)
    growing.append(log)
    assert make_handler(limit=limit, s3="s3://builds/ci").send_event(made)
    message = take_only_message(redis, queue)
    sent = content + b"more\n"  # the file grew once when it was opened
    assert file_content(s3, message) == sent
    assert message.attachments["log"][1] == hashlib.sha1(sent).hexdigest()
    assert log.read_bytes() == sent + b"more\n"


def file_content(s3, message):
    """Return the content of the only file."""
    (file,) = message.files.values()
    if isinstance(file, InlineFile):
        return content_of(message)
    bucket, _, key = file.url.removeprefix("s3://").partition("/")
    content = s3.get(bucket, key)["Body"]
    assert len(content) == file.size
    return content


# In S3


def test_attachments_above_the_size_limit_are_stored_in_s3(redis, queue, make_handler, files, s3, caplog):  # noqa: PLR0913
    made = event_with_files(files("a b.log", b"x" * 11), files("small", b"y"))
    assert make_handler(limit=10, s3="s3://builds/ci/").send_event(made)
    message = take_only_message(redis, queue)
    assert s3.keys("builds") == [f"ci/{message.id}/a b.log"]
    stored = message.files["0"]
    assert (stored.url, stored.size) == (f"s3://builds/ci/{message.id}/a b.log", 11)
    assert message.attachments["a b.log"] == ("0", hashlib.sha1(b"x" * 11).hexdigest())
    assert message.files["1"] == InlineFile.of(b"y")
    assert s3.get("builds", f"ci/{message.id}/a b.log")["Body"] == b"x" * 11
    assert s3.get("builds", f"ci/{message.id}/a b.log")["ServerSideEncryption"] == "AES256"
    assert [record for record in caplog.records if record.name == "event"] == []


def test_object_names_stay_below_the_configured_url(redis, queue, make_handler, files, s3):
    made = event.Event("compile")
    for number, name in enumerate(["../../x", "a/b", "ä", "."]):
        made.attach_file(files(str(number), b"x" * 11), name)
    assert make_handler(limit=0, s3="s3://builds").send_event(made)
    message = take_only_message(redis, queue)
    keys = s3.keys("builds")
    assert len(keys) == 4
    assert all(re.fullmatch(rf"{message.id}/[^/]+", key) for key in keys)
    assert {file.url for file in message.files.values()} == {f"s3://builds/{key}" for key in keys}


def test_retry_after_an_s3_failure_uses_the_same_key(  # noqa: PLR0913
    redis, queue, as_reference, files, s3, caplog, tmp_path, monkeypatch, unused_port
):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{unused_port}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    manager = event.EventManager(outbox=tmp_path / "outbox")
    manager.add_handler("broker", as_reference(redis.url), queue, limit=0, s3="s3://builds")
    made = event_with_files(files("log", b"x"))
    assert not manager.send_event(made)
    assert re.search(r"broker: env:BROKER: .*127.0.0.1", caplog.text)
    assert take_all(redis, queue) == []
    ((candidate, _),) = Outbox(manager.outbox).entries("waiting")
    sending = candidate.id
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    ((_, outcome),) = deliver(Outbox(manager.outbox), everything=True)
    assert outcome
    assert s3.keys("builds") == [f"{sending}/log"]
    assert take_only_message(redis, queue).id == sending


@pytest.mark.parametrize(
    ("limit", "reason"),
    [
        ("MAX_ATTACHMENTS", "it has 2 attachments; the limit is 1"),
        ("MAX_ATTACHED", "its files have 9 bytes; the limit is 1"),
        ("MAX_NESTING", "it is nested more than 1 levels deep"),
    ],
)
def test_nothing_is_uploaded_for_an_event_that_no_relay_accepts(  # noqa: PLR0913
    redis, queue, make_handler, files, s3, tmp_path, monkeypatch, limit, reason
):
    made = event_with_files(files("log", b"x" * 9), files("gone", b"y"))
    (tmp_path / "gone").unlink()
    monkeypatch.setattr(message_module, limit, 1)
    with pytest.raises(event.PermanentError, match=f"broker: env:BROKER: no relay accepts the event: {reason}"):
        make_handler(limit=0, s3="s3://builds").send_event(made)
    assert s3.keys("builds") == []
    assert take_all(redis, queue) == []
