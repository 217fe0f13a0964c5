"""The adapter for Redis and Valkey, which uses redis-py. A queue is a stream; all relays are one consumer group.

A received message stays in the group's list of pending messages, with the name of its consumer, until it is
acknowledged. If that consumer does not renew its lease for `MESSAGE_LEASE` seconds, another one claims the message. The
consumer `RETURNED` owns the messages that relays gave back when they stopped.
"""

from __future__ import annotations

import os
import socket
import time
from typing import Any

import redis
from redis import exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from event._broker.queue import (
    DEAD_SUFFIX,
    MESSAGE_LEASE,
    OPERATION_TIMEOUT,
    BrokerError,
    MaskedErrors,
    NotAcceptedError,
    OutgoingMessage,
    ReceivedMessage,
    RefusedError,
)
from event.error import root_cause

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from event._broker.url import Address, BrokerURL

GROUP = "e3-event"
RETURNED = "returned"
CONSUMER_LIFETIME = 86400.0  # seconds without a sign of life until a consumer without messages is removed
_BODY, _ID = "body", "id"  # fields of a message; all other fields are headers
_NO_LEASE = 10**12  # idle milliseconds, so that any consumer may claim the message
_STREAM_START = b"0-0"
_CLAIM_PAUSE = 5.0  # seconds between two searches for messages of dead relays


def connect_publisher(url: BrokerURL, address: Address, timeout: float) -> RedisPublisher:
    """Return a connection that publishes; see `queue.connect_publisher`."""
    return RedisPublisher(url, _open_client(address, min(timeout, OPERATION_TIMEOUT), single_connection_client=True))


def connect_consumer(url: BrokerURL, address: Address, queue: str, prefetch: int) -> RedisConsumer:  # noqa: ARG001  # as in `queue`
    """Return a connection that receives from a queue; see `queue.connect_consumer`."""
    client = _open_client(address, OPERATION_TIMEOUT)
    try:
        return RedisConsumer(url, client, queue)
    except BaseException:
        client.close()
        raise


class RedisPublisher:
    """A connection that publishes; see `queue.Publisher`."""

    def __init__(self, url: BrokerURL, client: redis.Redis) -> None:
        self._errors = MaskedErrors(url, broker_error, named=False)
        self._client = client

    def publish(self, queue: str, message: OutgoingMessage, timeout: float) -> None:  # noqa: ARG002  # the connection has its own timeout
        """Append a message to a stream and wait for the answer."""
        with self._errors:
            self._client.xadd(queue, _fields(message.body, message.id, message.headers))

    def close(self, timeout: float) -> None:  # noqa: ARG002  # as in `Publisher`
        """Close the connection."""
        self._client.close()

    def abandon(self) -> None:
        """Close this process's copy of the socket, without sending anything."""
        connection: Any = self._client.connection  # there is one: the client has a single connection
        connection.disconnect()  # in a forked child, closing the client does not close the socket
        self._client.close()


