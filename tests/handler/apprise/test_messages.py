"""The messages: title, body, severity, attachments, mentions and templates."""

from __future__ import annotations

import base64
import email.policy
import re
from email.parser import BytesParser
from pathlib import Path

import pytest

import event
from event._formats import notice
from event.handler.apprise import AppriseHandler
from helpers.apprise_messages import TOKEN, closed_event, service_class
from servers.http import http_server
from servers.smtp import smtp_server

pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")  # Apprise 1.x imports it


# Title, body and severity


def test_event_arrives_with_title_body_and_severity(handler, receiver):
    error = {"type": "OSError", "message": "no room"}
    made = closed_event(begin_time="b", outcome="failure", error=error, exit_code=None)
    assert handler.send_event(made) is True
    (message,) = receiver.json_bodies
    assert message["title"] == "compile failed"
    assert message["message"].splitlines() == [
        "OSError: no room",
        "began: b",
        f"ended: {made.as_dict()['end_time'].replace('T', ' ')} UTC",
        "uid: 42",
    ]
    assert message["type"] == "failure"
    assert receiver.requests[0].path == f"/{TOKEN}"


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        pytest.param("success", "success", id="success"),
        pytest.param("failure", "failure", id="failure"),
        pytest.param("cancel", "warning", id="cancel"),
        pytest.param("skipped", "info", id="unknown outcome"),
        pytest.param(["failure"], "info", id="not a string"),
        pytest.param(None, "info", id="none"),
    ],
)
def test_outcome_sets_the_severity(handler, receiver, outcome, expected):
    assert handler.send_event(closed_event(outcome=outcome))
    assert receiver.json_bodies[0]["type"] == expected


def test_event_without_outcome_and_name_has_a_title(handler, receiver):
    assert handler.send_event(closed_event())
    nameless = event.Event("compile")
    del nameless.name
    assert handler.send_event(nameless)
    assert [message["title"] for message in receiver.json_bodies] == ["compile", "event"]


def test_body_of_an_event_without_values_is_its_title(handler, receiver):
    empty = event.Event("compile")
    for key in ("uid", "begin_time", "end_time"):
        delattr(empty, key)
    assert handler.send_event(empty)
    assert receiver.json_bodies[0]["message"] == "compile"


def test_long_values_are_shortened_in_the_default_body(handler, receiver):
    many = {f"key{number}": "x" * 5000 for number in range(40)}
    assert handler.send_event(closed_event(**many))
    lines = receiver.json_bodies[0]["message"].splitlines()
    assert len(receiver.json_bodies[0]["message"]) <= notice.CHAT_MAX
    assert max(map(len, lines)) < 220
    assert lines[5].endswith("xxx...")


def test_chat_message_has_at_most_twelve_values(handler, receiver):
    assert handler.send_event(closed_event(**{f"key{number}": number for number in range(40)}))
    lines = receiver.json_bodies[0]["message"].splitlines()
    assert (len(lines), lines[-1]) == (13, "... and 31 more")


def test_long_text_is_split_and_keeps_all_attachments(secret, receiver, tmp_path):
    handler = AppriseHandler(secret(f"json://127.0.0.1:{receiver.port}"), body="{text}")
    made = event.Event("compile", text="x" * 50000)
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
        made.attach_file(tmp_path / name, name)
    assert handler.send_event(made)
    assert sum(message["message"].count("x") for message in receiver.json_bodies) == 50000
    assert len(receiver.json_bodies) > 1
    # Apprise 1.x attaches them to each part.
    assert {a["filename"] for message in receiver.json_bodies for a in message["attachments"]} == {"one", "two"}


def test_control_characters_are_replaced(secret):
    with http_server() as receiver:
        handler = AppriseHandler(secret(f"xml://127.0.0.1:{receiver.port}"))
        assert handler.send_event(closed_event("co\0m\npile", text="a\x1b[1mb\ud800c"))
    (request,) = receiver.requests
    assert b"<Subject>co m pile</Subject>" in request.body
    assert b"text: a [1mb c" in request.body


