"""The examples on every page print what the page shows, and the pages list every handler and module."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

import event
from event import _broker, _registry
from helpers import pages
from servers.otlp import otlp_receiver
from servers.smtp import PASSWORD, smtp_server
from servers.tls import Authority

DOCS = pages.CHECKOUT / "docs"
PAGES = sorted(
    path.relative_to(DOCS).as_posix()
    for path in DOCS.rglob("*.md")
    if not {"_build", "examples"} & set(path.relative_to(DOCS).parts)
)
WITH_SERVERS = {
    *("howto/mail.md", "howto/relay.md"),
    *(f"reference/handlers/{name}.md" for name in ("smtp", "s3", "otel", "broker")),
    *(f"reference/handlers/{name}.md" for name in ("http", "apprise")),  # run by the tests of these handlers
}
INSTALLING = {"howto/handler.md"}


@pytest.fixture
def directory(tmp_path, monkeypatch):
    directory = tmp_path / "page"
    directory.mkdir()
    monkeypatch.chdir(directory)
    monkeypatch.setenv("E3_EVENT_HANDLERS", "")  # so that it is unset after the page has set it
    monkeypatch.delenv("E3_EVENT_OUTBOX")  # a reader has not set it
    return directory


@pytest.mark.parametrize("page", [page for page in PAGES if page not in WITH_SERVERS | INSTALLING])
def test_examples_of_a_page_print_what_it_shows(page, programs, directory):
    pages.run(DOCS / page, directory, programs)


@pytest.mark.parametrize("page", sorted(INSTALLING))
def test_page_that_installs_a_package_uses_its_own_environment(page, own_programs, directory):
    pages.run(DOCS / page, directory, own_programs)


def test_s3_page_works_with_a_local_server(programs, directory, moto, monkeypatch):
    page = DOCS / "reference/handlers/s3.md"
    (shown,) = (json.loads(text) for kind, text, _ in pages.blocks(page) if kind == "json")
    (directory / "build.txt").write_text("done\n")
    moto.reset("builds", "logs")
    for name, value in moto.environment.items():
        monkeypatch.setenv(name, value)
    pages.run(page, directory, programs)
    assert moto.keys("logs") == ["builds/42/log"]
    (key,) = moto.keys("builds")
    stored = json.loads(moto.get("builds", key)["Body"])
    for content in (shown, stored):
        del content["event"]["begin_time"], content["event"]["end_time"]
    assert stored == shown


def test_mail_page_works_with_local_servers(programs, directory, monkeypatch):
    authority = Authority(directory)
    monkeypatch.setenv("SSL_CERT_FILE", authority.path)
    monkeypatch.setenv("SMTP_PASSWORD", "")  # so that it is unset after the page has set it
    netrc = Path.home() / ".netrc"
    netrc.write_text(f"machine localhost login ci password {PASSWORD}\n")
    netrc.chmod(0o600)
    tls = authority.context("localhost", "127.0.0.1")
    with (
        smtp_server(tls=tls) as mail,
        smtp_server(tls=tls, auth_required=True) as submit,
        smtp_server(tls_context=tls) as relay,
    ):
        substitutes = [
            ("mail.corp.test", f"localhost:{mail.port}"),
            ("submit.corp.test", f"localhost:{submit.port}"),
            ("relay.corp.test:587", f"127.0.0.1:{relay.port}"),
            ("/etc/ssl/corp.pem", authority.path),
        ]
        pages.run(DOCS / "howto/mail.md", directory, programs, substitutes)
    assert [len(server.envelopes) for server in (mail, submit, relay)] == [4, 2, 1]
    assert {to for envelope in mail.envelopes for to in envelope.rcpt_tos} == {"dev@corp.test"}
    assert submit.logins == [("ci", PASSWORD)] * 2
    assert relay.secured == [True]


def test_smtp_page_creates_a_handler(programs, directory):
    pages.run(DOCS / "reference/handlers/smtp.md", directory, programs)
    assert event.default_manager.handlers["smtp"].smtp_servers == ["mail.example.com", "backup.example.com:465"]


def test_otel_page_works_with_a_local_receiver(programs, directory):
    with otlp_receiver() as receiver:
        substitutes = [("http://localhost:4318", receiver.endpoint)]
        pages.run(DOCS / "reference/handlers/otel.md", directory, programs, substitutes)
    (span,) = receiver.spans
    assert (span.name, span.attributes["warnings"], span.resource["service.name"]) == ("RUN compile", 3, "nightly")


@pytest.fixture(params=["redis", "rabbitmq"])
def broker(request):
    """Return the substitutions for the broker URL on the pages, with and without its credentials."""
    server = request.getfixturevalue(request.param)
    shown = f"{server.url.partition(':')[0]}://127.0.0.1:{server.port}"
    return [("amqps://ci:correct-horse@rabbit.example.com/builds", server.url), ("amqps://rabbit.example.com", shown)]


# The environment that runs the tests has the extras that these pages need.
OWN_PROGRAMS = Path(sys.executable).parent

# These pages wait for a relay's deliveries without a timeout of their own.
waiting = pytest.mark.timeout(150)


@waiting
def test_broker_page_works_with_local_servers(broker, directory, monkeypatch):
    (directory / "build.txt").write_text("done\n")
    monkeypatch.setenv("BROKER_URL", broker[0][1])  # for the Python examples; the page sets it only in a shell
    assert pages.run(DOCS / "reference/handlers/broker.md", directory, OWN_PROGRAMS, broker) == 2


@waiting
def test_relay_page_works_with_local_servers(broker, directory, moto, monkeypatch):
    moto.reset("attachments")
    for name, value in moto.environment.items():
        monkeypatch.setenv(name, value)
    pages.run(DOCS / "howto/relay.md", directory, OWN_PROGRAMS, broker)
    (key,) = moto.keys("attachments")
    assert re.fullmatch(r"builds/[0-9a-f-]{36}/core", key)


def test_message_on_the_formats_page_is_valid():
    (shown,) = (text for kind, text, _ in pages.blocks(DOCS / "reference/formats.md") if '"files"' in text)
    message = _broker.decode_message(shown.encode())
    assert json.loads(_broker.encode_message(message)) == json.loads(shown)


@pytest.mark.parametrize(
    ("path", "row"),
    [
        pytest.param("README.md", r"^\| \[`(\w+)`\]\(docs/reference/handlers/\1\.md\) \|", id="README"),
        pytest.param("docs/reference/handlers/index.md", r"^\| \[(\w+)\]\(\1\.md\) \|", id="index of the handlers"),
        pytest.param("docs/reference/handlers/index.md", r"^(\w+)$", id="toctree of that index"),
        pytest.param(
            "docs/howto/configuration.md", r"^\| \[`(\w+)`\]\(.*/handlers/\1\.md\) \|", id="configuration file"
        ),
        pytest.param("src/event/_cli/send.py", r"^  (\w+)=[A-Z]", id="help of send"),
    ],
)
def test_every_list_of_handlers_has_the_built_in_handlers_in_their_order(path, row):
    text = (pages.CHECKOUT / path).read_text("utf-8")
    assert re.findall(row, text, re.MULTILINE) == list(_registry.BUILTINS)


def test_the_design_page_shows_every_module_and_no_other():
    package = pages.CHECKOUT / "src" / "event"
    existing = {f"{path.name}/" if path.is_dir() else path.name for path in package.iterdir()}
    (tree,) = re.findall(
        r"```text\nsrc/event/\n(.*?)```", (DOCS / "explanation/design.md").read_text("utf-8"), re.DOTALL
    )
    assert set(re.findall(r"^  (\S+) ", tree, re.MULTILINE)) == existing - {"__pycache__/", "py.typed"}


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        pytest.param("a", "a\n", True, id="a line"),
        pytest.param("a", "a", True, id="no newline at the end"),
        pytest.param("a", "b\n", False, id="another line"),
        pytest.param("a", "a\nb\n", False, id="an additional line"),
        pytest.param("a\nb", "a\n", False, id="a missing line"),
        pytest.param("a…c", "abc\n", True, id="any text"),
        pytest.param("a…c", "a\nc\n", False, id="any text of one line"),
        pytest.param("a\n…\nz", "a\nb\nc\nz\n", True, id="any lines"),
        pytest.param("a\n…", "a\n", True, id="no lines"),
        pytest.param("a.c", "abc\n", False, id="a dot is a dot"),
    ],
)
def test_shown_output_matches_printed_output(shown, printed, same):
    assert pages.matches(shown.splitlines(), printed) is same
