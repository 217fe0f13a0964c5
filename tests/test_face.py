"""The public interface of `event`: its names, parameters and return types."""

from __future__ import annotations

import inspect
import logging
import pickle
import subprocess
import sys

import pytest

import event
from event.error import E3Error

# The names of e3.event.
NAMES = {
    "Event",
    "EventError",
    "EventHandler",
    "EventManager",
    "add_handler",
    "default_manager",
    "handler_config_as_env",
    "load_handlers_from_env",
    "logger",
    "send_event",
    "send_event_from_file",
    "unique_id",
}
# The names that only e3-event has.
FURTHER = {
    *("Delivery", "Outcome", "PartialDeliveryError", "PermanentError"),
    *("already_delivered", "child_environment", "sending_id", "load_handlers_from_config", "track", "use_outbox"),
}

P, A, K = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
NONE = inspect.Parameter.empty
SELF = ("self", P, NONE)
ARGS, KWARGS = ("args", A, NONE), ("kwargs", K, NONE)
VARIABLE = "E3_EVENT_HANDLERS"
VAR_NAME = ("var_name", P, VARIABLE)

SIGNATURES = {
    "unique_id": [],
    "send_event": [("event", P, NONE)],
    "send_event_from_file": [("filename", P, NONE)],
    "add_handler": [("name", P, NONE), ARGS, KWARGS],
    "load_handlers_from_env": [VAR_NAME],
    "handler_config_as_env": [VAR_NAME],
    "Event": [("name", P, NONE), ("uid", P, None), KWARGS],
    "Event.set_formatter": [SELF, ("key", P, NONE), ("fun", P, NONE)],
    "Event.__setattr__": [SELF, ("name", P, NONE), ("value", P, NONE)],
    "Event.__getattr__": [SELF, ("name", P, NONE)],
    "Event.get_attachments": [SELF],
    "Event.attach_file": [SELF, ("path", P, NONE), ("name", P, "log")],
    "Event.close": [SELF],
    "Event.format_date": [("key", P, NONE), ("value", P, NONE)],
    "Event.as_dict": [SELF],
    "Event.dump": [SELF, ("event_dir", P, NONE)],
    "Event.load": [("json_filename", P, NONE)],
    "EventHandler.send_event": [SELF, ("event", P, NONE)],
    "EventHandler.decode_config": [("_config_str", P, NONE)],
    "EventHandler.encode_config": [SELF],
    "EventError": [("message", P, NONE), ("origin", P, None)],
    "EventManager": [],
    "EventManager.send_event": [SELF, ("event", P, NONE)],
    "EventManager.send_event_from_file": [SELF, ("filename", P, NONE)],
    "EventManager.get_handler": [SELF, ("name", P, NONE)],
    "EventManager.add_handler": [SELF, ("name", P, NONE), ARGS, KWARGS],
    "EventManager.load_handlers_from_env": [SELF, VAR_NAME],
    "EventManager.handler_config_as_env": [SELF, VAR_NAME],
}

RETURNS = {
    "unique_id": "str",
    "send_event": "bool",
    "send_event_from_file": "bool",
    "add_handler": "None",
    "load_handlers_from_env": "None",
    "handler_config_as_env": "None",
    "Event.as_dict": "dict[str, Any]",
    "Event.dump": "str",
    "Event.get_attachments": "dict[str, tuple[str, str]]",
    "EventHandler.send_event": "bool",
    "EventHandler.decode_config": "dict[str, Any]",
    "EventHandler.encode_config": "str",
    "EventManager.send_event": "bool",
    "EventManager.send_event_from_file": "bool",
    "EventManager.add_handler": "None",
    "EventManager.load_handlers_from_env": "None",
    "EventManager.handler_config_as_env": "None",
}


def named(path):
    found = event
    for part in path.split("."):
        found = getattr(found, part)
    return found


def test_public_names_are_exactly_those_listed():
    assert set(event.__all__) == NAMES | FURTHER
    assert len(event.__all__) == len(set(event.__all__))


@pytest.mark.parametrize("name", sorted(NAMES | FURTHER))
def test_every_public_name_can_be_imported(name):
    scope = {}
    exec(f"from event import {name} as one", scope)
    exec("from event import *", scope)
    assert scope["one"] is scope[name] is getattr(event, name)


