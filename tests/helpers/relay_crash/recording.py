"""Record in the journal what the package does in this process: replace its functions by ones that also record."""

from __future__ import annotations

import contextlib
import re

from event._broker import amqp, redis, relay
from event._outbox import Claim, Outbox
from event._worker import Reporter
from helpers.relay_crash import journal
from helpers.relay_crash.kill_point import kill_point


def sending_of(body):
    """Return the id in the body of a message."""
    return re.search(rb'"id": "([^"]+)"', body if isinstance(body, bytes) else body.encode())[1].decode()


def record_outbox():
    """Record accepted events, and deliveries when they are on disk."""
    put, put_many, record, release = Outbox.put, Outbox.put_many, Claim.record, Claim.release
    delivered = {}  # claim -> the handlers that have the event; their results are on disk after the release

    def recorded_put(self, e, handlers, **options):
        claim = put(self, e, handlers, **options)
        if "broker" in handlers:
            journal.record("accepted", "-", e.uid)
        return claim

    def recorded_put_many(self, new, *, together=False):
        if together and len(new) > 1:
            journal.record("shared")
        return put_many(self, new, together=together)

    def recorded_record(self, delivery):
        record(self, delivery)
        if delivery.ok and delivery.handler in {"broker", "tally"}:
            delivered.setdefault(id(self), []).append(delivery.handler)

    def recorded_release(self):
        state = release(self)
        for handler in delivered.pop(id(self), ()):
            journal.record("publish-recorded" if handler == "broker" else "delivery-recorded", self.entry.id)
        return state

    Outbox.put, Outbox.put_many = recorded_put, recorded_put_many
    Claim.record, Claim.release = recorded_record, recorded_release


def record_publishers():
    """Record published messages."""
    for publisher in (amqp.AMQPPublisher, redis.RedisPublisher):
        publisher.publish = _recorded_publish(publisher.publish)


def _recorded_publish(publish):
    def recorded_publish(self, queue, message, timeout):
        with _publishing(sending_of(message.body)):
            publish(self, queue, message, timeout)

    return recorded_publish


@contextlib.contextmanager
def _publishing(sending):
    journal.record("publishing", sending)
    kill_point.counts_network = True
    try:
        yield
    except Exception:
        journal.record("publish-failed", sending)
        raise


def record_consumers():
    """Record what relays receive and acknowledge."""
    connect = relay.connect_consumer
    relay.connect_consumer = lambda *args, **kwargs: RecordingConsumer(connect(*args, **kwargs))


class RecordingConsumer:
    """A consumer that records its calls.

    :cvar on_connect: called when a relay has connected
    :cvar on_finished: called when a message was acknowledged or dead-lettered
    """

    on_connect = staticmethod(lambda: None)
    on_finished = staticmethod(lambda: None)

    def __init__(self, consumer):
        self._consumer = consumer
        self.poll_interval = consumer.poll_interval
        self.on_connect()
        journal.record("connected")

    def __getattr__(self, name):
        return getattr(self._consumer, name)

    def receive(self, limit, wait):
        messages = self._call(self._consumer.receive, limit, wait)
        for message in messages:
            journal.record("received", sending_of(message.body))
        return messages

    def acknowledge(self, messages):
        self._call(self._consumer.acknowledge, messages)
        for message in messages:
            journal.record("acknowledged", sending_of(message.body))
            self.on_finished()

    def requeue(self, message, *args):
        self._move(self._consumer.requeue, message, *args)

    def dead_letter(self, message, *args):
        self._move(self._consumer.dead_letter, message, *args)
        self.on_finished()

    def _move(self, move, message, *args):
        sending = sending_of(message.body)
        # RabbitMQ's consumer uses a publisher, which records by itself.
        is_redis = isinstance(self._consumer, redis.RedisConsumer)
        with _publishing(sending) if is_redis else contextlib.nullcontext():
            self._call(move, message, *args)
        journal.record("acknowledged", sending)

    def _call(self, call, *args):
        try:
            return call(*args)
        except OSError:
            journal.record("connection-lost")
            raise


def record_worker(on_batch):
    """Record the batches of a relay's worker.

    :param on_batch: called when the worker has received a batch
    """
    next_job, report = Reporter.next_job, Reporter.report
    batch = []

    def recorded_next_job(self, *args):
        frame = next_job(self, *args)
        if frame and frame[0].get("job") == "batch":
            batch[:] = _sendings_of_batch(*frame)
            for sending in batch:
                journal.record("worker-received", sending)
            on_batch()
        return frame

    def recorded_report(self, kind, **fields):
        report(self, kind, **fields)
        if kind == "batch":
            for sending in batch:
                journal.record("worker-reported", sending)

    Reporter.next_job, Reporter.report = recorded_next_job, recorded_report


def _sendings_of_batch(job, blob):
    sendings, start = [], 0
    for size in job["sizes"]:
        sendings.append(sending_of(blob[start : start + size]))
        start += size
    return sendings
