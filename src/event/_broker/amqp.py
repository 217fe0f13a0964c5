"""RabbitMQ and other brokers that speak AMQP 0-9-1, by pika."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from typing import Any

import pika
from pika import spec

from event._broker.amqp_connection import GOODBYE, AMQPConnection, declare, left, sorted_error
from event._broker.queue import (
    DEAD_SUFFIX,
    MESSAGE_TYPE,
    OPERATION_TIMEOUT,
    BrokerError,
    Masked,
    NotTakenError,
    OutgoingMessage,
    ReceivedMessage,
    TooLargeError,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from event._broker.url import Address, BrokerURL

_BasicProperties: Any = pika.BasicProperties  # its constructor has no annotations
_CONSUMER_TAG = "e3-event"


def connect_publisher(url: BrokerURL, address: Address, timeout: float) -> AMQPPublisher:
    """Return a connection with a channel in confirm mode; see `queue.connect_publisher`."""
    connection = AMQPConnection(address, min(timeout, OPERATION_TIMEOUT))
    return AMQPPublisher(url, connection)


def connect_consumer(url: BrokerURL, address: Address, queue: str, prefetch: int) -> AMQPConsumer:
    """Return a connection that receives from a queue; see `queue.connect_consumer`."""
    connection = AMQPConnection(address, OPERATION_TIMEOUT)
    try:
        return AMQPConsumer(url, connection, queue, prefetch)
    except BaseException:
        connection.close(GOODBYE)
        raise


class AMQPPublisher:
    """A connection that publishes; see `queue.Publisher`."""

    def __init__(self, url: BrokerURL, connection: AMQPConnection) -> None:
        self._url = url
        self._connection = connection
        self._declared: set[str] = set()
        self._channel: Any = None
        self._closed: BaseException | None = None
        self._answer: bool | None = None
        self._returned = ""

    def publish(self, queue: str, message: OutgoingMessage, timeout: float) -> None:
        """Publish a message and wait for its confirmation."""
        end = time.monotonic() + timeout
        with Masked(self._url, named=False):
            if self._channel is None:
                self._open(end)
            if queue not in self._declared:
                declare(self._connection, queue, end)
                self._declared.add(queue)
            try:
                self._publish(queue, message, end)
            except Exception:
                self._declared.discard(queue)  # it may have been removed
                raise

    def close(self, timeout: float) -> None:
        """Close the connection."""
        self._connection.close(timeout)

    def abandon(self) -> None:
        """Forget the connection: the parent process goes on using its socket."""
        self._connection.abandon()

    def _open(self, end: float) -> None:
        noted = self._connection.noted
        channel = self._connection.open_channel(left(end))
        channel.add_on_close_callback(noted(self._note_close))
        channel.add_on_return_callback(self._note_return)
        selected: list[object] = []
        channel.confirm_delivery(noted(self._note_answer), noted(selected.append))
        self._connection.wait(lambda: selected, left(end))
        self._closed = None
        self._channel = channel

    def _publish(self, queue: str, message: OutgoingMessage, end: float) -> None:
        self._answer, self._returned = None, ""
        properties = _BasicProperties(
            content_type=MESSAGE_TYPE, content_encoding="utf-8", delivery_mode=2, headers={**message.headers},
            message_id=message.id or None,
        )  # fmt: skip
        self._channel.basic_publish("", queue, message.body, properties, mandatory=True)
        self._connection.wait(lambda: self._answer is not None or self._closed, left(end))
        if self._closed:
            raise sorted_error(self._closed)
        if self._returned:
            raise BrokerError(f"the queue is gone: {self._returned}")  # the next attempt declares it
        if not self._answer:
            raise NotTakenError("the broker has rejected the message; the queue may be full")

    def _note_answer(self, frame: Any) -> None:
        self._answer = isinstance(frame.method, spec.Basic.Ack)

    def _note_return(self, _channel: object, method: Any, *_args: object) -> None:
        self._returned = f"{method.reply_code} {method.reply_text}"

    def _note_close(self, _channel: object, error: BaseException) -> None:
        self._closed, self._channel = error, None


class AMQPConsumer:
    """A connection that receives from a queue; see `queue.Consumer`."""

    poll_interval = 0.5

    def __init__(self, url: BrokerURL, connection: AMQPConnection, queue: str, prefetch: int) -> None:
        self._url = url
        self._connection = connection
        self._queue = queue
        self._received: deque[ReceivedMessage] = deque()
        self._held: OrderedDict[int, None] = OrderedDict()
        self._closed: BaseException | None = None
        self._publisher: AMQPPublisher | None = None
        end = time.monotonic() + OPERATION_TIMEOUT
        declare(connection, queue, end)
        self._channel = connection.open_channel(left(end))
        self._channel.add_on_close_callback(connection.noted(self._note_close))
        self._channel.add_on_cancel_callback(connection.noted(self._note_cancel))
        begun: list[object] = []
        self._channel.basic_qos(prefetch_count=prefetch)
        noted = connection.noted
        self._channel.basic_consume(
            queue, noted(self._note_message), consumer_tag=_CONSUMER_TAG, callback=noted(begun.append)
        )
        connection.wait(lambda: begun or self._closed, left(end))
        self._require_open()

    def receive(self, limit: int, wait: float) -> list[ReceivedMessage]:
        """Return messages that have come; wait for the first one."""
        with Masked(self._url, named=False):
            if len(self._received) < limit:
                ready = (lambda: self._received or self._closed) if wait > 0 else bool
                self._connection.wait(ready, wait, must=False)
            self._require_open()
            received = self._received
            return [received.popleft() for _ in range(min(limit, len(received)))]

    def acknowledge(self, messages: Sequence[ReceivedMessage]) -> None:
        """Acknowledge: with one frame if nothing older is unacknowledged."""
        with Masked(self._url, named=False):
            self._require_open()
            tags = {message.ack_token for message in messages}
            multiple = self._oldest(tags)
            if multiple:
                self._channel.basic_ack(multiple[-1], multiple=True)
            for tag in sorted(tags.difference(multiple)):
                self._channel.basic_ack(tag)
            for tag in tags:
                self._held.pop(tag, None)
            self._connection.exchange()  # sends what could not be sent at once

    def requeue(self, message: ReceivedMessage, headers: Mapping[str, str], delay: float = 0.0) -> None:  # noqa: ARG002  # the port's
        """Publish a message at the end of the queue and acknowledge the received one."""
        self._move(message, self._queue, headers)

    def dead_letter(self, message: ReceivedMessage, headers: Mapping[str, str]) -> None:
        """Publish a message to the dead-letter queue and acknowledge the received one."""
        self._move(message, self._queue + DEAD_SUFFIX, headers)

    def keep_alive(self) -> None:
        """Answer the broker's heartbeats."""
        with Masked(self._url, named=False):
            self._connection.exchange()
            self._require_open()

    def close(self) -> None:
        """Close the connection; the broker then gives what was unacknowledged to another consumer."""
        if self._publisher is not None:
            self._publisher.close(GOODBYE)
        self._connection.close(GOODBYE)

    def _move(self, message: ReceivedMessage, queue: str, headers: Mapping[str, str]) -> None:
        # By a connection of its own: a broker that is short of memory stops reading from those that publish, and
        # acknowledgements must still get through.
        outgoing = OutgoingMessage(message.body, message.id, headers)
        try:
            self._publish(queue, outgoing)
        except (NotTakenError, TooLargeError):
            raise
        except BrokerError as error:
            raise NotTakenError(str(error)) from error
        self.acknowledge([message])

    def _publish(self, queue: str, message: OutgoingMessage) -> None:
        for attempt in range(len(self._url.addresses) + 1):
            self.keep_alive()
            try:
                if self._publisher is None:
                    with Masked(self._url, attempt) as address:
                        self._publisher = connect_publisher(self._url, address, OPERATION_TIMEOUT)
                return self._publisher.publish(queue, message, OPERATION_TIMEOUT)
            except (NotTakenError, TooLargeError):
                raise
            except BrokerError:
                publisher, self._publisher = self._publisher, None
                if publisher is not None:
                    publisher.close(0.0)
                if attempt == len(self._url.addresses):
                    raise
        raise AssertionError  # pragma: no cover  # the loop returns or raises

    def _oldest(self, tags: set[int]) -> list[int]:
        """Return those of the tags that are older than all that stay unacknowledged."""
        oldest = []
        for tag in self._held:
            if tag not in tags:
                break
            oldest.append(tag)
        return oldest

    def _require_open(self) -> None:
        if self._closed is not None:
            raise _lost(sorted_error(self._closed))

    def _note_message(self, _channel: object, method: Any, properties: Any, body: bytes) -> None:
        headers: dict[Any, Any] = properties.headers or {}
        count: Any = headers.get("x-delivery-count")
        counted = isinstance(count, int)
        self._held[method.delivery_tag] = None
        self._received.append(
            ReceivedMessage(
                body,
                method.delivery_tag,
                properties.message_id or "",
                {name: value for name, value in headers.items() if isinstance(value, str)},
                int(count) if counted else int(method.redelivered),
                counted,
            )
        )

    def _note_close(self, _channel: object, error: BaseException) -> None:
        self._closed = error

    def _note_cancel(self, _frame: object) -> None:
        self._closed = BrokerError("the queue has been removed")


def _lost(error: BrokerError | TooLargeError) -> BrokerError:
    return error if isinstance(error, BrokerError) else BrokerError(str(error))
