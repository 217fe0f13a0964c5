"""Taking messages from a broker's queue: each stays the broker's until it is acknowledged, whatever becomes of us.

With AMQP, SQS and some others that is the broker's own doing. For Redis it is done here, in a module of its own. The
rest of what kombu speaks forgets a message when it is taken; an intake tells that it does.
"""

from __future__ import annotations

import time
from collections import deque
from contextlib import contextmanager
from threading import Event, Lock, Thread

from kombu.transport import virtual

from event._broker import STEP, Broker, BrokerError, TooLargeError, declare, leave
from event._clocked import Clock
from event._redis_list import RedisList
from event._taken import Taken
from event.error import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import Any, Protocol

    from typing_extensions import Self

    class Source(Protocol):
        """A queue, by one connection. It raises what kombu raises."""

        forgets: bool  # whether what is taken is nowhere but with us

        def take(self, wait: float) -> Taken | None: ...  # the next message; None where none comes in so many seconds

        def keep_alive(self) -> None: ...  # has the broker know that we are there; called once a second and more often

        def acknowledge(self, handle: Any) -> None: ...  # lets the broker forget a message

        def pause(self) -> list[Taken]: ...  # nothing comes that is not taken; what has come already

        def resume(self) -> None: ...

        def give_back(self) -> None: ...  # what is not acknowledged


# Messages that are taken and not acknowledged, at most. RabbitMQ waits for half an hour, and each may take minutes.
HELD = 10
_CONSUMER = "e3-event"
_virtual: Any = virtual  # which is half typed
_HEARTBEAT = 30.0  # seconds in which each side of an AMQP connection says something
_PULSE = 1.0  # seconds
_LONGEST = 3600.0  # seconds that the caller may be busy elsewhere, beside what it says itself


def connect(broker: Broker, queue: str, taker: str, *, patience: float = 0.0, attempt: int = 0) -> Intake:
    """Return a queue's intake. The queue is made where it is missing.

    :param taker: tells us from the others; the same at each connection
    :param patience: seconds that pass between two calls; after an hour more the caller is taken to hang
    :param attempt: how many were made before; each takes the next of the broker's URLs
    :raises BrokerError: the broker could not be reached
    """
    connection = broker.connect(Clock(STEP, STEP), attempt=attempt, heartbeat=_HEARTBEAT)
    try:
        with broker.trouble():
            declare(connection, queue)
            source: Source
            if connection.transport.driver_type == "redis":
                source = RedisList(connection.default_channel.client, queue, taker, HELD)
            else:
                source = _Queue(connection, queue)
            return Intake(broker, connection, source, patience + _LONGEST)
    except BaseException:
        leave(connection, broker)
        raise


class Intake:
    """A queue that messages are taken from.

    A `BrokerError` is a lost connection, and the end of the intake; what was taken and not acknowledged comes again.

    While the caller is busy elsewhere, a thread has the broker know that we are there: the broker would give the
    messages to another one. A caller that hangs loses them that way.

    :ivar forgets: whether the broker forgets what is taken at once; what is not acknowledged is then lost with us
    """

    def __init__(self, broker: Broker, connection: Any, source: Source, patience: float) -> None:
        self._broker = broker
        self._connection = connection
        self._source = source
        self.forgets = source.forgets
        self._patience = patience
        self._called = time.monotonic()
        self._failure = ""
        self._lock = Lock()
        self._over = Event()
        self._pulse = Thread(target=self._beat, name="relay pulse", daemon=True)
        self._pulse.start()

    def __enter__(self) -> Self:
        """Return the intake."""
        return self

    def __exit__(self, *_args: object) -> None:
        """Close it."""
        self.close()

    def take(self, wait: float) -> Taken | None:
        """Return the next message; None where none comes in so many seconds, more or less.

        :raises BrokerError: the connection is lost
        """
        self._called = time.monotonic()
        with self._talk():
            return self._source.take(wait)

    def acknowledge(self, taken: Taken) -> None:
        """Let the broker forget a message.

        :raises BrokerError: the connection is lost
        """
        self._called = time.monotonic()
        with self._talk():
            self._source.acknowledge(taken.handle)

    def pause(self) -> list[Taken]:
        """Have the broker give us no more, until `resume`; return what has come and not been taken yet.

        :raises BrokerError: the connection is lost
        """
        with self._talk():
            return self._source.pause()

    def resume(self) -> None:
        """Go on after `pause`.

        :raises BrokerError: the connection is lost
        """
        self._called = time.monotonic()
        with self._talk():
            self._source.resume()

    def close(self) -> None:
        """Give back what is not acknowledged, and take leave."""
        self._over.set()
        self._pulse.join()
        try:
            with self._talk():
                self._source.give_back()
        except BrokerError:
            pass  # the broker does it, or another taker, once they notice
        leave(self._connection, self._broker)

    @contextmanager
    def _talk(self) -> Generator[None]:
        with self._lock:
            if self._failure:
                raise BrokerError(self._failure)
            try:
                with self._broker.trouble():
                    yield
            except (BrokerError, TooLargeError) as error:
                self._failure = str(error) or one_line(error)
                raise BrokerError(self._failure) from None

    def _beat(self) -> None:
        while not self._over.wait(_PULSE) and time.monotonic() - self._called < self._patience:
            try:
                with self._talk():
                    self._source.keep_alive()
            except BrokerError:
                return  # the caller is told with its next call


