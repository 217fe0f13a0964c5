"""CDEvents, checked with the schemas of their specification."""

from __future__ import annotations

import json
from datetime import datetime

import jsonschema
import pytest

import event
from event._formats import cloudevents
from event.handler.http import HTTPHandler
from helpers.events import closed_event
from helpers.webhooks import parse_cloudevent

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
    got = parse_cloudevent(server.requests[-1])
    cdevent = validated(got.get_data(), version, predicate)
    context = cdevent["context"]
    assert context.get("specversion", context.get("version")) == version
    assert (got.get_id(), got.get_source(), got.get_type()) == (context["id"], context["source"], context["type"])
    assert got.get_subject() == cdevent["subject"]["id"]
    assert got.get_time() == datetime.fromisoformat(context["timestamp"].replace("Z", "+00:00"))
    assert got.get_datacontenttype() == "application/cdevents+json"
    return cdevent


@pytest.mark.parametrize("version", TASKRUN)
def test_tracked_block_is_a_finished_taskrun(server, version):
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
def test_event_without_end_and_outcome_is_a_started_taskrun(server, version):
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
        pytest.param({"outcome": "success", "exit_code": 1}, ("success", None), id="success-with-exit-code-1"),
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
    assert HTTPHandler(server.url, "cdevents", cdevents=version).send_event(closed_event(**data))
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
    assert HTTPHandler(server.url, "cdevents", cdevents=version).send_event(closed_event(outcome="cancel"))
    assert cdevent_of(server, version, "finished")["subject"]["content"] == {"taskName": "compile", **expected}


def test_cdevent_of_an_event_without_uid_and_time_is_valid(server):
    made = event.Event("compile", uid="", begin_time=None, end_time="soon")
    assert HTTPHandler(server.url, "cdevents").send_event(made)
    cdevent = cdevent_of(server, "0.5.1", "finished")
    assert cdevent["subject"]["id"] == cdevent["context"]["id"]


def test_open_event_with_an_outcome_is_a_finished_taskrun(server):
    assert HTTPHandler(server.url, "cdevents").send_event(event.Event("compile", outcome="failure"))
    assert cdevent_of(server, "0.5.1", "finished")["subject"]["content"]["outcome"] == "failure"


def test_schema_of_the_tests_detects_an_invalid_cdevent():
    cdevent = json.loads(cloudevents.as_cdevent(closed_event(), "1"))["data"]
    validated(cdevent, "0.5.1", "finished")
    cdevent["subject"]["content"]["outcome"] = "great"
    with pytest.raises(jsonschema.ValidationError):
        validated(cdevent, "0.5.1", "finished")
