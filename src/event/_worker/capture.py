"""While code of others runs: nothing prints a traceback, and what is printed to stdout goes to stderr."""

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
    """Keeps what the logger ``event`` is told from stderr, inside a ``with`` block.

    What a handler logs at WARNING and above while it is given an event is part of its Delivery; what is logged
    otherwise, for example by the outbox, is heard here. Meanwhile a logged exception becomes a part of its record's
    message, for every logger, whoever has configured it. What is printed to stdout goes to stderr.

    :param heard: called with each message, which is one line; by default they are collected in `said`
    :ivar said: the messages, a line each
    """

    def __init__(self, heard: Callable[[str], None] | None = None) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []
        self._heard = heard or self.said.append

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record's message, unless a Delivery has it."""
        if not _log.is_capturing():
            self._heard(_log.record_text(record))

    def __enter__(self) -> Self:
        """Begin."""
        log = _log.get_logger()
        self._before = (log.propagate, logging.getLogRecordFactory(), logging.raiseExceptions, sys.stdout)
        log.addHandler(self)
        log.propagate = False
        logging.setLogRecordFactory(self._record)
        logging.raiseExceptions = False  # a wrong format string would print a traceback
        sys.stdout = sys.stderr
        return self

    def __exit__(self, *_args: object) -> None:
        """Leave everything as it was."""
        log = _log.get_logger()
        log.removeHandler(self)
        log.propagate, factory, logging.raiseExceptions, sys.stdout = self._before
        logging.setLogRecordFactory(factory)

    def _record(self, *args: Any, **more: Any) -> logging.LogRecord:
        """Make a record, as logging.setLogRecordFactory describes it: the seventh argument is the exception."""
        error = args[6]
        record = self._before[1](*args[:6], None, *args[7:], **more)
        record.stack_info = None
        if error and error[1]:
            record.msg, record.args = f"{_log.record_text(record)}: {one_line(error[1])}", ()
        return record
