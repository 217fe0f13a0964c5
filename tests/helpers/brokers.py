"""A queue of a real broker, filled and read by the broker's own client instead of the code under test."""

from __future__ import annotations

import uuid
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import boto3
import pika
import redis

from event._broker import BrokerURL

DEAD_SUFFIX = ".dead"


class Message(NamedTuple):
    """A message that was in a queue.

    :ivar properties: pika's properties of a RabbitMQ message
    """

    body: bytes
    headers: dict[str, Any]
    id: str
    properties: Any = None


class Queue:
    """A queue with a unique name. The methods also accept the name of another queue, such as its dead-letter queue.

    :param server: the broker's server; see `servers`
    """

    def __init__(self, server, url):
        self.server = server
        self.name = f"q-{uuid.uuid4()}"
        self.url = BrokerURL(url)

    def get(self, queue=""):
        """Remove the next message; return its body and its headers, or None if there is none."""
        found = self.get_message(queue)
        return found and (found.body, found.headers)

    def get_message(self, queue=""):
        """Remove the next message; return it, or None if there is none."""
        raise NotImplementedError


class RabbitQueue(Queue):
    """A queue of RabbitMQ."""

    kind = "rabbitmq"

    def __init__(self, server):
        super().__init__(server, server.url)
        self.connection = None

    @contextmanager
    def channel(self):
        """Open a channel. Its connection stays open, and is opened again if the server was restarted."""
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

    def declare(self, arguments=None, queue=""):
        """Declare a queue as an administrator would; by default, with the arguments that the package uses."""
        with self.channel() as channel:
            usual = {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000}
            channel.queue_declare(queue or self.name, durable=True, arguments=usual if arguments is None else arguments)

    def put(self, *bodies, headers=None, queue="", **properties):
        if not self.exists(queue):
            self.declare(queue=queue)
        with self.channel() as channel:
            for body in bodies:
                message = pika.BasicProperties(headers=headers or {}, delivery_mode=2, **properties)
                channel.basic_publish("", queue or self.name, body, message, mandatory=True)

    def exists(self, queue=""):
        return self._message_count(queue) is not None

    def size(self, queue=""):
        """Return the number of messages, without the delivered and unacknowledged ones."""
        return self._message_count(queue) or 0

    def _message_count(self, queue):
        """Return the number of messages; None if the queue does not exist."""
        with self.channel() as channel:
            try:
                return channel.queue_declare(queue or self.name, passive=True).method.message_count
            except pika.exceptions.ChannelClosedByBroker:
                return None

    def get_message(self, queue=""):
        try:
            with self.channel() as channel:
                method, properties, body = channel.basic_get(queue or self.name, auto_ack=True)
        except pika.exceptions.ChannelClosedByBroker:
            return None
        except pika.exceptions.ConnectionClosedByBroker as error:
            if "noproc" not in str(error):
                raise
            return None  # another client is declaring the queue: it has a name, but no Erlang process yet
        else:
            return method and Message(body, properties.headers or {}, properties.message_id, properties)

    def delete(self):
        with self.channel() as channel:
            channel.queue_delete(self.name)

    def close(self):
        with suppress(pika.exceptions.AMQPError):
            if self.connection is not None and self.connection.is_open:
                self.connection.close()


class RedisQueue(Queue):
    """A stream of Redis."""

    kind = "redis"

    def __init__(self, server):
        super().__init__(server, server.url)
        self.client = redis.Redis(port=server.port, password=server.password)

    def put(self, *bodies, headers=None, queue="", message_id=""):
        for body in bodies:
            fields = {"body": body, **({"id": message_id} if message_id else {}), **(headers or {})}
            self.client.xadd(queue or self.name, fields)

    def exists(self, queue=""):
        return bool(self.client.exists(queue or self.name))

    def size(self, queue=""):
        """Return the number of unacknowledged messages, including the delivered ones."""
        return self.client.xlen(queue or self.name)

    def get_message(self, queue=""):
        entries = self.client.xrange(queue or self.name, count=1)
        if not entries:
            return None
        entry_id, fields = entries[0]
        self.client.xdel(queue or self.name, entry_id)
        values = {name.decode(): value for name, value in fields.items()}
        body, message_id = values.pop("body", b""), values.pop("id", b"").decode()
        return Message(body, {name: value.decode() for name, value in values.items()}, message_id)

    def consumers(self):
        """Return the names of the consumers in the package's group."""
        return {entry["name"].decode() for entry in self.client.xinfo_consumers(self.name, "e3-event")}

    def delete(self):
        self.client.delete(self.name)

    def close(self):
        self.client.close()


class SQSQueue(Queue):
    """A queue of moto's SQS. The environment variables must contain the server's endpoint."""

    kind = "sqs"

    def __init__(self, server):
        super().__init__(server, "sqs://us-east-1")
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
        """Return the number of unacknowledged messages, including the delivered ones."""
        if self._url(queue) is None:
            return 0
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        return sum(map(int, self.attributes(queue, names).values()))

    def attributes(self, queue="", names=("All",)):
        return self.client.get_queue_attributes(QueueUrl=self._url(queue), AttributeNames=[*names])["Attributes"]

    def get_message(self, queue=""):
        if (url := self._url(queue)) is None:
            return None
        found = self.client.receive_message(QueueUrl=url, MessageAttributeNames=["All"]).get("Messages")
        if not found:
            return None
        self.client.delete_message(QueueUrl=url, ReceiptHandle=found[0]["ReceiptHandle"])
        attributes = found[0].get("MessageAttributes", {})
        headers = {name: value["StringValue"] for name, value in attributes.items()}
        return Message(found[0]["Body"].encode(), headers, headers.get("e3-event-id", ""))

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
