"""Subclasses of Event with their own state, events of another library, and patched names."""

from __future__ import annotations

import pickle
import time
from unittest import mock

import pytest

import event
from event import Event, EventManager
from event._event_copies import as_own_event
from event._outbox import Outbox


class WithDict(Event):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        object.__setattr__(self, "_mine", {"a": 1})

    def as_dict(self):
        return {**super().as_dict(), "extra": self._mine}


class WithSlots(Event):
    __slots__ = ("_empty", "_mine")

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        object.__setattr__(self, "_mine", {"a": 1})

    def as_dict(self):
        return {**super().as_dict(), "extra": self._mine}


class Both(WithSlots, WithDict):
    pass


class Foreign:
    def __init__(self, data):
        self.data = data

    def as_dict(self):
        return self.data

    def get_attachments(self):
        return {}


class Recorder(event.EventHandler):
    def __init__(self, ok=True):
        self.ok = ok
        self.data = []

    @classmethod
    def decode_config(cls, _config_str):
        return {}

    def encode_config(self):
        return ""

    def send_event(self, sent):
        self.data.append(sent.as_dict())
        return self.ok


@pytest.fixture
def send_and_store(tmp_path):
    """Return a function that sends an event to a failing handler and returns the delivered and the stored data."""

    def send(sent):
        manager = EventManager(outbox=tmp_path / "outbox")
        manager.handlers["r"] = handler = Recorder(ok=False)
        assert not manager.send_event(sent)
        ((_, entry),) = Outbox(tmp_path / "outbox").entries("waiting")
        return handler.data, entry.event.as_dict()

    return send


@pytest.mark.parametrize("kind", [WithDict, WithSlots, Both])
def test_outbox_stores_values_added_by_a_subclass(kind, send_and_store):
    (delivered,), waiting = send_and_store(kind("e"))
    assert delivered["extra"] == waiting["extra"] == {"a": 1}


@pytest.mark.parametrize("kind", [WithDict, WithSlots, Both])
def test_a_pickled_event_of_a_subclass_has_its_state(kind):
    assert pickle.loads(pickle.dumps(kind("e"))).as_dict()["extra"] == {"a": 1}


def test_an_outbox_keeps_an_event_of_another_library(send_and_store):
    (delivered,), waiting = send_and_store(Foreign({"name": "e", "uid": "u", "value": 3}))
    assert delivered == waiting == {"name": "e", "uid": "u", "value": 3}


def test_object_that_is_no_event_is_an_error():
    with pytest.raises(event.EventError, match="the Foreign is not an event: 'data' must be"):
        as_own_event(Foreign({}))


# Names that users patch in their tests.


def test_a_replaced_unique_id_takes_effect():
    with mock.patch("event.unique_id", return_value="id"):
        assert Event("e").uid == event.sending_id(Event("e")) == "id"


def test_a_replaced_time_takes_effect():
    with mock.patch("event.time") as replaced, Event("e") as sent:
        replaced.time.return_value = 5.0
    assert sent.end_time == 5.0
    assert event.time is time


def test_a_replaced_format_date_takes_effect():
    with mock.patch.object(Event, "format_date", side_effect=lambda key, _value: {key: "now"}):
        assert Event("e").as_dict()["begin_time"] == "now"


def test_a_replaced_logger_gets_what_is_logged():
    manager = EventManager()
    manager.handlers["r"] = mock.Mock(send_event=mock.Mock(side_effect=ValueError("v")))
    with mock.patch("event.logger") as logger:
        assert not manager.send_event(Event("e"))
    assert logger.log.call_args.args[:3] == (40, "handler %s failed on %r", "r")
