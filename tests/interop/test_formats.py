"""Each library reads the dumps and the E3_EVENT_HANDLERS of the other."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import e3.event
import pytest

import event

VARIABLE = "E3_EVENT_HANDLERS"
EACH = [pytest.param(event, e3.event, id="from event to e3"), pytest.param(e3.event, event, id="from e3 to event")]


@pytest.mark.parametrize(("writer", "reader"), EACH)
@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize(
    "data",
    [
        pytest.param({}, id="no data"),
        pytest.param({"target": "arm", "count": 1, "ok": True, "none": None, "ratio": 0.5}, id="scalars"),
        pytest.param({"nested": {"a": [1, {"b": "c"}]}, "list": []}, id="nested"),
        pytest.param({"text": 'é \u2028 \U0001f600 " \\ \n \0'}, id="any text"),
        pytest.param({"uid": "my-uid", "begin_time": 1.5}, id="own uid and begin time"),
    ],
)
def test_dump_is_loaded_by_the_other_library(tmp_path, writer, reader, closed, data):
    log = tmp_path / "build.log"
    log.write_text("compiled\n")
    e = writer.Event("compile", **data)
    e.attach_file(str(log))
    e.attach_file(str(log), "copy/of log.txt")
    if closed:
        e.close()
    path = e.dump(str(tmp_path / "dumps"))
    read = reader.Event.load(path)
    assert read.as_dict() == e.as_dict()
    assert list(read.as_dict()) == list(e.as_dict())
    assert {k: tuple(v) for k, v in read.get_attachments().items()} == e.get_attachments()
    assert read._closed is closed
    with open(path, encoding="utf-8") as file:
        first = json.load(file)
    with open(read.dump(str(tmp_path / "dumps")), encoding="utf-8") as file:
        assert json.load(file) == first
    assert list(first) == ["data", "attachments", "closed"]


@pytest.mark.parametrize(("writer", "reader"), EACH)
def test_name_of_a_dump_begins_with_the_uid(tmp_path, writer, reader):
    e = writer.Event("compile", uid="abc")
    name = os.path.basename(e.dump(str(tmp_path)))
    assert name.startswith("abc-")
    assert len(name) == len("abc-") + 36 + len(".json")


@pytest.mark.parametrize(("writer", "reader"), EACH)
def test_dump_is_sent_by_the_other_library(tmp_path, monkeypatch, writer, reader):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "build.log").write_text("compiled\n")
    with writer.Event("compile", uid="1") as e:
        e.attach_file("build.log")
    manager = reader.EventManager()
    manager.add_handler("file", "out")
    assert manager.send_event_from_file(e.dump("dumps")) is True
    assert (tmp_path / "out" / "compile-1" / "log").read_text() == "compiled\n"


ATTRIBUTES = {
    "file": ("log_dir",),
    "logging": ("logger_name", "level"),
    "smtp": ("default_subject", "from_addr", "to_addr", "smtp_servers"),
    "s3": ("event_s3_url", "log_s3_url", "sse", "aws_profile"),
}
CONFIGS = [  # name, arguments, configuration
    ("file", ("events",), "events"),
    ("file", ("/var/log/a b",), "/var/log/a b"),
    ("file", ("C:\\events",), "C:\\events"),
    ("file", ("a,b,,c",), "a,b,,c"),
    ("file", ("a=b",), "a=b"),
    ("file", ("100%",), "100%"),
    ("file", ("a%20b%2",), "a%20b%2"),
    ("file", ("é",), "é"),
    ("logging", (), ",10"),
    ("logging", ("builds",), "builds,10"),
    ("logging", ("builds.arm", 20), "builds.arm,20"),
    ("logging", ("100%", 5), "100%,5"),
    ("smtp", ("done", "a@x.org", "b@x.org", "mail.x.org"), "done,a@x.org,b@x.org,mail.x.org"),
    ("smtp", ("done", "a@x.org", "b@x.org", ["one", "two", "three"]), "done,a@x.org,b@x.org,one,two,three"),
    ("smtp", ("100% %(status)s = ok", "a@x.org", "b@x.org", ["one"]), "100% %(status)s = ok,a@x.org,b@x.org,one"),
    ("s3", ("s3://a/b", "s3://c"), "s3://a/b,s3://c,AES256,"),
    ("s3", ("s3://a", "s3://c", "aws:kms", "ci"), "s3://a,s3://c,aws:kms,ci"),
    ("s3", ("s3://a", "s3://c", "", "50%"), "s3://a,s3://c,,50%"),
    ("s3", ("s3://a/%20", "s3://c", "AES256", None), "s3://a/%20,s3://c,AES256,"),
]


def attributes(handler, name):
    return {attribute: getattr(handler, attribute) for attribute in ATTRIBUTES[name]}


@pytest.mark.parametrize(("writer", "reader"), EACH)
@pytest.mark.parametrize("case", CONFIGS, ids=[f"{name}={config}" for name, _, config in CONFIGS])
def test_configuration_has_the_same_format_in_both_libraries(monkeypatch, writer, reader, case):
    name, arguments, config = case
    monkeypatch.setenv(VARIABLE, "")
    one, other = writer.EventManager(), reader.EventManager()
    one.add_handler(name, *arguments)
    one.handler_config_as_env()
    assert os.environ[VARIABLE] == f"{name}={config}"
    other.load_handlers_from_env()
    assert list(other.handlers) == [name]
    assert attributes(other.handlers[name], name) == attributes(one.handlers[name], name)


@pytest.mark.parametrize(("writer", "reader"), EACH)
def test_several_handlers_round_trip_between_the_libraries(monkeypatch, writer, reader):
    monkeypatch.setenv(VARIABLE, "")
    one, other = writer.EventManager(), reader.EventManager()
    first = {name: (arguments, config) for name, arguments, config in reversed(CONFIGS)}
    for name, (arguments, _) in first.items():
        one.add_handler(name, *arguments)
    one.handler_config_as_env()
    assert os.environ[VARIABLE] == "|".join(f"{name}={config}" for name, (_, config) in first.items())
    other.load_handlers_from_env()
    assert list(other.handlers) == list(first)
    assert [attributes(h, n) for n, h in other.handlers.items()] == [attributes(h, n) for n, h in one.handlers.items()]


@pytest.mark.parametrize(("parent", "child"), [("event", "e3.event"), ("e3.event", "event")])
def test_environment_of_one_library_is_read_by_the_other(tmp_path, monkeypatch, parent, child):
    monkeypatch.setenv(VARIABLE, "")
    manager = sys.modules[parent].EventManager()
    manager.add_handler("file", str(tmp_path / "a, 50%"))
    manager.handler_config_as_env()
    script = f"import {child} as event; event.load_handlers_from_env(); assert event.send_event(event.Event('compile'))"
    subprocess.run([sys.executable, "-c", script], check=True)
    assert len(list((tmp_path / "a, 50%").glob("compile-*.json"))) == 1


def test_e3_reads_a_value_that_it_cannot_write_in_percent_encoded_form(monkeypatch):
    monkeypatch.setenv(VARIABLE, "")
    manager = event.EventManager()
    manager.add_handler("file", "a|b")
    manager.handler_config_as_env()
    e3_manager = e3.event.EventManager()
    e3_manager.load_handlers_from_env()
    assert e3_manager.handlers["file"].log_dir == "a%7Cb"
