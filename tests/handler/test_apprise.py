"""The apprise handler with local HTTP and SMTP servers."""

from __future__ import annotations

import base64
import copy
import email.policy
import logging
import multiprocessing
import os
import pickle
import re
import subprocess
import sys
import time
from email.parser import BytesParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import event
from event import _log
from event._formats import notice
from event._net import apprise_service
from event._outbox import Outbox
from event.handler.apprise import AppriseHandler
from helpers.delivering import deliver
from servers.http import http_server
from servers.raw import raw_server
from servers.smtp import smtp_server

TOKEN = "kJ8x-top-secret"  # must not be in any log
PAGE = Path(__file__).parents[2] / "docs/reference/handlers/apprise.md"


# Apprise 1.x imports imghdr.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")


@pytest.fixture
def receiver():
    with http_server() as server:
        yield server


@pytest.fixture
def secret(monkeypatch):
    """Return a function that stores URLs in the variable BUILD_URLS and returns a reference to it."""

    def store(*urls):
        monkeypatch.setenv("BUILD_URLS", "\n".join(urls))
        return "env:BUILD_URLS"

    return store


@pytest.fixture
def handler(receiver, secret):
    return AppriseHandler(secret(f"json://127.0.0.1:{receiver.port}/{TOKEN}"))


def closed_event(name="compile", **data):
    with event.Event(name, uid="42", **data) as closed:
        pass
    return closed


# Messages.


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


# Pending events.


def test_more_than_five_pending_events_are_one_message(handler, receiver):
    events = [closed_event(outcome="success") for _ in range(5)] + [closed_event(outcome="failure", exit_code=2)]
    assert handler.send_events(events) == [True] * 6
    (message,) = receiver.json_bodies
    assert (message["title"], message["type"]) == ("6 events: 1 failed, 5 succeeded", "failure")
    assert message["message"].splitlines()[0].startswith("compile failed (exit 2), ")


def test_long_digest_is_shortened(handler, receiver):
    assert handler.send_events([closed_event(f"step{number}" * 20) for number in range(90)]) == [True] * 90
    (message,) = receiver.json_bodies
    assert len(message["message"]) <= notice.CHAT_MAX
    assert message["message"].endswith(" more")


def test_up_to_five_pending_events_are_a_message_each(handler, receiver):
    assert handler.send_events([closed_event() for _ in range(5)]) == [True] * 5
    assert len(receiver.json_bodies) == 5


def test_subclass_with_its_own_send_event_gets_each_event(handler):
    class OwnHandler(AppriseHandler):
        def send_event(self, event):
            raise LookupError(event.uid)

    results = OwnHandler(handler.urls).send_events([closed_event() for _ in range(6)])
    assert [type(result) for result in results] == [LookupError] * 6


def test_messages_to_one_service_are_sent_with_a_pause(monkeypatch):
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    for url in ("ntfy://paced", "ntfy://paced", "ntfy://other"):
        apprise_service.keep_pace(url, 5.5)
    assert pauses[0] == pauses[2] == 0.0
    assert 5.0 < pauses[1] <= 5.5


def service_class(url):
    """Return Apprise's class for a URL; its module has another name in each version."""
    import apprise

    return type(apprise.Apprise.instantiate(url))


def test_pending_messages_respect_the_rate_limit_of_their_service(secret, receiver, monkeypatch):
    url = f"json://127.0.0.1:{receiver.port}/paced"
    monkeypatch.setattr(service_class(url), "request_rate_per_sec", 0.3)
    handler = AppriseHandler(secret(url))
    begin = time.monotonic()
    assert handler.send_events([closed_event() for _ in range(2)]) == [True] * 2
    assert AppriseHandler(handler.urls).send_event(closed_event())  # another object, the same service
    assert time.monotonic() - begin >= 0.6


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


# Templates.


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


# URLs.


def test_several_references_can_each_have_several_urls(secret, tmp_path):
    with http_server() as first, http_server() as second, http_server() as third:
        path = tmp_path / "a file of urls"
        path.write_text(f"json://127.0.0.1:{first.port}\n\tform://127.0.0.1:{second.port}\r\n")
        reference = secret(f"json://127.0.0.1:{third.port}")
        handler = AppriseHandler(f" file:{path}  {reference}\n")
        assert handler.urls == [f"file:{path}", "env:BUILD_URLS"]
        assert handler.send_event(closed_event())
        assert [len(receiver.requests) for receiver in (first, second, third)] == [1, 1, 1]


