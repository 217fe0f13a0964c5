"""The http handler with real HTTP servers, and servers that misbehave."""

from __future__ import annotations

import base64
import copy
import itertools
import json
import logging
import os
import pickle
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path
from urllib.parse import urlsplit

import jsonschema
import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_http_event
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

import event
from event._formats import cloudevents
from event._net.http import Target
from event._outbox import Outbox
from event.handler.http import HTTPHandler
from helpers.attributes import public_attributes
from helpers.delivering import deliver
from servers.http import Answer, http_server
from servers.raw import raw_server
from servers.tls import Authority

PAGE = Path(__file__).parents[2] / "docs/reference/handlers/http.md"
SECRET = "whsec_" + base64.b64encode(b"the key of the tests, 32 bytes..").decode()
OTHER_SECRET = "whsec_" + base64.b64encode(b"another key of the tests").decode()
TOKEN = "t0ken-0f-the-tests"


@pytest.fixture
def server():
    with http_server() as running:
        yield running


def finished(**data):
    made = event.Event("compile", **data)
    made.close()
    return made


def the_json(server):
    (request,) = server.requests
    return json.loads(request.body)


def received(request):
    """Return the CloudEvent that the SDK reads from a request."""
    return from_http_event(HTTPMessage(headers=request.headers, body=request.body))


# CloudEvents


def test_the_cloudevents_sdk_receives_what_was_sent(server, tmp_path):
    log = tmp_path / "build.log"
    log.write_bytes(b"done\n")
    with event.Event("compile", uid="42", target="arm", begin_time=1.75, end_time=None) as made:
        made.attach_file(log)
    assert HTTPHandler(server.url).send_event(made)
    got = received(server.requests[0])
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
    got = received(server.requests[0])
    assert (got.get_source(), got.get_type()) == ("https://ci.example.com/farm", "com.example.compile.done")


@pytest.mark.parametrize(
    ("host", "source"),
    [
        pytest.param("build-07.example.com", "/e3-event/build-07.example.com", id="name"),
        pytest.param("Jane's box", "/e3-event/Jane-s-box", id="odd"),
        pytest.param("", "/e3-event", id="empty"),
        pytest.param(["a"], "/e3-event", id="not-a-string"),
    ],
)
def test_source_has_the_host_from_the_data(server, host, source):
    assert HTTPHandler(server.url).send_event(event.Event("compile", host=host))
    assert the_json(server)["source"] == source
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
    assert the_json(server)["time"] == "1970-01-01T00:00:00Z"


def test_attributes_hold_no_control_characters(server):
    assert HTTPHandler(server.url).send_event(event.Event("com\npile", uid="4\x002\ud800"))
    got = the_json(server)
    assert (got["type"], got["subject"]) == ("e3.event.com pile", "4 2?")


@pytest.mark.parametrize("uid", [pytest.param("", id="empty"), pytest.param(" \n", id="blank")])
def test_an_event_without_a_uid_has_no_subject(server, uid):
    assert HTTPHandler(server.url).send_event(event.Event("compile", uid=uid))
    assert "subject" not in the_json(server)


def test_missing_attachment_is_listed_without_size(server, tmp_path):
    log = tmp_path / "build.log"
    log.write_bytes(b"")
    made = event.Event("compile")
    made.attach_file(log)
    log.unlink()
    assert HTTPHandler(server.url).send_event(made)
    assert [item["size"] for item in the_json(server)["data"]["attachments"]] == [None]


def test_attachments_key_of_the_data_is_kept_next_to_the_list(server, tmp_path):
    log = tmp_path / "build.log"
    log.write_bytes(b"")
    made = event.Event("compile", attachments="three")
    made.attach_file(log)
    assert HTTPHandler(server.url).send_event(made)
    data = the_json(server)["data"]
    assert data["attachments"] == "three"
    assert [item["name"] for item in data["_attachments"]] == ["log"]


# JSON


def test_json_is_the_events_data(server, tmp_path):
    made = finished(flags={"b", "a"}, place=tmp_path)
    assert HTTPHandler(server.url, "json").send_event(made)
    assert the_json(server) == {**made.as_dict(), "flags": ["a", "b"], "place": str(tmp_path)}
    assert server.requests[0].headers["content-type"] == "application/json"


@pytest.mark.parametrize("kind", ["cloudevents", "cdevents", "json"])
def test_circular_data_is_refused_before_posting(server, kind):
    made = event.Event("compile", loop=[])
    made.loop.append(made.loop)
    with pytest.raises(event.EventError, match=r"loop' contains itself"):
        HTTPHandler(server.url, kind).send_event(made)
    assert server.requests == []


