"""The results of sending an event."""

from __future__ import annotations

from event.error import PermanentError, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType


class Delivery:
    """The result of one handler for an event. It is true if the handler delivered the event.

    :ivar handler: the handler's name
    :ivar ok: whether the handler delivered the event
    :ivar error: the exception that it raised; None if it delivered the event or returned a false value
    :ivar seconds: how long the delivery took
    :ivar said: the handler's log messages at WARNING and above, on one line
    :ivar timed_out: whether the handler exceeded the timeout; it may still be running
    """

    __slots__ = ("error", "handler", "ok", "said", "seconds", "timed_out")

    def __init__(self, handler: str, ok: bool, error: BaseException | None, seconds: float, said: str = "") -> None:
        self.handler: str = handler
        self.ok: bool = ok
        self.error: BaseException | None = error
        self.seconds: float = seconds
        self.said: str = said
        self.timed_out: bool = False

    def __bool__(self) -> bool:
        """Return whether the handler delivered the event."""
        return self.ok

    @property
    def reason(self) -> str:
        """Why the handler did not deliver the event, on one line; empty if it did."""
        if self.ok:
            return ""
        return one_line(self.error) if self.error else self.said or "the handler returned False"

    @property
    def permanent(self) -> bool:
        """Whether the failure is permanent: no later attempt can succeed."""
        return isinstance(self.error, PermanentError)

    @property
    def done(self) -> frozenset[str]:
        """The keys of the parts that need no further attempt; see `event.PartialDeliveryError`."""
        done = getattr(self.error, "done", None)  # may be of any type in a plugin's error
        return done if isinstance(done, frozenset) else frozenset()

    def __str__(self) -> str:
        if self.ok:
            return f"{self.handler}: delivered in {self.seconds:.3f} s"
        return f"{self.handler}: not delivered: {self.reason}"

    def __repr__(self) -> str:
        return f"<Delivery {self}>"


class Outcome:
    """The results of all handlers for an event, in their order. It is true if all handlers delivered the event.

    :ivar deliveries: a tuple, one `Delivery` for each handler
    """

    __slots__ = ("deliveries",)

    def __init__(self, deliveries: tuple[Delivery, ...]) -> None:
        self.deliveries: tuple[Delivery, ...] = deliveries

    def __bool__(self) -> bool:
        """Return whether all handlers delivered the event; True if there are no handlers."""
        return all(self.deliveries)

    def __iter__(self) -> Iterator[Delivery]:
        """Iterate over the deliveries."""
        return iter(self.deliveries)

    def __len__(self) -> int:
        """Return the number of handlers."""
        return len(self.deliveries)

    def __str__(self) -> str:
        return "\n".join(map(str, self.deliveries)) or "no handlers"

    def __repr__(self) -> str:
        return f"<Outcome {'; '.join(map(str, self.deliveries)) or 'no handlers'}>"


def is_delivered(answer: object, method: str = "send_event") -> bool:
    """Return whether the value that a handler's method returned means that it has delivered the event.

    :raises TypeError: see `require_finished`
    """
    if answer is True or answer is False or answer is None:
        return answer is True
    require_finished(answer, method)
    return bool(answer)


def require_finished(answer: object, method: str) -> None:
    """Check what a handler's method has returned.

    :raises TypeError: it is a coroutine, a generator or a future, which nothing would wait for, or NotImplemented
    """
    kind = type(answer)  # an instance may have any attribute, for example a Mock
    for attribute, (what, fix) in _UNFINISHED.items():
        if hasattr(kind, attribute):
            if hasattr(kind, "throw"):
                answer.close()  # type: ignore[attr-defined]  # otherwise Python warns that it was never awaited
            raise TypeError(f"{method} returned {what}; it must deliver the event before it returns{fix}")
    if answer is NotImplemented:
        raise TypeError(f"{method} returned NotImplemented; it must return True if it delivered the event")


# An attribute of the types of unfinished work, what they are, and how to fix the handler; the first match counts.
_UNFINISHED = {
    "add_done_callback": ("a future", ", so wait for the future's result"),
    "__await__": ("an awaitable", ", so do not define it with async"),
    "athrow": ("an async generator", ", so do not use async and yield"),
    "throw": ("a generator", ", so do not use yield"),
}


def stops_script(error: BaseException) -> bool:
    """Return whether an exception from a handler's code must stop the script: Ctrl-C, or an exit for a signal.

    If a signal arrives while a handler runs, the script's own signal handler may call `sys.exit`. A handler that calls
    `sys.exit` itself has only failed.
    """
    if issubclass(type(error), SystemExit):  # isinstance would run code of the error
        trace = error.__traceback__
        while trace:
            if _is_signal_handler(trace.tb_frame):
                return True
            trace = trace.tb_next
    return issubclass(type(error), KeyboardInterrupt)


def _is_signal_handler(frame: FrameType) -> bool:
    """Return whether Python has called the function of a frame for a signal: with the interrupted frame, its caller."""
    caller = frame.f_back
    arguments = frame.f_locals.values()  # a tuple if the function is declared with *args
    return caller is not None and any(
        value is caller or (type(value) is tuple and any(item is caller for item in value)) for value in arguments
    )
