"""The adapter for RabbitMQ and other AMQP 0-9-1 brokers, which uses pika."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import pika
from pika import spec

from event._broker.amqp_connection import CLOSE_TIMEOUT, AMQPConnection, broker_error, declare, seconds_until
from event._broker.queue import (
    DEAD_SUFFIX,
    MESSAGE_TYPE,
    OPERATION_TIMEOUT,
    BrokerError,
    MaskedErrors,
    NotAcceptedError,
    OutgoingMessage,
    ReceivedMessage,
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
        connection.close(CLOSE_TIMEOUT)
        raise


class AMQPPublisher:
    """A connection that publishes; see `queue.Publisher`."""

    def __init__(self, url: BrokerURL, connection: AMQPConnection) -> None:
        self._errors = MaskedErrors(url, broker_error, named=False)
        self._connection = connection
        self._declared: set[str] = set()
        self._channel: Any = None
        self._closed: BaseException | None = None
        self._confirmed: bool | None = None
        self._returned = ""

    def publish(self, queue: str, message: OutgoingMessage, timeout: float) -> None:
        """Publish a message and wait for its confirmation."""
        end = time.monotonic() + timeout
        with self._errors:
            if self._channel is None:
                self._open(end)
            if queue not in self._declared:
                declare(self._connection, queue, end)
                self._declared.add(queue)
            try:
                self._publish(queue, message, end)
            except Exception:
                self._declared.discard(queue)  # the queue may have been deleted
                raise

    def close(self, timeout: float) -> None:
        """Close the connection."""
        self._connection.close(timeout)

    def abandon(self) -> None:
        """Close this process's copy of the socket after a fork. The parent process continues to use the connection."""
        self._connection.abandon()

    def _open(self, end: float) -> None:
        waking = self._connection.waking
        channel = self._connection.open_channel(seconds_until(end))
        channel.add_on_close_callback(waking(self._on_close))
        channel.add_on_return_callback(self._on_return)
        selected: list[object] = []
        channel.confirm_delivery(waking(self._on_confirm), waking(selected.append))
        self._connection.wait(lambda: selected, seconds_until(end))
        self._closed = None
        self._channel = channel

    def _publish(self, queue: str, message: OutgoingMessage, end: float) -> None:
        self._confirmed, self._returned = None, ""
        properties = _BasicProperties(
            content_type=MESSAGE_TYPE, content_encoding="utf-8", delivery_mode=2, headers={**message.headers},
            message_id=message.id or None,
        )  # fmt: skip
        self._channel.basic_publish("", queue, message.body, properties, mandatory=True)
        self._connection.wait(lambda: self._confirmed is not None or self._closed, seconds_until(end))
        if self._closed:
            raise self._closed
        if self._returned:
            raise BrokerError(f"the queue no longer exists: {self._returned}")  # the next attempt declares it
        if not self._confirmed:
            raise NotAcceptedError("the broker has rejected the message; the queue may be full")

    def _on_confirm(self, frame: Any) -> None:
        self._confirmed = isinstance(frame.method, spec.Basic.Ack)

    def _on_return(self, _channel: object, method: Any, *_args: object) -> None:
        self._returned = f"{method.reply_code} {method.reply_text}"

    def _on_close(self, _channel: object, error: BaseException) -> None:
        self._closed, self._channel = error, None


