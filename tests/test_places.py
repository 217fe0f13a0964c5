"""The outbox that is used if nothing names one."""

from __future__ import annotations

import os
import sys

import pytest

import event
from event import _places
from event.error import EventError

POSIX = pytest.mark.skipif(os.name == "nt", reason="platform: Windows has no XDG directories")


@POSIX
def test_the_default_is_in_the_home_directory():
    state = ".local/state" if sys.platform != "darwin" else "Library/Application Support"
    assert _places.default_outbox() == os.path.join(os.environ["HOME"], state, "e3-event/outbox")


@POSIX
def test_the_variable_for_state_moves_it(monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", "/var/state")
    assert _places.default_outbox() == "/var/state/e3-event/outbox"


@POSIX
def test_a_relative_directory_for_state_is_ignored(monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", "state")
    assert _places.default_outbox().startswith(os.environ["HOME"])


@POSIX
def test_without_a_home_directory_the_error_says_what_to_set(monkeypatch):
    no_home(monkeypatch)
    with pytest.raises(EventError, match="no home directory; set E3_EVENT_OUTBOX to a directory, or to none"):
        _places.default_outbox()


@POSIX
def test_the_home_of_another_user_is_not_used(monkeypatch):
    import pwd

    monkeypatch.setattr(_places, "_owner", lambda _path: os.geteuid() + 1)
    home = pwd.getpwuid(os.geteuid()).pw_dir
    assert _places.default_outbox() == os.path.join(_places._STATE.replace("~", home), "e3-event/outbox")
    monkeypatch.setattr("pwd.getpwuid", lambda _user: {}["a container's user"])
    assert _places.default_outbox().startswith(os.environ["HOME"])


@POSIX
def test_the_owner_is_that_of_the_nearest_directory(tmp_path):
    assert _places._owner(str(tmp_path / "a" / "b")) == os.stat(tmp_path).st_uid


def no_home(monkeypatch):
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)


def test_an_api_that_is_not_asked_keeps_nothing():
    assert event.EventManager().outbox is None


def test_none_in_the_variable_is_no_directory_for_the_api(monkeypatch):
    monkeypatch.setenv("E3_EVENT_OUTBOX", "none")
    event.use_outbox()
    assert event.default_manager.outbox is None


def test_one_line_switches_the_api_to_the_outbox_of_the_command(monkeypatch):
    monkeypatch.delenv("E3_EVENT_OUTBOX")
    event.use_outbox()
    assert event.default_manager.outbox == _places.default_outbox()


def test_that_line_prefers_the_variable_and_a_path_wins(monkeypatch, tmp_path):
    monkeypatch.setenv("E3_EVENT_OUTBOX", str(tmp_path / "a"))
    event.use_outbox()
    assert event.default_manager.outbox == str(tmp_path / "a")
    event.use_outbox(tmp_path / "b")
    assert event.default_manager.outbox == str(tmp_path / "b")


@POSIX
def test_without_a_home_directory_that_line_is_logged_and_raises_nothing(monkeypatch, caplog):
    monkeypatch.delenv("E3_EVENT_OUTBOX")
    no_home(monkeypatch)
    event.use_outbox()
    assert event.default_manager.outbox is None
    assert "events are sent without an outbox: this user has no home directory" in caplog.text
