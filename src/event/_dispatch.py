"""Give one event to several handlers: one after another, or in parallel with a timeout."""

from __future__ import annotations

import time

from event._log import add_captured, start_capture, stop_capture
from event._outcome import Delivery, Outcome, is_delivered, stops_script
from event.error import EventError, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from queue import SimpleQueue
    from threading import Thread
    from typing import Protocol

    from event._event import Event

    class Handler(Protocol):
        def send_event(self, event: Event) -> bool: ...


def dispatch(handlers: Mapping[str, Handler], event: Event, timeout: float | None) -> Outcome:
    """Give an event to the handlers; return the results in the handlers' order. See `deliveries`."""
    results = {delivery.handler: delivery for delivery in deliveries(handlers, event, timeout)}
    return Outcome(tuple(results[name] for name in handlers))


def deliveries(handlers: Mapping[str, Handler], event: Event, timeout: float | None) -> Iterator[Delivery]:
    """Give an event to the handlers, and yield each result as soon as it is known.

    :param timeout: seconds for all handlers, which then run in parallel; None to call them one after another
    """
    if timeout is None:
        return (_call_handler(name, handler, event) for name, handler in handlers.items())
    return _call_in_parallel(handlers, event, timeout)


def _call_in_parallel(handlers: Mapping[str, Handler], event: Event, timeout: float) -> Iterator[Delivery]:
    """Give an event to all handlers in parallel. If one exceeds the timeout, its result is a TimeoutError."""
    from queue import Empty, SimpleQueue

    deadline = time.monotonic() + timeout
    done: SimpleQueue[Delivery] = SimpleQueue()
    waiting: dict[str, Thread] = {}
    for name, handler in handlers.items():
        try:
            waiting[name] = _start_thread(done, name, handler, event)
        except NotStartedError as error:
            yield Delivery(name, False, error, 0.0)
    while waiting:
        try:
            delivery = done.get(timeout=max(0.0, deadline - time.monotonic()))
        except Empty:
            break
        del waiting[delivery.handler]
        yield delivery
    for name, thread in waiting.items():
        _hung.add(thread)
        late = Delivery(name, False, TimeoutError(f"not done within {timeout:g} s"), timeout)
        late.timed_out = True
        yield late


HUNG_LIMIT = 64
"""How many threads may hang in a handler. Then further deliveries with a timeout fail immediately."""

_hung: set[Thread] = set()


class NotStartedError(EventError):
    """No thread could be started for a delivery."""


def _start_thread(done: SimpleQueue[Delivery], name: str, handler: Handler, event: Event) -> Thread:
    """Give an event to a handler in a daemon thread: if it hangs, it does not keep the process alive.

    :raises NotStartedError: no thread can be started, or too many hang already
    """
    from contextvars import copy_context
    from threading import Thread

    _hung.difference_update([thread for thread in _hung if not thread.is_alive()])
    if len(_hung) >= HUNG_LIMIT:
        raise NotStartedError(f"not tried: {len(_hung)} earlier deliveries of this process hang; restart it")
    # Copy the caller's context, so that the handler runs in the span of an enclosing `event.track`.
    work = (lambda: done.put(call_in_thread(name, handler, event)),)
    thread = Thread(target=copy_context().run, args=work, name=f"event {name}", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:  # too many threads, or the interpreter is ending
        raise NotStartedError(f"not tried: no thread can be started ({one_line(error)})") from error
    return thread


def result_in_batch(send: Callable[[], bool]) -> bool | BaseException:
    """Send one event of a batch; return its result for `send_events`.

    If it fails, the reason is what has been logged for this event, and not for the entire batch.
    """
    start_capture()
    try:
        is_sent = send()
    except Exception as error:
        return error
    finally:
        said = stop_capture()
    if is_sent:
        add_captured(said)
        return True
    return EventError(said) if said else False


def call_in_thread(name: str, handler: Handler, event: Event) -> Delivery:
    """Give an event to a handler. Unlike in the main thread, an interrupt is a failure: nothing would catch it."""
    try:
        return _call_handler(name, handler, event)
    except BaseException as error:
        return Delivery(name, False, RuntimeError(f"the handler raised {error!r}"), 0.0)


def _call_handler(name: str, handler: Handler, event: Event) -> Delivery:
    start = time.perf_counter()
    error: BaseException | None = None
    start_capture()
    try:
        done = is_delivered(handler.send_event(event))
    except BaseException as raised:
        if stops_script(raised):
            raise
        done, error = False, raised
    finally:
        said = stop_capture()
    return Delivery(name, done, error, time.perf_counter() - start, said)
