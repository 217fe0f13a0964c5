"""Each library uses its own built-in handlers, and plugins work with both libraries."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys

import e3.event
import pytest
from e3.event.handler.file import FileHandler as E3FileHandler
from e3.event.handler.logging import LoggingHandler as E3LoggingHandler

import event
from event.handler.file import FileHandler
from event.handler.logging import LoggingHandler
from helpers.plugins import E3_GROUP, OWN_GROUP, Site

NAMES = ("file", "logging", "smtp", "s3")

# A plugin that was written for e3-core
E3_PLUGIN = """
import e3.error
import e3.event


class Handler(e3.event.EventHandler):
    def __init__(self, where, level=1):
        self.where = where
        self.level = level

    def send_event(self, event):
        if self.where == "nowhere":
            raise e3.error.E3Error("no such place", origin="acme")
        with open(self.where, "a") as file:
            file.write(f"{event.name} {event.as_dict()['target']} {len(event.get_attachments())}\\n")
        return True

    @classmethod
    def decode_config(cls, config_str):
        where, _, level = config_str.partition(",")
        return {"where": where, "level": int(level)}

    def encode_config(self):
        return f"{self.where},{self.level}"
"""
EVENT_PLUGIN = (
    E3_PLUGIN.replace("e3.event", "event")
    .replace("e3.error.E3Error", "event.EventError")
    .replace("import e3.error\n", "")
)


@pytest.fixture
def site(tmp_path, monkeypatch):
    return Site(tmp_path / "site", monkeypatch)


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "build.log"
    path.write_text("compiled\n")
    return str(path)


@pytest.mark.parametrize("name", NAMES)
def test_each_library_finds_its_own_built_in_handlers(e3_manager, name):
    assert e3_manager.get_handler(name).__module__ == f"e3.event.handler.{name}"
    assert event.EventManager().get_handler(name).__module__ == f"event.handler.{name}"


@pytest.mark.parametrize("first", ["event", "e3.event"])
def test_e3_works_with_either_import_order(tmp_path, first):
    script = f"""
import {first}
import e3.event, event
with e3.event.Event("compile") as e:
    pass
manager = e3.event.EventManager()
for name in {NAMES!r}:
    assert manager.get_handler(name).__module__.startswith("e3.")
manager.add_handler("file", {str(tmp_path / "out")!r})
assert manager.send_event(e)
assert e3.event.EventError is not event.EventError
assert e3.event.Event is not event.Event
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    assert len(list((tmp_path / "out").glob("compile-*.json"))) == 1


def test_no_entry_point_is_declared_in_the_group_of_e3():
    from importlib.metadata import entry_points

    assert {p.dist.name for p in entry_points(group=E3_GROUP)} == {"e3-core"}
    assert {p.dist.name for p in entry_points(group=OWN_GROUP)} == {"e3-event"}


LIBRARIES = [pytest.param(event, id="event"), pytest.param(e3.event, id="e3")]


# Runs in its own process, because stevedore caches the list of plugins.
SCRIPT = """
import os, sys
import {module} as event
where, log, dumps = sys.argv[1:]
manager = event.EventManager()
manager.load_handlers_from_env()
assert (manager.handlers["acme"].where, manager.handlers["acme"].level) == (where, 7)
with event.Event("compile", target="arm") as e:
    e.attach_file(log)
assert manager.send_event(e)
assert manager.send_event_from_file(e.dump(dumps))
manager.add_handler("acme", where, level=8)
assert manager.send_event(e)
manager.handler_config_as_env()
print(os.environ["E3_EVENT_HANDLERS"])
"""


@pytest.mark.parametrize("module", ["event", "e3.event"])
@pytest.mark.parametrize(
    "source", [pytest.param(E3_PLUGIN, id="written for e3"), pytest.param(EVENT_PLUGIN, id="written for event")]
)
def test_plugin_works_with_both_libraries(site, tmp_path, log, module, source):
    site.plugin("acme", source)
    where = tmp_path / "events"
    environment = {**os.environ, "PYTHONPATH": site.directory, "E3_EVENT_HANDLERS": f"acme={where},7"}
    script = SCRIPT.format(module=module)
    done = subprocess.run(
        [sys.executable, "-c", script, where, log, tmp_path / "dumps"],
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert where.read_text() == "compile arm 1\n" * 3
    assert done.stdout.strip() == f"acme={where},8"


def test_plugin_need_not_derive_from_event_handler(site):
    site.plugin("acme", E3_PLUGIN)
    found = event.EventManager().get_handler("acme")
    assert issubclass(found, e3.event.EventHandler)
    assert not issubclass(found, event.EventHandler)


def test_e3_error_of_a_plugin_is_a_failure_with_its_reason(site, caplog):
    site.plugin("acme", E3_PLUGIN)
    event.add_handler("acme", "nowhere")
    assert event.send_event(event.Event("compile", target="arm")) is False
    assert "handler acme failed" in caplog.text
    assert "no such place" in caplog.text
    (delivery,) = event.default_manager.dispatch(event.Event("compile", target="arm"))
    assert str(delivery) == "acme: not delivered: no such place"


def test_plugin_cannot_replace_a_built_in_handler(site):
    site.plugin("file", E3_PLUGIN)
    assert event.EventManager().get_handler("file") is FileHandler


def written_files(directory):
    """Return path -> content of the files of a file handler. The paths lack the random part of the JSON file's name."""
    found = {}
    for folder, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(folder, name)
            with open(path, encoding="utf-8") as file:
                key = os.path.relpath(path, directory)
                found[key[:-42] if name.endswith(".json") else key] = file.read()
    return found


@pytest.mark.parametrize("sender", LIBRARIES)
@pytest.mark.parametrize("creator", LIBRARIES)
def test_file_handlers_of_both_libraries_write_the_same(tmp_path, log, sender, creator):
    with creator.Event("compile", uid="1", begin_time=1.5, target="arm", flags=["-O2", None], count=1) as e:
        e.attach_file(log, "log")
        e.attach_file(log, "again.txt")
    manager = sender.EventManager()
    manager.handlers["event"] = FileHandler(str(tmp_path / "event"))
    manager.handlers["e3"] = E3FileHandler(str(tmp_path / "e3"))
    assert manager.send_event(e)
    files = written_files(tmp_path / "event")
    assert set(files) == {"compile-1", os.path.join("compile-1", "log"), os.path.join("compile-1", "again.txt")}
    assert json.loads(files["compile-1"])["begin_time"] == "1970-01-01T00:00:01"
    assert files == written_files(tmp_path / "e3")


@pytest.mark.parametrize("creator", LIBRARIES)
def test_logging_handlers_log_the_same_to_different_loggers(caplog, creator):
    caplog.set_level(logging.DEBUG)
    e = creator.Event("compile", uid="1", target="arm")
    LoggingHandler("builds", 20).send_event(e)
    E3LoggingHandler("builds", 20).send_event(e)
    record, e3_record = caplog.records
    assert (record.name, e3_record.name) == ("builds", "e3.builds")
    assert record.levelno == e3_record.levelno == 20
    assert json.loads(record.getMessage()) == json.loads(e3_record.getMessage()) == e.as_dict()
    assert record.event is e
