"""What became of a sending, for each handler."""

from __future__ import annotations

from event.error import PermanentError, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


class Delivery:
    """What one handler did with an event.

    :ivar handler: the handler's name
    :ivar ok: whether it took the event
    :ivar error: the exception that it raised; None where it took the event or returned a false value
    :ivar seconds: how long it took
    :ivar said: what the handler logged meanwhile, at WARNING and above, on one line
    :ivar timed_out: whether it was not done within the timeout; it may still run
    """

    __slots__ = ("error", "handler", "ok", "said", "seconds", "timed_out")

    def __init__(self, handler: str, ok: bool, error: BaseException | None, seconds: float, said: str = "") -> None:
        self.handler = handler
        self.ok = ok
        self.error = error
        self.seconds = seconds
        self.said = said
        self.timed_out = False

    def __bool__(self) -> bool:
        """Return whether the handler took the event."""
        return self.ok

    @property
    def reason(self) -> str:
        """Why the handler did not take the event, on one line; empty where it did."""
        if self.ok:
            return ""
        return one_line(self.error) if self.error else self.said or "the handler returned False"

    @property
    def permanent(self) -> bool:
        """Whether no later attempt can succeed."""
        return isinstance(self.error, PermanentError)

    @property
    def done(self) -> frozenset[str]:
        """The keys of the parts that need no further attempt; see `event.PartialDeliveryError`."""
        done = getattr(self.error, "done", None)  # an error of a plugin may have anything there
        return done if isinstance(done, frozenset) else frozenset()

    def __str__(self) -> str:
        """Return one line for a person."""
        if self.ok:
            return f"{self.handler}: delivered in {self.seconds:.3f} s"
        return f"{self.handler}: not delivered: {self.reason}"

    def __repr__(self) -> str:
        return f"<Delivery {self}>"


class Outcome:
    """What all handlers did with an event, in their order; true where all of them took it.

    :ivar deliveries: a tuple, one `Delivery` for each handler
    """

    __slots__ = ("deliveries",)

    def __init__(self, deliveries: tuple[Delivery, ...]) -> None:
        self.deliveries = deliveries

    def __bool__(self) -> bool:
        """Return whether every handler took the event; true where there are none."""
        return all(self.deliveries)

    def __iter__(self) -> Iterator[Delivery]:
        """Go through the deliveries."""
        return iter(self.deliveries)

    def __len__(self) -> int:
        """Return the number of handlers."""
        return len(self.deliveries)

    def __str__(self) -> str:
        """Return one line for each handler."""
        return "\n".join(map(str, self.deliveries)) or "no handlers"

    def __repr__(self) -> str:
        return f"<Outcome {'; '.join(map(str, self.deliveries)) or 'no handlers'}>"


def taken(answer: object) -> bool:
    """Return whether a handler's answer means that it has delivered the event.

    :raises TypeError: the handler is a coroutine function, whose work nobody would wait for
    """
    if answer is True:
        return True
    if hasattr(answer, "__await__"):
        if close := getattr(answer, "close", None):
            close()  # else Python warns that the coroutine was never awaited
        raise TypeError("send_event is async; it must deliver the event before it returns")
    return bool(answer)
