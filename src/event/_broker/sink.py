"""What a sink is: where a relay's events go, and what becomes of their messages."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from event.error import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Disposition(Enum):
    """What is to become of a message."""

    ACK = "ack"
    """It is acknowledged: all handlers that the sink has are served."""

    REQUEUE = "requeue"
    """It goes to the end of the queue, to be tried again."""

    DEAD_LETTER = "dead-letter"
    """It goes to the dead-letter queue: no further attempt helps."""

    KEEP = "keep"
    """It stays unacknowledged: the disk is full, say. The relay pauses and tries again."""


@dataclass(slots=True)
class Incoming:
    """A message for a sink.

    :ivar pending: the handlers that have not got the event; None for all
    """

    body: bytes = field(repr=False)
    pending: list[str] | None = None


@dataclass(slots=True)
class SinkResult:
    """What is to become of a message.

    :ivar reason: why it is not done
    :ivar pending: the handlers that are still to get the event, those that the sink does not have among them; None if
        none has got it yet
    :ivar refused: why handlers have refused it for good, by name
    :ivar crashed: whether the process that worked on it has crashed; the relay counts that and requeues it
    """

    disposition: Disposition
    reason: str = ""
    pending: list[str] | None = None
    refused: dict[str, str] = field(default_factory=dict)
    crashed: bool = False


class Sink(Protocol):
    """Where a relay's events go."""

    def deliver(self, batch: Sequence[Incoming], idle: Callable[[], None]) -> list[SinkResult]:
        """Deliver the events of a batch of messages; return what is to become of each, in order. Nothing is raised.

        :param idle: called about once a second meanwhile, in the thread of the caller; it raises nothing
        """
        ...


def failed(error: Exception) -> SinkResult:
    """Return what is to become of a message that could not be kept."""
    if isinstance(error, (OSError, MemoryError)):
        # Without the name of the file, which differs each time.
        return SinkResult(Disposition.KEEP, getattr(error, "strerror", None) or one_line(error))
    return SinkResult(Disposition.DEAD_LETTER, one_line(error))  # something in it; it must not stop the others
