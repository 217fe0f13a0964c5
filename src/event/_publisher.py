"""Publishing that is confirmed: the broker has a message, in a queue, or the caller is told that it may not have it."""

from __future__ import annotations

import os
import time
import weakref

import kombu

from event._broker import GOODBYE, BrokerError, RefusedError, declare, leave
from event._clocked import Clock
from event._wire import AMQPTransport

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from event._broker import Broker

_kombu: Any = kombu  # which is half typed
_ATTEMPTS = 3
_PAUSE = 0.2  # seconds before the second attempt, then twice as long
_KEPT = 4  # connections kept for later; each thread that sends at the same time needs one
_FRESH = 60.0  # seconds that one is kept; what stands between, a firewall say, forgets it some day, without a word


class Publisher:
    """Publishes to a broker. Threads may share it; a forked process makes connections of its own.

    :param broker: whom to publish to
    """

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self._idle: list[_Line] = []
        # Taking leave, the broker writes no line into its log; the process ends no later for it.
        weakref.finalize(self, _close_all, self._idle)

    def publish(  # noqa: PLR0913  # what a message is
        self, queue: str, body: bytes, clock: Clock, *, content_type: str, message_id: str = "",
        headers: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """Publish a message to a queue; the broker has it, on its disk where it keeps any, when this returns.

        :param queue: its name; it is made where it is missing
        :param clock: how long it may take, with all attempts
        :param headers: of the message
        :raises BrokerError: it is not known to be taken; where it was all the same, another attempt doubles it
        :raises TooLargeError: the broker takes none of that size
        """
        message = {"body": body, "content_type": content_type, "headers": {**(headers or {})}}
        if message_id:
            message["message_id"] = message_id
        line = self._kept()
        made = 0
        pause = _PAUSE
        while True:
            try:
                return self._attempt(line, made, queue, message, clock)
            except BrokerError as error:
                made += 0 if line else 1
                line = None  # the other kept ones are likely to be as dead
                if self._is_final(error, made) or time.monotonic() + pause >= clock.deadline:
                    raise
            if made and made % len(self.broker) == 0:
                time.sleep(pause)
                pause *= 2

    def close(self) -> None:
        """Take leave of the broker."""
        _close_all(self._idle)

    def _attempt(self, line: _Line | None, made: int, queue: str, message: dict[str, Any], clock: Clock) -> None:
        """Publish on a connection that was kept, or on a new one.

        :param made: how many were made before
        """
        # The URLs that are left get their share of the time, should this one hang.
        urls = len(self.broker)
        whole = max(clock.deadline - time.monotonic(), 0) / (urls - made % urls)
        clock = Clock(whole, clock.step)
        line = line or _Line(self.broker, self.broker.connect(clock, attempt=made))
        try:
            line.publish(queue, message, clock)
        except BaseException:
            line.close(Clock(min(GOODBYE, max(clock.deadline - time.monotonic(), 0)), GOODBYE))
            raise
        if len(self._idle) < _KEPT:
            self._idle.append(line)
        else:
            line.close()

    def _is_final(self, error: BrokerError, made: int) -> bool:
        """Tell whether another attempt is of no use now."""
        urls = len(self.broker)
        # A wrong password is not said again and again: some lock the user out.
        return made >= (urls if isinstance(error, RefusedError) else max(_ATTEMPTS, urls))

    def _kept(self) -> _Line | None:
        # No lock: taking from a list is one step, and one that a fork may leave locked would stay so.
        while True:
            try:
                line = self._idle.pop()
            except IndexError:
                return None
            if line.pid == os.getpid() and time.monotonic() - line.used < _FRESH:
                return line
            line.close()


class _Line:
    """A connection with a channel to publish on.

    :ivar pid: the process that has made it
    :ivar used: when it was last used, by `time.monotonic`
    """

    def __init__(self, broker: Broker, connection: Any) -> None:
        self.pid = os.getpid()
        self.used = time.monotonic()
        self._broker = broker
        self._connection = connection
        self._declared: set[str] = set()
        self._returned: list[Exception] = []
        channel = connection.default_channel
        if isinstance(connection.transport, AMQPTransport):  # no other one returns what reaches no queue
            channel.events["basic_return"].add(self._note_return)
        self._producer = _kombu.Producer(channel)

    def publish(self, queue: str, message: dict[str, Any], clock: Clock) -> None:
        """Publish a message.

        :raises BrokerError: it is not known to be taken
        :raises TooLargeError: the broker takes none of that size
        """
        with self._broker.trouble(), self._connection.watch.by(clock):
            if queue not in self._declared:
                declare(self._connection, queue)
                self._declared.add(queue)
            self._returned.clear()
            try:
                self._producer.publish(
                    routing_key=queue, content_encoding="utf-8", delivery_mode=2, mandatory=True, retry=False, **message
                )
            except TimeoutError as error:
                if getattr(self._connection._connection, "blocked", False):
                    raise BrokerError("it takes nothing for now: it is short of memory or disk") from error
                raise
            if self._returned:
                raise self._returned.pop()  # its queue has been removed meanwhile; the next attempt makes it again
        self.used = time.monotonic()

    def close(self, clock: Clock | None = None) -> None:
        """Take leave; what belongs to the process that we were forked from is let go of without a word on it."""
        if self.pid == os.getpid():
            leave(self._connection, self._broker, clock)
        else:
            self._connection.watch.abandon()

    def _note_return(self, error: Exception, *_args: object) -> None:
        self._returned.append(error)


def _close_all(lines: list[_Line]) -> None:
    clock = Clock(GOODBYE, GOODBYE)
    while lines:
        lines.pop().close(clock)
