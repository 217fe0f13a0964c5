"""RabbitMQ and other brokers that speak AMQP 0-9-1, by pika.

`pika.SelectConnection` leaves the loop to its user, so each wait here ends at a deadline: pika's blocking adapter waits
for a confirmation without one.
"""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections import OrderedDict, deque
from functools import partial
from typing import Any

import pika
from pika import exceptions, spec
from pika.adapters.select_connection import IOLoop

from event._broker.queue import (
    CONTENT_TYPE,
    DEAD_SUFFIX,
    OPERATION_TIMEOUT,
    BrokerError,
    Masked,
    NotTakenError,
    OutgoingMessage,
    ReceivedMessage,
    RefusedError,
    TooLargeError,
)
from event.error import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from event._broker.url import Address, BrokerURL

_BasicProperties: Any = pika.BasicProperties  # its constructor has no annotations
_HEARTBEAT = 30  # seconds
_GOODBYE = 1.0  # seconds
_CONSUMER_TAG = "e3-event"
# AMQP 0-9-1, section 1.2
_ACCESS_REFUSED, _NOT_FOUND, _PRECONDITION_FAILED, _NOT_ALLOWED = 403, 404, 406, 530


def connect_publisher(url: BrokerURL, address: Address, timeout: float) -> AMQPPublisher:
    """Return a connection with a channel in confirm mode; see `queue.connect_publisher`."""
    connection = _Connection(address, min(timeout, OPERATION_TIMEOUT))
    return AMQPPublisher(url, connection)


def connect_consumer(url: BrokerURL, address: Address, queue: str, prefetch: int) -> AMQPConsumer:
    """Return a connection that receives from a queue; see `queue.connect_consumer`."""
    connection = _Connection(address, OPERATION_TIMEOUT)
    try:
        return AMQPConsumer(url, connection, queue, prefetch)
    except BaseException:
        connection.close(_GOODBYE)
        raise


class _Connection:
    """An AMQP connection whose waits end at a deadline.

    :raises BrokerError: it could not be opened
    :raises RefusedError: the login is refused
    """

    def __init__(self, address: Address, timeout: float) -> None:
        self.error: BaseException | None = None
        self._blocked = False
        self._loop = _Loop()
        self._connection = pika.SelectConnection(
            _parameters(address, timeout),
            on_open_error_callback=self._note_error,
            on_close_callback=self._note_error,
            custom_ioloop=self._loop,
        )
        self._connection.add_on_connection_blocked_callback(partial(self._note_blocked, True))
        self._connection.add_on_connection_unblocked_callback(partial(self._note_blocked, False))
        try:
            self.wait(lambda: self._connection.is_open, timeout)
        except BaseException:
            self.close(0.0)
            raise

    def open_channel(self, timeout: float) -> Any:
        """Return a new channel."""
        opened: list[Any] = []
        channel = self._connection.channel(on_open_callback=opened.append)
        self.wait(lambda: opened, timeout)
        return channel

    def wait(self, is_done: Callable[[], object], timeout: float, *, must: bool = True) -> None:
        """Run the connection until something is done.

        :param must: whether it is an error if it is not done in time
        :raises BrokerError: the connection is lost, or the time is over
        """
        end = time.monotonic() + timeout
        timer = self._loop.call_later(max(timeout, 0.0), _nothing)  # so that poll() returns then
        self._loop.activate_poller()
        try:
            while not is_done():
                if self.error is not None:
                    raise _sorted(self.error)
                if must and time.monotonic() >= end:
                    raise self._overdue(timeout)
                self._loop.poll()
                self._loop.process_timeouts()
                if not must and time.monotonic() >= end:
                    break
        finally:
            self._loop.deactivate_poller()
            self._loop.remove_timeout(timer)
        if self.error is not None:
            raise _sorted(self.error)

    def close(self, timeout: float) -> None:
        """Say goodbye within some seconds, and let go of the connection."""
        try:
            if not (self._connection.is_closed or self._connection.is_closing):
                self._connection.close()
            self.wait(lambda: self.error, timeout)
        except Exception:
            self._cut()
        finally:
            self._loop.close()

    def abandon(self) -> None:
        """Let go of the connection in a forked child; the parent's is as it was."""
        self._loop.replace_sockets()
        self.close(_GOODBYE)

    def _cut(self) -> None:
        """End a connection whose broker does not answer."""
        try:
            self._loop.shut_down_sockets()
            self.wait(lambda: self.error, _GOODBYE)
        except Exception:  # noqa: S110  # the connection is of no further use, whatever happens
            pass

    def _overdue(self, timeout: float) -> BrokerError:
        if self._blocked:
            return NotTakenError("the broker accepts nothing at the moment: it is short of memory or disk space")
        return BrokerError(f"no answer within {timeout:.3g} s")

    def _note_error(self, _connection: object, error: BaseException | str) -> None:
        self.error = error if isinstance(error, BaseException) else BrokerError(error)

    def _note_blocked(self, blocked: bool, *_args: object) -> None:
        self._blocked = blocked


