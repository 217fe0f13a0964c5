"""The common interface of all brokers, for publishers and relays.

`connect_publisher` and `connect_consumer` use the adapter for the URL's family (AMQP, Redis or SQS). Importing an
adapter imports its client library. Adapters use only the documented interface of that library.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from event.error import EventError, PermanentError, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import ModuleType

    from event._broker.url import Address, BrokerURL

DEFAULT_QUEUE = "e3-event"
DEAD_SUFFIX = ".dead"
MESSAGE_TYPE = "application/vnd.e3-event+json"
OPERATION_TIMEOUT = 10.0  # seconds for one request to the broker
MESSAGE_LEASE = 60.0  # seconds without a sign of life from a relay until its messages are redelivered
_QUEUE_MAX = 240  # bytes of a queue's name; AMQP allows 255, and the dead-letter queue has a suffix

# family -> (the client library's module, the adapter)
_ADAPTERS = {
    "amqp": ("pika", "event._broker.amqp"),
    "redis": ("redis", "event._broker.redis"),
    "sqs": ("boto3", "event._broker.sqs"),
}


class BrokerError(OSError):
    """The broker can't be reached, or the connection is lost. A later attempt may succeed."""


class RefusedError(BrokerError):
    """The broker refuses the login or a permission, or the queue is of a wrong kind. Fix the configuration."""


class NotAcceptedError(BrokerError):
    """The broker did not accept a message: its queue, memory or disk is full. A later attempt may succeed."""


class TooLargeError(PermanentError):
    """The message is too large for the broker. Lower the handler's `limit`, or raise the broker's limit."""


@dataclass(slots=True)
class OutgoingMessage:
    """A message to publish.

    :ivar body: the content, see `event._broker.message`
    :ivar id: the id of the sending; empty if unknown
    :ivar headers: further strings that are transferred with the body
    """

    body: bytes = field(repr=False)
    id: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class ReceivedMessage:
    """A received message, which the broker keeps until it is acknowledged.

    :ivar body: the content, see `event._broker.message`
    :ivar ack_token: identifies the message to the adapter, to acknowledge it
    :ivar id: the id of the sending; empty if the message has none
    :ivar headers: the headers whose values are strings
    :ivar redelivered: how often the message was delivered before; 1 at most if the broker does not count
    :ivar counted: whether the broker counts deliveries
    """

    body: bytes = field(repr=False)
    ack_token: Any
    id: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    redelivered: int = 0
    counted: bool = True


class Publisher(Protocol):
    """A connection that publishes messages. It is not thread-safe."""

    def publish(self, queue: str, message: OutgoingMessage, timeout: float) -> None:
        """Publish a message, and wait until the broker confirms that it is in the queue.

        If the queue does not exist, create it as a durable queue. An existing queue is not changed.

        :param timeout: seconds for the entire operation
        :raises NotAcceptedError: the broker does not accept the message at the moment
        :raises TooLargeError: the message is too large for the broker
        :raises BrokerError: the message is not confirmed, but the broker may have stored it; the connection can't be
            used again
        """
        ...

    def close(self, timeout: float) -> None:
        """Close the connection within `timeout` seconds. Never raise an exception."""
        ...

    def abandon(self) -> None:
        """Close the connection in a forked process, without sending anything: it belongs to the parent process."""
        ...


