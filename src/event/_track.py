"""An event around a piece of work: begun with it, closed and sent on every way out."""

from __future__ import annotations

from event import _log, _trace
from event._event import Event

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any

    from typing_extensions import ParamSpec, TypeVar

    P = ParamSpec("P")
    T = TypeVar("T")

_COROUTINE = 0x80  # inspect.CO_COROUTINE; importing inspect costs more than all else here
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

    def __enter__(self) -> Event:
        """Make the event; return it."""
        span = _trace.begin(_trace.around())
        self._event = Event(self._name, **{**_trace.as_data(span), **self._data})
        self._around = _trace.current.get()
        _trace.current.set(span)
        return self._event

    def __exit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _tb: TracebackType | None
    ) -> None:
        """Set the outcome, close the event and send it. The body's exception passes; a failure in here is logged."""
        # Not the token's reset: it raises where a generator is closed in another context than it was begun in.
        _trace.current.set(self._around)
        try:
            if not self._event._closed:
                for key, value in outcome_of(error).items():
                    setattr(self._event, key, value)
                self._event.close()
            self._send(self._event)
        except Exception as failure:
            _log.error("event %s could not be sent", self._name, cause=failure)

    def __call__(self, function: Callable[P, T]) -> Callable[P, T]:
        """Decorate a function."""
        from functools import wraps

        send, name, data = self._send, self._name, self._data

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            with Tracker(send, name, data):
                return function(*args, **kwargs)

        @wraps(function)
        async def call_async(*args: P.args, **kwargs: P.kwargs) -> Any:
            with Tracker(send, name, data):
                return await function(*args, **kwargs)  # type: ignore[misc]  # a coroutine function's result

        code = getattr(function, "__code__", None)
        return call_async if code and code.co_flags & _COROUTINE else call  # type: ignore[return-value]


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