class _Loop(IOLoop):
    """A loop that knows the sockets that it watches."""

    def __init__(self) -> None:
        super().__init__()
        self._sockets: set[int] = set()

    def add_handler(self, fd: int, handler: Callable[[int, int], None], events: int) -> None:
        """Watch a socket."""
        self._sockets.add(fd)
        super().add_handler(fd, handler, events)

    def remove_handler(self, fd: int) -> None:
        """Watch a socket no longer."""
        self._sockets.discard(fd)
        super().remove_handler(fd)

    def shut_down_sockets(self) -> None:
        """End the connections; pika then finds that they are lost, and closes its sockets."""
        for fd in self._sockets:
            with socket.socket(fileno=os.dup(fd)) as copy:
                copy.shutdown(socket.SHUT_RDWR)

    def replace_sockets(self) -> None:
        """Put sockets whose other end is closed in the place of those that another process uses too."""
        for fd in self._sockets:
            ours, other = socket.socketpair()
            with ours, other:
                os.dup2(ours.fileno(), fd, inheritable=False)


class AMQPPublisher:
    """A connection that publishes; see `queue.Publisher`."""

    def __init__(self, url: BrokerURL, connection: _Connection) -> None:
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
        channel = self._connection.open_channel(_left(end))
        channel.add_on_close_callback(self._note_close)
        channel.add_on_return_callback(self._note_return)
        selected: list[object] = []
        channel.confirm_delivery(self._note_answer, selected.append)
        self._connection.wait(lambda: selected, _left(end))
        self._closed = None
        self._channel = channel

    def _publish(self, queue: str, message: OutgoingMessage, end: float) -> None:
        self._answer, self._returned = None, ""
        properties = _BasicProperties(
            content_type=CONTENT_TYPE, content_encoding="utf-8", delivery_mode=2, headers={**message.headers},
            message_id=message.id or None,
        )  # fmt: skip
        self._channel.basic_publish("", queue, message.body, properties, mandatory=True)
        self._connection.wait(lambda: self._answer is not None or self._closed, _left(end))
        if self._closed:
            raise _sorted(self._closed)
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

    def __init__(self, url: BrokerURL, connection: _Connection, queue: str, prefetch: int) -> None:
        self._url = url
        self._connection = connection
        self._queue = queue
        self._received: deque[ReceivedMessage] = deque()
        self._held: OrderedDict[int, None] = OrderedDict()
        self._closed: BaseException | None = None
        self._publisher: AMQPPublisher | None = None
        end = time.monotonic() + OPERATION_TIMEOUT
        declare(connection, queue, end)
        self._channel = connection.open_channel(_left(end))
        self._channel.add_on_close_callback(self._note_close)
        self._channel.add_on_cancel_callback(self._note_cancel)
        begun: list[object] = []
        self._channel.basic_qos(prefetch_count=prefetch)
        self._channel.basic_consume(queue, self._note_message, consumer_tag=_CONSUMER_TAG, callback=begun.append)
        connection.wait(lambda: begun or self._closed, _left(end))
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
            self._connection.wait(_nothing, 0.0, must=False)  # sends what could not be sent at once

    def requeue(self, message: ReceivedMessage, headers: Mapping[str, str], delay: float = 0.0) -> None:  # noqa: ARG002  # the port's
        """Publish a message at the end of the queue and acknowledge the received one."""
        self._move(message, self._queue, headers)

    def dead_letter(self, message: ReceivedMessage, headers: Mapping[str, str]) -> None:
        """Publish a message to the dead-letter queue and acknowledge the received one."""
        self._move(message, self._queue + DEAD_SUFFIX, headers)

    def keep_alive(self) -> None:
        """Answer the broker's heartbeats."""
        with Masked(self._url, named=False):
            self._connection.wait(_nothing, 0.0, must=False)
            self._require_open()

    def close(self) -> None:
        """Close the connection; the broker then gives what was unacknowledged to another consumer."""
        if self._publisher is not None:
            self._publisher.close(_GOODBYE)
        self._connection.close(_GOODBYE)

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
            raise _lost(_sorted(self._closed))

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