@pytest.mark.parametrize("path", SIGNATURES)
def test_parameters_have_the_names_kinds_and_defaults_of_e3(path):
    parameters = list(inspect.signature(named(path)).parameters.values())
    # A further parameter is keyword-only with a default.
    further = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    assert all(p.default is not p.empty for p in further)
    assert [(p.name, p.kind, p.default) for p in parameters if p not in further] == SIGNATURES[path]


def test_table_has_every_public_method():
    public = {
        f"{owner}.{name}"
        for owner in ("Event", "EventHandler", "EventManager")
        for name in vars(getattr(event, owner))
        if not name.startswith("_")
    }
    assert public - set(SIGNATURES) == {
        f"EventManager.{name}" for name in ("dispatch", "load_handlers_from_config", "send_event_async", "use_outbox")
    }


@pytest.mark.parametrize("path", RETURNS)
def test_return_annotations_are_those_of_the_table(path):
    assert inspect.signature(named(path)).return_annotation == RETURNS[path]


@pytest.mark.parametrize("path", [path for path, parameters in SIGNATURES.items() if KWARGS in parameters])
def test_keyword_arguments_are_of_any_type(path):
    assert inspect.signature(named(path)).parameters["kwargs"].annotation == "Any"


def test_load_and_decode_config_are_class_methods():
    assert event.Event.load.__self__ is event.Event
    assert event.EventHandler.decode_config.__self__ is event.EventHandler


def test_a_handler_without_send_event_cannot_be_constructed():
    with pytest.raises(TypeError, match="send_event"):
        type("Incomplete", (event.EventHandler,), {})()


def test_handler_has_no_configuration_by_default():
    class Handler(event.EventHandler):
        def send_event(self, event):
            return True

    assert Handler.decode_config("anything") == {}
    assert Handler().encode_config() == ""


def test_errors_are_related_and_have_the_public_module_name():
    assert issubclass(event.EventError, E3Error)
    assert event.EventError.__module__ == "event"
    assert f"{event.EventError.__module__}.{event.EventError.__qualname__}".encode() in pickle.dumps(
        event.EventError("a"), protocol=2
    ).replace(b"\n", b".")


def test_source_of_public_classes_can_be_inspected():
    for name in ("Event", "EventHandler", "EventManager", "Outcome", "Delivery"):
        assert f"class {name}" in inspect.getsource(getattr(event, name))


def test_the_logger_is_logging_s_own():
    assert event.logger is logging.getLogger("event")
    assert event.logger.name == "event"


def test_missing_name_is_an_attribute_error_with_the_name():
    with pytest.raises(AttributeError, match="module 'event' has no attribute 'loger'"):
        _ = event.loger
    with pytest.raises(ImportError, match="loger"):
        exec("from event import loger")


def test_dir_lists_every_public_name():
    assert set(event.__all__) <= set(dir(event))


class Stub:
    """Manager that only records its calls."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        def method(*args, **kwargs):
            self.calls.append((name, args, kwargs))
            return f"result of {name}"

        return method


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        pytest.param(lambda: event.send_event("e"), ("send_event", ("e",), {}), id="send_event"),
        pytest.param(lambda: event.send_event_from_file("f"), ("send_event_from_file", ("f",), {}), id="from_file"),
        pytest.param(lambda: event.add_handler("n", 1, b=2), ("add_handler", ("n", 1), {"b": 2}), id="add_handler"),
        pytest.param(lambda: event.load_handlers_from_env(), ("load_handlers_from_env", (VARIABLE,), {}), id="load"),
        pytest.param(lambda: event.load_handlers_from_env("V"), ("load_handlers_from_env", ("V",), {}), id="load V"),
        pytest.param(lambda: event.handler_config_as_env(), ("handler_config_as_env", (VARIABLE,), {}), id="write"),
        pytest.param(lambda: event.handler_config_as_env("V"), ("handler_config_as_env", ("V",), {}), id="write V"),
    ],
)
def test_functions_look_up_the_default_manager_when_called(monkeypatch, call, expected):
    stub = Stub()
    monkeypatch.setattr(event, "default_manager", stub)
    result = call()
    assert stub.calls == [expected]
    assert result == (f"result of {expected[0]}" if expected[0].startswith("send") else None)


def test_the_default_manager_is_a_manager_without_handlers():
    script = "import event; print(type(event.default_manager) is event.EventManager, event.default_manager.handlers)"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["True", "{}"]
