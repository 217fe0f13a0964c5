"""Run a relay in a thread, with a sink whose results a test chooses."""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager
from dataclasses import replace

from event import Event
from event._broker import (
    REASON_HEADER,
    Disposition,
    EventMessage,
    Incoming,
    Relay,
    SinkResult,
    decode_message,
    encode_message,
)
from helpers.brokers import DEAD_SUFFIX
from helpers.waiting import wait_until

ACK, REQUEUE, DEAD, KEEP = Disposition.ACK, Disposition.REQUEUE, Disposition.DEAD_LETTER, Disposition.KEEP

STATE_HEADER = "e3-event-relay"

RESET_STATE = {
    "attempts": 0,
    "crash_count": 0,
    "due": 0.0,
    "first_seen": 0.0,
    "on_trial": False,
    "pending_handlers": None,
    "refused": {},
}

HANDLER_IS_DOWN = SinkResult(REQUEUE, "a: down", ["a"])

DISK_IS_FULL = SinkResult(KEEP, "No space left on device")


class RelayThread:
    """A relay that runs in a thread.

    :ivar reports: the lines that the relay has reported
    :ivar stop_flag: stops the relay when it is set
    """

    def __init__(self, url, queue_name, sink):
        self.reports = []
        self.stop_flag = threading.Event()
        self._relay = Relay(url, queue_name, sink, self.reports.append)
        self._error = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        try:
            self._relay.run(self.stop_flag)
        except BaseException as error:
            self._error = error

    @property
    def finished(self):
        return self._relay.relayed + self._relay.dead_lettered

    @property
    def dead_lettered(self):
        return self._relay.dead_lettered

    def stop(self):
        self.stop_flag.set()
        self._thread.join(60)
        assert not self._thread.is_alive()
        if self._error:
            raise self._error


@contextmanager
def running_relay(queue, sink, queue_name=""):
    relay = RelayThread(queue.url, queue_name or queue.name, sink)
    try:
        yield relay
    finally:
        relay.stop()


class FakeSink:
    """A sink that returns a given result for each event, or ACK for events without relay.

    :param results: a result, or a list of the results of successive deliveries, by the event's uid
    :ivar batches: the uids of each batch
    :ivar pending: the pending handlers of the last delivery of each event, by uid
    :ivar on_delivery: called with each uid
    """

    def __init__(self, **results):
        self.results = {uid: [*given] if isinstance(given, list) else given for uid, given in results.items()}
        self.batches = []
        self.pending = {}
        self.on_delivery = lambda uid: None

    def deliver(self, batch, idle):
        assert all(isinstance(incoming, Incoming) for incoming in batch)
        uids = [uid_of(incoming.body) for incoming in batch]
        self.batches.append(uids)
        self.pending.update((uid, incoming.pending) for uid, incoming in zip(uids, batch, strict=True))
        idle()
        return [self._result(uid) for uid in uids]

    def _result(self, uid):
        self.on_delivery(uid)
        result = self.results.get(uid, SinkResult(ACK, pending=[]))
        if isinstance(result, list):
            result = result.pop(0) if result else SinkResult(ACK, pending=[])
        return replace(result, refused=dict(result.refused))

    @property
    def delivered(self):
        return [uid for batch in self.batches for uid in batch]


def uid_of(body):
    try:
        return decode_message(body).event.uid
    except ValueError:
        return body.decode("utf-8", "replace")


def body(uid):
    event = Event("build", uid=uid)
    event.close()
    return encode_message(EventMessage(f"id-{uid}".replace(" ", "-"), time.time(), event, {}, {}))


def state_header(**content):
    return {STATE_HEADER: json.dumps(content)}


def get_dead_letter(queue):
    """Take the next message from the dead-letter queue; return its body, reason and state."""
    content, headers = wait_until(lambda: queue.get(queue.name + DEAD_SUFFIX))
    return content, headers[REASON_HEADER], json.loads(headers[STATE_HEADER])


def is_empty(queue):
    """Return whether a queue and its dead-letter queue are empty.

    RabbitMQ does not count the messages that a relay holds, so stop the relay before.
    """
    return queue.size() == 0 and queue.size(queue.name + DEAD_SUFFIX) == 0