def test_reference_is_resolved_on_send(secret, receiver):
    handler = AppriseHandler("env:BUILD_URLS")
    secret(f"json://127.0.0.1:{receiver.port}/first")
    assert handler.send_event(closed_event())
    secret(f"json://127.0.0.1:{receiver.port}/second")
    assert handler.send_event(closed_event())
    assert [request.path for request in receiver.requests] == ["/first", "/second"]


def test_plain_url_is_accepted_with_a_warning_that_hides_it(receiver, caplog):
    with caplog.at_level(logging.DEBUG):
        handler = AppriseHandler(["env:BUILD_URLS", f"json://127.0.0.1:{receiver.port}/{TOKEN}"])
    assert "apprise: URL 2 is given in clear" in caplog.text
    assert "env:NAME" in caplog.text
    assert TOKEN not in caplog.text
    assert TOKEN not in repr(handler)


@pytest.mark.parametrize(
    "urls", [pytest.param("", id="empty"), pytest.param(" \n", id="blank"), pytest.param([], id="no element")]
)
def test_handler_without_a_url_is_refused_when_added(urls):
    with pytest.raises(event.EventError, match=r"no URL; expected apprise=URLS"):
        AppriseHandler(urls)


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(f"nosuch://{TOKEN}/x", id="unknown service"),
        pytest.param(f"json://[{TOKEN}", id="no host"),
        pytest.param(f"discord://{TOKEN}", id="incomplete token"),
        pytest.param(f"mailto://{TOKEN}@", id="no domain"),
        pytest.param(f"{TOKEN}", id="no URL"),
    ],
)
def test_invalid_url_is_refused_by_its_number_when_added(secret, caplog, capfd, bad):
    with caplog.at_level(1), pytest.raises(event.EventError) as caught:
        AppriseHandler(secret("json://localhost", bad))
    with caplog.at_level(1), pytest.raises(event.EventError) as clear:
        AppriseHandler(["json://localhost", bad])
    assert "apprise: URL 2 of env:BUILD_URLS is not a URL that Apprise accepts" in str(caught.value)
    assert "apprise: URL 2 is n" in str(clear.value)
    shown = f"{caught.value}{clear.value}{caught.value.__context__}{caplog.text}{capfd.readouterr()}"
    assert TOKEN not in shown
    assert TOKEN[:4].lower() not in shown.lower()


def test_reason_for_a_refused_url_is_shown_if_it_contains_no_secret(secret):
    with pytest.raises(event.EventError, match=r"Discord Webhook Token .* was specified"):
        AppriseHandler(secret(f"discord://{TOKEN}"))


def test_unresolved_reference_fails_on_send_and_others_are_tried(secret, receiver, tmp_path, caplog):
    (tmp_path / "blank").write_text(" ")
    urls = ["env:NOT_SET", f"file:{tmp_path}/missing", "env:BLANK", secret(f"json://127.0.0.1:{receiver.port}")]
    handler = AppriseHandler(urls)
    os.environ["BLANK"] = "  "
    try:
        with pytest.raises(event.PartialDeliveryError) as caught:
            handler.send_event(closed_event())
    finally:
        del os.environ["BLANK"]
    assert caught.value.remaining == ("URL 1", "URL 2", "URL 3")
    assert len(receiver.requests) == 1
    assert "URL 1: env:NOT_SET is not set or empty" in caplog.text
    assert f"URL 2: file:{tmp_path}/missing cannot be read" in caplog.text
    assert "URL 3: env:BLANK contains no URL" in caplog.text


def test_url_that_became_invalid_fails_on_send(secret, receiver, caplog):
    handler = AppriseHandler("env:BUILD_URLS")
    secret(f"nosuch://{TOKEN}", f"json://127.0.0.1:{receiver.port}")
    with pytest.raises(event.PartialDeliveryError):
        handler.send_event(closed_event())
    assert "URL 1 of env:BUILD_URLS is not a URL that Apprise accepts" in caplog.text
    assert TOKEN not in caplog.text
    assert len(receiver.requests) == 1