class Consumer(Protocol):
    """A connection that receives the messages of one queue. It is not thread-safe.

    All methods except `close` raise `BrokerError` if the connection is lost. The broker then redelivers the
    unacknowledged messages, and the consumer can't be used again. `requeue` and `dead_letter` also raise
    `NotAcceptedError` or `TooLargeError`. Then the message was not published and is not acknowledged.
    """

    poll_interval: float
    """The longest `wait`, in seconds, after which a relay still reacts to signals in time."""

    def receive(self, limit: int, wait: float) -> list[ReceivedMessage]:
        """Return up to `limit` messages. Wait up to `wait` seconds for the first one, but not for the others."""
        ...

    def acknowledge(self, messages: Sequence[ReceivedMessage]) -> None:
        """Acknowledge messages, so that the broker removes them, with as few requests as possible."""
        ...

    def requeue(self, message: ReceivedMessage, headers: Mapping[str, str], delay: float = 0.0) -> None:
        """Publish a message at the end of its queue with other headers, and acknowledge the received one.

        :param delay: seconds until the broker delivers the message again, if it supports a delay
        """
        ...

    def dead_letter(self, message: ReceivedMessage, headers: Mapping[str, str]) -> None:
        """Publish a message to the dead-letter queue with other headers, and acknowledge the received one."""
        ...

    def keep_alive(self) -> None:
        """Renew the lease of unacknowledged messages. Call this once a second while processing messages."""
        ...

    def close(self) -> None:
        """Give unacknowledged messages back and close the connection. Never raise an exception."""
        ...


def is_queue_name(name: str) -> bool:
    """Return whether a text is a valid queue name."""
    return bool(name) and name.isprintable() and len(name.encode("utf-8", "surrogatepass")) <= _QUEUE_MAX


def load_client(url: BrokerURL) -> ModuleType:
    """Import the client library that a URL needs, and return the adapter for it.

    :raises EventError: the client is not installed; the message contains the pip command
    """
    from importlib import import_module

    from event._handler import import_extra

    client, adapter = _ADAPTERS[url.family]
    import_extra(client, "e3-event[sqs]" if url.family == "sqs" else "e3-event[broker]")
    return import_module(adapter)


def connect_publisher(url: BrokerURL, attempt: int, timeout: float) -> Publisher:
    """Open a connection that publishes.

    :param attempt: the number of earlier attempts; each attempt uses the next node
    :raises BrokerError: the broker can't be reached
    :raises RefusedError: the broker refuses the login
    """
    adapter = load_client(url)
    with MaskedErrors(url, adapter.broker_error, attempt) as address:
        publisher: Publisher = adapter.connect_publisher(url, address, timeout)
        return publisher


def connect_consumer(url: BrokerURL, queue: str, attempt: int = 0, *, prefetch: int = 100) -> Consumer:
    """Open a connection that receives from a queue. If the queue does not exist, create it.

    :param attempt: as for `connect_publisher`
    :param prefetch: the maximum number of unacknowledged messages, for brokers that support this limit
    :raises BrokerError: the broker can't be reached
    """
    adapter = load_client(url)
    with MaskedErrors(url, adapter.broker_error, attempt) as address:
        consumer: Consumer = adapter.connect_consumer(url, address, queue, prefetch)
        return consumer


class MaskedErrors:
    """Convert exceptions to `BrokerError` without secrets, inside a ``with`` block. Its value is the node's `Address`.

    An `EventError` or a subclass of `BrokerError` keeps its type.

    :param translate: converts an error of the client library to an error of this module, and returns any other error
    :param attempt: selects the node
    :param named: whether the error names the node, if the URL has several
    """

    def __init__(
        self, url: BrokerURL, translate: Callable[[Exception], Exception], attempt: int = 0, *, named: bool = True
    ) -> None:
        self._url = url
        self._translate = translate
        self._address = url.addresses[attempt % len(url.addresses)]
        self._named = named and len(url.addresses) > 1

    def __enter__(self) -> Address:
        return self._address

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if not isinstance(error, Exception):
            return
        error = self._translate(error)
        reason = " ".join(str(error).split()) if isinstance(error, (BrokerError, EventError)) else one_line(error)
        reason = self._url.mask(reason)
        if "certificate verify failed" in reason:
            reason += "; SSL_CERT_FILE may name the certificates of a private authority"
        if self._named:
            reason = f"{self._address.shown}: {reason}"
        # No cause: its text, which a traceback shows, may contain the password.
        raise (type(error) if isinstance(error, (BrokerError, EventError)) else BrokerError)(reason) from None