@pytest.mark.parametrize("kind", ["cloudevents", "cdevents", "json"])
def test_any_file_name_is_valid_for_a_strict_reader(server, kind):
    assert HTTPHandler(server.url, kind).send_event(event.Event("compile", file="caf\udce9.c"))
    assert json.dumps(the_json(server), ensure_ascii=False).encode()  # a lone surrogate has no UTF-8
    assert r"caf\\udce9.c" in server.requests[0].body.decode()


# CDEvents

# The version of the taskrun events in each version of CDEvents.
TASKRUN = {"0.3.0": "0.1.1", "0.4.1": "0.2.0", "0.5.1": "0.3.0"}


def taskrun_schema(version, predicate):
    """Return the JSON schema of an event, as CDEvents publishes it but without links, which the handler never sends.

    Since 0.5, the version is in ``specversion``, the subject has no ``type``, and the URL is in ``uri``. The schema
    requires the task name and the outcome, and lists the outcomes.
    """
    new = version.startswith("0.5")
    text, word = {"type": "string"}, {"type": "string", "minLength": 1}
    kind = f"dev.cdevents.taskrun.{predicate}.{TASKRUN[version]}"
    context = {"specversion" if new else "version": word, "id": word, "source": word, "type": {"enum": [kind]}}
    context["timestamp"] = {"type": "string", "format": "date-time"}
    run = object_schema({"id": word, "source": word}, ["id"])
    content = {"taskName": text, "uri" if new else "url": text, "pipelineRun": run}
    if predicate == "finished":
        content["outcome"] = {"enum": ["success", "failure", "cancel", "error"] if new else OLD_OUTCOMES}
        content["errors"] = text
    needed = [name for name in ("taskName", "outcome") if new and name in content]
    subject = {"id": word, "source": word, "content": object_schema(content, needed)}
    if not new:
        subject["type"] = {"enum": ["taskRun"]}
    return object_schema(
        {
            "context": object_schema(context, [*context]),
            "subject": object_schema(subject, [name for name in subject if name != "source"]),
            "customData": {"oneOf": [{"type": "object"}, {"type": "string", "contentEncoding": "base64"}]},
            "customDataContentType": text,
        },
        ["context", "subject"],
    )


# The schemas accept any string. The text of the specification lists these.
OLD_OUTCOMES = ["success", "failure", "error"]


def object_schema(properties, required):
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def validated(cdevent, version, predicate):
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    schema = taskrun_schema(version, predicate)
    jsonschema.Draft202012Validator(schema, format_checker=checker).validate(cdevent)
    return cdevent


def cdevent_of(server, version, predicate):
    """Check and return the last CDEvent that the server received in a CloudEvent."""
    got = received(server.requests[-1])
    cdevent = validated(got.get_data(), version, predicate)
    context = cdevent["context"]
    assert context.get("specversion", context.get("version")) == version
    assert (got.get_id(), got.get_source(), got.get_type()) == (context["id"], context["source"], context["type"])
    assert got.get_subject() == cdevent["subject"]["id"]
    assert got.get_time() == datetime.fromisoformat(context["timestamp"].replace("Z", "+00:00"))
    assert got.get_datacontenttype() == "application/cdevents+json"
    return cdevent


@pytest.mark.parametrize("version", TASKRUN)
def test_a_finished_track_is_a_finished_taskrun(server, version):
    event.add_handler("http", server.url, "cdevents", cdevents=version, source="/ci/nightly")
    with pytest.raises(ValueError, match="no such flag"), event.track("compile", uid="42", target="arm"):
        raise ValueError("no such flag")
    cdevent = cdevent_of(server, version, "finished")
    assert cdevent["context"]["source"] == "/ci/nightly"
    assert cdevent["subject"]["id"] == "42"
    assert cdevent["subject"]["content"] == {
        "taskName": "compile",
        "outcome": "failure",
        "errors": "ValueError: no such flag",
    }
    assert cdevent["customData"]["target"] == "arm"


@pytest.mark.parametrize("version", TASKRUN)
def test_an_event_without_end_and_outcome_is_a_started_taskrun(server, version):
    handler = HTTPHandler(server.url, "cdevents", cdevents=version)
    assert handler.send_event(event.Event("compile", uid="42", begin_time=0.0))
    cdevent = cdevent_of(server, version, "started")
    assert cdevent["context"]["timestamp"] == "1970-01-01T00:00:00Z"
    assert cdevent["subject"]["content"] == {"taskName": "compile"}


