"""Several pending events, retries, and processes."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import time

import pytest

import event
from event._formats import notice
from event._net import apprise_service
from event._outbox import Outbox
from event.handler.apprise import AppriseHandler
from helpers.apprise_messages import TOKEN, closed_event, service_class
from helpers.delivering import deliver
from servers.http import http_server

pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")  # Apprise 1.x imports it


# Pending events


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


def test_pending_messages_respect_the_rate_limit_of_their_service(secret, receiver, monkeypatch):
    url = f"json://127.0.0.1:{receiver.port}/paced"
    monkeypatch.setattr(service_class(url), "request_rate_per_sec", 0.3)
    handler = AppriseHandler(secret(url))
    begin = time.monotonic()
    assert handler.send_events([closed_event() for _ in range(2)]) == [True] * 2
    assert AppriseHandler(handler.urls).send_event(closed_event())  # another object, the same service
    assert time.monotonic() - begin >= 0.6


# Retries


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


# Processes and threads


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


def test_copied_and_pickled_handlers_send(handler, receiver):
    for other in (copy.deepcopy(handler), pickle.loads(pickle.dumps(handler))):
        assert other.send_event(closed_event())
    assert len(receiver.requests) == 2