# Failures.


def test_refusing_service_is_a_failure_and_others_are_tried(secret, receiver, caplog):
    with http_server(503) as busy, http_server(401) as refusing:
        ports = (busy.port, receiver.port, refusing.port)
        handler = AppriseHandler(secret(*(f"json://ann:{TOKEN}@127.0.0.1:{port}/{TOKEN}" for port in ports)))
        with pytest.raises(event.PartialDeliveryError, match=r"URL 1 of env:BUILD_URLS: .*; URL 3 of env:BUILD_URLS: "):
            handler.send_event(closed_event())
        assert [len(server.requests) for server in (busy, receiver, refusing)] == [1, 1, 1]
    reasons = [record.getMessage().partition("apprise: ")[2] for record in caplog.records]
    assert reasons[0].startswith("URL 1 of env:BUILD_URLS: Failed to send JSON POST notification: ")
    assert "error=503" in reasons[0]
    assert "URL 3 of env:BUILD_URLS: " in reasons[1]
    assert "error=401" in reasons[1]
    assert {record.levelname for record in caplog.records} == {"WARNING"}


def test_reason_is_part_of_the_outcome(handler, receiver):
    receiver.set_answers(500)
    _log.start_capture()
    assert not handler.send_event(closed_event())
    assert "error=500" in _log.stop_capture()


def test_only_the_host_of_a_url_is_logged(secret, caplog, capfd, receiver):
    receiver.set_answers(500)
    handler = AppriseHandler(
        [
            secret(f"json://{TOKEN}u:{TOKEN}p@127.0.0.1:{receiver.port}/{TOKEN}/x?+X-Key={TOKEN}h&-q={TOKEN}q"),
            f"json://localhost:1/{TOKEN}",
            f"ntfy://{TOKEN}@127.0.0.1:{receiver.port}/{TOKEN}topic",
        ]
    )
    with caplog.at_level(1):
        for name in ("apprise", "urllib3", "urllib3.connectionpool", "requests"):
            caplog.set_level(1, logger=name)
        handler.send_event(closed_event())
    assert "to localhost." in caplog.text
    assert receiver.requests
    assert TOKEN[:6] not in caplog.text + str(capfd.readouterr())


@pytest.mark.parametrize(
    ("url", "text", "expected"),
    [
        pytest.param("slack://aB1/x2y3z4w5/q", "no aB1, x2y3z4w5.", "no ***, ***.", id="parts"),
        pytest.param("tgram://123:abcdef/1", "GET /bot123:ABCDEF", "GET /bot123:***", id="within a word, in any case"),
        pytest.param("json://h.org/a%2Fb%20c1d2e3", "at a/b c1d2e3", "at ***", id="decoded"),
        pytest.param("json://u:pw@h.org", "got Basic dTpwdw==", "got Basic ***", id="Basic authentication"),
        pytest.param("x://ab", "crab ab", "crab ***", id="a short part only as a word"),
        pytest.param("token", "bad token", "bad ***", id="no URL"),
    ],
)
def test_parts_of_a_url_are_masked(url, text, expected):
    with pytest.raises(event.EventError, match="failed") as caught, apprise_service.Listener(url):
        raise ValueError(f"failed; {text}")
    assert str(caught.value).removeprefix("ValueError: failed; ") == expected
    assert (caught.value.__cause__, caught.value.__suppress_context__) == (None, True)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        pytest.param("json://example.org:8080/x8080y", "example.org:8080/***", id="a host"),
        pytest.param("json://localhost", "localhost", id="this machine"),
        pytest.param("ntfy://private-topic", "***", id="a topic instead of a host"),
        pytest.param("discord://example.org/private-token", "***/***", id="a token instead of a host"),
    ],
)
def test_host_of_a_url_is_shown_if_it_has_one(url, expected):
    import apprise as package

    with apprise_service.Listener(url) as listener:
        listener.service(package, "URL 1")
        logging.getLogger("apprise").warning("cannot connect to [%s]", url.partition("://")[2])
        assert listener.reason() == f"cannot connect to [{expected}]"


