"""AMQP connections by pika with a timeout for every wait; declaring queues; translating pika's errors.

This module uses `pika.SelectConnection`, because pika's blocking adapter has no timeout when it waits for a
confirmation.
"""

from __future__ import annotations

import os
import socket
import ssl
import time
from functools import partial
from typing import Any

import pika
from pika import exceptions
from pika.adapters.select_connection import IOLoop

from event._broker.queue import DEAD_SUFFIX, BrokerError, NotAcceptedError, RefusedError, TooLargeError
from event.error import root_cause

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from event._broker.url import Address

CLOSE_TIMEOUT = 1.0  # seconds
_HEARTBEAT = 30  # seconds
# AMQP 0-9-1, section 1.2
_ACCESS_REFUSED, _NOT_FOUND, _PRECONDITION_FAILED, _NOT_ALLOWED = 403, 404, 406, 530


class AMQPConnection:
    """An AMQP connection with a timeout for every wait.

    Pass every callback for pika through `waking`, so that `wait` checks its condition again after the callback. The
    methods raise the errors of pika, which `broker_error` converts, and `BrokerError` after a timeout.
    """

    def __init__(self, address: Address, timeout: float) -> None:
        self.error: BaseException | None = None
        self._blocked = False
        self._is_woken = False  # whether the loop was stopped since `wait` has started it
        self._loop = _Loop()
        self._connection = pika.SelectConnection(
            _parameters(address, timeout),
            on_open_callback=self.waking(lambda *_: None),
            on_open_error_callback=self.waking(self._on_error),
            on_close_callback=self.waking(self._on_error),
            custom_ioloop=self._loop,
        )
        self._connection.add_on_connection_blocked_callback(partial(self._on_blocked, True))
        self._connection.add_on_connection_unblocked_callback(partial(self._on_blocked, False))
        try:
            self.wait(lambda: self._connection.is_open, timeout)
        except BaseException:
            self.close(0.0)
            raise

    def waking(self, callback: Callable[..., object]) -> Callable[..., None]:
        """Wrap a callback for pika, so that `wait` checks its condition after the callback was called."""

        def call(*arguments: object) -> None:
            callback(*arguments)
            if not self._is_woken:  # stopping the loop takes a system call, and there may be a hundred messages
                self._is_woken = True
                self._loop.stop()

        return call

    def open_channel(self, timeout: float) -> Any:
        """Open a new channel."""
        opened: list[Any] = []
        channel = self._connection.channel(on_open_callback=self.waking(opened.append))
        self.wait(lambda: opened, timeout)
        return channel

    def exchange(self) -> None:
        """Send and receive data without waiting."""
        self.wait(bool, 0.0, must=False)

    def wait(self, is_done: Callable[[], object], timeout: float, *, must: bool = True) -> None:
        """Process the connection's data until a condition is true.

        :param is_done: returns whether the condition is true
        :param timeout: seconds to wait at most
        :param must: whether to raise an error after the timeout
        """
        over: list[bool] = []
        timer = self._loop.call_later(max(timeout, 0.0), self.waking(partial(over.append, True)))
        try:
            while not is_done() and self.error is None:
                if over and must:
                    raise self._overdue(timeout)
                if over:
                    break
                self._is_woken = False
                self._loop.start()  # returns after a callback that was wrapped by `waking`
        finally:
            self._loop.remove_timeout(timer)
        if self.error is not None:
            raise self.error

    def close(self, timeout: float) -> None:
        """Close the connection within `timeout` seconds. If the broker does not respond, shut it down."""
        try:
            if not (self._connection.is_closed or self._connection.is_closing):
                self._connection.close()
            self.wait(lambda: self.error, timeout)
        except Exception:
            self._shut_down()
        finally:
            self._loop.close()

    def abandon(self) -> None:
        """Close the connection in a forked child, without affecting the parent's connection."""
        self._loop.replace_sockets()
        self.close(CLOSE_TIMEOUT)

    def _shut_down(self) -> None:
        """Shut down a connection whose broker does not respond."""
        try:
            self._loop.shut_down_sockets()
            self.wait(lambda: self.error, CLOSE_TIMEOUT)
        except Exception:  # noqa: S110  # the connection is not used again
            pass

    def _overdue(self, timeout: float) -> BrokerError:
        if self._blocked:
            return NotAcceptedError("the broker accepts nothing at the moment: it is short of memory or disk space")
        return BrokerError(f"no answer within {timeout:.3g} s")

    def _on_error(self, _connection: object, error: BaseException | str) -> None:
        self.error = error if isinstance(error, BaseException) else BrokerError(error)

    def _on_blocked(self, blocked: bool, *_args: object) -> None:
        self._blocked = blocked


