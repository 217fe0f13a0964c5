"""Redis and Valkey, by redis-py: a queue is a stream, and all relays are one consumer group of it.

A message that is read stays in the group's list of pending messages until it is acknowledged, under the name of the
consumer that has it. If that consumer gives no sign of life for `MESSAGE_LEASE` seconds, another one claims it. The
consumer `RETURNED` has what relays gave back when they ended.
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
    Masked,
    NotTakenError,
    OutgoingMessage,
    ReceivedMessage,
    RefusedError,
)
from event.error import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from event._broker.url import Address, BrokerURL

GROUP = "e3-event"
RETURNED = "returned"
CONSUMER_LIFETIME = 86400.0  # seconds without a sign of life, after which a consumer that holds nothing is removed
_BODY, _ID = "body", "id"  # fields of a message; the headers are the others
_NO_LEASE = 10**12  # milliseconds; whoever claims next may have it
_STREAM_START = b"0-0"  # of a stream
_CLAIM_PAUSE = 5.0  # seconds between two looks for messages of dead relays


def connect_publisher(url: BrokerURL, address: Address, timeout: float) -> RedisPublisher:
    """Return a connection that has answered; see `queue.connect_publisher`."""
    return RedisPublisher(url, _open_client(address, min(timeout, OPERATION_TIMEOUT), single_connection_client=True))


def connect_consumer(url: BrokerURL, address: Address, queue: str, prefetch: int) -> RedisConsumer:  # noqa: ARG001  # the port's
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
        self._url = url
        self._client = client

    def publish(self, queue: str, message: OutgoingMessage, timeout: float) -> None:  # noqa: ARG002  # the connection has it
        """Append a message to a stream and wait for the answer."""
        with Masked(self._url, named=False), _RedisErrors():
            self._client.xadd(queue, _fields(message.body, message.id, message.headers))

    def close(self, timeout: float) -> None:  # noqa: ARG002  # the port's
        """Close the connection."""
        self._client.close()

    def abandon(self) -> None:
        """Close our copy of the socket; nothing is sent."""
        connection: Any = self._client.connection  # there is one: the client has a single connection
        connection.disconnect()  # in a forked child, the client itself would only forget it
        self._client.close()


class RedisConsumer:
    """A consumer of the group; see `queue.Consumer`."""

    poll_interval = 0.5

    def __init__(self, url: BrokerURL, client: redis.Redis, queue: str) -> None:
        self._url = url
        self._client: Any = client  # whose commands return what depends on their arguments
        self._queue = queue
        self._name = f"{socket.gethostname()}-{os.getpid()}-{os.urandom(4).hex()}"
        self._held: set[bytes] = set()
        self._claim_after = 0.0  # by time.monotonic
        self._cursor = _STREAM_START
        self._extended = time.monotonic()
        with _RedisErrors():
            self._make_group()

    def receive(self, limit: int, wait: float) -> list[ReceivedMessage]:
        """Return messages of dead relays, else new ones; wait for the first one."""
        with Masked(self._url, named=False), _RedisErrors():
            if self._held:
                self._extend()
            return self._claim(limit) or self._read(limit, wait)

    def acknowledge(self, messages: Sequence[ReceivedMessage]) -> None:
        """Remove messages from the stream and from the list of pending ones, in one exchange."""
        ids = [message.ack_token for message in messages]
        # No transaction: a Redis that is out of memory accepts none, and could not be emptied. If only the first
        # command arrives, whoever claims the message next finds that it is gone.
        with Masked(self._url, named=False), _RedisErrors(), self._client.pipeline(transaction=False) as pipeline:
            pipeline.xdel(self._queue, *ids)
            pipeline.xack(self._queue, GROUP, *ids)
            pipeline.execute()
            self._held.difference_update(ids)

    def requeue(self, message: ReceivedMessage, headers: Mapping[str, str], delay: float = 0.0) -> None:  # noqa: ARG002  # the port's
        """Move a message to the end of the stream."""
        self._move(message, self._queue, headers)

    def dead_letter(self, message: ReceivedMessage, headers: Mapping[str, str]) -> None:
        """Move a message to the dead-letter queue."""
        self._move(message, self._queue + DEAD_SUFFIX, headers)

    def keep_alive(self) -> None:
        """Extend the lease of what is held, if it is time for that."""
        with Masked(self._url, named=False), _RedisErrors():
            self._extend()

    def close(self) -> None:
        """Give back what is held, remove the consumer, and close the connection."""
        try:
            self._give_back()
            self._client.xgroup_delconsumer(self._queue, GROUP, self._name)
        except (exceptions.RedisError, OSError):
            pass  # what is held is claimed after its lease; the consumer is removed later
        finally:
            self._client.close()

    def _make_group(self) -> None:
        try:
            if any(group["name"] == GROUP.encode() for group in self._client.xinfo_groups(self._queue)):
                return  # a Redis that is out of memory would refuse to make it
        except exceptions.ResponseError as error:
            if "no such key" not in str(error):
                raise
        try:
            self._client.xgroup_create(self._queue, GROUP, id="0", mkstream=True)
        except exceptions.ResponseError as error:  # another relay was first
            if not str(error).startswith("BUSYGROUP"):
                raise

    def _read(self, limit: int, wait: float) -> list[ReceivedMessage]:
        block = max(int(wait * 1000), 1) if wait > 0 else None  # 0 would wait without an end
        found = self._client.xreadgroup(GROUP, self._name, {self._queue: ">"}, count=limit, block=block)
        if not found:
            return []
        streams = found.values() if isinstance(found, dict) else [entries for _, entries in found]
        messages = [_from_stream(id_, fields, 0) for entries in streams for id_, fields in _flat(entries)]
        self._held.update(message.ack_token for message in messages)
        return messages

    def _claim(self, limit: int) -> list[ReceivedMessage]:
        """Claim messages of consumers that give no sign of life; look for them now and then."""
        if time.monotonic() < self._claim_after:
            return []
        self._cursor, found = self._client.xautoclaim(
            self._queue, GROUP, self._name, int(MESSAGE_LEASE * 1000), self._cursor, count=limit
        )[:2]
        deleted = [id_ for id_, fields in found if not fields]
        if deleted:  # pragma: no cover  # Redis 6.2 alone gives them; 7 forgets them itself
            self._client.xack(self._queue, GROUP, *deleted)
        entries = [(id_, fields) for id_, fields in found if fields]
        if not entries:
            if self._cursor == _STREAM_START:
                self._claim_after = time.monotonic() + _CLAIM_PAUSE
                self._remove_dead_consumers()
            return []
        counts = self._delivered(entries[0][0], entries[-1][0], len(entries))
        messages = [_from_stream(id_, fields, max(counts.get(id_, 1) - 1, 0)) for id_, fields in entries]
        self._held.update(message.ack_token for message in messages)
        return messages

    def _delivered(self, first: bytes, last: bytes, count: int) -> dict[bytes, int]:
        """Return how often each of our pending messages was delivered."""
        # Between the two may be messages that were ours before.
        pending = self._client.xpending_range(
            self._queue, GROUP, first, last, count + len(self._held), consumername=self._name
        )
        return {entry["message_id"]: entry["times_delivered"] for entry in pending}

    def _extend(self) -> None:
        now = time.monotonic()
        if now - self._extended < MESSAGE_LEASE / 4:
            return
        self._extended = now
        if mine := self._pending():
            # With JUSTID, the number of deliveries stays as it is.
            self._client.xclaim(self._queue, GROUP, self._name, 0, [*mine], idle=0, justid=True)

    def _pending(self) -> dict[bytes, int]:
        """Return the messages that are pending for us, and how often each was delivered."""
        entries = self._client.xpending_range(self._queue, GROUP, "-", "+", 10_000, consumername=self._name)
        return {entry["message_id"]: entry["times_delivered"] for entry in entries}

    def _give_back(self) -> None:
        """Let others claim at once what is pending for us, also what was lost on its way to us."""
        for id_, delivered in self._pending().items():
            # It was not to blame for anything: this delivery does not count.
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
        # Not in one transaction: Redis goes on after a command of it that fails, and would remove the only copy.
        with Masked(self._url, named=False), _RedisErrors():
            try:
                self._client.xadd(queue, _fields(message.body, message.id, headers))
            except exceptions.ResponseError as error:  # the connection is fine: other messages go on
                raise NotTakenError(f"{queue} does not accept it: {one_line(error)}") from error
        self.acknowledge([message])


class _RedisErrors:
    """Turns errors of redis-py into those of the port."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        refusals = (exceptions.AuthenticationError, exceptions.AuthorizationError, exceptions.NoPermissionError)
        if isinstance(error, refusals):
            raise RefusedError(one_line(error)) from error
        if isinstance(error, exceptions.OutOfMemoryError):
            raise NotTakenError(f"the broker accepts nothing at the moment: {one_line(error)}") from error
        if isinstance(error, (exceptions.RedisError, OSError)) and not isinstance(error, BrokerError):
            raise BrokerError(one_line(error)) from error


def _open_client(address: Address, timeout: float, *, single_connection_client: bool = False) -> redis.Redis:
    """Return a client with one connection, which has answered.

    :raises BrokerError: the broker could not be reached
    :raises RefusedError: the login is refused
    """
    tls: dict[str, Any] = {"ssl": True, "ssl_cert_reqs": "required", "ssl_check_hostname": True} if address.tls else {}
    with _RedisErrors():
        client = redis.Redis(  # which connects, if it has a single connection
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


def _flat(entries: Any) -> Any:
    """Return the entries of a stream; by the protocol RESP3, redis-py wraps them in one more list."""
    return entries[0] if entries and isinstance(entries[0], list) else entries