@pytest.mark.parametrize("version", TASKRUN)
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param({"outcome": "success"}, ("success", None), id="success"),
        pytest.param({"outcome": "success", "exit_code": 1}, ("success", None), id="success-allowed-to-exit-1"),
        pytest.param({}, ("success", None), id="none"),
        pytest.param({"outcome": "failure", "exit_code": 2}, ("failure", "exit_code: 2"), id="exit-code"),
        pytest.param({"outcome": "failure", "signal": "SIGSEGV"}, ("failure", "signal: SIGSEGV"), id="signal"),
        pytest.param({"outcome": "failure", "error": "bad"}, ("failure", "bad"), id="error-as-text"),
        pytest.param({"outcome": "error", "error": {"type": "OSError"}}, ("error", "OSError"), id="error"),
        pytest.param({"outcome": "skipped"}, ("error", "outcome: skipped"), id="unknown"),
        pytest.param({"outcome": None}, ("error", "outcome: None"), id="null"),
    ],
)
def test_outcome_is_a_cdevents_outcome(server, version, data, expected):
    assert HTTPHandler(server.url, "cdevents", cdevents=version).send_event(finished(**data))
    content = cdevent_of(server, version, "finished")["subject"]["content"]
    assert (content["outcome"], content.get("errors")) == expected


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        pytest.param("0.5.1", {"outcome": "cancel"}, id="cancel-is-an-outcome"),
        pytest.param("0.4.1", {"outcome": "error", "errors": "outcome: cancel"}, id="cancel-is-not-an-outcome"),
    ],
)
def test_outcome_cancel_is_an_error_if_cdevents_does_not_list_it(server, version, expected):
    assert HTTPHandler(server.url, "cdevents", cdevents=version).send_event(finished(outcome="cancel"))
    assert cdevent_of(server, version, "finished")["subject"]["content"] == {"taskName": "compile", **expected}


def test_cdevent_of_an_event_without_uid_and_time_is_valid(server):
    made = event.Event("compile", uid="", begin_time=None, end_time="soon")
    assert HTTPHandler(server.url, "cdevents").send_event(made)
    cdevent = cdevent_of(server, "0.5.1", "finished")
    assert cdevent["subject"]["id"] == cdevent["context"]["id"]


def test_an_open_event_with_an_outcome_is_finished(server):
    assert HTTPHandler(server.url, "cdevents").send_event(event.Event("compile", outcome="failure"))
    assert cdevent_of(server, "0.5.1", "finished")["subject"]["content"]["outcome"] == "failure"


def test_invalid_cdevent_is_detected():
    cdevent = json.loads(cloudevents.as_cdevent(finished(), "1"))["data"]
    validated(cdevent, "0.5.1", "finished")
    cdevent["subject"]["content"]["outcome"] = "great"
    with pytest.raises(jsonschema.ValidationError):
        validated(cdevent, "0.5.1", "finished")


# Signatures