class _Loop(IOLoop):
    """An event loop for pika (see its `AbstractSelectorIOLoop`) that records the sockets it watches."""

    def __init__(self) -> None:
        super().__init__()
        self._sockets: set[int] = set()

    def add_handler(self, fd: int, handler: Callable[[int, int], None], events: int) -> None:
        """Watch a socket."""
        self._sockets.add(fd)
        super().add_handler(fd, handler, events)

    def remove_handler(self, fd: int) -> None:
        """Stop watching a socket."""
        self._sockets.discard(fd)
        super().remove_handler(fd)

    def shut_down_sockets(self) -> None:
        """Shut down the connections. Pika then detects that they are lost, and closes its sockets."""
        for fd in self._sockets:
            with socket.socket(fileno=os.dup(fd)) as copy:
                copy.shutdown(socket.SHUT_RDWR)

    def replace_sockets(self) -> None:
        """Replace the sockets, which the parent process uses as well, with sockets whose other end is closed."""
        for fd in self._sockets:
            closed, other = socket.socketpair()
            with closed, other:
                os.dup2(closed.fileno(), fd, inheritable=False)


def declare(connection: AMQPConnection, queue: str, end: float) -> None:
    """Create a queue and its dead-letter queue if they do not exist. Existing queues of any type are not changed.

    :param end: the deadline, by `time.monotonic`
    """
    if _declare(connection, queue, end, passive=True):
        return
    arguments: dict[str, Any] = {"x-queue-type": "quorum"}
    if not queue.endswith(DEAD_SUFFIX):
        # Since RabbitMQ 4.0, a quorum queue drops a message after 20 deliveries unless it has a dead-letter queue. This
        # also dead-letters messages that pika can't read, such as those with a header of an unknown type.
        declare(connection, queue + DEAD_SUFFIX, end)
        arguments |= {
            "x-delivery-limit": 20,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": queue + DEAD_SUFFIX,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",  # required by this strategy
        }
    else:
        arguments["x-delivery-limit"] = 1_000_000  # no limit in practice; RabbitMQ before 4.0 does not accept -1
    _declare(connection, queue, end, arguments=arguments)


def _declare(connection: AMQPConnection, queue: str, end: float, **options: Any) -> bool:
    """Declare a queue; return False if it does not exist, with the option ``passive``."""
    channel = connection.open_channel(seconds_until(end))
    closed: list[BaseException] = []

    def on_close(_channel: object, error: BaseException) -> None:
        closed.append(error)

    channel.add_on_close_callback(connection.waking(on_close))
    declared: list[object] = []
    channel.queue_declare(queue, durable=True, callback=connection.waking(declared.append), **options)
    connection.wait(lambda: declared or closed, seconds_until(end))
    if not closed:
        channel.close()
        connection.wait(lambda: closed, seconds_until(end))
        return True
    if getattr(closed[0], "reply_code", 0) == _NOT_FOUND:
        return False
    raise closed[0]


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


def broker_error(error: BaseException) -> BrokerError | TooLargeError:
    """Convert an error of pika to an error of `event._broker.queue`."""
    if isinstance(error, (BrokerError, TooLargeError)):
        return error
    cause = _innermost(error)
    reason = _amqp_error_text(cause)
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
    """Return the actual error of a failed connection, which pika wraps in other errors."""
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


def _amqp_error_text(error: BaseException) -> str:
    if isinstance(error, exceptions.ConnectionClosed | exceptions.ChannelClosed):
        return f"{error.reply_code} {error.reply_text}"
    return root_cause(error)


def seconds_until(end: float) -> float:
    """Return the seconds until a deadline."""
    return max(end - time.monotonic(), 0.0)
