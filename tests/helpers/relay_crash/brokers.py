"""The brokers of a scenario: what their queues contain."""

from __future__ import annotations

import contextlib

import pika
import redis

from event._broker import BrokerURL, connect_consumer
from event._broker import redis as adapter
from helpers.relay_crash import QUEUE, journal


class RabbitMQBroker:
    def __init__(self, server):
        self.server = server

    def create_queue(self):
        """Create the queue and restart the server: a kill shortly after the creation would damage the queue."""
        connect_consumer(BrokerURL(self.server.url), QUEUE, prefetch=1).close()
        self.server.stop()
        self.server.start()

    def waiting(self, queue=QUEUE):
        """Return the number of messages in a queue, without the ones that a relay holds."""
        return self._declared(queue)[0]

    def remaining(self, queue=QUEUE):
        """Return the number of messages after all relays have ended. The ones that they held are in the queue again."""
        journal.wait_until(lambda: not self._declared(queue)[1], "the queue has no consumers")
        return self.waiting(queue)

    def _declared(self, queue):
        """Return the numbers of messages and consumers."""
        with pika.BlockingConnection(pika.URLParameters(f"{self.server.url}%2F")) as connection:
            try:
                declared = connection.channel().queue_declare(queue, passive=True).method
            except pika.exceptions.ChannelClosedByBroker:
                return 0, 0
            return declared.message_count, declared.consumer_count

    def expire_leases(self, queue):
        """Do nothing: RabbitMQ redelivers the messages of a killed relay at once."""


class RedisBroker:
    def __init__(self, server):
        self.server = server

    def create_queue(self):
        """Do nothing: the relays create the queue."""

    def waiting(self, queue=QUEUE):
        """Return the number of messages in a queue, including the ones that a relay holds."""
        with self._client() as client:
            return client.xlen(queue)

    remaining = waiting

    def expire_leases(self, queue):
        """Make the messages of killed relays available at once."""
        with self._client() as client, contextlib.suppress(redis.exceptions.ResponseError):
            for entry in client.xpending_range(queue, adapter.GROUP, "-", "+", 10_000):
                client.xclaim(
                    queue, adapter.GROUP, entry["consumer"], 0, [entry["message_id"]], idle=10**9, justid=True,
                    retrycount=entry["times_delivered"],
                )  # fmt: skip

    def relays(self):
        """Return the consumers that are relays."""
        with self._client() as client:
            names = {entry["name"].decode() for entry in client.xinfo_consumers(QUEUE, adapter.GROUP)}
        return names - {adapter.RETURNED}

    def pending(self):
        """Return the number of received and unacknowledged messages."""
        with self._client() as client:
            return client.xpending(QUEUE, adapter.GROUP)["pending"]

    def _client(self):
        return redis.Redis.from_url(self.server.url)
