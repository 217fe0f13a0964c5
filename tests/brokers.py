"""A queue of a real broker, as a test sees it from outside: filled and counted without the code under test."""

from __future__ import annotations

import base64
import json
import time
import uuid
from contextlib import contextmanager

import amqp
import redis

from event._broker import Broker

SECONDS = 30  # for what takes a moment, on a machine that has other work


def until(condition, seconds=SECONDS):
    """Wait until a condition holds; return what it returned."""
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.01)
    return result


def settle(server):
    """Start a server anew: RabbitMQ that is killed may forget a queue that it was just asked to make."""
    server.stop()
    server.start()


class RabbitQueue:
    """A queue of RabbitMQ, and the one aside."""

    kind = "rabbitmq"

    def __init__(self, server):
        self.server = server
        self.name = f"q-{uuid.uuid4()}"
        self.broker = Broker(server.url)
        self.connection = None

    @contextmanager
    def channel(self):
        """Give a channel; the connection is kept, and made anew where the server was started anew."""
        try:
            channel = self.connection.channel()
        except (AttributeError, OSError, amqp.AMQPError):
            self.close()
            self.connection = amqp.Connection(
                f"127.0.0.1:{self.server.port}", "tests", self.server.password, confirm_publish=True
            )
            self.connection.connect()
            self.connection.transport.sock.settimeout(SECONDS)
            channel = self.connection.channel()
        with channel:
            channel.auto_decode = False
            yield channel

    def close(self):
        if self.connection is not None:
            self.connection.collect()
            self.connection = None

    def put(self, *bodies, headers=None, queue="", **properties):
        with self.channel() as channel:
            channel.queue_declare(queue or self.name, durable=True, auto_delete=False)
            for body in bodies:
                message = amqp.Message(body, application_headers=headers or {}, delivery_mode=2, **properties)
                channel.basic_publish(message, routing_key=queue or self.name)

    def size(self, queue=""):
        """Return how many messages wait; what is taken and not acknowledged does not count."""
        with self.channel() as channel:
            try:
                return channel.queue_declare(queue or self.name, passive=True).message_count
            except amqp.NotFound:
                return 0

    def get(self, queue=""):
        """Take the next message away; return its body and headers, None where there is none."""
        with self.channel() as channel:
            try:
                message = channel.basic_get(queue or self.name, no_ack=True)
            except amqp.NotFound:
                return None
            return message and (message.body or b"", message.headers or {})

    def delete(self):
        with self.channel() as channel:
            channel.queue_delete(self.name)


class RedisQueue:
    """A list of Redis, and the one aside."""

    kind = "redis"

    def __init__(self, server):
        self.server = server
        self.name = f"q-{uuid.uuid4()}"
        self.broker = Broker(server.url)
        self.client = redis.Redis(port=server.port, password=server.password)

    def put(self, *bodies, headers=None, queue="", **properties):
        for body in bodies:
            self.client.lpush(queue or self.name, self.item(body, headers, **properties))

    @staticmethod
    def item(body, headers=None, **properties):
        return json.dumps(
            {
                "body": base64.b64encode(body).decode(),
                "headers": headers or {},
                "content-type": "application/octet-stream",
                "content-encoding": "utf-8",
                "properties": {"body_encoding": "base64", "delivery_tag": str(uuid.uuid4()), **properties},
            }
        )

    def size(self, queue=""):
        return self.client.llen(queue or self.name)

    def get(self, queue=""):
        raw = self.client.rpop(queue or self.name)
        if raw is None:
            return None
        envelope = json.loads(raw)
        return base64.b64decode(envelope["body"]), envelope["headers"]

    def delete(self):
        self.client.delete(self.name)

    def keys(self, what):
        """Return the keys QUEUE.WHAT…"""
        return sorted(self.client.keys(f"{self.name}.{what}*"))

    def close(self):
        self.client.close()
