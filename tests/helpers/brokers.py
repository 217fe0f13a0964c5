"""A queue of a real broker as a test sees it from outside: filled and counted without the code under test."""

from __future__ import annotations

import time
import uuid
from contextlib import contextmanager, suppress
from types import SimpleNamespace

import boto3
import pika
import redis

from event._broker import BrokerURL

SECONDS = 30  # for what takes a moment, on a machine that has other work
DEAD = ".dead"


def wait_until(condition, seconds=SECONDS):
    """Wait until a condition holds; return what it returned."""
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.01)
    return result


class RabbitQueue:
    """A queue of RabbitMQ and its dead-letter queue."""

    kind = "rabbitmq"

    def __init__(self, server):
        self.server = server
        self.name = f"q-{uuid.uuid4()}"
        self.url = BrokerURL(server.url)
        self.connection = None

    @contextmanager
    def channel(self):
        """Give a channel; the connection is kept, and made anew if the server was restarted."""
        try:
            channel = self.connection.channel()
        except (AttributeError, pika.exceptions.AMQPError):
            self.connection = pika.BlockingConnection(pika.URLParameters(f"{self.server.url}%2F?heartbeat=0"))
            channel = self.connection.channel()
        channel.confirm_delivery()
        try:
            yield channel
        finally:
            if channel.is_open:
                channel.close()

    def make(self, arguments=None, queue=""):
        """Make a queue as an administrator would; a quorum queue, as the library makes it, if nothing is given."""
        with self.channel() as channel:
            usual = {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000}
            channel.queue_declare(queue or self.name, durable=True, arguments=usual if arguments is None else arguments)

    def put(self, *bodies, headers=None, queue="", **properties):
        if not self.exists(queue):
            self.make(queue=queue)
        with self.channel() as channel:
            for body in bodies:
                message = pika.BasicProperties(headers=headers or {}, delivery_mode=2, **properties)
                channel.basic_publish("", queue or self.name, body, message, mandatory=True)

    def exists(self, queue=""):
        with self.channel() as channel:
            try:
                channel.queue_declare(queue or self.name, passive=True)
            except pika.exceptions.ChannelClosedByBroker:
                return False
            return True

    def size(self, queue=""):
        """Return how many messages wait; what is delivered and not acknowledged does not count."""
        with self.channel() as channel:
            try:
                return channel.queue_declare(queue or self.name, passive=True).method.message_count
            except pika.exceptions.ChannelClosedByBroker:
                return 0

    def get(self, queue=""):
        """Take the next message away; return its body and headers, None if there is none."""
        found = self.get_message(queue)
        return found and (found.body, found.headers)

    def get_message(self, queue=""):
        """Take the next message away; return it, None if there is none."""
        try:
            with self.channel() as channel:
                method, properties, body = channel.basic_get(queue or self.name, auto_ack=True)
        except pika.exceptions.ChannelClosedByBroker:
            return None
        except pika.exceptions.ConnectionClosedByBroker as error:
            if "noproc" not in str(error):
                raise
            return None  # a queue that is being declared has a name already, but no process yet
        else:
            return method and SimpleNamespace(
                body=body, headers=properties.headers or {}, id=properties.message_id, properties=properties
            )

    def delete(self):
        with self.channel() as channel:
            channel.queue_delete(self.name)

    def close(self):
        with suppress(pika.exceptions.AMQPError):
            if self.connection is not None and self.connection.is_open:
                self.connection.close()


class RedisQueue:
    """A stream of Redis and its dead-letter queue."""

    kind = "redis"

    def __init__(self, server):
        self.server = server
        self.name = f"q-{uuid.uuid4()}"
        self.url = BrokerURL(server.url)
        self.client = redis.Redis(port=server.port, password=server.password)

    def put(self, *bodies, headers=None, queue="", message_id=""):
        for body in bodies:
            fields = {"body": body, **({"id": message_id} if message_id else {}), **(headers or {})}
            self.client.xadd(queue or self.name, fields)

    def exists(self, queue=""):
        return bool(self.client.exists(queue or self.name))

    def size(self, queue=""):
        """Return how many messages nobody has acknowledged, those that are delivered among them."""
        return self.client.xlen(queue or self.name)

    def get(self, queue=""):
        """Take the oldest message away; return its body and headers, None if there is none."""
        found = self.get_message(queue)
        return found and (found.body, found.headers)

    def get_message(self, queue=""):
        entries = self.client.xrange(queue or self.name, count=1)
        if not entries:
            return None
        id_, fields = entries[0]
        self.client.xdel(queue or self.name, id_)
        texts = {name.decode(): value for name, value in fields.items()}
        body, message_id = texts.pop("body", b""), texts.pop("id", b"").decode()
        headers = {name: value.decode() for name, value in texts.items()}
        return SimpleNamespace(body=body, headers=headers, id=message_id, properties=None)

    def consumers(self):
        """Return the names of the group's consumers."""
        return {entry["name"].decode() for entry in self.client.xinfo_consumers(self.name, "e3-event")}

    def delete(self):
        self.client.delete(self.name)

    def close(self):
        self.client.close()


class SQSQueue:
    """A queue of moto's SQS and its dead-letter queue. The environment must lead to the server."""

    kind = "sqs"

    def __init__(self, server):
        self.server = server
        self.name = f"q-{uuid.uuid4()}"
        self.url = BrokerURL("sqs://us-east-1")
        self.client = boto3.Session("AKIATESTS", "secret", region_name="us-east-1").client(
            "sqs", endpoint_url=server.endpoint
        )

    def put(self, *bodies, headers=None, queue="", message_id=""):
        headers = {**(headers or {}), **({"e3-event-id": message_id} if message_id else {})}
        attributes = {name: {"DataType": "String", "StringValue": value} for name, value in headers.items()}
        url = self.client.create_queue(QueueName=self._name(queue))["QueueUrl"]
        for body in bodies:
            self.client.send_message(QueueUrl=url, MessageBody=body.decode(), MessageAttributes=attributes)

    def exists(self, queue=""):
        return self._url(queue) is not None

    def size(self, queue=""):
        """Return how many messages nobody has acknowledged, those that are delivered among them."""
        if (url := self._url(queue)) is None:
            return 0
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        return sum(map(int, self.attributes(queue, names).values())) if url else 0

    def attributes(self, queue="", names=("All",)):
        return self.client.get_queue_attributes(QueueUrl=self._url(queue), AttributeNames=[*names])["Attributes"]

    def get(self, queue=""):
        """Take a message away; return its body and headers, None if there is none."""
        if (url := self._url(queue)) is None:
            return None
        found = self.client.receive_message(QueueUrl=url, MessageAttributeNames=["All"]).get("Messages")
        if not found:
            return None
        self.client.delete_message(QueueUrl=url, ReceiptHandle=found[0]["ReceiptHandle"])
        attributes = found[0].get("MessageAttributes", {})
        return found[0]["Body"].encode(), {name: value["StringValue"] for name, value in attributes.items()}

    def delete(self):
        self.client.delete_queue(QueueUrl=self._url(""))

    def close(self):
        self.client.close()

    def _name(self, queue):
        return (queue or self.name).replace(".", "-")

    def _url(self, queue):
        try:
            return self.client.get_queue_url(QueueName=self._name(queue))["QueueUrl"]
        except self.client.exceptions.QueueDoesNotExist:
            return None
