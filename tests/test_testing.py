"""event.testing records events, sends nothing, and checks handlers."""

from __future__ import annotations

import os
import re

import pytest

import event
from event.config import absolute_reference, is_reference, join_fields, resolve_secret, split_fields
from event.handler.file import FileHandler
from event.testing import RecordingHandler, check_handler, recording


def test_the_recorder_gets_what_the_code_sends(tmp_path):
    log = tmp_path / "build.log"
    log.write_bytes(b"ok\n")
    with recording() as recorder:
        with event.Event("compile", target="arm") as e:
            e.attach_file(log)
        assert event.send_event(e) is True
    (recorded,) = recorder.events
    assert recorded.name == "compile"
    assert recorded.uid == e.uid
    assert recorded.data == e.as_dict()
    assert recorded.attachments == {"log": b"ok\n"}


def test_changes_after_the_send_do_not_affect_recorded_events(tmp_path):
    log = tmp_path / "build.log"
    log.write_bytes(b"before")
    e = event.Event("compile", files=["a.c"])
    e.attach_file(log)
    handler = RecordingHandler()
    handler.send_event(e)
    log.write_bytes(b"after")
    e.files.append("b.c")
    e.status = "late"
    assert handler.events[0].data["files"] == ["a.c"]
    assert "status" not in handler.events[0].data
    assert handler.events[0].attachments == {"log": b"before"}


def test_values_have_the_form_that_handlers_write(tmp_path):
    handler = RecordingHandler()
    handler.send_event(event.Event("compile", where=tmp_path, targets={"b", "a"}))
    assert handler.events[0].data["where"] == str(tmp_path)
    assert handler.events[0].data["targets"] == ["a", "b"]


def test_events_are_recorded_in_order():
    with recording() as recorder:
        for name in ("first", "second"):
            event.send_event(event.Event(name))
    assert [recorded.name for recorded in recorder.events] == ["first", "second"]


def test_recorder_can_simulate_a_failing_destination():
    with recording(result=False) as recorder:
        assert event.send_event(event.Event("compile")) is False
    assert len(recorder.events) == 1


def test_missing_attachment_fails_as_with_a_real_handler(tmp_path):
    log = tmp_path / "build.log"
    log.write_bytes(b"ok")
    e = event.Event("compile")
    e.attach_file(log)
    log.unlink()
    with recording() as recorder:
        assert event.send_event(e) is False
    assert recorder.events == []


def test_default_manager_is_restored_after_an_error():
    before = event.default_manager
    with pytest.raises(KeyError), recording():
        replaced(before)
    assert event.default_manager is before


def replaced(before):
    assert event.default_manager is not before
    raise KeyError


def test_added_handlers_are_not_constructed(tmp_path, monkeypatch):
    monkeypatch.setenv("E3_EVENT_HANDLERS", f"file={tmp_path / 'from-variable'}")
    with recording() as recorder:
        event.add_handler("file", tmp_path / "added")
        event.load_handlers_from_env()
        event.send_event(event.Event("compile"))
    assert len(recorder.events) == 1
    assert not (tmp_path / "added").exists()
    assert not (tmp_path / "from-variable").exists()


@pytest.mark.parametrize(
    "value",
    [pytest.param("fil=events", id="unknown name"), pytest.param("logging=a,LOUD", id="bad configuration")],
)
def test_invalid_handler_is_an_error_while_recording(value, monkeypatch):
    monkeypatch.setenv("E3_EVENT_HANDLERS", value)
    with recording(), pytest.raises(event.EventError):
        event.load_handlers_from_env()


def test_invalid_arguments_are_an_error_while_recording():
    with recording(), pytest.raises(TypeError):
        event.add_handler("file", "events", "too many")


def test_child_processes_send_nothing(monkeypatch):
    monkeypatch.setenv("E3_EVENT_HANDLERS", "file=events")
    with recording():
        event.handler_config_as_env()
    assert os.environ["E3_EVENT_HANDLERS"] == ""


def test_the_repr_shows_data_and_attachment_names(tmp_path):
    log = tmp_path / "build.log"
    log.write_bytes(b"ok")
    e = event.Event("compile", uid="7", status="ok")
    handler = RecordingHandler()
    handler.send_event(e)
    assert "'status': 'ok'" in repr(handler.events[0])
    assert repr(handler.events[0]).endswith("attachments: none>")
    e.attach_file(log)
    handler.send_event(e)
    assert repr(handler.events[1]).endswith("attachments: log>")


class Board(event.EventHandler):
    """Correct handler. Each subclass has one defect."""

    def __init__(self, url, path=""):
        self.url, self.path = url, path

    @classmethod
    def decode_config(cls, config_str):
        return dict(zip(("url", "path"), split_fields(config_str, 2), strict=False))

    def encode_config(self):
        return join_fields([self.url, self.path], last_whole=True)

    def config_for_outbox(self):
        return join_fields([self.url, os.path.abspath(self.path)], last_whole=True)

    def send_event(self, e):
        return True


class Forgetful(Board):
    def encode_config(self):
        return "https://forgotten.example.com," + self.path + "x"


class Barred(Board):
    def encode_config(self):
        return f"{self.url}|"


class Relative(Board):
    def config_for_outbox(self):
        return join_fields([self.url, os.path.basename(os.getcwd())])


class Unpicklable(Board):
    def __reduce__(self):
        return Board, ("https://another.example.com",)


class Open(Board):
    def __repr__(self):
        return f"Board({self.url})"


def test_correct_handler_passes_the_check():
    check_handler(Board, "env:BOARD,a%7Cb%2Cc%25,d", secrets=["hunter2"])
    check_handler(FileHandler, "events%7Cmore")
    check_handler(RecordingHandler, "")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Forgetful, "encode_config: changes if it is decoded and encoded again"),
        (Barred, "encode_config: has a '|' or a NUL"),
        (Relative, "config_for_outbox: depends on the working directory"),
        (Unpicklable, "pickle: changes the configuration"),
        (Open, "repr and the configuration: must not show: a secret"),
    ],
)
def test_check_names_the_defect_of_a_handler(kind, message):
    here = os.getcwd()
    with pytest.raises(AssertionError, match=re.escape(message)):
        check_handler(kind, "https://hunter2.example.com,logs", secrets=["hunter2"])
    assert os.getcwd() == here


def test_reference_to_a_secret_is_resolved_by_the_public_functions(monkeypatch):
    monkeypatch.setenv("BOARD_TOKEN", "hunter2")
    assert resolve_secret("env:BOARD_TOKEN", "the board's token") == "hunter2"
    assert is_reference("file:token")
    assert absolute_reference("file:token") == f"file:{os.path.abspath('token')}"
