"""Publish messages through a pool of connections, with retries and failover until a deadline."""

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
_FIRST_PUBLISH_PAUSE = 0.2  # seconds before the second attempt; doubled for each further attempt
_MAX_PUBLISH_PAUSE = 30.0  # seconds
_MAX_IDLE = 4  # connections in the pool; each thread that publishes at the same time needs one
_MAX_IDLE_SECONDS = 25.0  # a server closes an AMQP connection that is silent for two heartbeats
_CLOSE_TIMEOUT = 1.0  # seconds for all connections together


@dataclass(slots=True)
class _PooledConnection:
    publisher: Publisher
    pid: int
    last_used: float  # by time.monotonic


class PublisherPool:
    """Publish messages to a broker. Threads may share a pool. A forked process opens its own connections."""

    def __init__(self, url: BrokerURL) -> None:
        self.url = url
        self._idle: list[_PooledConnection] = []
        # Close the connections properly at the end: otherwise, the broker logs a warning for each of them.
        weakref.finalize(self, _close_all, self._idle)

    def publish(self, queue: str, message: OutgoingMessage, timeout: float) -> None:
        """Publish a message to a queue, and wait for the broker's confirmation.

        :param queue: the queue's name; the queue is created if it does not exist
        :param timeout: seconds for all attempts together
        :raises BrokerError: not confirmed. The broker may have stored the message, so a retry can duplicate it
        :raises TooLargeError: the message is too large for the broker
        """
        end = time.monotonic() + timeout
        nodes = len(self.url.addresses)
        pooled = self._take_from_pool()
        connections = 0  # opened so far
        while True:
            try:
                return self._attempt(pooled, connections, queue, message, end)
            except BrokerError as error:
                connections += 0 if pooled else 1
                pause = backoff(connections // nodes - 1, _FIRST_PUBLISH_PAUSE, _MAX_PUBLISH_PAUSE)
                pooled = None  # the other pooled connections are probably lost as well
                # Try a refused login only once on each node: some servers lock a user after several failures.
                attempts = nodes if isinstance(error, RefusedError) else max(_ATTEMPTS, nodes)
                if connections >= attempts or time.monotonic() + pause >= end:
                    raise
            if connections and connections % nodes == 0:
                time.sleep(pause)

    def close(self) -> None:
        """Close the connections that are not in use."""
        _close_all(self._idle)

    def _attempt(
        self, pooled: _PooledConnection | None, connections: int, queue: str, message: OutgoingMessage, end: float
    ) -> None:
        """Publish through a pooled connection, or through a new one if `pooled` is None."""
        # Leave time for the remaining nodes, in case this one hangs.
        nodes = len(self.url.addresses)
        own_end = time.monotonic() + max(end - time.monotonic(), 0.0) / (nodes - connections % nodes)
        if pooled is None:
            publisher = connect_publisher(self.url, connections, own_end - time.monotonic())
            pooled = _PooledConnection(publisher, os.getpid(), 0.0)
        try:
            pooled.publisher.publish(queue, message, max(own_end - time.monotonic(), 0.0))
        except BaseException:
            pooled.publisher.close(0.0)
            raise
        self._return_to_pool(pooled)

    def _return_to_pool(self, connection: _PooledConnection) -> None:
        connection.last_used = time.monotonic()
        if len(self._idle) < _MAX_IDLE:
            self._idle.append(connection)
        else:
            connection.publisher.close(_CLOSE_TIMEOUT)

    def _take_from_pool(self) -> _PooledConnection | None:
        # list.pop is atomic, so no lock is needed. A lock that another thread holds during a fork would stay locked.
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return None
            if connection.pid != os.getpid():
                connection.publisher.abandon()
            elif time.monotonic() - connection.last_used < _MAX_IDLE_SECONDS:
                return connection
            else:
                connection.publisher.close(0.0)


def _close_all(connections: list[_PooledConnection]) -> None:
    end = time.monotonic() + _CLOSE_TIMEOUT
    while connections:
        connection = connections.pop()
        if connection.pid == os.getpid():
            connection.publisher.close(max(end - time.monotonic(), 0.0))
        else:
            connection.publisher.abandon()
