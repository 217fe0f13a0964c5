"""Signatures, and secrets that are not shown."""

from __future__ import annotations

import base64
import logging
import time
from pathlib import Path

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

import event
from event._outbox import Outbox
from event.handler.http import HTTPHandler
from helpers.delivering import deliver
from helpers.webhooks import OTHER_SECRET, SECRET, TOKEN
from servers.http import Answer, http_server

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


# References


def test_references_are_resolved_on_send(server, monkeypatch, tmp_path):
    handler = HTTPHandler("env:HOOK", "json", f"file:{tmp_path / 'key'}")
    monkeypatch.setenv("HOOK", f"{server.url}/{TOKEN}")
    (tmp_path / "key").write_text(f"{SECRET}\n")
    assert handler.send_event(event.Event("compile"))
    (request,) = server.requests
    assert request.path == f"/{TOKEN}"
    Webhook(SECRET).verify(request.body, request.headers)


@pytest.mark.parametrize(
    ("url", "secret", "reason"),
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
def test_unresolved_reference_is_a_failure_with_its_name(server, monkeypatch, caplog, url, secret, reason):  # noqa: PLR0913
    monkeypatch.setenv("HOOK", server.url)
    monkeypatch.setenv("BAD", f"{TOKEN}!")
    assert not HTTPHandler(url, "json", secret).send_event(event.Event("compile"))
    assert reason in caplog.text
    assert TOKEN not in caplog.text
    assert server.requests == []


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


# Logs and errors


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
    secrets = (TOKEN, "passw0rd", "s3arch", SECRET, base64.b64encode(b"ci:passw0rd").decode())
    answer = Answer(status, {"Location": f"/{TOKEN}", "Retry-After": "1000"}, f"no {TOKEN}".encode())
    with http_server(answer) as server:
        host = server.url.partition("//")[2]
        url = f"http://ci:passw0rd@{host}/{TOKEN}?q=s3arch"
        monkeypatch.setenv("HOOK", url)
        manager = event.EventManager()
        manager.handlers["http"] = HTTPHandler("env:HOOK" if reference else url, "json", SECRET)
        outcome = manager.dispatch(event.Event("compile"))
        assert manager.send_event(event.Event("compile")) == (status == 200)
    assert len(server.requests) == 2
    shown = caplog.text + str(outcome)
    assert not [secret for secret in secrets if secret in shown]
    assert status == 200 or ("env:HOOK" if reference else server.url) in str(outcome)


def test_urllib3_still_logs_the_requests_of_other_code(server, caplog):
    import urllib3

    caplog.set_level(logging.DEBUG)
    assert HTTPHandler(server.url).send_event(event.Event("compile"))
    with urllib3.PoolManager() as others:
        others.request("POST", f"{server.url}/other", body=b"")
    assert "/other" in caplog.text


def test_user_and_password_of_the_url_are_sent_as_a_header(server):
    url = server.url.replace("//", "//ci:p%40ss%C3%A9@")
    assert HTTPHandler(url).send_event(event.Event("compile"))
    assert server.requests[0].headers["authorization"] == "Basic " + base64.b64encode("ci:p@ssé".encode()).decode()