class RedisConsumer:
    """A consumer of the group; see `queue.Consumer`."""

    poll_interval = 0.5

    def __init__(self, url: BrokerURL, client: redis.Redis, queue: str) -> None:
        self._errors = MaskedErrors(url, broker_error, named=False)
        self._client: Any = client  # Any, because the return types of its commands depend on the arguments
        self._queue = queue
        self._name = f"{socket.gethostname()}-{os.getpid()}-{os.urandom(4).hex()}"
        self._held: set[bytes] = set()
        self._claim_after = 0.0  # by time.monotonic
        self._cursor = _STREAM_START
        self._last_extension = time.monotonic()
        self._make_group()

    def receive(self, limit: int, wait: float) -> list[ReceivedMessage]:
        """Return messages of dead relays, or if there are none, new messages; wait for the first one."""
        with self._errors:
            if self._held:
                self._extend()
            return self._claim(limit) or self._read(limit, wait)

    def acknowledge(self, messages: Sequence[ReceivedMessage]) -> None:
        """Remove messages from the stream and from the list of pending messages, with one request."""
        ids = [message.ack_token for message in messages]
        # No transaction: Redis rejects transactions if it is out of memory, and then could not be emptied. If only the
        # first command is executed, the next consumer that claims the message finds that it was deleted.
        with self._errors, self._client.pipeline(transaction=False) as pipeline:
            pipeline.xdel(self._queue, *ids)
            pipeline.xack(self._queue, GROUP, *ids)
            pipeline.execute()
            self._held.difference_update(ids)

    def requeue(self, message: ReceivedMessage, headers: Mapping[str, str], delay: float = 0.0) -> None:  # noqa: ARG002  # as in `Consumer`
        """Move a message to the end of the stream."""
        self._move(message, self._queue, headers)

    def dead_letter(self, message: ReceivedMessage, headers: Mapping[str, str]) -> None:
        """Move a message to the dead-letter queue."""
        self._move(message, self._queue + DEAD_SUFFIX, headers)

    def keep_alive(self) -> None:
        """Renew the lease of unacknowledged messages when a quarter of it has passed."""
        with self._errors:
            self._extend()

    def close(self) -> None:
        """Give unacknowledged messages back, remove the consumer, and close the connection."""
        try:
            self._give_back()
            self._client.xgroup_delconsumer(self._queue, GROUP, self._name)
        except (exceptions.RedisError, OSError):
            pass  # another consumer claims the messages when their lease ends, and later removes this consumer
        finally:
            self._client.close()

    def _make_group(self) -> None:
        try:
            if any(group["name"] == GROUP.encode() for group in self._client.xinfo_groups(self._queue)):
                return  # checked first, because Redis rejects XGROUP CREATE if it is out of memory
        except exceptions.ResponseError as error:
            if "no such key" not in str(error):
                raise
        try:
            self._client.xgroup_create(self._queue, GROUP, id="0", mkstream=True)
        except exceptions.ResponseError as error:  # another relay was first
            if not str(error).startswith("BUSYGROUP"):
                raise

    def _read(self, limit: int, wait: float) -> list[ReceivedMessage]:
        block = max(int(wait * 1000), 1) if wait > 0 else None  # 0 would mean no timeout
        found = self._client.xreadgroup(GROUP, self._name, {self._queue: ">"}, count=limit, block=block)
        if not found:
            return []
        streams = found.values() if isinstance(found, dict) else [entries for _, entries in found]
        messages = [_from_stream(id_, fields, 0) for entries in streams for id_, fields in _entries_of_stream(entries)]
        self._held.update(message.ack_token for message in messages)
        return messages

    def _claim(self, limit: int) -> list[ReceivedMessage]:
        """Claim messages whose lease has expired. If there are none, search again after `_CLAIM_PAUSE` seconds."""
        if time.monotonic() < self._claim_after:
            return []
        self._cursor, found = self._client.xautoclaim(
            self._queue, GROUP, self._name, int(MESSAGE_LEASE * 1000), self._cursor, count=limit
        )[:2]
        deleted = [id_ for id_, fields in found if not fields]
        if deleted:  # pragma: no cover  # only Redis 6.2 returns deleted messages; 7 removes them itself
            self._client.xack(self._queue, GROUP, *deleted)
        entries = [(id_, fields) for id_, fields in found if fields]
        if not entries:
            if self._cursor == _STREAM_START:
                self._claim_after = time.monotonic() + _CLAIM_PAUSE
                self._remove_dead_consumers()
            return []
        counts = self._pending()
        messages = [_from_stream(id_, fields, max(counts.get(id_, 1) - 1, 0)) for id_, fields in entries]
        self._held.update(message.ack_token for message in messages)
        return messages

    def _extend(self) -> None:
        now = time.monotonic()
        if now - self._last_extension < MESSAGE_LEASE / 4:
            return
        self._last_extension = now
        if mine := self._pending():
            # JUSTID does not increase the number of deliveries.
            self._client.xclaim(self._queue, GROUP, self._name, 0, [*mine], idle=0, justid=True)

    def _pending(self) -> dict[bytes, int]:
        """Return how often each pending message of this consumer was delivered, by the message's id."""
        entries = self._client.xpending_range(self._queue, GROUP, "-", "+", 10_000, consumername=self._name)
        return {entry["message_id"]: entry["times_delivered"] for entry in entries}

    def _give_back(self) -> None:
        """Let other consumers claim all pending messages, including those whose transfer to this consumer failed."""
        for id_, delivered in self._pending().items():
            # Do not count this delivery, so that the message does not look like the cause of a crash.
            self._client.xclaim(
                self._queue, GROUP, RETURNED, 0, [id_], idle=_NO_LEASE, retrycount=max(delivered - 1, 0), justid=True
            )

    def _remove_dead_consumers(self) -> None:
        for consumer in self._client.xinfo_consumers(self._queue, GROUP):
            name = consumer["name"].decode()
            is_dead = consumer["idle"] > CONSUMER_LIFETIME * 1000 and not consumer["pending"]
            if is_dead and name not in {self._name, RETURNED}:
                self._client.xgroup_delconsumer(self._queue, GROUP, name)

    def _move(self, message: ReceivedMessage, queue: str, headers: Mapping[str, str]) -> None:
        # No transaction: Redis continues a transaction after a failed command, and would delete the only copy.
        with self._errors:
            try:
                self._client.xadd(queue, _fields(message.body, message.id, headers))
            except exceptions.ResponseError as error:  # the connection still works for other messages
                raise NotAcceptedError(f"{queue} does not accept it: {root_cause(error)}") from error
        self.acknowledge([message])