def test_standardwebhooks_verifies_the_signature(server):
    made = event.Event("compile", target="ärm")
    assert HTTPHandler(server.url, "json", SECRET).send_event(made)
    (request,) = server.requests
    assert Webhook(SECRET).verify(request.body, request.headers) == made.as_dict()
    with pytest.raises(WebhookVerificationError):
        Webhook(OTHER_SECRET).verify(request.body, request.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(request.body + b" ", request.headers)


def test_two_secrets_make_two_signatures(server):
    assert HTTPHandler(server.url, "json", f"{SECRET} {OTHER_SECRET}").send_event(event.Event("compile"))
    (request,) = server.requests
    Webhook(SECRET).verify(request.body, request.headers)
    Webhook(OTHER_SECRET).verify(request.body, request.headers)


def test_secret_without_prefix_and_padding_is_accepted(server):
    bare = SECRET.removeprefix("whsec_").rstrip("=")
    assert HTTPHandler(server.url, "json", bare).send_event(event.Event("compile"))
    (request,) = server.requests
    Webhook(SECRET).verify(request.body, request.headers)


def test_request_without_a_secret_has_an_id_and_no_signature(server):
    assert HTTPHandler(server.url).send_event(event.Event("compile"))
    headers = server.requests[0].headers
    assert headers["webhook-id"]
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 300
    assert "webhook-signature" not in headers


# Secrets


def test_references_are_resolved_on_send(server, monkeypatch, tmp_path):
    handler = HTTPHandler("env:HOOK", "json", f"file:{tmp_path / 'key'}")
    monkeypatch.setenv("HOOK", f"{server.url}/{TOKEN}")
    (tmp_path / "key").write_text(f"{SECRET}\n")
    assert handler.send_event(event.Event("compile"))
    (request,) = server.requests
    assert request.path == f"/{TOKEN}"
    Webhook(SECRET).verify(request.body, request.headers)


@pytest.mark.parametrize(
    ("url", "secret", "why"),
    [
        pytest.param("env:NO_HOOK", "", "http: the URL: env:NO_HOOK is not set", id="url"),
        pytest.param("env:BAD", "", "http: the URL is not a valid http:// or https:// URL", id="bad-url"),
        pytest.param("env:HOOK", "env:NO_KEY", "http: the signing secret: env:NO_KEY is not set", id="secret"),
        pytest.param(
            "env:HOOK",
            "env:BAD",
            "http: the signing secret is malformed; expected whsec_ and 24",
            id="bad-secret",
        ),
    ],
)
def test_unresolved_reference_fails_with_its_name(server, monkeypatch, caplog, url, secret, why):  # noqa: PLR0913
    monkeypatch.setenv("HOOK", server.url)
    monkeypatch.setenv("BAD", f"{TOKEN}!")
    assert not HTTPHandler(url, "json", secret).send_event(event.Event("compile"))
    assert why in caplog.text
    assert TOKEN not in caplog.text
    assert server.requests == []


@pytest.mark.parametrize(
    ("arguments", "warnings"),
    [
        pytest.param({"secret": SECRET}, ["the signing secret is given in clear"], id="secret"),
        pytest.param({"user": f"ci:{TOKEN}@"}, ["the URL, with a user or a query, is given in clear"], id="user"),
        pytest.param({"query": f"?t={TOKEN}"}, ["the URL, with a user or a query, is given in clear"], id="query"),
        pytest.param({}, [], id="nothing"),
        pytest.param({"secret": "env:KEY"}, [], id="reference"),
    ],
)
def test_plain_secret_is_a_warning_that_hides_it(caplog, arguments, warnings):
    url = f"http://{arguments.get('user', '')}127.0.0.1/{arguments.get('query', '')}"
    HTTPHandler(url, secret=arguments.get("secret", ""))
    assert [warning in record.message for warning, record in zip(warnings, caplog.records, strict=True)] == [
        True for _ in warnings
    ]
    assert TOKEN not in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.parametrize("status", [200, 302, 404, 503])
@pytest.mark.parametrize("reference", [False, True], ids=["clear", "reference"])
def test_logs_and_errors_do_not_contain_the_url(monkeypatch, caplog, status, reference):
    caplog.set_level(logging.DEBUG)
    words = (TOKEN, "passw0rd", "s3arch", SECRET, base64.b64encode(b"ci:passw0rd").decode())
    with http_server(
        Answer(status, {"Location": f"/{TOKEN}", "Retry-After": "1000"}, f"no {TOKEN}".encode())
    ) as server:
        host = server.url.partition("//")[2]
        url = f"http://ci:passw0rd@{host}/{TOKEN}?q=s3arch"
        monkeypatch.setenv("HOOK", url)
        manager = event.EventManager()
        manager.handlers["http"] = HTTPHandler("env:HOOK" if reference else url, "json", SECRET)
        outcome = manager.dispatch(event.Event("compile"))
        assert manager.send_event(event.Event("compile")) == (status == 200)
    assert len(server.requests) == 2
    shown = caplog.text + str(outcome)
    assert not [word for word in words if word in shown]
    assert status == 200 or ("env:HOOK" if reference else server.url) in str(outcome)


def test_urllib3_logs_requests_of_other_code(server, caplog):
    import urllib3

    caplog.set_level(logging.DEBUG)
    assert HTTPHandler(server.url).send_event(event.Event("compile"))
    with urllib3.PoolManager() as others:
        others.request("POST", f"{server.url}/theirs", body=b"")
    assert "/theirs" in caplog.text


def test_a_user_and_a_password_become_the_header_authorization(server):
    url = server.url.replace("//", "//ci:p%40ss%C3%A9@")
    assert HTTPHandler(url).send_event(event.Event("compile"))
    assert server.requests[0].headers["authorization"] == "Basic " + base64.b64encode("ci:p@ssé".encode()).decode()


# Responses


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_status_2xx_is_success(status):
    with http_server(Answer(status, {}, b"")) as server:
        assert HTTPHandler(server.url).send_event(event.Event("compile"))


@pytest.mark.parametrize("status", [302, 303, 307, 407, 408, 421, 425, 429, 500, 501, 502, 503, 504, 599])
def test_temporary_error_status_is_retried_later(caplog, status):
    with http_server(status) as server:
        assert not HTTPHandler(server.url).send_event(event.Event("compile"))
        assert len(server.requests) == 1
    assert f"http: {server.url}: {status}" in caplog.text


@pytest.mark.parametrize("status", [300, 301, 304, 308, 400, 401, 403, 404, 405, 410, 413, 422])
def test_permanent_error_status_is_a_permanent_failure(status):
    with (
        http_server(Answer(status, {"Location": "/elsewhere", "Retry-After": "0"}, b"")) as server,
        pytest.raises(event.PermanentError, match=rf"^http: {server.url}: {status} "),
    ):
        HTTPHandler(server.url).send_event(event.Event("compile"))
    assert [request.path for request in server.requests] == ["/"]


def test_retry_after_within_the_timeout_is_respected():
    busy = [Answer(503, {"Retry-After": "0"}), Answer(429, {"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"})]
    with http_server(*busy, 200) as server:
        assert HTTPHandler(server.url, "json", SECRET).send_event(event.Event("compile"))
    assert len({request.headers["webhook-id"] for request in server.requests}) == 1
    assert len({request.body for request in server.requests}) == 1
    assert len(server.requests) == 3
    for request in server.requests:
        Webhook(SECRET).verify(request.body, request.headers)


@pytest.mark.parametrize(
    "pause",
    [
        pytest.param("3600", id="too-long"),
        pytest.param("9" * 400, id="huge-number"),
        pytest.param("Fri, 31 Dec 9999 23:59:59 GMT", id="date"),
        pytest.param("Fri, 99 Foo 9999 23:59:59 GMT", id="invalid-date"),
        pytest.param("soon", id="words"),
    ],
)
def test_retry_after_beyond_the_timeout_is_not_waited_for(caplog, pause):
    with http_server(Answer(503, {"Retry-After": pause}), 200) as server:
        assert not HTTPHandler(server.url).send_event(event.Event("compile"))
        assert len(server.requests) == 1
    assert "503 Service Unavailable" in caplog.text


def test_retry_after_of_zero_seconds_does_not_flood_the_server():
    with http_server(Answer(503, {"Retry-After": "0"})) as server:
        assert not HTTPHandler(server.url, timeout=1).send_event(event.Event("compile"))
    assert len(server.requests) <= 4  # after 0, 0.1, 0.3 and 0.7 seconds


def test_endless_response_body_does_not_change_the_result():
    def serve(connection, stopped):
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while not stopped.is_set():
            connection.sendall(b"x" * 65536)

    with raw_server(serve) as port:
        assert HTTPHandler(f"http://127.0.0.1:{port}").send_event(event.Event("compile"))


def test_truncated_response_body_does_not_change_the_result():
    def serve(connection, stopped):
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx")
        connection.close()

    with raw_server(serve) as port:
        assert HTTPHandler(f"http://127.0.0.1:{port}").send_event(event.Event("compile"))


def test_missing_response_body_does_not_change_the_result(monkeypatch):
    monkeypatch.setattr("event._net.connection._BODY_TIMEOUT", 0.05)

    def serve(connection, stopped):
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
        stopped.wait()

    with raw_server(serve) as port:
        assert HTTPHandler(f"http://127.0.0.1:{port}").send_event(event.Event("compile"))


# Unreachable, silent and slow servers


def drip(connection, stopped):
    connection.recv(65536)
    for byte in itertools.chain(b"HTTP/1.1 200 OK\r\n", itertools.cycle(b"x-drip: 1\r\n")):
        connection.sendall(bytes([byte]))
        if stopped.wait(0.02):
            return


def silence(connection, stopped):
    stopped.wait()


def hang_up(connection, stopped):
    connection.recv(65536)
    connection.close()


def babble(connection, stopped):
    connection.recv(65536)
    connection.sendall(TOKEN.encode() + b"\r\n\r\n")
    connection.close()


@pytest.mark.parametrize(
    ("serve", "why"),
    [
        pytest.param(drip, "timed out|total timeout has expired", id="dripping"),
        pytest.param(silence, "timed out|total timeout has expired", id="silent"),
        pytest.param(hang_up, "Remote end closed connection|connection reset by peer", id="hanging-up"),
        pytest.param(babble, "the server's answer is not valid HTTP$", id="not-http"),
    ],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_silent_server_is_a_failure_at_the_timeout(caplog, serve, why, scheme):
    with raw_server(serve) as port:
        handler = HTTPHandler(f"{scheme}://127.0.0.1:{port}", timeout=0.3 if serve in (drip, silence) else 30)
        assert not handler.send_event(event.Event("compile"))
    assert len(caplog.records) == 1
    message, _, about = caplog.records[0].message.partition("; ")
    assert re.fullmatch("<Event 'compile' .*> is not delivered", about)
    assert f"http: {scheme}://127.0.0.1:{port}: " in message
    assert TOKEN not in message
    if scheme == "http":
        assert re.search(why, message)


def test_dripping_tls_server_is_a_failure_at_the_timeout(tmp_path, monkeypatch, caplog):
    authority = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", authority.path)
    context = authority.context("127.0.0.1")

    def serve(connection, stopped):
        with context.wrap_socket(connection, server_side=True) as secured:
            drip(secured, stopped)

    with raw_server(serve) as port:
        assert not HTTPHandler(f"https://127.0.0.1:{port}", timeout=0.5).send_event(event.Event("compile"))
    assert re.search("timed out|total timeout has expired", caplog.text)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        pytest.param("http://127.0.0.1:{port}", ": connection refused; ", id="unused-port"),
        pytest.param("http://no-such-host.invalid", ": name or service not known; ", id="unknown-host"),
        pytest.param(
            "http://" + "a" * 64 + ".invalid", "(LocationParseError|Unicode\\w*Error|gaierror)", id="invalid-host"
        ),
    ],
)
def test_refused_connection_is_a_failure_with_its_reason(caplog, url, why):
    with http_server() as server:
        port = server.port
    assert not HTTPHandler(url.format(port=port)).send_event(event.Event("compile"))
    assert re.search(why, caplog.text)


