"""The implementation of `event.track`: create an event for a piece of work, and send it when the work ends."""

from __future__ import annotations

import sys

from event import _log, _trace_context
from event._event import Event, raw_data

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Container
    from types import TracebackType
    from typing import Any

    from typing_extensions import ParamSpec, TypeVar

    P = ParamSpec("P")
    T = TypeVar("T")

# inspect.CO_GENERATOR, CO_COROUTINE and CO_ASYNC_GENERATOR, without importing inspect, which is slow.
_GENERATOR, _COROUTINE, _ASYNC_GENERATOR = 0x20, 0x80, 0x200
_CANCELLATIONS = frozenset({"KeyboardInterrupt", "CancelledError", "GeneratorExit"})


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
        # The event, its span and the enclosing span for each use that has not ended. Uses may be nested or concurrent.
        self._active_uses: list[tuple[Event, _trace_context.Span, _trace_context.Span | None]] = []

    def __enter__(self) -> Event:
        """Create and return the event."""
        span = _trace_context.new_span(_trace_context.current_span())
        event = Event(self._name, **{**_trace_context.to_data(span), **self._data})
        self._active_uses.append((event, span, _trace_context.active_span.get()))
        _trace_context.active_span.set(span)
        return event

    def __exit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _tb: TracebackType | None
    ) -> None:
        """Set the outcome, close the event and send it. An exception of the block is raised unchanged.

        If sending fails, log the error.
        """
        event = self._end()
        try:
            _finish(event, error)
            self._send(event)
        except BaseException as failure:
            self._report(failure, error)

    async def __aenter__(self) -> Event:
        """Create and return the event."""
        return self.__enter__()

    async def __aexit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _tb: TracebackType | None
    ) -> None:
        """Do the same as `__exit__`, but send the event in a thread, so that the event loop is not blocked."""
        event = self._end()
        try:
            _finish(event, error)
            await in_thread(self._send, event)
        except BaseException as failure:
            if is_cancellation(failure):
                raise
            self._report(failure, error)

    def _end(self) -> Event:
        """Return the event of the use that ends, and restore the enclosing span."""
        active = _trace_context.active_span.get()
        # A generator may be closed in another context than the one in which it was started. Then end the last use.
        begun = next((begun for begun in reversed(self._active_uses) if begun[1] is active), self._active_uses[-1])
        self._active_uses.remove(begun)
        event, _, around = begun
        # Resetting with the token would raise an error in another context.
        _trace_context.active_span.set(around)
        return event

    def _report(self, failure: BaseException, error: BaseException | None) -> None:
        """Log why the event was not sent, also for SystemExit: a handler must not end the build.

        Ctrl-C while sending is raised, unless the block has raised an exception, which has priority.

        :param failure: the exception while sending
        :param error: the exception of the block, or None
        """
        if isinstance(failure, KeyboardInterrupt) and error is None:
            raise failure
        if not isinstance(failure, KeyboardInterrupt):
            _log.error("event %s could not be sent", self._name, cause=failure)

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


def _finish(event: Event, error: BaseException | None) -> None:
    """Set the outcome and close the event. After a success, data that the block has set is not replaced."""
    outcome, data = outcome_of(error), raw_data(event)
    data.update(outcome if error else {**outcome, **data})
    event.close()


async def in_thread(send: Callable[[Event], T], event: Event) -> T:
    """Send an event in a thread of asyncio.

    If no event loop of asyncio is running, or it has no more threads, send it in the current thread.
    """
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


def is_cancellation(error: BaseException) -> bool:
    """Return whether an exception means that an event loop has cancelled the task."""
    return _has_base(error, {"CancelledError", "GeneratorExit"})


def _has_base(error: BaseException, names: Container[str]) -> bool:
    """Return whether an error's class, or one of its bases, has one of these names. The class need not be imported."""
    return any(base.__name__ in names for base in type(error).__mro__)


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
    """Return the ``outcome`` of work that ended with an exception or None: success, failure or cancel.

    A failure also has an ``error`` with the exception's ``type`` and ``message``. SystemExit with status 0 is a
    success.
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
