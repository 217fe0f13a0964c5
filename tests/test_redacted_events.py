"""Managers and the command line remove secrets from the events that they send."""

from __future__ import annotations

import json
import pathlib
import sys
from unittest.mock import Mock

import pytest

import event


@pytest.fixture
def secret(monkeypatch):
    monkeypatch.setenv("ACME_TOKEN", "hunter2hunter2")
    return "hunter2hunter2"


class Recorder:
    def __init__(self):
        self.seen = []

    def send_event(self, event):
        self.seen.append(event.as_dict()["note"])
        return True

    def encode_config(self):
        return ""


@pytest.mark.parametrize(
    ("redact", "shown"),
    [(True, "*** 4711"), (False, "hunter2hunter2 4711"), (["4711"], "*** ***"), ("4711", "*** ***")],
)
@pytest.mark.parametrize("timeout", [None, 60])
def test_a_handler_gets_data_without_secrets(secret, redact, shown, timeout):
    manager, recorder = event.EventManager(redact=redact, timeout=timeout), Recorder()
    manager.handlers["recorder"] = recorder
    sent = event.Event("deploy", note=f"{secret} 4711")
    assert manager.send_event(sent)
    assert recorder.seen == [shown]
    assert sent.note == f"{secret} 4711"


def test_an_outbox_holds_no_secret(secret, tmp_path):
    manager = event.EventManager(outbox=tmp_path / "outbox")
    manager.handlers["recorder"] = Failing()
    assert not manager.send_event(event.Event("deploy", note=secret))
    texts = [path.read_bytes() for path in (tmp_path / "outbox").rglob("*") if path.is_file()]
    assert any(b"note" in text for text in texts)
    assert not any(secret.encode() in text for text in texts)


class Failing(Recorder):
    def send_event(self, event):
        return False


def test_event_of_another_library_is_sent_unchanged():
    class Foreign:
        def as_dict(self):
            return {"note": "x"}

    manager, recorder = event.EventManager(), Recorder()
    manager.handlers["recorder"] = recorder
    assert manager.send_event(Foreign())
    assert recorder.seen == ["x"]


def test_the_command_line_sends_no_secret(secret, tmp_path, monkeypatch):
    from event._worker import EventSender

    sender = EventSender([("file", str(tmp_path))], outbox=None, timeout=60, log=print)
    content = {"data": {"uid": "u", "name": "n", "note": secret}, "attachments": {}, "closed": True}
    assert sender.send(content, sending="s").results[0].ok
    sender.redact = None
    assert sender.send({**content, "data": {**content["data"], "name": "open"}}, sending="t").results[0].ok
    sender.close()
    texts = {path.name[0]: path.read_text() for path in tmp_path.glob("*.json")}
    assert secret not in texts["n"]
    assert secret in texts["o"]


def test_names_of_attachments_on_the_command_line_hold_no_secret(secret, tmp_path):
    from event._worker import EventSender

    (tmp_path / "log").write_text("x")
    lines = []
    sender = EventSender([("file", str(tmp_path / "out"))], outbox=None, timeout=60, log=lines.append)
    content = {"data": {"uid": "u", "name": "n", secret: 1}, "attachments": {}, "closed": True}
    files = [(f"a {secret}", str(tmp_path / "log")), (f"b {secret}", str(tmp_path / secret))]
    sent = sender.send(content, attach=files, sending="s")
    sender.close()
    assert sent.not_attached == ["b ***"]
    assert "cannot attach" in lines[0]
    assert not [line for line in lines if secret in line]
    written = {str(path): path.read_text() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert "x" in written.values()
    assert secret not in str(written)


def test_attachment_names_and_logged_names_hold_no_secret(secret, tmp_path, caplog):
    (tmp_path / "log").write_text("x")
    sent = event.Event(f"deploy {secret}")
    sent.attach_file(tmp_path / "log", f"log {secret}")
    manager = event.EventManager()
    manager.handlers["failing"] = Raising()
    assert not manager.send_event(sent)
    assert secret not in caplog.text
    assert [*sent.get_attachments()] == ["log ***"]
    path = sent.dump(tmp_path / "dumps")
    assert secret not in pathlib.Path(path).read_text()


def test_event_is_shown_without_names_if_redaction_cannot_be_imported(monkeypatch):
    sent = event.Event("deploy")
    event.EventManager().send_event(sent)
    monkeypatch.delattr(event, "_redact")
    monkeypatch.setitem(sys.modules, "event._redact", None)
    assert repr(sent) == "<Event>"


class Raising:
    def send_event(self, event):
        raise OSError("no")


@pytest.mark.parametrize(
    ("redact", "message"),
    [
        pytest.param(
            [None], "redact: item 1 has the type NoneType; expected env:NAME, file:PATH or a text", id="unset"
        ),
        pytest.param(["env:X", b"hush"], "redact: item 2 has the type bytes; expected ", id="bytes"),
        pytest.param(None, "redact has the type NoneType; expected True, False or a list of texts", id="no list"),
    ],
)
def test_secret_that_is_no_text_is_an_error_of_the_manager(redact, message):
    with pytest.raises(event.EventError, match=message):
        event.EventManager(redact=redact)


@pytest.mark.parametrize("kind", [str, int, float, bool])
def test_mock_of_a_simple_type_is_sent_as_its_text(kind, tmp_path):
    manager = event.EventManager()
    manager.add_handler("file", tmp_path)
    assert manager.send_event(event.Event("e", value=Mock(spec=kind), deep=[Mock(spec=kind)]))
    (written,) = tmp_path.glob("*.json")
    assert "<Mock spec=" in json.loads(written.read_text())["value"]