def test_one_connection_serves_many_events(server):
    handler = HTTPHandler(server.url)
    assert all(handler.send_event(event.Event("compile")) for _ in range(5))
    assert {request.connection for request in server.requests} == {1}


def test_many_threads_share_a_handler(server):
    handler = HTTPHandler(server.url, "json")
    sent = [event.Event("compile", number=number) for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(handler.send_event, sent))
    assert sorted(json.loads(request.body)["number"] for request in server.requests) == [*range(40)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="platform: has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_forked_process_uses_its_own_connection(server):
    handler = HTTPHandler(server.url)
    assert handler.send_event(event.Event("compile"))
    child = os.fork()
    if child == 0:
        os._exit(0 if handler.send_event(event.Event("compile")) else 1)  # pragma: no cover  # in the child
    assert os.waitpid(child, 0)[1] == 0
    assert handler.send_event(event.Event("compile"))
    assert [request.connection for request in server.requests] == [1, 2, 1]


@pytest.mark.parametrize(
    ("copied", "connections"),
    [
        pytest.param(copy.copy, [1, 1], id="copy"),
        pytest.param(copy.deepcopy, [1, 2], id="deepcopy"),
        pytest.param(lambda handler: pickle.loads(pickle.dumps(handler)), [1, 2], id="pickle"),
    ],
)
def test_copied_handler_sends(server, copied, connections):
    handler = HTTPHandler(server.url, "json", SECRET, timeout=7)
    assert handler.send_event(event.Event("compile"))
    other = copied(handler)
    assert other.send_event(event.Event("compile"))
    assert other.encode_config() == handler.encode_config()
    assert [request.connection for request in server.requests] == connections


# TLS and proxies


def test_private_certificate_authority_is_trusted_if_configured(tmp_path, monkeypatch):
    authority = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", authority.path)
    with http_server(tls=authority.context("127.0.0.1")) as server:
        handler = HTTPHandler(server.url, "json", SECRET)
        assert handler.send_event(event.Event("compile"))
        assert handler.send_event(event.Event("compile"))
    assert [request.connection for request in server.requests] == [1, 1]


@pytest.mark.parametrize(
    ("names", "trusted", "why"),
    [
        pytest.param(["127.0.0.1"], False, "SSL_CERT_FILE may name", id="unknown-authority"),
        pytest.param(["elsewhere.example"], True, "certificate verify failed", id="other-host"),
    ],
)
def test_nothing_is_sent_to_an_untrusted_server(tmp_path, monkeypatch, caplog, names, trusted, why):  # noqa: PLR0913
    authority = Authority(tmp_path)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", authority.path)
    with http_server(tls=authority.context(*names)) as server:
        assert not HTTPHandler(server.url).send_event(event.Event("compile"))
    assert why in caplog.text
    assert server.requests == []


@pytest.mark.parametrize(
    ("variable", "bare"), [("http_proxy", False), ("http_proxy", True), ("all_proxy", False)], ids=str
)
def test_a_proxy_of_the_environment_is_used(server, monkeypatch, variable, bare):
    proxy = server.url.replace("//", f"//ci:{TOKEN}@")
    monkeypatch.setenv(variable, proxy.partition("//")[2] if bare else proxy)
    handler = HTTPHandler("http://hooks.invalid/a?b")
    assert handler.send_event(event.Event("compile"))
    (request,) = server.requests
    assert request.path == "http://hooks.invalid/a?b"
    assert request.headers["proxy-authorization"] == "Basic " + base64.b64encode(f"ci:{TOKEN}".encode()).decode()
    monkeypatch.setenv("no_proxy", "hooks.invalid")
    assert not handler.send_event(event.Event("compile"))
    assert len(server.requests) == 1


def test_a_proxy_without_a_user_gets_no_credentials(server, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url)
    assert HTTPHandler("http://hooks.invalid/").send_event(event.Event("compile"))
    assert "proxy-authorization" not in server.requests[0].headers


@pytest.mark.parametrize("proxy", ["socks5://ci:passw0rd@127.0.0.1:1", "http://[ci:passw0rd@"])
def test_invalid_proxy_is_a_failure(monkeypatch, caplog, proxy):
    monkeypatch.setenv("https_proxy", proxy)
    assert not HTTPHandler("https://hooks.invalid/").send_event(event.Event("compile"))
    assert "http: https://hooks.invalid: " in caplog.text
    assert "passw0rd" not in caplog.text


# The outbox


def test_retry_after_status_503_has_the_same_id(tmp_path):
    with http_server(503, 200) as server:
        manager = event.EventManager(outbox=tmp_path / "outbox")
        manager.add_handler("http", server.url, secret=SECRET)
        with event.Event("compile", uid="42") as made:
            made.target = "arm"
        assert not manager.send_event(made)
        outbox = Outbox(manager.outbox)
        ((_, outcome),) = deliver(outbox, everything=True)
        assert outcome
        assert [*deliver(outbox, everything=True)] == []
    first, second = server.requests
    assert first.body == second.body
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == json.loads(first.body)["id"]
    Webhook(SECRET).verify(second.body, second.headers)


def test_permanently_refused_event_moves_to_failed(tmp_path):
    with http_server(404) as server:
        manager = event.EventManager(outbox=tmp_path / "outbox")
        manager.add_handler("http", server.url)
        (delivery,) = manager.dispatch(event.Event("compile"))
        assert delivery.permanent
        assert [*deliver(Outbox(manager.outbox), everything=True)] == []
    assert len(server.requests) == 1


def test_outbox_stores_only_references(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KEY", SECRET)
    Path("hook").write_text(f"{server.url}/{TOKEN}")
    manager = event.EventManager(outbox=tmp_path / "outbox")
    server.set_answers(503)
    manager.add_handler("http", "file:hook", "json", "env:KEY")
    assert not manager.send_event(event.Event("compile"))
    stored = b"".join(path.read_bytes() for path in (tmp_path / "outbox").rglob("*") if path.is_file())
    assert f"file:{tmp_path / 'hook'}".encode() in stored.replace(b"\\\\", b"\\")
    assert TOKEN.encode() not in stored
    assert SECRET.encode() not in stored
    monkeypatch.chdir("/")
    server.set_answers(200)
    ((_, outcome),) = deliver(Outbox(manager.outbox), everything=True)
    assert outcome
    assert server.requests[-1].path == f"/{TOKEN}"


# The configuration


@pytest.mark.parametrize(
    ("config", "arguments"),
    [
        pytest.param("https://h/p", {"url": "https://h/p"}, id="url"),
        pytest.param("https://h/p,,", {"url": "https://h/p"}, id="empty-is-default"),
        pytest.param("env:HOOK,json,env:KEY", {"url": "env:HOOK", "format": "json", "secret": "env:KEY"}, id="three"),
        pytest.param("https://h/p,,,source=/a=b", {"url": "https://h/p", "source": "/a=b"}, id="equals-in-a-value"),
        pytest.param(
            "https://h/?a%2Cb,cdevents,,cdevents=0.4.1,timeout=5",
            {"url": "https://h/?a,b", "format": "cdevents", "cdevents": "0.4.1", "timeout": "5"},
            id="options",
        ),
    ],
)
def test_configuration_is_parsed(config, arguments):
    assert HTTPHandler.decode_config(config) == arguments
    HTTPHandler(**arguments)


@pytest.mark.parametrize("field", [SECRET, "colour=blue", "=", ""])
def test_configuration_with_extra_fields_is_refused_and_not_shown(field):
    with pytest.raises(event.EventError, match=r"value 5 of the configuration is not understood; expected") as error:
        HTTPHandler.decode_config(f"https://h/p,json,env:KEY,timeout=3,{field}")
    assert SECRET not in str(error.value)


REFERENCES = st.sampled_from(["env:", "file:"]).flatmap(lambda kind: st.text().map(lambda name: kind + name))


@given(
    url=REFERENCES | st.just("https://h/a,b|c?%2C"),
    kind=st.sampled_from(["cloudevents", "cdevents", "json"]),
    secret=REFERENCES | st.just(""),
    source=st.from_regex(r"\A[A-Za-z0-9/,%=:?-]*\Z"),
    type=st.text(),
    cdevents=st.sampled_from(cloudevents.CDEVENTS_VERSIONS),
    timeout=st.floats(0, exclude_min=True, allow_infinity=False),
)
def test_configuration_round_trips(url, kind, secret, **more):
    handler = HTTPHandler(url, kind, secret, **more)
    config = handler.encode_config()
    assert "|" not in config
    other = HTTPHandler(**HTTPHandler.decode_config(config))
    assert public_attributes(other) == public_attributes(handler)


def test_configuration_is_minimal():
    assert HTTPHandler("https://h/p").encode_config() == "https://h/p,cloudevents"
    assert HTTPHandler("https://h/p", timeout=5).encode_config() == "https://h/p,cloudevents,,timeout=5.0"


def test_outbox_configuration_has_absolute_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    handler = HTTPHandler("file:hook", "json", "file:~/key")
    home = os.path.expanduser("~")
    expected = f"file:{os.path.abspath('hook')},json,file:{os.path.join(home, 'key')}"
    assert handler.config_for_outbox() == expected
    assert HTTPHandler("https://h/file:p", "json", "env:KEY").config_for_outbox() == "https://h/file:p,json,env:KEY"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        pytest.param({"url": ""}, "the URL is not a valid http", id="empty"),
        pytest.param({"url": f"ftp://h/{TOKEN}"}, "the URL is not a valid http", id="scheme"),
        pytest.param({"url": f"https:///{TOKEN}"}, "the URL is not a valid http", id="no-host"),
        pytest.param({"url": f"https://h/{TOKEN} x"}, "the URL is not a valid http", id="space"),
        pytest.param({"url": f"https://h/{TOKEN}\nx"}, "the URL is not a valid http", id="line-break"),
        pytest.param({"url": f"https://h:{TOKEN}/"}, "the URL is not a valid http", id="port"),
        pytest.param({"format": "xml"}, "the format is unknown; expected one of cloudevents,", id="format"),
        pytest.param({"secret": f"{TOKEN}!"}, "the signing secret is malformed; expected whsec_ and 24", id="secret"),
        pytest.param(
            {"secret": "whsec_AA=="},
            "the signing secret is malformed; expected whsec_ and 24",
            id="short-key",
        ),
        pytest.param({"secret": "password"}, "the signing secret is malformed; expected whsec_ and 24", id="password"),
        pytest.param({"secret": "A" * 88}, "the signing secret is malformed; expected whsec_ and 24", id="long-key"),
        pytest.param({"secret": "whsec_"}, "the signing secret is malformed; expected whsec_ and 24", id="empty-key"),
        pytest.param(
            {"secret": "whsec_ä"},
            "the signing secret is malformed; expected whsec_ and 24",
            id="secret-not-ascii",
        ),
        pytest.param({"format": SECRET}, "the format is unknown; expected", id="secret-for-a-format"),
        pytest.param({"source": "a b"}, "the source is 'a b'; expected a URI reference", id="source"),
        pytest.param({"cdevents": "9"}, "the version in cdevents= is unknown; expected one of", id="cdevents"),
        pytest.param({"timeout": "soon"}, "the timeout is 'soon'; expected a positive number", id="timeout"),
        pytest.param({"timeout": 0}, "the timeout is 0; expected a positive number", id="zero-timeout"),
        pytest.param({"timeout": float("nan")}, "the timeout is nan; expected a positive number", id="nan"),
        pytest.param({"timeout": None}, "the timeout is None; expected a positive number", id="none"),
    ],
)
def test_invalid_argument_is_an_error_without_secrets(arguments, why):
    with pytest.raises(event.EventError, match=re.escape(f"http: {why}")) as error:
        HTTPHandler(**{"url": "https://h/", **arguments})
    assert TOKEN not in str(error.value)
    assert SECRET not in str(error.value)
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__ or error.value.__context__ is None


def test_an_ipv6_address_is_a_host():
    target = Target.parse("http://u@[::1]:8080/x?y#z", "http: the URL")
    assert (target.shown, target.path) == ("http://[::1]:8080", "/x?y")


def test_loading_the_module_loads_no_library():
    code = "import sys, event.handler.http; print([m for m in ('urllib3', 'smtplib', 'ssl') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, check=True).stdout == b"[]" + (
        os.linesep.encode()
    )


# The page


def test_documentation_shows_the_posted_requests(monkeypatch, tmp_path, server):
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