def test_circular_data_is_an_error(handler, receiver):
    circular = event.Event("compile", loop=[])
    circular.loop.append(circular.loop)
    with pytest.raises(event.EventError, match="loop"):
        handler.send_event(circular)
    assert receiver.requests == []


# Attachments


def test_attachments_arrive_with_their_names_and_content(handler, receiver, tmp_path):
    contents = {"build.log": b"warning: unused\n", "special 100%25 ?&#\u00e9.bin": bytes(range(256))}
    made = event.Event("compile")
    for number, (name, content) in enumerate(contents.items()):
        path = tmp_path / f"$HOME %20 {number}"
        path.write_bytes(content)
        made.attach_file(path, name)
    assert handler.send_event(made)
    (message,) = receiver.json_bodies
    assert {a["filename"]: base64.b64decode(a["base64"]) for a in message["attachments"]} == contents
    assert message["message"].splitlines()[-2:] == [f"attached: {name}" for name in contents]


def test_attachment_with_the_printable_name_of_an_empty_one_is_attached(handler, receiver, tmp_path):
    made = event.Event("compile")
    for name, content in (("log\n", ""), ("log", "built")):
        path = tmp_path / f"{len(content)} bytes"
        path.write_text(content)
        made.attach_file(path, name)
    assert handler.send_event(made)
    (message,) = receiver.json_bodies
    assert [file["filename"] for file in message["attachments"]] == ["log"]


def test_empty_attachment_is_listed_but_not_attached(handler, receiver, tmp_path):
    (tmp_path / "log").write_bytes(b"")
    made = event.Event("compile")
    made.attach_file(tmp_path / "log")
    assert handler.send_event(made)
    (message,) = receiver.json_bodies
    assert message["attachments"] == []
    assert message["message"].splitlines()[-1] == "no output: log (0 bytes, not attached)"


def test_mail_service_sends_the_attachment(tmp_path):
    log = tmp_path / "b.log"
    log.write_bytes(b"line\n")
    made = event.Event("compile", outcome="cancel", note="a < b & c")
    made.attach_file(log, "build.txt")
    with smtp_server() as mailbox:
        url = f"mailto://127.0.0.1:{mailbox.port}/?from=ci@example.com&to=ann@example.com&mode=insecure"
        assert AppriseHandler(url).send_event(made)
    (envelope,) = mailbox.envelopes
    mail = BytesParser(policy=email.policy.default).parsebytes(envelope.content)
    assert envelope.rcpt_tos == ["ann@example.com"]
    assert mail["Subject"] == "compile was cancelled"
    assert "note: a < b & c" in mail.get_body(("plain",)).get_content()
    assert [(part.get_filename(), part.get_content()) for part in mail.iter_attachments()] == [("build.txt", "line\n")]


def test_missing_or_irregular_attachment_is_a_failure(handler, receiver, tmp_path, caplog):
    made = event.Event("compile")
    (tmp_path / "log").write_text("x")
    made.attach_file(tmp_path / "log")
    (tmp_path / "log").unlink()
    assert handler.send_event(made) is False
    (tmp_path / "log").mkdir()
    assert handler.send_event(made) is False
    assert "attachment 'log': no such file or directory: " in caplog.messages[0]
    assert "log' is not a regular file; " in caplog.messages[1]
    assert receiver.requests == []


# Mentions


def test_only_templates_can_mention_users(secret, receiver, tmp_path):
    (tmp_path / "f").write_text("x")
    made = event.Event("@everyone", outcome="failure", error="<!here>", by="<@U1>", ci={"actor": "@bob"})
    made.attach_file(tmp_path / "f", "@here")
    url = f"json://127.0.0.1:{receiver.port}"
    assert AppriseHandler(secret(url)).send_event(made)
    assert AppriseHandler(secret(url), body="@oncall: {name}").send_event(made)
    assert AppriseHandler(secret(url)).send_events([made] * 6) == [True] * 6
    default, templated, digest = receiver.json_bodies
    for text in (default["title"], default["message"], digest["message"]):
        assert not re.search(r"@[\w*]|!here", text)
    assert "attached: @\u034fhere" in default["message"]
    assert templated["message"] == "@oncall: @\u034feveryone"


