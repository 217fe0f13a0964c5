"""The configuration: URLs, references to them, and templates."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

import event
from event.handler.apprise import AppriseHandler
from helpers.apprise_messages import TOKEN, closed_event
from servers.http import http_server

pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")  # Apprise 1.x imports it


# References


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


@pytest.mark.parametrize("separator", [",", ";", " , ", "\n\n", " ", ";\n"])
def test_secrets_and_configuration_use_the_same_url_separators(secret, receiver, separator):
    url = f"json://127.0.0.1:{receiver.port}"
    handler = AppriseHandler(secret(f"{url}/a b{separator}{url}/c"))
    assert handler.send_event(closed_event())
    assert sorted(request.path for request in receiver.requests) == ["/a%20b", "/c"]


# Invalid URLs


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


def test_url_that_became_invalid_fails_on_send(secret, receiver, caplog):
    handler = AppriseHandler("env:BUILD_URLS")
    secret(f"nosuch://{TOKEN}", f"json://127.0.0.1:{receiver.port}")
    with pytest.raises(event.PartialDeliveryError):
        handler.send_event(closed_event())
    assert "URL 1 of env:BUILD_URLS is not a URL that Apprise accepts" in caplog.text
    assert TOKEN not in caplog.text
    assert len(receiver.requests) == 1


# Configuration


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


def test_importing_the_module_does_not_import_apprise():
    code = "import sys, event, event.handler.apprise; print(sorted({'apprise', 'requests'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_missing_apprise_is_an_error_with_the_pip_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(event.EventError, match=r'pip install "e3-event\[apprise\]"'):
        AppriseHandler("env:BUILD_URLS")
