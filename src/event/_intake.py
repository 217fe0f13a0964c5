"""Taking messages from a broker's queue: each stays the broker's until it is acknowledged, whatever becomes of us.

With AMQP, and most of what kombu speaks, that is the broker's own doing. With Redis it is not: what kombu takes with
BRPOP is, for a moment, nowhere but on the wire, and lost where the taker is killed then. So it is done here as Redis
describes it, with a list for each taker:

=====================  =============================================================================================
key                    holds
=====================  =============================================================================================
QUEUE                  what waits: kombu's own list
QUEUE.taken.TAKER      what a taker has and has not acknowledged; LMOVE brings it there, in one step
QUEUE.alive.TAKER      expires when the taker has not been heard of for `LEASE` seconds
QUEUE.takers           the set of all takers
=====================  =============================================================================================

Any taker gives back what one that has gone had taken.
"""

from __future__ import annotations

import json
import time
from base64 import b64decode
from collections import deque

from event._broker import STEP, Broker, BrokerError, declare, leave
from event._clocked import Clock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    class Intake(Protocol):
        """A queue that messages are taken from. A `BrokerError` is a lost connection; what was taken comes again."""

        def take(self, wait: float) -> Taken | None: ...  # the next message; None where none comes in so many seconds

        def keep_alive(self) -> None: ...  # between two messages: has the broker know that we are there

        def acknowledge(self, taken: Taken) -> None: ...  # lets the broker forget a message

        def close(self) -> None: ...  # gives back what is not acknowledged, and takes leave


LEASE = 60.0  # seconds
_HELD = 20  # messages that are taken and not acknowledged, at most
_SILENT = 10.0  # seconds of no word from an AMQP broker, of which two make a connection dead


class Taken:
    """A message that is taken.

    :ivar body: its content
    :ivar headers: what stands beside it
    :ivar again: whether it was taken before, by one that has not acknowledged it
    """

    __slots__ = ("again", "body", "handle", "headers")

    def __init__(self, body: bytes | str | None, headers: Any, again: bool, handle: Any) -> None:
        self.body = body.encode("utf-8", "surrogateescape") if isinstance(body, str) else bytes(body or b"")
        self.headers: dict[str, Any] = headers if isinstance(headers, dict) else {}
        self.again = again
        self.handle = handle


def connect(broker: Broker, queue: str, taker: str, *, patience: float = LEASE, attempt: int = 0) -> Intake:
    """Return a queue's intake. The queue is made where it is missing.

    :param taker: tells us from the others; the same at each connection
    :param patience: seconds that pass between two calls here, at most
    :param attempt: how many were made before; each takes the next of the broker's URLs
    :raises BrokerError: the broker could not be reached
    """
    heartbeat = max(LEASE, 2 * patience)
    connection = broker.connect(Clock(STEP, STEP), attempt=attempt, heartbeat=heartbeat)
    try:
        with broker.trouble():
            declare(connection, queue)
            if connection.transport.driver_type == "redis":
                return _List(broker, connection, queue, taker, LEASE + patience)
            return _Queue(broker, connection, queue)
    except BaseException:
        leave(connection, broker)
        raise


class _Queue:
    """A queue whose broker keeps count of what is not acknowledged."""

    def __init__(self, broker: Broker, connection: Any, queue: str) -> None:
        self._broker = broker
        self._connection = connection
        self._come: deque[Taken] = deque()
        self._held: set[Any] = set()
        self._channel = connection.default_channel
        if hasattr(self._channel, "Message"):
            self._channel.Message = _as_it_came(self._channel.Message)
        self._channel.basic_qos(0, _HELD, False)
        self._channel.basic_consume(queue, no_ack=False, callback=self._note, consumer_tag="e3-event")
        self._checked = time.monotonic()

    def take(self, wait: float) -> Taken | None:
        self.keep_alive()
        if not self._come:
            with self._broker.trouble():
                self._drain(wait)
        return self._come.popleft() if self._come else None

    def keep_alive(self) -> None:
        if not self._connection.supports_heartbeats or time.monotonic() - self._checked < _SILENT:
            return
        self._checked = time.monotonic()
        with self._broker.trouble():
            self._drain(0.0)  # what the broker says counts as its being alive
            self._connection.heartbeat_check()

    def acknowledge(self, taken: Taken) -> None:
        with self._broker.trouble():
            self._channel.basic_ack(taken.handle)
        self._held.discard(taken.handle)

    def close(self) -> None:
        try:
            with self._broker.trouble():
                for handle in self._held:  # not all of kombu's transports do so where a connection ends
                    self._channel.basic_reject(handle, requeue=True)
        except BrokerError:
            pass  # the broker does it, once it notices
        leave(self._connection, self._broker)

    def _drain(self, wait: float) -> None:
        try:
            self._connection.drain_events(timeout=max(wait, 0.001))  # 0 is without end
        except TimeoutError:
            pass

    def _note(self, message: Any) -> None:
        headers = getattr(message, "headers", None) or message.properties.get("application_headers")
        again = bool((message.delivery_info or {}).get("redelivered"))
        self._held.add(message.delivery_tag)
        self._come.append(Taken(message.body, headers, again, message.delivery_tag))


