"""Handlers: required methods, defaults, and the error for a missing extra."""

from __future__ import annotations

import inspect
import json

import pytest

from event import EventError, EventHandler, EventManager
from event._handler import import_extra


class Sink(EventHandler):
    def send_event(self, event):
        return True


def test_a_handler_without_send_event_cannot_be_constructed():
    with pytest.raises(TypeError, match="send_event"):
        EventHandler()


def test_a_handler_without_configuration_has_an_empty_one():
    assert Sink().encode_config() == ""
    assert Sink.decode_config("anything") == {}
    assert EventHandler.send_event(Sink(), None) is None


def test_the_parameter_names_are_those_of_e3():
    assert [*inspect.signature(EventHandler.send_event).parameters] == ["self", "event"]
    assert [*inspect.signature(EventHandler.decode_config).parameters] == ["_config_str"]


def test_an_installed_extra_is_imported():
    assert import_extra("json", "e3-event[s3]") is json


def test_a_missing_extra_is_an_error_with_the_command_that_installs_it():
    with pytest.raises(EventError, match=r'no_such_client is missing .*pip install "e3-event\[s3\]"') as caught:
        import_extra("no_such_client", "e3-event[s3]")
    assert isinstance(caught.value.__cause__, ImportError)


def test_handler_has_no_batch_method_and_no_concurrency_limit_by_default():
    assert not hasattr(Sink(), "send_events")
    assert not hasattr(Sink(), "max_concurrency")


@pytest.mark.parametrize(("name", "limit"), [("smtp", 1), ("apprise", 1), ("http", None), ("otel", None), ("s3", None)])
def test_handler_can_limit_its_concurrency(name, limit):
    handler = EventManager().get_handler(name)
    assert getattr(handler, "max_concurrency", None) == limit
    assert hasattr(handler, "send_events") == (name in {"apprise", "otel", "smtp"})
