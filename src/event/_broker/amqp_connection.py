"""An AMQP connection by pika each of whose waits ends at a deadline; queues; what pika's errors mean.

`pika.SelectConnection` leaves the loop to its user: pika's blocking adapter waits for a confirmation without an end.
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

from event._broker.queue import DEAD_SUFFIX, BrokerError, NotTakenError, RefusedError, TooLargeError
from event.error import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from event._broker.url import Address

GOODBYE = 1.0  # seconds
_HEARTBEAT = 30  # seconds
# AMQP 0-9-1, section 1.2
_ACCESS_REFUSED, _NOT_FOUND, _PRECONDITION_FAILED, _NOT_ALLOWED = 403, 404, 406, 530


class AMQPConnection:
    """An AMQP connection whose waits end at a deadline.

    What is given to pika to be called goes through `noted`: pika's loop then stops, and the wait looks anew.

    :raises BrokerError: it could not be opened
    :raises RefusedError: the login is refused
    """

    def __init__(self, address: Address, timeout: float) -> None:
        self.error: BaseException | None = None
        self._blocked = False
        self._loop = _Loop()
        self._connection = pika.SelectConnection(
            _parameters(address, timeout),
            on_open_callback=self.noted(_nothing),
            on_open_error_callback=self.noted(self._note_error),
            on_close_callback=self.noted(self._note_error),
            custom_ioloop=self._loop,
        )
        self._connection.add_on_connection_blocked_callback(partial(self._note_blocked, True))
        self._connection.add_on_connection_unblocked_callback(partial(self._note_blocked, False))
        try:
            self.wait(lambda: self._connection.is_open, timeout)
        except BaseException:
            self.close(0.0)
            raise

    def noted(self, callback: Callable[..., object]) -> Callable[..., None]:
        """Return a callback for pika which also has `wait` look whether it is done."""

        def call(*arguments: object) -> None:
            callback(*arguments)
            self._loop.stop()

        return call

    def open_channel(self, timeout: float) -> Any:
        """Return a new channel."""
        opened: list[Any] = []
        channel = self._connection.channel(on_open_callback=self.noted(opened.append))
        self.wait(lambda: opened, timeout)
        return channel

    def exchange(self) -> None:
        """Send and receive what can be sent and received at once."""
        self.wait(bool, 0.0, must=False)

    def wait(self, is_done: Callable[[], object], timeout: float, *, must: bool = True) -> None:
        """Run the connection until something is done.

        :param must: whether it is an error if it is not done in time
        :raises BrokerError: the connection is lost, or the time is over
        """
        over: list[bool] = []
        timer = self._loop.call_later(max(timeout, 0.0), self.noted(partial(over.append, True)))
        try:
            while not is_done() and self.error is None:
                if over and must:
                    raise self._overdue(timeout)
                if over:
                    break
                self._loop.start()  # until it is stopped
        finally:
            self._loop.remove_timeout(timer)
        if self.error is not None:
            raise sorted_error(self.error)

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
        self.close(GOODBYE)

    def _cut(self) -> None:
        """End a connection whose broker does not answer."""
        try:
            self._loop.shut_down_sockets()
            self.wait(lambda: self.error, GOODBYE)
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
    """A loop that knows the sockets that it watches, by the interface of pika's `AbstractSelectorIOLoop`."""

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


def declare(connection: AMQPConnection, queue: str, end: float) -> None:
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


def _declare(connection: AMQPConnection, queue: str, end: float, **options: Any) -> bool:
    """Declare a queue; return False if there is none of that name."""
    channel = connection.open_channel(left(end))
    closed: list[BaseException] = []

    def note_close(_channel: object, error: BaseException) -> None:
        closed.append(error)

    channel.add_on_close_callback(connection.noted(note_close))
    declared: list[object] = []
    channel.queue_declare(queue, durable=True, callback=connection.noted(declared.append), **options)
    connection.wait(lambda: declared or closed, left(end))
    if not closed:
        channel.close()
        connection.wait(lambda: closed, left(end))
        return True
    if getattr(closed[0], "reply_code", 0) == _NOT_FOUND:
        return False
    raise sorted_error(closed[0])


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


def sorted_error(error: BaseException) -> BrokerError | TooLargeError:
    """Return the error of ours that one of pika's means."""
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


def _amqp_error_text(error: BaseException) -> str:
    if isinstance(error, exceptions.ConnectionClosed | exceptions.ChannelClosed):
        return f"{error.reply_code} {error.reply_text}"
    return one_line(error) if str(error) else repr(error)


def left(end: float) -> float:
    """Return the seconds until a deadline."""
    return max(end - time.monotonic(), 0.0)


def _nothing(*_arguments: object) -> None:
    pass
