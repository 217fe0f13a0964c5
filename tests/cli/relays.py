"""Relays of real brokers. The fixtures are `broker` and `relaying`."""

from __future__ import annotations

import pytest

import event
from helpers.commands import stored_events

BOTH = [pytest.param("rabbit", id="RabbitMQ"), pytest.param("stream", id="Redis")]
both = pytest.mark.parametrize("broker", BOTH, indirect=True)
RELAYED = "e3-event relay: {} relayed"  # the last line of a relay


def publish(queue, *names, attachment=None):
    """Publish events to a queue, each with the uid ``u-NAME``."""
    manager = event.EventManager()
    manager.add_handler("broker", queue.server.url, queue.name)
    for name in names:
        with event.Event(name, f"u-{name}") as e:
            if attachment:
                e.attach_file(attachment, "log")
        assert manager.send_event(e)


def uids(path="events"):
    """Return the uids of the events that the file handler has written."""
    return sorted(data["uid"] for data in stored_events(path))
