"""An event around a piece of work: begun with it, closed and sent on every way out."""

from __future__ import annotations

from event import _log, _trace_context
from event._event import Event, raw_data

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any

    from typing_extensions import ParamSpec, TypeVar

    P = ParamSpec("P")
    T = TypeVar("T")

# inspect.CO_COROUTINE and so on; importing inspect costs more than all else here.
_GENERATOR, _COROUTINE, _ASYNC_GENERATOR = 0x20, 0x80, 0x200
_CANCELLATIONS = frozenset({"KeyboardInterrupt", "CancelledError", "GeneratorExit"})


class Tracker:
    """What `event.track` returns: a context manager, and a decorator.

    As a context manager it gives the event. As a decorator it makes an event for each call, of a function or of a
    coroutine function.

    :param send: what the finished event is given to
    """

    def __init__(self, send: Callable[[Event], object], name: str, data: dict[str, Any]) -> None:
        self._send = send
        self._name = name
        self._data = data
        # The event and the span around it; more than one where a tracker is used within itself.
        self._begun: list[tuple[Event, _trace_context.Span | None]] = []

    def __enter__(self) -> Event:
        """Make the event; return it."""
        span = _trace_context.new_span(_trace_context.current_span())
        event = Event(self._name, **{**_trace_context.to_data(span), **self._data})
        self._begun.append((event, _trace_context.active_span.get()))
        _trace_context.active_span.set(span)
        return event

    def __exit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _tb: TracebackType | None
    ) -> None:
        """Set the outcome, close the event and send it. The body's exception passes; a failure in here is logged."""
        event, around = self._begun.pop()
        # Not the token's reset: it raises where a generator is closed in another context than it was begun in.
        _trace_context.active_span.set(around)
        try:
            outcome = outcome_of(error)
            # Also where the body has closed the event; what it says of its own success counts.
            data = raw_data(event)
            data.update(outcome if error else {**outcome, **data})
            event.close()
            self._send(event)
        except KeyboardInterrupt:
            if error is None:
                raise
        except BaseException as failure:  # SystemExit too: a handler must not end a build that goes well, nor hide why
            _log.error("event %s could not be sent", self._name, cause=failure)

    def __call__(self, function: Callable[P, T]) -> Callable[P, T]:
        """Decorate a function, a coroutine function or a generator function.

        :raises TypeError: it cannot be called, as a classmethod object, or is an asynchronous generator function
        """
        if not callable(function):
            raise TypeError(f"cannot track {function!r}: it is not callable; put @track beneath @classmethod")
        flags = _flags(function)
        if flags & _ASYNC_GENERATOR:
            raise TypeError(f"cannot track {function!r}: put `with track(...)` into an asynchronous generator")
        from functools import update_wrapper

        tracked = _generator if flags & _GENERATOR else _coroutine if flags & _COROUTINE else _function
        call = tracked(function, lambda: Tracker(self._send, self._name, self._data))
        return update_wrapper(call, function)


def _function(function: Any, track: Callable[[], Tracker]) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        with track():
            return function(*args, **kwargs)

    return call


def _coroutine(function: Any, track: Callable[[], Tracker]) -> Any:
    async def call(*args: Any, **kwargs: Any) -> Any:
        with track():
            return await function(*args, **kwargs)

    return call


def _generator(function: Any, track: Callable[[], Tracker]) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        with track():
            return (yield from function(*args, **kwargs))

    return call


def _flags(function: Any) -> int:
    """Return the flags of what a call runs: of a partial's function, of an object's __call__."""
    from functools import partial

    while isinstance(function, partial):
        function = function.func
    if not hasattr(function, "__code__"):
        function = type(function).__call__
    code = getattr(function, "__code__", None)
    return code.co_flags if code else 0


def outcome_of(error: BaseException | None) -> dict[str, Any]:
    """Return the ``outcome`` of work that ended with an exception or None: success, failure or cancel.

    A failure has an ``error`` too: its ``type`` and its ``message``. Leaving with SystemExit is a success where the
    exit status is 0.
    """
    if error is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
        return {"outcome": "success"}
    kind = type(error)
    if any(base.__name__ in _CANCELLATIONS for base in kind.__mro__):
        return {"outcome": "cancel"}
    try:
        message = str(error)
    except Exception:
        message = ""
    return {"outcome": "failure", "error": {"type": kind.__qualname__, "message": message}}