@pytest.mark.parametrize("text", ["<!channel>", "!channel>", "!\tchannel>", "<@U123ABC>", "a@U123ABC>", "@U123ABC|x>"])
def test_slack_message_has_no_mention(receiver, monkeypatch, text):
    url = "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/#c"
    monkeypatch.setattr(service_class(url), "webhook_url", f"http://127.0.0.1:{receiver.port}")
    AppriseHandler(url).send_event(closed_event(note=text))
    assert not re.search(r"<!channel|<@U123", receiver.requests[0].body.decode())


@pytest.mark.parametrize("text", ["@everyone", "<@123>", "<@&123>", "x@here"])
def test_discord_message_has_no_mention(receiver, monkeypatch, text):
    url = f"discord://{'1' * 18}/{'a' * 64}"
    monkeypatch.setattr(service_class(url), "notify_url", f"http://127.0.0.1:{receiver.port}")
    AppriseHandler(url).send_event(closed_event(note=text))
    assert not re.search(r"@everyone|@here|@&?123", receiver.requests[0].body.decode())
    assert "allow_mentions" not in receiver.json_bodies[0]


# Templates


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        pytest.param("{name} on {host}", "compile on ci1", id="keys"),
        pytest.param("{error.type}: {error.message}", "OSError: no room", id="nested keys"),
        pytest.param("{a.b}", "whole", id="a key with a dot has priority"),
        pytest.param("{missing} {error.missing} {host.x}", "{missing} {error.missing} {host.x}", id="missing keys"),
        pytest.param("{ok} {count} {nothing}.", "true 3 .", id="values that are not text"),
        pytest.param("{{name}} {} }}", "{name} {} }", id="braces"),
        pytest.param("{name.__class__} {name!r} {name:>9999999999}", None, id="neither format nor attribute"),
        pytest.param("$name %s 100% \\n", "$name %s 100% \\n", id="other template syntax"),
        pytest.param("{inner}", "{name}", id="a value is not a template"),
        pytest.param("two\nlines", "two\nlines", id="lines"),
    ],
)
def test_template_is_filled_with_the_data(secret, receiver, template, expected):
    handler = AppriseHandler(secret(f"json://127.0.0.1:{receiver.port}"), title=template, body=template)
    data = {"host": "ci1", "error": {"type": "OSError", "message": "no room"}, "a": {"b": "inner"}, "a.b": "whole"}
    assert handler.send_event(closed_event(**data, ok=True, count=3, nothing=None, inner="{name}"))
    (message,) = receiver.json_bodies
    expected = template if expected is None else expected
    assert message["message"] == expected
    assert message["title"] == " ".join(expected.split())


def test_blank_template_result_is_replaced_by_the_default(secret, receiver):
    handler = AppriseHandler(secret(f"json://127.0.0.1:{receiver.port}"), title="{text}", body=" {text}\n")
    assert handler.send_event(closed_event(text=None))
    (message,) = receiver.json_bodies
    assert message["title"] == "compile"
    assert message["message"].endswith("uid: 42")


# The documentation

PAGE = Path(__file__).parents[3] / "docs/reference/handlers/apprise.md"


def test_first_example_of_the_documentation_works(receiver, secret, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("build.log").write_text("compiled")
    secret(f"json://127.0.0.1:{receiver.port}")
    page = PAGE.read_text(encoding="utf-8")
    exec(page.partition("```python\n")[2].partition("```")[0], {})
    (message,) = receiver.json_bodies
    assert (message["title"], message["type"]) == ("compile succeeded", "success")
    assert [attachment["filename"] for attachment in message["attachments"]] == ["log"]
