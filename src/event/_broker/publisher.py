"""Publishing for the handler: kept connections, retries and failover within one deadline."""

from __future__ import annotations

import os
import time
import weakref
from dataclasses import dataclass

from event._backoff import backoff
from event._broker.queue import BrokerError, OutgoingMessage, Publisher, RefusedError, connect_publisher

TYPE_CHECKING = False
if TYPE_CHECKING:
    from event._broker.url import BrokerURL

_ATTEMPTS = 3
_FIRST_PUBLISH_PAUSE = 0.2  # seconds before the second attempt, then twice as long
_LONGEST_PUBLISH_PAUSE = 30.0  # seconds
_MOST_KEPT = 4  # connections; each thread that sends at the same time needs one
_LONGEST_KEPT = 25.0  # seconds unused; a server closes an AMQP connection that is silent for two heartbeats
_GOODBYE = 1.0  # seconds for all connections together


@dataclass(slots=True)
class _PooledConnection:
    publisher: Publisher
    pid: int
    last_used: float  # by time.monotonic


class PublisherPool:
    """Publishes to a broker. Threads may share it; a forked process opens connections of its own."""

    def __init__(self, url: BrokerURL) -> None:
        self.url = url
        self._idle: list[_PooledConnection] = []
        # A broker logs a connection that ends without a goodbye.
        weakref.finalize(self, _close_all, self._idle)

    def publish(self, queue: str, message: OutgoingMessage, timeout: float) -> None:
        """Publish a message to a queue; the broker has confirmed it when this returns.

        :param queue: its name; the queue is made if there is none
        :param timeout: total seconds, with all attempts
        :raises BrokerError: not confirmed. The broker may have stored the message, so a retry can duplicate it
        :raises TooLargeError: the message is too large for the broker
        """
        end = time.monotonic() + timeout
        kept = self._take()
        connections = 0  # opened so far
        while True:
            try:
                return self._attempt(kept, connections, queue, message, end)
            except BrokerError as error:
                connections += 0 if kept else 1
                pause = backoff(
                    connections // len(self.url.addresses) - 1, _FIRST_PUBLISH_PAUSE, _LONGEST_PUBLISH_PAUSE
                )
                kept = None  # the other kept ones are likely to be as dead
                if self._is_final(error, connections) or time.monotonic() + pause >= end:
                    raise
            if connections and connections % len(self.url.addresses) == 0:
                time.sleep(pause)

    def close(self) -> None:
        """Close the connections that are not in use."""
        _close_all(self._idle)

    def _attempt(
        self, kept: _PooledConnection | None, connections: int, queue: str, message: OutgoingMessage, end: float
    ) -> None:
        """Publish by a kept connection, or by a new one."""
        # The nodes that are left get their share of the time, should this one hang.
        nodes = len(self.url.addresses)
        own_end = time.monotonic() + max(end - time.monotonic(), 0.0) / (nodes - connections % nodes)
        if kept is None:
            publisher = connect_publisher(self.url, connections, own_end - time.monotonic())
            kept = _PooledConnection(publisher, os.getpid(), 0.0)
        try:
            kept.publisher.publish(queue, message, max(own_end - time.monotonic(), 0.0))
        except BaseException:
            kept.publisher.close(0.0)
            raise
        self._keep(kept)

    def _is_final(self, error: BrokerError, connections: int) -> bool:
        nodes = len(self.url.addresses)
        # A wrong password is not repeated: some servers lock the user out.
        return connections >= (nodes if isinstance(error, RefusedError) else max(_ATTEMPTS, nodes))

    def _keep(self, connection: _PooledConnection) -> None:
        connection.last_used = time.monotonic()
        if len(self._idle) < _MOST_KEPT:
            self._idle.append(connection)
        else:
            connection.publisher.close(_GOODBYE)

    def _take(self) -> _PooledConnection | None:
        # Without a lock: list.pop is one step, and a lock that another thread holds during a fork would stay locked.
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return None
            if connection.pid != os.getpid():
                connection.publisher.abandon()
            elif time.monotonic() - connection.last_used < _LONGEST_KEPT:
                return connection
            else:
                connection.publisher.close(0.0)


def _close_all(connections: list[_PooledConnection]) -> None:
    end = time.monotonic() + _GOODBYE
    while connections:
        connection = connections.pop()
        if connection.pid == os.getpid():
            connection.publisher.close(max(end - time.monotonic(), 0.0))
        else:
            connection.publisher.abandon()
