"""The logger of this package, and capturing the log messages of a thread.

``logging`` is imported for the first message, because importing it takes longer than sending an event.

A handler that returns False logs the reason. Its messages are captured, so that the result of the delivery includes it.
"""

from __future__ import annotations

import sys
from _thread import get_ident  # importing `threading` is slow

from event.error import LONGEST_TEXT, one_line, visible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from logging import Logger, LogRecord
    from typing import Any

WARNING = 30  # logging.WARNING, without importing logging
_CAPTURED = "event_captured"  # an attribute of a record: the text to capture instead of the message

# For each thread, its captures, the innermost last: the reasons why an event is not delivered, and the other messages.
_captures: dict[int, list[tuple[list[str], list[str]]]] = {}

# Called before the logger is first used, so that a process that captures the log can import logging at that time.
before_first_use: Callable[[], None] | None = None


def get_logger() -> Logger:
    """Return the logger named ``event``."""
    if before_first_use:
        before_first_use()
    from logging import getLogger

    logger = getLogger("event")
    if _capture_record not in logger.filters:
        logger.addFilter(_capture_record)
    return logger


def warning(message: str, *args: object) -> None:
    """Log at WARNING."""
    _log_safely(WARNING, message, args)


def not_delivered(event: object, reason: str, *, is_logged: bool = False) -> None:
    """Log at WARNING why an event is not delivered. If the thread's messages are captured, capture only the reason.

    :param is_logged: whether the reason was already logged, so that it must not be captured again
    """
    _log_safely(WARNING, "%s; %r is not delivered", (reason, event), captured="" if is_logged else visible(reason))


def error(message: str, *args: object, cause: BaseException | None = None) -> None:
    """Log at ERROR, with the traceback of the cause if there is one."""
    _log_safely(40, message, args, cause)


def _log_safely(
    level: int,
    message: str,
    args: tuple[object, ...],
    cause: BaseException | None = None,
    captured: str | None = None,
) -> None:
    """Log a message, but do not raise, not even if a log handler or a filter does: logging a failure must not fail."""
    args = tuple(map(_visible_argument, args))
    try:
        # Tests may replace `event.logger`.
        logger = vars(sys.modules["event"]).get("logger") or get_logger()
        more: dict[str, Any] = {} if captured is None else {"extra": {_CAPTURED: captured}}
        logger.log(level, message, *args, exc_info=cause, **more)
    except Exception as failure:
        try:
            sys.stderr.write(f"event: {message % args} (and logging failed: {one_line(failure)})\n")
        except Exception:  # noqa: S110  # there is no other way to report it
            pass


def _visible_argument(value: object) -> object:
    """Escape control characters, which could control a terminal or forge a line."""
    if isinstance(value, str):
        return visible(value)
    return visible(str(value)) if isinstance(value, OSError) else value


def start_capture() -> None:
    """Start capturing the messages of the current thread. A capture inside another one takes its messages."""
    if "logging" in sys.modules:
        get_logger()  # adds the filter that captures: a plugin may use the logger directly
    _captures.setdefault(get_ident(), []).append(([], []))


def stop_capture() -> str:
    """Stop capturing and return the messages at WARNING and above, the reasons of failed deliveries first."""
    reasons, others = _captures[get_ident()].pop()
    if not _captures[get_ident()]:
        del _captures[get_ident()]
    return "; ".join(reasons + others)


def add_captured(said: str) -> None:
    """Add messages to the capture of the current thread, if there is one."""
    if said and is_capturing():
        _captures[get_ident()][-1][1].append(said)


def _capture_record(record: LogRecord) -> bool:
    """Capture a record. This is a filter, because a log handler would disable the default output to stderr."""
    error = record.exc_info[1] if record.exc_info else None
    if error and not record.exc_text:
        record.exc_text = _visible_traceback(error)
    if record.levelno >= WARNING and is_capturing():
        reason = getattr(record, _CAPTURED, None)
        text = record_text(record) if reason is None else " ".join(reason.split())
        if text:
            said = _captures[get_ident()][-1][reason is None]
            said.append(f"{text}: {one_line(error)}" if error else text)
    return True


def record_text(record: LogRecord) -> str:
    """Return the message of a log record on one line."""
    try:
        return " ".join(record.getMessage().split())
    except Exception:  # wrong arguments for the message, or an error in their own code
        return str(record.msg)


def is_capturing() -> bool:
    """Return whether the messages of the current thread are captured."""
    return get_ident() in _captures


def _visible_traceback(error: BaseException) -> str | None:
    """Return a traceback in the format of `logging`. The message of each exception is on one line, and cut if long."""
    from traceback import format_exception

    try:
        return "\n".join(map(_visible_item, format_exception(error)))
    except Exception:
        return None  # logging then formats it


def _visible_item(item: str) -> str:
    item = item.removesuffix("\n")
    is_frame = item.startswith(("  File ", "\n"))  # a frame, or the text between two tracebacks
    return "\n".join(map(visible, item.split("\n"))) if is_frame else visible(item[:LONGEST_TEXT])
