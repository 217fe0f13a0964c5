"""The port: what a publisher and a relay need from a broker, whichever it is.

`publisher` and `consumer` open a connection by the adapter of a URL's family. An adapter imports its client library
when it is imported itself, and uses its documented interface only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from event.error import EventError, PermanentError, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import ModuleType

    from event._broker.url import Address, BrokerURL

DEFAULT_QUEUE = "e3-event"
DEAD_SUFFIX = ".dead"
MESSAGE_TYPE = "application/vnd.e3-event+json"
OPERATION_TIMEOUT = 10.0  # seconds for one exchange with the broker
MESSAGE_LEASE = 60.0  # seconds after which a message of a relay that gives no sign of life is delivered to another one
_QUEUE_MAX = 240  # bytes; AMQP allows 255, and there is a QUEUE.dead too

# family -> (the module that must be installed, the adapter)
_ADAPTERS = {
    "amqp": ("pika", "event._broker.amqp"),
    "redis": ("redis", "event._broker.redis"),
    "sqs": ("boto3", "event._broker.sqs"),
}


class BrokerError(OSError):
    """The broker could not be reached, or the connection is lost. A later attempt may succeed."""


class RefusedError(BrokerError):
    """The broker refuses the login, or a permission. Fix the password, the permission or the virtual host."""


class NotTakenError(BrokerError):
    """The broker did not accept a message: its queue, memory or disk is full. A later attempt may succeed."""


class TooLargeError(PermanentError):
    """The broker takes no message of that size. Lower `limit` of the handler, or raise the broker's limit."""


@dataclass(slots=True)
class OutgoingMessage:
    """A message to publish.

    :ivar headers: strings that travel next to the body; the id is one of them, under the name `ID_HEADER`
    """

    body: bytes = field(repr=False)
    id: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class ReceivedMessage:
    """A message that the broker keeps until it is acknowledged.

    :ivar headers: the strings next to the body; what is not a string is left out
    :ivar redelivered: how often it was delivered before, as far as the broker counts; 1 if it only knows that it was
    :ivar counted: whether the broker counts deliveries
    :ivar ack_token: what the adapter acknowledges it by
    """

    body: bytes = field(repr=False)
    ack_token: Any
    id: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    redelivered: int = 0
    counted: bool = True


class Publisher(Protocol):
    """A connection that publishes. One thread uses it at a time."""

    def publish(self, queue: str, message: OutgoingMessage, timeout: float) -> None:
        """Publish a message; return when the broker has confirmed that it is in the queue.

        A durable queue is made if there is none of that name; an existing one is used as it is.

        :param timeout: total seconds that it may take
        :raises NotTakenError: the broker has refused the message for now
        :raises TooLargeError: the message is too large for the broker
        :raises BrokerError: the message is not confirmed, though the broker may have it; the connection is of no
            further use
        """
        ...

    def close(self, timeout: float) -> None:
        """Close the connection within `timeout` seconds. Nothing is raised."""
        ...

    def abandon(self) -> None:
        """Forget the connection without a word to the broker: it belongs to the process that we were forked from."""
        ...


class Consumer(Protocol):
    """A connection that receives the messages of one queue. One thread uses it at a time.

    `BrokerError`, except `NotTakenError`, means that the connection is lost: what was not acknowledged is delivered
    again, and the consumer is of no further use.
    """

    poll_interval: float
    """The longest `wait` that still lets a relay react to signals; seconds."""

    def receive(self, limit: int, wait: float) -> list[ReceivedMessage]:
        """Return up to `limit` messages; wait up to `wait` seconds for the first one, and not for more.

        :raises BrokerError: the connection is lost
        """
        ...

    def acknowledge(self, messages: Sequence[ReceivedMessage]) -> None:
        """Let the broker forget messages, with as few exchanges as it allows.

        :raises BrokerError: the connection is lost
        """
        ...

    def requeue(self, message: ReceivedMessage, headers: Mapping[str, str], delay: float = 0.0) -> None:
        """Publish a message at the end of its queue with other headers, and acknowledge the received one.

        :param delay: seconds that the broker is to hold it back, if it can
        :raises NotTakenError: it was not published; the received one is as it was
        :raises TooLargeError: likewise
        :raises BrokerError: the connection is lost
        """
        ...

    def dead_letter(self, message: ReceivedMessage, headers: Mapping[str, str]) -> None:
        """Publish a message to the queue ``QUEUE.dead`` with other headers, and acknowledge the received one.

        :raises NotTakenError: as `requeue`
        :raises TooLargeError: as `requeue`
        :raises BrokerError: as `requeue`
        """
        ...

    def keep_alive(self) -> None:
        """Tell the broker that this relay is still there. Call it once a second while working on messages.

        :raises BrokerError: the connection is lost
        """
        ...

    def close(self) -> None:
        """Give back what is not acknowledged, and close the connection. Nothing is raised."""
        ...


def is_queue_name(name: str) -> bool:
    """Return whether a queue can have a name."""
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
    """Return a new connection for publishing.

    :param attempt: how many were tried before; each attempt takes the next node
    :raises BrokerError: the broker could not be reached
    :raises RefusedError: the broker refuses the login
    """
    adapter = load_client(url)
    with Masked(url, attempt) as address:
        publisher: Publisher = adapter.connect_publisher(url, address, timeout)
        return publisher


def connect_consumer(url: BrokerURL, queue: str, attempt: int = 0, *, prefetch: int = 100) -> Consumer:
    """Return a new connection that receives from a queue, which is made if there is none.

    :param attempt: as for `connect_publisher`
    :param prefetch: how many messages may be received and not yet acknowledged, if the broker wants to know
    :raises BrokerError: the broker could not be reached
    """
    adapter = load_client(url)
    with Masked(url, attempt) as address:
        consumer: Consumer = adapter.connect_consumer(url, address, queue, prefetch)
        return consumer


class Masked:
    """Turns what a client raises into a `BrokerError` without secrets; an adapter has already sorted its own errors.

    :param attempt: selects the node; its name is shown if there are several
    """

    def __init__(self, url: BrokerURL, attempt: int = 0, *, named: bool = True) -> None:
        self._url = url
        self._address = url.addresses[attempt % len(url.addresses)]
        self._named = named and len(url.addresses) > 1

    def __enter__(self) -> Address:
        return self._address

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if not isinstance(error, Exception):
            return
        reason = " ".join(str(error).split()) if isinstance(error, (BrokerError, EventError)) else one_line(error)
        reason = self._url.mask(reason)
        if "CERTIFICATE_VERIFY_FAILED" in reason:
            reason += "; SSL_CERT_FILE may name the certificates of a private authority"
        if self._named:
            reason = f"{self._address.shown}: {reason}"
        # Without the cause: its text, which a traceback would show, may hold the password.
        raise (type(error) if isinstance(error, (BrokerError, EventError)) else BrokerError)(reason) from None