def test_apprise_logs_of_other_code_are_unchanged(handler, caplog):
    handler.send_event(closed_event())
    logging.getLogger("apprise").warning("other code")
    assert caplog.messages == ["other code"]


def test_exception_logged_by_apprise_is_part_of_the_reason():
    with apprise_service.Listener(f"json://{TOKEN}") as listener:
        try:
            raise OSError(f"at {TOKEN}")
        except OSError:
            logging.getLogger("apprise").exception("Unhandled")
        logging.getLogger("apprise").info("not a warning")
        assert listener.reason() == "Unhandled: at ***"


def test_dripping_service_is_abandoned_at_the_timeout(secret, receiver, caplog):
    def drip(connection, stopped):
        while not stopped.wait(0.01):
            connection.sendall(b"H")

    with raw_server(drip) as port:
        handler = AppriseHandler(secret(f"json://127.0.0.1:{port}", f"json://127.0.0.1:{receiver.port}"))
        handler.timeout = 2.0
        with pytest.raises(event.PartialDeliveryError):
            handler.send_event(closed_event())
    assert "URL 1 of env:BUILD_URLS: not done within 2 s" in caplog.text
    assert len(receiver.requests) == 1


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        pytest.param("json://h.org", (10.0, 30.0), id="default"),
        pytest.param("json://h.org?cto=2&rto=3.5", (2.0, 3.5), id="set in the URL"),
        pytest.param("mailto://u:p@h.org", (15, 30.0), id="default of the service"),
    ],
)
def test_services_have_timeouts_for_each_operation(url, expected):
    import apprise as package

    with apprise_service.Listener(url) as listener:
        service = listener.service(package, "URL 1")
    assert service.request_timeout == expected


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


def test_circular_data_is_an_error(handler, receiver):
    circular = event.Event("compile", loop=[])
    circular.loop.append(circular.loop)
    with pytest.raises(event.EventError, match="loop"):
        handler.send_event(circular)
    assert receiver.requests == []


# The configuration.


def test_configuration_is_parsed():
    handler = AppriseHandler(**AppriseHandler.decode_config("env:A file:/b c,{name}%2C {outcome},See {url}, please"))
    assert (handler.urls, handler.title, handler.body) == (
        ["env:A", "file:/b c"],
        "{name}, {outcome}",
        "See {url}, please",
    )
    short = AppriseHandler(**AppriseHandler.decode_config("env:A"))
    assert (short.urls, short.title, short.body) == (["env:A"], "", "")
    assert short.encode_config() == "env:A"


@pytest.mark.parametrize("config", [pytest.param("", id="empty"), pytest.param(" ,title", id="no URL")])
def test_configuration_without_a_url_is_refused(config):
    with pytest.raises(event.EventError, match="no URL; expected"):
        AppriseHandler.decode_config(config)


@given(
    st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=1),
    st.text(),
    st.text(),
)
def test_configuration_round_trips(names, title, body):
    handler = AppriseHandler([f"file:/missing/{name}/x" for name in names], title, body)
    config = handler.encode_config()
    decoded = AppriseHandler(**AppriseHandler.decode_config(config))
    assert (decoded.urls, decoded.title, decoded.body) == (handler.urls, title, body)
    assert decoded.encode_config() == config
    assert "|" not in config


def test_outbox_configuration_has_absolute_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    handler = AppriseHandler(["file:urls", "file:~/urls", "env:A"], body="a,b|c")
    home = os.environ["HOME"]
    assert handler.config_for_outbox() == f"file:{tmp_path}/urls file:{home}/urls env:A,,a,b%7Cc"


def test_copied_and_pickled_handlers_send(handler, receiver):
    for other in (copy.deepcopy(handler), pickle.loads(pickle.dumps(handler))):
        assert other.send_event(closed_event())
    assert len(receiver.requests) == 2


