"""While other people's code runs: what it logs is kept as reasons, and stdout stays ours."""

from __future__ import annotations

import logging
import sys

from event.error import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from typing_extensions import Self


class Capture(logging.Handler):
    """Gathers what the logger ``event`` is told at WARNING and above, inside a ``with`` block.

    Meanwhile nothing prints a traceback: a logged exception becomes a part of its record's message, for every logger,
    whoever has configured it. What is printed to stdout goes to stderr.

    :ivar reasons: the messages, a line each
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.reasons: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record's message."""
        self.reasons.append(_message(record))

    def __enter__(self) -> Self:
        """Begin."""
        log = logging.getLogger("event")
        self._before = (log.propagate, logging.getLogRecordFactory(), logging.raiseExceptions, sys.stdout)
        log.addHandler(self)
        log.propagate = False
        logging.setLogRecordFactory(self._record)
        logging.raiseExceptions = False  # a wrong format string would print a traceback
        sys.stdout = sys.stderr
        return self

    def __exit__(self, *_args: object) -> None:
        """Leave everything as it was."""
        log = logging.getLogger("event")
        log.removeHandler(self)
        log.propagate, factory, logging.raiseExceptions, sys.stdout = self._before
        logging.setLogRecordFactory(factory)

    def _record(self, *args: Any, **more: Any) -> logging.LogRecord:
        """Make a record, as logging.setLogRecordFactory describes it: the seventh argument is the exception."""
        error = args[6]
        record = self._before[1](*args[:6], None, *args[7:], **more)
        record.stack_info = None
        if error and error[1]:
            record.msg, record.args = f"{_message(record)}: {one_line(error[1])}", ()
        return record


def _message(record: logging.LogRecord) -> str:
    try:
        return " ".join(record.getMessage().split())
    except Exception:  # the arguments do not fit the message, or their own code failed
        return str(record.msg)
