"""One event, many handlers: one after another, or side by side until a deadline."""

from __future__ import annotations

import time

from event._log import heard, listen
from event._outcome import Delivery, Outcome
from event.error import EventError, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from queue import SimpleQueue
    from typing import Any, Protocol

    from event._event import Event

    class Handler(Protocol):
        def send_event(self, event: Event) -> bool: ...


def send(handlers: Mapping[str, Handler], event: Event, timeout: float | None) -> Outcome:
    """Give an event to the handlers; return what each one did."""
    results = {delivery.handler: delivery for delivery in deliveries(handlers, event, timeout)}
    return Outcome(tuple(results[name] for name in handlers))


def deliveries(handlers: Mapping[str, Handler], event: Event, timeout: float | None) -> Iterator[Delivery]:
    """Give an event to the handlers, side by side where there is a timeout; yield what each one did as it is done.

    :param timeout: for all together, in seconds
    """
    return _in_turn(handlers, event) if timeout is None else _side_by_side(handlers, event, timeout)


def _in_turn(handlers: Mapping[str, Handler], event: Event) -> Iterator[Delivery]:
    for name, handler in handlers.items():
        yield _attempt(name, handler, event)


def _side_by_side(handlers: Mapping[str, Handler], event: Event, timeout: float) -> Iterator[Delivery]:
    """Give an event to all handlers at once.

    One that is not done in time has failed with a TimeoutError. Its thread is a daemon, so that even a hung one does
    not keep the process.
    """
    from contextvars import copy_context
    from queue import Empty, SimpleQueue
    from threading import Thread

    deadline = time.monotonic() + min(timeout, _LONGEST)
    done: SimpleQueue[Delivery] = SimpleQueue()
    waiting = dict(handlers)
    alone = []
    for name, handler in handlers.items():
        # In the caller's context: the track that it is in is the handler's too.
        work = (_attempt_into, done, name, handler, event)
        thread = Thread(target=copy_context().run, args=work, name=f"event {name}", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # too many threads, or the interpreter is ending
            alone.append(name)
    for name in alone:  # late rather than not at all
        _attempt_into(done, name, handlers[name], event)
    while waiting:
        try:
            delivery = done.get(timeout=max(0.0, deadline - time.monotonic()))
        except Empty:
            break
        del waiting[delivery.handler]
        yield delivery
    for name in waiting:
        yield Delivery(name, False, TimeoutError(f"not done within {timeout:g} s"), timeout)


_LONGEST = 365 * 86400.0  # seconds; a lock takes no timeout without end


def _attempt_into(done: SimpleQueue[Delivery], name: str, handler: Handler, event: Event) -> None:
    try:
        done.put(_attempt(name, handler, event))
    except BaseException as error:
        # SystemExit, say: in a thread it would end nothing but the thread, unseen.
        done.put(Delivery(name, False, RuntimeError(f"the handler left with {error!r}"), 0.0))


def _attempt(name: str, handler: Handler, event: Event) -> Delivery:
    start = time.perf_counter()
    error: BaseException | None = None
    listen()
    try:
        taken = bool(handler.send_event(event))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as raised:
        taken, error = False, raised
    finally:
        said = heard()
    return Delivery(name, taken, error, time.perf_counter() - start, said)


class Contained:
    """A handler that has failed, not ended the program, where it leaves with SystemExit.

    For programs of ours, which deliver what others have asked for.
    """

    def __init__(self, handler: Any) -> None:
        self._handler = handler

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handler, name)

    def send_event(self, event: Event) -> Any:
        try:
            return self._handler.send_event(event)
        except SystemExit as stop:
            raise EventError(one_line(stop)) from stop
