"""The implementation of `event.track`: create an event for a piece of work, and send it when the work ends."""

from __future__ import annotations

import sys

from event import _log, _trace_context
from event._event import Event, raw_data
from event._outcome import stops_script

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType
    from typing import Any

    from typing_extensions import ParamSpec, TypeVar

    P = ParamSpec("P")
    T = TypeVar("T")

# inspect.CO_GENERATOR, CO_COROUTINE and CO_ASYNC_GENERATOR, without importing inspect, which is slow.
_GENERATOR, _COROUTINE, _ASYNC_GENERATOR = 0x20, 0x80, 0x200


class Tracker:
    """A context manager and a decorator; returned by `event.track`.

    As a context manager, also with ``async with``, it returns the event. As a decorator, it creates an event for each
    call of the function, which may be a coroutine function. Tasks and threads may share a tracker.

    :param send: called with the finished event
    :param name: the event's name
    :param data: the event's data
    """

    def __init__(self, send: Callable[[Event], object], name: str, data: dict[str, Any]) -> None:
        self._send = send
        self._name = name
        self._data = data
        # The event and the enclosing span of each use that has not ended. Uses may be nested or concurrent.
        self._uses: dict[_trace_context.Span, tuple[Event, _trace_context.Span | None]] = {}

    def __enter__(self) -> Event:
        span = _trace_context.new_span(_trace_context.current_span())
        event = Event(self._name, **{**_trace_context.to_data(span), **self._data})
        self._uses[span] = event, _trace_context.active_span.get()
        _trace_context.active_span.set(span)
        return event

    def __exit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _tb: TracebackType | None
    ) -> None:
        event = self._end()
        try:
            self._send(_finished(event, error))
        except BaseException as failure:
            self._report(failure, error)

    async def __aenter__(self) -> Event:
        return self.__enter__()

    async def __aexit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _tb: TracebackType | None
    ) -> None:
        """Do the same as `__exit__`, but send the event in a thread, so that the event loop is not blocked."""
        event = self._end()
        try:
            await in_thread(self._send, _finished(event, error))
        except BaseException as failure:
            if _is_cancellation(failure):
                raise
            self._report(failure, error)

    def _end(self) -> Event:
        """Return the event of the use that ends, and restore the enclosing span."""
        active = _trace_context.active_span.get()
        # A generator may be closed in another context than the one in which it was started. Then end the last use.
        event, around = self._uses.pop(active if active in self._uses else next(reversed(self._uses)))
        # Resetting with the token would raise an error in another context.
        _trace_context.active_span.set(around)
        return event

    def _report(self, failure: BaseException, error: BaseException | None) -> None:
        """Log why the event was not sent.

        Ctrl-C and an exit for a signal are raised, unless the block has raised an exception, which has priority.
        """
        if not stops_script(failure):
            _log.error("event %s could not be sent", self._name, cause=failure)
        elif error is None:
            raise failure

    def __call__(self, function: Callable[P, T]) -> Callable[P, T]:
        """Decorate a function, a coroutine function or a generator function.

        :raises TypeError: it is not callable, such as a classmethod object, or is an asynchronous generator function
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


def _finished(event: Event, error: BaseException | None) -> Event:
    """Set the outcome and close the event. After a success, data that the block has set is not replaced."""
    outcome, data = outcome_of(error), raw_data(event)
    data.update(outcome if error else {**outcome, **data})
    event.close()
    return event


async def in_thread(send: Callable[[Event], T], event: Event) -> T:
    """Send an event in a thread of asyncio's event loop; in the current thread if there is no such loop or thread."""
    asyncio = sys.modules.get("asyncio")
    try:
        loop = asyncio.get_running_loop()  # type: ignore[union-attr]  # None has no loop
    except (AttributeError, RuntimeError):
        return send(event)
    from contextvars import copy_context

    try:
        sending: Awaitable[T] = loop.run_in_executor(None, copy_context().run, send, event)
    except RuntimeError:  # no thread can be started, or the event loop is ending
        return send(event)
    return await sending


def _is_cancellation(error: BaseException) -> bool:
    """Return whether an event loop has cancelled the task. Compare names, because importing asyncio is slow."""
    return any(base.__name__ in {"CancelledError", "GeneratorExit"} for base in type(error).__mro__)


def _flags(function: Any) -> int:
    """Return the code flags of the function that a call runs: the function of a partial, or an object's `__call__`."""
    from functools import partial

    while isinstance(function, partial):
        function = function.func
    if not hasattr(function, "__code__"):
        function = type(function).__call__
    code = getattr(function, "__code__", None)
    return code.co_flags if code else 0


def outcome_of(error: BaseException | None) -> dict[str, Any]:
    """Return the ``outcome`` of work that ended with an exception or None, and the ``error`` of a failure."""
    if error is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
        return {"outcome": "success"}
    if isinstance(error, KeyboardInterrupt) or _is_cancellation(error):
        return {"outcome": "cancel"}
    try:
        message = str(error)
    except Exception:
        message = ""
    return {"outcome": "failure", "error": {"type": type(error).__qualname__, "message": message}}