def test_undelivered_event_is_stored_without_the_secret(secret, receiver, monkeypatch, tmp_path):
    monkeypatch.setenv("E3_EVENT_HANDLERS", f"apprise={secret(f'json://127.0.0.1:{receiver.port}/{TOKEN}')}")
    receiver.set_answers(503)
    manager = event.EventManager(outbox=str(tmp_path / "outbox"))
    manager.load_handlers_from_env()
    assert not manager.send_event(closed_event(text="kept"))
    stored = b"".join(path.read_bytes() for path in (tmp_path / "outbox").rglob("*") if path.is_file())
    assert b"kept" in stored
    assert b"env:BUILD_URLS" in stored
    assert TOKEN.encode() not in stored
    receiver.set_answers(200)
    ((_, outcome),) = deliver(Outbox(str(tmp_path / "outbox")), everything=True)
    assert outcome
    assert len(receiver.requests) == 2


@pytest.mark.parametrize("count", [1, 6])
def test_next_attempt_skips_services_that_already_delivered(secret, receiver, monkeypatch, tmp_path, count):
    with http_server(503) as other:
        urls = [f"json://127.0.0.1:{server.port}/{TOKEN}" for server in (receiver, other)]
        monkeypatch.setenv("E3_EVENT_HANDLERS", f"apprise={secret(*urls)}")
        manager = event.EventManager(outbox=str(tmp_path / "outbox"))
        manager.load_handlers_from_env()
        for _ in range(count):
            assert not manager.send_event(closed_event())
        secret(*reversed(urls))  # a service is recognized by its URL, at any position
        assert not any(outcome for _, outcome in deliver(Outbox(str(tmp_path / "outbox")), everything=True))
        stored = b"".join(path.read_bytes() for path in (tmp_path / "outbox").rglob("*") if path.is_file())
        assert TOKEN.encode() not in stored
        other.set_answers(200)
        assert all(outcome for _, outcome in deliver(Outbox(str(tmp_path / "outbox")), everything=True))
        assert (len(receiver.requests), len(other.requests)) == (count, 3 * count)


def test_services_that_delivered_a_digest_are_skipped_on_retry(secret, receiver):
    with http_server(503) as other:
        handler = AppriseHandler(secret(*(f"json://127.0.0.1:{server.port}" for server in (receiver, other))))
        results = handler.send_events([closed_event() for _ in range(6)])
    assert [len(result.done) for result in results] == [1] * 6
    assert (len(receiver.requests), len(other.requests)) == (1, 1)


@pytest.mark.parametrize("separator", [",", ";", " , ", "\n\n", " ", ";\n"])
def test_secrets_and_configuration_use_the_same_url_separators(secret, receiver, separator):
    url = f"json://127.0.0.1:{receiver.port}"
    handler = AppriseHandler(secret(f"{url}/a b{separator}{url}/c"))
    assert handler.send_event(closed_event())
    assert sorted(request.path for request in receiver.requests) == ["/a%20b", "/c"]


# Processes.


@pytest.mark.skipif(not hasattr(os, "fork"), reason="platform: no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_forked_process_sends(handler, receiver):
    assert handler.send_event(closed_event())
    child = multiprocessing.get_context("fork").Process(target=lambda: os._exit(not handler.send_event(closed_event())))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert len(receiver.requests) == 2


def test_send_leaves_no_thread(handler):
    import threading

    before = set(threading.enumerate())
    assert handler.send_event(closed_event())
    for thread in set(threading.enumerate()) - before:
        if thread.name.startswith("event "):
            thread.join(60)
    assert not [thread for thread in set(threading.enumerate()) - before if "process_request" not in thread.name]


def test_importing_the_module_does_not_import_apprise():
    code = "import sys, event, event.handler.apprise; print(sorted({'apprise', 'requests'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_missing_apprise_is_an_error_with_the_pip_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(event.EventError, match=r'pip install "e3-event\[apprise\]"'):
        AppriseHandler("env:BUILD_URLS")


def test_first_example_of_the_documentation_works(receiver, secret, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("build.log").write_text("compiled")
    secret(f"json://127.0.0.1:{receiver.port}")
    page = PAGE.read_text(encoding="utf-8")
    exec(page.partition("```python\n")[2].partition("```")[0], {})
    (message,) = receiver.json_bodies
    assert (message["title"], message["type"]) == ("compile succeeded", "success")
    assert [attachment["filename"] for attachment in message["attachments"]] == ["log"]