def _as_it_came(kind: Any) -> Any:
    """Return a class of messages whose body stays as it came; a header could have gigabytes unpacked."""
    return type("_AsItCame", (kind,), {"errors": ["not unpacked"]})


class _List:
    """A list of Redis."""

    def __init__(self, broker: Broker, connection: Any, queue: str, taker: str, lease: float) -> None:
        self._broker = broker
        self._connection = connection
        self._redis = connection.default_channel.client
        self._queue = queue
        self._taker = taker
        self._lease = lease
        self._held = 0
        self._said = self._looked = 0.0
        self._give_back(taker, mark=True)  # of a connection before this one
        self._say_alive()

    def take(self, wait: float) -> Taken | None:
        self.keep_alive()
        with self._broker.trouble():
            if self._held >= _HELD:
                time.sleep(wait)
                return None
            raw = self._redis.blmove(self._queue, self._own("taken"), wait, "RIGHT", "LEFT") if wait > 0 else None
        if raw is None:
            return None
        self._held += 1
        return _of_envelope(raw)

    def keep_alive(self) -> None:
        with self._broker.trouble():
            self._say_alive()
            self._look_for_the_gone()

    def acknowledge(self, taken: Taken) -> None:
        with self._broker.trouble():
            self._redis.lrem(self._own("taken"), 1, taken.handle)
        self._held -= 1

    def close(self) -> None:
        try:
            with self._broker.trouble():
                self._give_back(self._taker, mark=False)
                self._redis.delete(self._own("alive"))
        except BrokerError:
            pass  # another taker does it, once the lease has ended
        leave(self._connection, self._broker)

    def _key(self, what: str, taker: str = "") -> str:
        return f"{self._queue}.{what}.{taker}" if taker else f"{self._queue}.{what}"

    def _own(self, what: str) -> str:
        return self._key(what, self._taker)

    def _say_alive(self) -> None:
        now = time.monotonic()
        if now - self._said < LEASE / 4:
            return
        # In one step, and before anything is taken: whoever takes is found when it is gone.
        with self._redis.pipeline() as both:
            both.sadd(self._key("takers"), self._taker)
            both.set(self._own("alive"), "", ex=int(self._lease))
            both.execute()
        self._said = now

    def _look_for_the_gone(self) -> None:
        now = time.monotonic()
        if self._looked and now - self._looked < LEASE / 4:
            return
        self._looked = now
        for member in self._redis.smembers(self._key("takers")):
            taker = member.decode("utf-8", "replace")
            if taker != self._taker and not self._redis.exists(self._key("alive", taker)):
                self._give_back(taker, mark=True)

    def _give_back(self, taker: str, *, mark: bool) -> None:
        """Move what a taker has taken to where it is taken from next, the oldest first."""
        taken, alive = self._key("taken", taker), self._key("alive", taker)
        more = True

        def move(both: Any) -> None:
            nonlocal more
            returned = taker != self._taker and both.exists(alive)
            raw = None if returned else both.lindex(taken, 0)
            more = raw is not None
            both.multi()
            if raw is not None:
                both.lpop(taken)
                both.rpush(self._queue, _marked(raw) if mark else raw)
            elif not returned:
                both.srem(self._key("takers"), taker)

        while more:
            self._redis.transaction(move, taken, alive)  # again, where either has changed meanwhile


def _of_envelope(raw: bytes) -> Taken:
    """Return the message in an item of a list, as kombu's virtual transports write it."""
    try:
        envelope = json.loads(raw)
        properties = envelope["properties"]
        body = envelope["body"]
        if properties.get("body_encoding") == "base64":
            body = b64decode(body)
        headers = envelope.get("headers") or {}
        return Taken(body, headers, bool(headers.get("redelivered")), raw)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return Taken(raw, {}, False, raw)  # what it is not, the reader of the body tells


def _marked(raw: bytes) -> bytes:
    """Return an item that tells that it has been taken before."""
    try:
        envelope = json.loads(raw)
        envelope["headers"]["redelivered"] = True
    except (ValueError, LookupError, TypeError, RecursionError):
        return raw
    return json.dumps(envelope).encode()
