"""LazyHandler constructs the real handler on its first event."""

from __future__ import annotations

import os

import pytest

import event
from event._lazy_handler import LazyHandler
from helpers.plugins import Site

COUNTS = """
import sys
class Handler:
    made = 0
    def __init__(self, config): Handler.made += 1
    @classmethod
    def decode_config(cls, config_str):
        if config_str == "quits": sys.exit("no token")
        if config_str == "stops": raise KeyboardInterrupt
        return {"config": config_str}
    def send_event(self, event):
        if event.name == "quits": sys.exit("enough")
        return True
    def encode_config(self): return ""
"""


@pytest.fixture
def lazy(tmp_path, monkeypatch):
    Site(tmp_path / "site", monkeypatch).plugin("counts", COUNTS)
    return lambda config="c": LazyHandler("counts", config)


def test_handler_is_constructed_once_on_its_first_event(lazy):
    handler = lazy()
    assert handler.send_event(event.Event("n"))
    assert handler.send_event(event.Event("n"))
    assert type(handler.load()).made == 1
    assert handler.load_error is None


def test_handler_that_exits_has_failed(lazy):
    with pytest.raises(event.EventError, match="SystemExit: enough"):
        lazy().send_event(event.Event("quits"))


def test_handler_that_cannot_be_constructed_is_not_tried_again(lazy):
    handler = lazy("quits")
    for _ in range(2):
        with pytest.raises(event.EventError, match="SystemExit: no token"):
            handler.send_event(event.Event("n"))
    assert isinstance(handler.load_error, SystemExit)


def test_interrupt_is_not_a_handler_error(lazy):
    handler = lazy("stops")
    with pytest.raises(KeyboardInterrupt):
        handler.load()
    assert handler.load_error is None


def test_outbox_stores_directories_as_absolute_and_the_rest_unchanged(lazy):
    assert lazy("as given").encode_config() == "as given"
    assert LazyHandler("file", "events").encode_config() == os.path.abspath("events")
    assert LazyHandler("file", "").encode_config() == ""
    assert LazyHandler("smtp", "s,a@b,c@d,h").encode_config() == "s,a@b,c@d,h"
    assert LazyHandler("logging", "build,ERROR").encode_config() == "build,ERROR"


@pytest.mark.parametrize(
    ("name", "config"), [("apprise", "env:HOOK"), ("broker", "file:/run/url,q"), ("s3", "s3://b,s3://b"), ("otel", "")]
)
def test_slow_library_is_not_loaded_before_the_event_is_stored(name, config, monkeypatch):
    loaded = []
    monkeypatch.setattr("event._registry.get_handler", loaded.append)
    monkeypatch.setattr(LazyHandler, "load", loaded.append)
    assert LazyHandler(name, config).encode_config() == config
    assert not loaded


def test_outbox_stores_a_relative_reference_as_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert LazyHandler("http", "file:url").encode_config() == f"file:{tmp_path / 'url'},cloudevents"
    assert LazyHandler("s3", "file:url").encode_config() == "file:url"  # not a URL; the delivery reports the error


def test_warning_of_a_lazily_constructed_handler_is_logged_once(caplog):
    handler = LazyHandler("smtp", "s,a@b,c@d,smtp://u:secret@h,smtp://u:file:password@h")
    handler.encode_config()
    handler.load()
    assert len(caplog.messages) == 1
