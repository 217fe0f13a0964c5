"""The logging handler: its records, levels and configuration."""

from __future__ import annotations

import json
import logging
import os
import pathlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import event
from event import Event, EventError
from event.handler.logging import LoggingHandler

UNTIMED = settings(deadline=None)


class Unwritable(Event):
    def as_dict(self):
        raise AssertionError("as_dict was called for a disabled level")


@pytest.fixture
def audit():
    logging.addLevelName(35, "Audit")
    yield 35
    logging._levelToName.pop(35)
    logging._nameToLevel.pop("Audit")


@pytest.mark.parametrize("name", ["", "builds", "builds.arm"])
@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO, 25, logging.CRITICAL])
def test_event_is_one_record_with_the_configured_level_and_logger(caplog, name, level):
    caplog.set_level(logging.DEBUG)
    e = Event("compile", "u", zebra=1, apple="100% {done} %s", path=pathlib.PurePosixPath("a/b"))
    assert LoggingHandler(name, level).send_event(e) is True
    (record,) = caplog.records
    assert (record.name, record.levelno) == (name or "root", level)
    assert record.event is e
    assert record.getMessage() == json.dumps({**e.as_dict(), "path": "a/b"}, indent=2)


def test_default_is_the_root_logger_at_debug(caplog):
    caplog.set_level(logging.DEBUG)
    handler = LoggingHandler()
    assert (handler.logger_name, handler.level, handler.log) == ("", logging.DEBUG, logging.getLogger())
    handler.send_event(Event("a"))
    assert [record.levelname for record in caplog.records] == ["DEBUG"]


def test_attributes_are_those_of_e3():
    handler = LoggingHandler(logger_name="builds", level=logging.INFO)
    assert (handler.logger_name, handler.level, handler.log) == ("builds", 20, logging.getLogger("builds"))


def test_event_is_not_encoded_if_its_level_is_disabled(caplog):
    caplog.set_level(logging.WARNING, "builds")
    assert LoggingHandler("builds", logging.INFO).send_event(Unwritable("a")) is True
    assert caplog.records == []
    with pytest.raises(AssertionError):
        LoggingHandler("builds", logging.WARNING).send_event(Unwritable("a"))


def test_circular_data_is_an_error_with_the_key(caplog):
    caplog.set_level(logging.DEBUG)
    e = Event("a", outer=[])
    e.outer.append(e.outer)
    with pytest.raises(EventError, match="'outer'"):
        LoggingHandler().send_event(e)
    assert caplog.records == []


@pytest.mark.parametrize(
    ("level", "number"),
    [
        pytest.param("INFO", 20, id="name"),
        pytest.param("warning", 30, id="name in lower case"),
        pytest.param("15", 15, id="number in a string"),
        pytest.param(15, 15, id="number"),
    ],
)
def test_level_is_a_number_or_a_name(level, number):
    assert LoggingHandler("", level).level == number
    assert LoggingHandler.decode_config(f",{level}") == {"logger_name": "", "level": number}


@pytest.mark.parametrize("name", ["Audit", "35"])
def test_level_added_by_the_program_is_accepted_by_name(audit, name):
    assert LoggingHandler("", name).level == audit
    assert LoggingHandler.decode_config(f"x,{name}")["level"] == audit


@pytest.mark.parametrize("level", ["LOUD", "", "Level 5", "1.5", None, float("inf"), []])
def test_invalid_level_is_an_error_with_what_is_expected(level):
    with pytest.raises(EventError, match="expected logging=LOGGER_NAME,LEVEL"):
        LoggingHandler("", level)


@pytest.mark.parametrize(
    ("config", "arguments"),
    [
        pytest.param("", {"logger_name": ""}, id="empty"),
        pytest.param("builds", {"logger_name": "builds"}, id="no level"),
        pytest.param("builds,", {"logger_name": "builds"}, id="an empty level"),
        pytest.param("builds,20", {"logger_name": "builds", "level": 20}, id="as e3 writes it"),
        pytest.param(",10", {"logger_name": "", "level": 10}, id="as e3 writes the defaults"),
        pytest.param("a%2Cb, info ", {"logger_name": "a,b", "level": 20}, id="a comma in the name"),
    ],
)
def test_configuration_is_parsed(config, arguments):
    assert LoggingHandler.decode_config(config) == arguments


@pytest.mark.parametrize("config", ["a,b,c", "a,10,", "a,loud"])
def test_invalid_configuration_is_an_error_with_what_is_expected(config):
    with pytest.raises(EventError, match="expected logging=LOGGER_NAME,LEVEL"):
        LoggingHandler.decode_config(config)


def test_configuration_is_encoded_as_in_e3():
    assert LoggingHandler().encode_config() == ",10"
    assert LoggingHandler("builds", "INFO").encode_config() == "builds,20"
    assert LoggingHandler("100%", 5).encode_config() == "100%,5"


@UNTIMED
@given(st.text() | st.text(st.sampled_from("%257Cc2|,=")), st.integers(0, 1000))
def test_configuration_round_trips(name, level):
    config = LoggingHandler(name, level).encode_config()
    assert "|" not in config
    decoded = LoggingHandler(**LoggingHandler.decode_config(config))
    assert (decoded.logger_name, decoded.level) == (name, level)


def test_handler_name_without_configuration_uses_the_defaults(monkeypatch):
    monkeypatch.setenv("E3_EVENT_HANDLERS", "logging")
    event.load_handlers_from_env()
    handler = event.default_manager.handlers["logging"]
    assert (handler.logger_name, handler.level) == ("", logging.DEBUG)
    event.handler_config_as_env()
    assert os.environ["E3_EVENT_HANDLERS"] == "logging=,10"


def test_lone_surrogate_is_logged_as_encodable_text(caplog):
    caplog.set_level(logging.DEBUG)
    assert LoggingHandler("builds").send_event(event.Event("compile", file="caf\udce9.c"))
    assert r"caf\\udce9.c" in caplog.messages[0]


def test_record_passes_the_filters_of_its_logger(caplog):
    caplog.set_level(logging.DEBUG)
    logger = logging.getLogger("builds")
    handler = LoggingHandler("builds", "INFO")
    logger.addFilter(refuse := lambda record: False)
    try:
        assert handler.send_event(event.Event("compile"))
        assert caplog.records == []
    finally:
        logger.removeFilter(refuse)
    assert handler.send_event(event.Event("compile"))
    (record,) = caplog.records
    assert (record.name, record.levelno, record.funcName) == ("builds", logging.INFO, "send_event")