def broker_error(error: Exception) -> Exception:
    """Convert an error of redis-py to an error of `event._broker.queue`."""
    refusals = (exceptions.AuthenticationError, exceptions.AuthorizationError, exceptions.NoPermissionError)
    if isinstance(error, refusals):
        return RefusedError(root_cause(error))
    if isinstance(error, exceptions.OutOfMemoryError):
        return NotAcceptedError(f"the broker accepts nothing at the moment: {root_cause(error)}")
    if isinstance(error, (exceptions.RedisError, OSError)) and not isinstance(error, BrokerError):
        return BrokerError(root_cause(error))
    return error


def _open_client(address: Address, timeout: float, *, single_connection_client: bool = False) -> redis.Redis:
    """Return a client with one connection, after checking that the server responds."""
    tls: dict[str, Any] = {"ssl": True, "ssl_cert_reqs": "required", "ssl_check_hostname": True} if address.tls else {}
    client = redis.Redis(  # with `single_connection_client`, this connects
        host=address.host, port=address.port, db=int(address.path), username=address.user or None,
        password=address.password or None, socket_timeout=timeout, socket_connect_timeout=timeout,
        single_connection_client=single_connection_client, max_connections=1, retry=Retry(NoBackoff(), 0), **tls,
    )  # fmt: skip
    try:
        client.ping()
    except BaseException:
        client.close()
        raise
    return client


def _fields(body: bytes, id_: str, headers: Mapping[str, str]) -> dict[Any, Any]:
    return {_BODY: body, **({_ID: id_} if id_ else {}), **headers}


def _from_stream(id_: bytes, fields: Mapping[bytes, bytes], redelivered: int) -> ReceivedMessage:
    texts = {name.decode("utf-8", "replace"): value for name, value in fields.items()}
    body = texts.pop(_BODY, b"")
    headers = {name: value.decode("utf-8", "replace") for name, value in texts.items()}
    return ReceivedMessage(body, id_, headers.pop(_ID, ""), headers, redelivered)


def _entries_of_stream(entries: Any) -> Any:
    """Return the entries of a stream without the additional list that redis-py adds with the protocol RESP3."""
    return entries[0] if entries and isinstance(entries[0], list) else entries
