"""Services that fail, and logs without secrets."""

from __future__ import annotations

import logging

import pytest

import event
from event import _log
from event._net import apprise_service
from event.handler.apprise import AppriseHandler
from helpers.apprise_messages import TOKEN, closed_event
from servers.http import http_server
from servers.raw import raw_server

pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")  # Apprise 1.x imports it


# Services that fail


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


# Logs


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
