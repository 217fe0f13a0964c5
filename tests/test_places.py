"""The default outbox, and the home directory that contains it."""

from __future__ import annotations

import os
import sys

import pytest

import event
from event import _places
from event.error import EventError

POSIX = pytest.mark.skipif(os.name == "nt", reason="platform: Windows has no XDG directories")


@POSIX
def test_default_outbox_is_in_the_home_directory():
    state = ".local/state" if sys.platform != "darwin" else "Library/Application Support"
    assert _places.default_outbox() == os.path.join(os.environ["HOME"], state, "e3-event/outbox")


@POSIX
def test_xdg_state_home_moves_the_default_outbox(monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", "/var/state")
    assert _places.default_outbox() == "/var/state/e3-event/outbox"


@POSIX
def test_relative_xdg_state_home_is_ignored(monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", "state")
    assert _places.default_outbox().startswith(os.environ["HOME"])


@POSIX
def test_missing_home_directory_is_an_error_with_what_to_set(monkeypatch):
    no_home(monkeypatch)
    with pytest.raises(EventError, match="no home directory; set E3_EVENT_OUTBOX to a directory, or to none"):
        _places.default_outbox()


@POSIX
def test_the_home_of_another_user_is_not_used(monkeypatch):
    import pwd

    monkeypatch.setattr(_places, "_owner", lambda _path: os.geteuid() + 1)
    home = pwd.getpwuid(os.geteuid()).pw_dir
    state = "Library/Application Support" if sys.platform == "darwin" else ".local/state"
    assert _places.default_outbox() == os.path.join(home, state, "e3-event/outbox")
    monkeypatch.setattr("pwd.getpwuid", lambda _user: {}["a container's user"])
    assert _places.default_outbox().startswith(os.environ["HOME"])


@POSIX
def test_empty_home_counts_as_unset(monkeypatch):
    import pwd

    home = pwd.getpwuid(os.geteuid()).pw_dir
    monkeypatch.setenv("HOME", "")
    state = "Library/Application Support" if sys.platform == "darwin" else ".local/state"
    assert _places.default_outbox() == os.path.join(home, state, "e3-event/outbox")
    assert event.EventManager(outbox="~/outbox").outbox == os.path.join(home, "outbox")
    assert _places.expand_home("~") == home
    assert [_places.expand_home(path) for path in ("/a/~", "~nobody-of-that-name/a")] == [
        "/a/~",
        "~nobody-of-that-name/a",
    ]
    monkeypatch.setattr("pwd.getpwuid", lambda _user: {}["a container's user"])
    assert _places.expand_home("~/outbox") == "~/outbox"
    with pytest.raises(EventError, match="no home directory"):
        _places.default_outbox()


@POSIX
def test_owner_is_checked_at_the_nearest_existing_directory(tmp_path):
    assert _places._owner(str(tmp_path / "a" / "b")) == os.stat(tmp_path).st_uid


def no_home(monkeypatch):
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)


def test_api_has_no_outbox_by_default():
    assert event.EventManager().outbox is None


def test_none_in_the_variable_disables_the_outbox_of_the_api(monkeypatch):
    monkeypatch.setenv("E3_EVENT_OUTBOX", "none")
    event.use_outbox()
    assert event.default_manager.outbox is None


def test_api_can_use_the_default_outbox_of_the_command(monkeypatch):
    monkeypatch.delenv("E3_EVENT_OUTBOX")
    event.use_outbox()
    assert event.default_manager.outbox == _places.default_outbox()


def test_default_outbox_of_the_api_is_overridden_by_variable_and_path(monkeypatch, tmp_path):
    monkeypatch.setenv("E3_EVENT_OUTBOX", str(tmp_path / "a"))
    event.use_outbox()
    assert event.default_manager.outbox == str(tmp_path / "a")
    event.use_outbox(tmp_path / "b")
    assert event.default_manager.outbox == str(tmp_path / "b")


@POSIX
def test_default_outbox_of_the_api_without_a_home_directory_is_logged(monkeypatch, caplog):
    monkeypatch.delenv("E3_EVENT_OUTBOX")
    no_home(monkeypatch)
    event.use_outbox()
    assert event.default_manager.outbox is None
    assert "events are sent without an outbox: this user has no home directory" in caplog.text
