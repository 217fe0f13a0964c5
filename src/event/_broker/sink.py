"""The interface between a relay and its sink, which processes the messages."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from event.error import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Disposition(Enum):
    """What a relay must do with a message."""

    ACK = "ack"
    """Acknowledge it: all handlers of the sink have delivered the event or failed permanently."""

    REQUEUE = "requeue"
    """Move it to the end of the queue, to be tried again."""

    DEAD_LETTER = "dead-letter"
    """Move it to the dead-letter queue, because no further attempt can succeed."""

    KEEP = "keep"
    """Do not acknowledge it; pause and try it again, for example because the disk is full."""


@dataclass(slots=True)
class Incoming:
    """A message for a sink.

    :ivar body: the content, see `event._broker.message`
    :ivar pending: the names of the pending handlers; None for all handlers
    """

    body: bytes = field(repr=False)
    pending: list[str] | None = None


@dataclass(slots=True)
class SinkResult:
    """The result of a sink for one message.

    :ivar disposition: what the relay must do with the message
    :ivar reason: why the message is not acknowledged
    :ivar pending: the names of the handlers that are still pending, including those that the sink does not have; None
        if all are
    :ivar refused: the error of each handler that has failed permanently, by its name
    :ivar crashed: whether the process with the message has crashed. The relay counts the crash and requeues the message
    """

    disposition: Disposition
    reason: str = ""
    pending: list[str] | None = None
    refused: dict[str, str] = field(default_factory=dict)
    crashed: bool = False


class Sink(Protocol):
    """Processes the messages of a relay."""

    def deliver(self, batch: Sequence[Incoming], idle: Callable[[], None]) -> list[SinkResult]:
        """Deliver the events of a batch of messages; return the results in order. Never raise an exception.

        :param idle: called about once a second meanwhile, in the caller's thread; it never raises an exception
        """
        ...


def failed(error: Exception) -> SinkResult:
    """Return the result of a message that could not be processed because of an error."""
    if isinstance(error, (OSError, MemoryError)):
        # Omit the file name, which is different each time: the relay reports each reason only once an hour.
        return SinkResult(Disposition.KEEP, getattr(error, "strerror", None) or one_line(error))
    return SinkResult(Disposition.DEAD_LETTER, one_line(error))  # the message itself is the cause