class AMQPConsumer:
    """A connection that receives from a queue; see `queue.Consumer`."""

    poll_interval = 0.5

    def __init__(self, url: BrokerURL, connection: AMQPConnection, queue: str, prefetch: int) -> None:
        self._url = url
        self._errors = MaskedErrors(url, broker_error, named=False)
        self._connection = connection
        self._queue = queue
        self._received: deque[ReceivedMessage] = deque()
        self._held: dict[int, None] = {}  # tags, oldest first
        self._closed: BaseException | None = None
        self._publisher: AMQPPublisher | None = None
        end = time.monotonic() + OPERATION_TIMEOUT
        declare(connection, queue, end)
        self._channel = connection.open_channel(seconds_until(end))
        self._channel.add_on_close_callback(connection.waking(self._on_close))
        self._channel.add_on_cancel_callback(connection.waking(self._on_cancel))
        begun: list[object] = []
        self._channel.basic_qos(prefetch_count=prefetch)
        waking = connection.waking
        self._channel.basic_consume(
            queue, waking(self._on_message), consumer_tag=_CONSUMER_TAG, callback=waking(begun.append)
        )
        connection.wait(lambda: begun or self._closed, seconds_until(end))
        self._require_open()

    def receive(self, limit: int, wait: float) -> list[ReceivedMessage]:
        """Return messages that have arrived; wait for the first one."""
        with self._errors:
            if len(self._received) < limit:
                ready = (lambda: self._received or self._closed) if wait > 0 else bool
                self._connection.wait(ready, wait, must=False)
            self._require_open()
            received = self._received
            return [received.popleft() for _ in range(min(limit, len(received)))]

    def acknowledge(self, messages: Sequence[ReceivedMessage]) -> None:
        """Acknowledge messages, with a single frame if no older message is unacknowledged."""
        with self._errors:
            self._require_open()
            tags = {message.ack_token for message in messages}
            multiple = self._oldest(tags)
            if multiple:
                self._channel.basic_ack(multiple[-1], multiple=True)
            for tag in sorted(tags.difference(multiple)):
                self._channel.basic_ack(tag)
            for tag in tags:
                self._held.pop(tag, None)
            self._connection.exchange()  # sends frames that could not be sent immediately

    def requeue(self, message: ReceivedMessage, headers: Mapping[str, str], delay: float = 0.0) -> None:  # noqa: ARG002  # as in `Consumer`
        """Publish a message at the end of the queue and acknowledge the received one."""
        self._move(message, self._queue, headers)

    def dead_letter(self, message: ReceivedMessage, headers: Mapping[str, str]) -> None:
        """Publish a message to the dead-letter queue and acknowledge the received one."""
        self._move(message, self._queue + DEAD_SUFFIX, headers)

    def keep_alive(self) -> None:
        """Exchange heartbeats with the broker."""
        with self._errors:
            self._connection.exchange()
            self._require_open()

    def close(self) -> None:
        """Close the connection. The broker then delivers unacknowledged messages to another consumer."""
        if self._publisher is not None:
            self._publisher.close(CLOSE_TIMEOUT)
        self._connection.close(CLOSE_TIMEOUT)

    def _move(self, message: ReceivedMessage, queue: str, headers: Mapping[str, str]) -> None:
        # Publish through a separate connection: a broker that is low on memory stops reading from connections that
        # publish, and this consumer must still be able to acknowledge.
        outgoing = OutgoingMessage(message.body, message.id, headers)
        attempt = 0
        while True:
            self.keep_alive()
            try:
                if self._publisher is None:
                    with MaskedErrors(self._url, broker_error, attempt) as address:
                        self._publisher = connect_publisher(self._url, address, OPERATION_TIMEOUT)
                self._publisher.publish(queue, outgoing, OPERATION_TIMEOUT)
                break
            except NotAcceptedError:
                raise
            except BrokerError as error:
                publisher, self._publisher = self._publisher, None
                if publisher is not None:
                    publisher.close(0.0)
                attempt += 1
                if attempt > len(self._url.addresses):
                    raise NotAcceptedError(str(error)) from error
        self.acknowledge([message])

    def _oldest(self, tags: set[int]) -> list[int]:
        """Return the tags that are older than every message that stays unacknowledged, oldest first."""
        oldest = []
        for tag in self._held:
            if tag not in tags:
                break
            oldest.append(tag)
        return oldest

    def _require_open(self) -> None:
        if self._closed is not None:
            raise self._closed

    def _on_message(self, _channel: object, method: Any, properties: Any, body: bytes) -> None:
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

    def _on_close(self, _channel: object, error: BaseException) -> None:
        self._closed = error

    def _on_cancel(self, _frame: object) -> None:
        self._closed = BrokerError("the queue has been removed")