class _Queue:
    """A queue whose broker keeps count of what is not acknowledged."""

    def __init__(self, connection: Any, queue: str) -> None:
        self._connection = connection
        self._queue = queue
        self._come: deque[Taken] = deque()
        self._held: dict[Any, None] = {}
        self._channel = connection.default_channel
        # A virtual transport that has nothing to tell its broker about.
        kind: Any = type(self._channel)
        self.forgets = kind.basic_ack is _virtual.Channel.basic_ack and kind.QoS is _virtual.QoS
        self._leave_as_it_is()
        self._channel.basic_qos(0, HELD, False)
        self.resume()
        interval = connection.get_heartbeat_interval() if connection.supports_heartbeats else 0
        self._silence = interval / 4 if interval else float("inf")
        self._checked = time.monotonic()

    def take(self, wait: float) -> Taken | None:
        self.keep_alive()
        if not self._come:
            self._drain(wait)
        return self._come.popleft() if self._come else None

    def keep_alive(self) -> None:
        if time.monotonic() - self._checked >= self._silence:
            self._checked = time.monotonic()
            self._drain(0.0)  # what the broker says counts as its being alive
            self._connection.heartbeat_check()

    def acknowledge(self, handle: Any) -> None:
        self._channel.basic_ack(handle)
        self._held.pop(handle)

    def pause(self) -> list[Taken]:
        self._channel.basic_cancel(_CONSUMER)  # its answer comes behind what is on its way
        come = [*self._come]
        self._come.clear()
        return come

    def resume(self) -> None:
        self._channel.basic_consume(self._queue, no_ack=False, callback=self._note, consumer_tag=_CONSUMER)

    def give_back(self) -> None:
        # Where a connection ends, AMQP's brokers do so, and kombu for most others. RabbitMQ would give us at once what
        # we reject, and a quorum queue drops what it has delivered too often.
        if not getattr(self._channel, "do_restore", True):
            for handle in self._held:
                self._channel.basic_reject(handle, requeue=True)

    def _drain(self, wait: float) -> None:
        try:
            self._connection.drain_events(timeout=max(wait, 0.001))  # 0 is without end
        except TimeoutError:
            pass

    def _note(self, message: Any) -> None:
        info = message.delivery_info
        again = isinstance(info, dict) and bool(info.get("redelivered"))
        self._held[message.delivery_tag] = None
        self._come.append(Taken(message.body, message.headers, again, message.delivery_tag))

    def _leave_as_it_is(self) -> None:
        """Have a message come as it is, whatever its headers ask for, or are."""
        channel, connection = self._channel, self._connection.connection
        channel.auto_decode = False  # what AMQP's content-encoding names may take time without end
        # That of a virtual transport would unpack gigabytes.
        channel.Message = type("_AsItCame", (channel.Message,), {"errors": ["not unpacked"]})
        if hasattr(connection, "on_inbound_frame"):
            connection.on_inbound_frame = _lenient(connection.on_inbound_frame)


def _lenient(handle: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return what handles the frames of an AMQP connection, and does not fail for what stands beside a message.

    Headers that py-amqp cannot read count as none: a time in milliseconds, which another client has written, would end
    this connection, and the next ones. Where the message was published to is not read.
    """

    def handle_frame(frame: tuple[int, int, bytes]) -> Any:
        kind, channel, content = frame
        if kind == _METHOD and content.startswith(_DELIVER):
            end = _TAG + 1 + content[_TAG] + 9  # the consumer's tag, the message's, whether it comes again
            frame = kind, channel, content[:end] + b"\0\0"
        try:
            return handle(frame)
        except Exception:
            if kind != _HEADER:
                raise
        return handle((kind, channel, content[:_PROPERTIES] + b"\0\0"))

    return handle_frame


# AMQP 0-9-1, sections 4.2.4 and 4.2.6.1: a method begins with its numbers, here those of basic.deliver, and a content
# header is class, weight and size of the body, then properties.
_METHOD, _HEADER = 1, 2
_DELIVER = b"\0\x3c\0\x3c"
_TAG = len(_DELIVER)
_PROPERTIES = 12
