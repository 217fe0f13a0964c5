"""Control the output of handlers and plugins: no tracebacks in the log, and nothing on stdout."""

from __future__ import annotations

import logging
import sys

from event import _log
from event.error import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from typing_extensions import Self


class Capture(logging.Handler):
    """Capture the messages of the logger ``event`` inside a ``with`` block, instead of printing them to stderr.

    Messages that a handler logs during a delivery are part of its `Delivery` and are not captured here. All others are,
    for example those of the outbox.

    Inside the block, every logger appends a logged exception to the message, on one line, instead of printing a
    traceback. Text that is printed to stdout goes to stderr.

    :param on_message: called with each message, one line; by default, messages are appended to `messages`
    :ivar messages: the captured messages, one line each
    """

    def __init__(self, on_message: Callable[[str], None] | None = None) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []
        self._on_message = on_message or self.messages.append

    def emit(self, record: logging.LogRecord) -> None:
        """Capture a record's message, unless it belongs to a delivery."""
        if not _log.is_capturing():
            self._on_message(_log.record_text(record))

    def __enter__(self) -> Self:
        log = _log.get_logger()
        self._before = (log.propagate, logging.getLogRecordFactory(), logging.raiseExceptions, sys.stdout)
        log.addHandler(self)
        log.propagate = False
        logging.setLogRecordFactory(self._record)
        logging.raiseExceptions = False  # a wrong format string would print a traceback
        sys.stdout = sys.stderr
        return self

    def __exit__(self, *_args: object) -> None:
        log = _log.get_logger()
        log.removeHandler(self)
        log.propagate, factory, logging.raiseExceptions, sys.stdout = self._before
        logging.setLogRecordFactory(factory)

    def _record(self, *args: Any, **more: Any) -> logging.LogRecord:
        """Create a log record, for `logging.setLogRecordFactory`. The seventh argument is the exception."""
        error = args[6]
        record = self._before[1](*args[:6], None, *args[7:], **more)
        record.stack_info = None
        if error and error[1]:
            record.msg, record.args = f"{_log.record_text(record)}: {one_line(error[1])}", ()
        return record