def declare(connection: _Connection, queue: str, end: float) -> None:
    """Make a queue if there is none; an existing one, and whatever its kind, is used as it is.

    :param end: the deadline, by `time.monotonic`
    """
    if _declare(connection, queue, end, passive=True):
        return
    arguments: dict[str, Any] = {"x-queue-type": "quorum"}
    if not queue.endswith(DEAD_SUFFIX):
        # From RabbitMQ 4.0 on, a quorum queue drops what was delivered 20 times, unless it is told where to put it.
        # This also puts away what our client itself cannot read, such as a header of an unknown type.
        declare(connection, queue + DEAD_SUFFIX, end)
        arguments |= {
            "x-delivery-limit": 20,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": queue + DEAD_SUFFIX,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",  # the strategy requires it
        }
    else:
        arguments["x-delivery-limit"] = 1_000_000  # in effect none; RabbitMQ before 4.0 does not accept -1
    _declare(connection, queue, end, arguments=arguments)


def _declare(connection: _Connection, queue: str, end: float, **options: Any) -> bool:
    """Declare a queue; return False if there is none of that name."""
    channel = connection.open_channel(_left(end))
    closed: list[BaseException] = []

    def note_close(_channel: object, error: BaseException) -> None:
        closed.append(error)

    channel.add_on_close_callback(note_close)
    declared: list[object] = []
    channel.queue_declare(queue, durable=True, callback=declared.append, **options)
    connection.wait(lambda: declared or closed, _left(end))
    if not closed:
        channel.close()
        connection.wait(lambda: closed, _left(end))
        return True
    if getattr(closed[0], "reply_code", 0) == _NOT_FOUND:
        return False
    raise _sorted(closed[0])


def _parameters(address: Address, timeout: float) -> pika.ConnectionParameters:
    context = ssl.create_default_context() if address.tls else None
    return pika.ConnectionParameters(
        host=address.host,
        port=address.port,
        virtual_host=address.path,
        credentials=pika.PlainCredentials(address.user or "guest", address.password or "guest"),
        ssl_options=pika.SSLOptions(context, address.host) if context else None,
        heartbeat=_HEARTBEAT,
        connection_attempts=1,
        socket_timeout=timeout,
        stack_timeout=timeout,
        blocked_connection_timeout=None,  # each wait has a deadline
        client_properties={"connection_name": "e3-event"},
    )


def _sorted(error: BaseException) -> BrokerError | TooLargeError:
    """Return the error of ours that one of pika's means."""
    if isinstance(error, (BrokerError, TooLargeError)):
        return error
    cause = _innermost(error)
    reason = _text(cause)
    code = getattr(cause, "reply_code", 0)
    if code == _PRECONDITION_FAILED and "message size" in reason:
        return TooLargeError(reason)
    refusals = (
        exceptions.ProbableAuthenticationError,
        exceptions.AuthenticationError,
        exceptions.ProbableAccessDeniedError,
    )
    if code in {_ACCESS_REFUSED, _NOT_ALLOWED} or isinstance(cause, refusals):
        return RefusedError(reason)
    return BrokerError(reason)


def _innermost(error: BaseException) -> BaseException:
    """Return the reason of a failed connection, which pika wraps into others."""
    while True:
        wrapped: list[Any] = [
            *getattr(error, "exceptions", [])[-1:],
            getattr(error, "exception", None),
            *error.args[:1],
        ]
        inner = next((each for each in wrapped if isinstance(each, BaseException)), None)
        if inner is None:
            return error
        error = inner


def _lost(error: BrokerError | TooLargeError) -> BrokerError:
    return error if isinstance(error, BrokerError) else BrokerError(str(error))


def _text(error: BaseException) -> str:
    if isinstance(error, exceptions.ConnectionClosed | exceptions.ChannelClosed):
        return f"{error.reply_code} {error.reply_text}"
    return one_line(error) if str(error) else repr(error)


def _left(end: float) -> float:
    return max(end - time.monotonic(), 0.0)


def _nothing() -> None:
    pass
