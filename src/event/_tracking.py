"""An event around a piece of work: begun with it, closed and sent on every way out."""

from __future__ import annotations

import sys

from event import _log, _trace_context
from event._event import Event, raw_data

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container
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

    As a context manager, also with ``async with``, it gives the event. As a decorator it makes an event for each call,
    of a function or of a coroutine function. Tasks and threads may share it.

    :param send: what the finished event is given to
    """

    def __init__(self, send: Callable[[Event], object], name: str, data: dict[str, Any]) -> None:
        self._send = send
        self._name = name
        self._data = data
        # The event, its span and the span around it, for each use that has begun: within itself, or at the same time.
        self._begun: list[tuple[Event, _trace_context.Span, _trace_context.Span | None]] = []

    def __enter__(self) -> Event:
        """Make the event; return it."""
        span = _trace_context.new_span(_trace_context.current_span())
        event = Event(self._name, **{**_trace_context.to_data(span), **self._data})
        self._begun.append((event, span, _trace_context.active_span.get()))
        _trace_context.active_span.set(span)
        return event

    def __exit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _tb: TracebackType | None
    ) -> None:
        """Set the outcome, close the event and send it. The body's exception passes; a failure in here is logged."""
        event = self._end()
        try:
            _finish(event, error)
            self._send(event)
        except BaseException as failure:
            self._report(failure, error)

    async def __aenter__(self) -> Event:
        """Make the event; return it."""
        return self.__enter__()

    async def __aexit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _tb: TracebackType | None
    ) -> None:
        """Do as `__exit__`, and send the event in a thread, so that the event loop is not blocked."""
        event = self._end()
        try:
            _finish(event, error)
            await in_thread(self._send, event)
        except BaseException as failure:
            if is_cancellation(failure):
                raise
            self._report(failure, error)

    def _end(self) -> Event:
        """Return the event whose work ends."""
        active = _trace_context.active_span.get()
        # A generator may be closed in another context than it was begun in; then the last use ends.
        begun = next((begun for begun in reversed(self._begun) if begun[1] is active), self._begun[-1])
        self._begun.remove(begun)
        event, _, around = begun
        # Not the token's reset: it raises in another context.
        _trace_context.active_span.set(around)
        return event

    def _report(self, failure: BaseException, error: BaseException | None) -> None:
        """Log why the event was not sent. SystemExit too: a handler must neither end a build nor hide why it ends."""
        if isinstance(failure, KeyboardInterrupt) and error is None:
            raise failure
        if not isinstance(failure, KeyboardInterrupt):
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
        async with track():
            return await function(*args, **kwargs)

    return call


def _generator(function: Any, track: Callable[[], Tracker]) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        with track():
            return (yield from function(*args, **kwargs))

    return call


def _finish(event: Event, error: BaseException | None) -> None:
    """Set the outcome, and close the event. If the body has closed it, what it says of its own success counts."""
    outcome, data = outcome_of(error), raw_data(event)
    data.update(outcome if error else {**outcome, **data})
    event.close()


async def in_thread(send: Callable[[Event], T], event: Event) -> T:
    """Send in a thread of asyncio; in another event loop, or without one, right here."""
    asyncio = sys.modules.get("asyncio")
    try:
        asyncio.get_running_loop()  # type: ignore[union-attr]  # None has no loop
    except (AttributeError, RuntimeError):
        return send(event)
    from asyncio import to_thread

    return await to_thread(send, event)


def is_cancellation(error: BaseException) -> bool:
    """Return whether an event loop has cancelled a task."""
    return _has_base(error, {"CancelledError", "GeneratorExit"})


def _has_base(error: BaseException, names: Container[str]) -> bool:
    """Return whether an error is of a class with one of these names, which need not be imported."""
    return any(base.__name__ in names for base in type(error).__mro__)


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
    if _has_base(error, _CANCELLATIONS):
        return {"outcome": "cancel"}
    try:
        message = str(error)
    except Exception:
        message = ""
    return {"outcome": "failure", "error": {"type": kind.__qualname__, "message": message}}
