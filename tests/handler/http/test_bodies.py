"""The posted bodies: CloudEvents and JSON."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta, timezone
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from standardwebhooks import Webhook

import event
from event._formats import cloudevents
from event.handler.http import HTTPHandler
from helpers.events import closed_event
from helpers.webhooks import SECRET, only_json_body, parse_cloudevent

# CloudEvents


def test_cloudevents_sdk_parses_the_posted_event(server, tmp_path):
    log = tmp_path / "build.log"
    log.write_bytes(b"done\n")
    with event.Event("compile", uid="42", target="arm", begin_time=1.75, end_time=None) as made:
        made.attach_file(log)
    assert HTTPHandler(server.url).send_event(made)
    got = parse_cloudevent(server.requests[0])
    assert (got.get_specversion(), got.get_source(), got.get_type(), got.get_subject()) == (
        "1.0",
        "/e3-event",
        "e3.event.compile",
        "42",
    )
    assert got.get_id() == server.requests[0].headers["webhook-id"]
    assert got.get_time().isoformat() == made.as_dict()["end_time"] + "+00:00"
    listed = {"name": "log", "size": 5, "sha1": "7907f662aaf128f6b9ac688863857008a89df19c"}
    assert got.get_data() == {**made.as_dict(), "attachments": [listed]}


def test_content_type_is_structured_json(server):
    assert HTTPHandler(server.url).send_event(event.Event("compile"))
    assert server.requests[0].headers["content-type"] == "application/cloudevents+json"


def test_source_and_type_are_configurable(server):
    handler = HTTPHandler(server.url, source="https://ci.example.com/farm", type="com.example.{name}.done")
    assert handler.send_event(event.Event("compile"))
    got = parse_cloudevent(server.requests[0])
    assert (got.get_source(), got.get_type()) == ("https://ci.example.com/farm", "com.example.compile.done")


@pytest.mark.parametrize(
    ("host", "source"),
    [
        pytest.param("build-07.example.com", "/e3-event/build-07.example.com", id="name"),
        pytest.param("Jane's box", "/e3-event/Jane-s-box", id="special-characters"),
        pytest.param("", "/e3-event", id="empty"),
        pytest.param(["a"], "/e3-event", id="not-a-string"),
    ],
)
def test_source_has_the_host_from_the_data(server, host, source):
    assert HTTPHandler(server.url).send_event(event.Event("compile", host=host))
    assert only_json_body(server)["source"] == source
    assert urlsplit(source).geturl() == source


NOON = datetime(2026, 1, 31, 12, 0, 0)  # noqa: DTZ001  # without a time zone


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(1769860800.9, "2026-01-31T12:00:00Z", id="float"),
        pytest.param(1769860800, "2026-01-31T12:00:00Z", id="int"),
        pytest.param("2026-01-31T12:00:00", "2026-01-31T12:00:00Z", id="as-dumped"),
        pytest.param("2026-01-31 12:00:00.5+02:00", "2026-01-31T12:00:00.5+02:00", id="zone"),
        pytest.param("2026-01-31t12:00:00z", "2026-01-31T12:00:00Z", id="lower-case"),
        pytest.param(NOON, "2026-01-31T12:00:00Z", id="naive-datetime"),
        pytest.param(NOON.replace(tzinfo=timezone(timedelta(hours=2))), "2026-01-31T12:00:00+02:00", id="datetime"),
        pytest.param("yesterday", None, id="words"),
        pytest.param("2026-02-31T12:00:00", None, id="no-such-day"),
        pytest.param(10**30, None, id="too-large"),
        pytest.param(float("nan"), None, id="nan"),
        pytest.param(True, None, id="bool"),
    ],
)
def test_time_is_rfc_3339_or_omitted(value, expected):
    made = event.Event("compile", begin_time=None, end_time=value)
    made.set_formatter("end_time", lambda key, value: {key: value})
    assert json.loads(cloudevents.as_cloudevent(made, "1")).get("time") == expected
    if expected and isinstance(value, float):
        made.set_formatter("end_time", made.format_date)
        assert json.loads(cloudevents.as_cloudevent(made, "1"))["time"] == expected


def test_open_event_has_its_begin_time(server):
    assert HTTPHandler(server.url).send_event(event.Event("compile", begin_time=0.0))
    assert only_json_body(server)["time"] == "1970-01-01T00:00:00Z"


def test_attributes_contain_no_control_characters(server):
    assert HTTPHandler(server.url).send_event(event.Event("com\npile", uid="4\x002\ud800"))
    got = only_json_body(server)
    assert (got["type"], got["subject"]) == ("e3.event.com pile", "4 2?")


@pytest.mark.parametrize("uid", [pytest.param("", id="empty"), pytest.param(" \n", id="blank")])
def test_event_without_a_uid_has_no_subject(server, uid):
    assert HTTPHandler(server.url).send_event(event.Event("compile", uid=uid))
    assert "subject" not in only_json_body(server)


def test_missing_attachment_is_listed_without_size(server, tmp_path):
    log = tmp_path / "build.log"
    log.write_bytes(b"")
    made = event.Event("compile")
    made.attach_file(log)
    log.unlink()
    assert HTTPHandler(server.url).send_event(made)
    assert [item["size"] for item in only_json_body(server)["data"]["attachments"]] == [None]


def test_attachments_key_of_the_data_is_kept_next_to_the_list(server, tmp_path):
    log = tmp_path / "build.log"
    log.write_bytes(b"")
    made = event.Event("compile", attachments="three")
    made.attach_file(log)
    assert HTTPHandler(server.url).send_event(made)
    data = only_json_body(server)["data"]
    assert data["attachments"] == "three"
    assert [item["name"] for item in data["_attachments"]] == ["log"]


# JSON


def test_json_body_is_the_data_of_the_event(server, tmp_path):
    made = closed_event(flags={"b", "a"}, place=tmp_path)
    assert HTTPHandler(server.url, "json").send_event(made)
    assert only_json_body(server) == {**made.as_dict(), "flags": ["a", "b"], "place": str(tmp_path)}
    assert server.requests[0].headers["content-type"] == "application/json"


# All formats


@pytest.mark.parametrize("kind", ["cloudevents", "cdevents", "json"])
def test_circular_data_is_refused_before_posting(server, kind):
    made = event.Event("compile", loop=[])
    made.loop.append(made.loop)
    with pytest.raises(event.EventError, match=r"loop' contains itself"):
        HTTPHandler(server.url, kind).send_event(made)
    assert server.requests == []


@pytest.mark.parametrize("kind", ["cloudevents", "cdevents", "json"])
def test_undecodable_text_is_valid_json_in_utf_8(server, kind):
    assert HTTPHandler(server.url, kind).send_event(event.Event("compile", file="caf\udce9.c"))
    assert json.dumps(only_json_body(server), ensure_ascii=False).encode()  # fails with a lone surrogate
    assert r"caf\\udce9.c" in server.requests[0].body.decode()


# The examples in the documentation

PAGE = Path(__file__).parents[3] / "docs/reference/handlers/http.md"


def test_documentation_shows_the_posted_bodies(monkeypatch, tmp_path, server):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "build.txt").write_bytes(b"done\n")
    monkeypatch.setenv("BUILD_HOOK", server.url)
    monkeypatch.setenv("BUILD_HOOK_SECRET", SECRET)
    text = PAGE.read_text("utf-8")
    example = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    cloudevent, cdevent = (json.loads(shown) for shown in re.findall(r"```json\n(.*?)```", text, re.DOTALL))
    made = {}
    exec(example, made)
    (request,) = server.requests
    Webhook(SECRET).verify(request.body, request.headers)
    posted = json.loads(request.body)
    e = made["e"].as_dict()
    cloudevent.update({"id": posted["id"], "time": e["end_time"] + "Z"})
    cloudevent["data"].update({name: e[name] for name in ("begin_time", "end_time")})
    assert posted == cloudevent
    assert [*posted] == [*cloudevent]
    HTTPHandler(server.url, "cdevents").send_event(made["e"])
    posted = json.loads(server.requests[-1].body)["data"]
    cdevent["context"].update({"id": posted["context"]["id"], "timestamp": e["end_time"] + "Z"})
    cdevent["customData"] = posted["customData"]
    assert posted == cdevent


def test_receiver_of_the_documentation_works(server):
    receiver = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)[1]
    names = {"SECRET": SECRET}
    exec(receiver, names)
    HTTPHandler(server.url, "json", SECRET).send_event(event.Event("compile"))
    (request,) = server.requests
    assert names["receive"](request.body, request.headers)["name"] == "compile"
