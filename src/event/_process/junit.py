"""Read a command's JUnit reports: the numbers of tests and failures, and the names of the failed tests.

The reports are untrusted, since the build may have run any code. A report must be a regular file without a document
type, so that it cannot declare and expand entities. It is parsed in pieces, without a tree in memory. Its size and the
number of its elements are limited. A report that cannot be read is skipped.
"""

from __future__ import annotations

import os

from event._text import on_one_line
from event.error import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any
    from xml.parsers.expat import XMLParserType

JUNIT_TIMEOUT = 2.0  # seconds, to find and read the reports; meanwhile, the event is not in the outbox yet
LARGEST = 32 << 20  # bytes of all reports together
MOST_ELEMENTS = 500_000  # of one report; parsing them takes about a second
MOST_FILES = 1000
MOST_REMARKS = 5
NAMES = 10
LONGEST_NAME = 200  # characters
_PIECE = 1 << 16  # bytes
_CLOCKS_DIFFER = 2.0  # seconds; the clock of a file system may differ from the time of day by as much
_RESULTS: tuple[str, ...] = ("failure", "error", "skipped")


class Summary:
    """The counts of all reports, and the names of the first `NAMES` failed tests."""

    def __init__(self) -> None:
        self.tests = 0
        self.failing: list[str] = []
        self._counts = dict.fromkeys(_RESULTS, 0)
        self._elements = 0
        self._case = ""
        self._result = ""

    def add(self, other: Summary) -> None:
        self.tests += other.tests
        self.failing = [*self.failing, *other.failing][:NAMES]
        for result, count in other._counts.items():
            self._counts[result] += count

    def as_data(self) -> dict[str, Any]:
        failures, errors, skipped = (self._counts[result] for result in _RESULTS)
        data = {"tests": self.tests, "failures": failures, "errors": errors, "skipped": skipped}
        return {**data, "failing_tests": self.failing} if self.failing else data

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """Process the start of an element. Raise ValueError if there are too many."""
        self._elements += 1
        if self._elements > MOST_ELEMENTS:
            raise ValueError(f"it has more than {MOST_ELEMENTS} elements")
        if tag == "testcase":
            names = (attributes.get("classname", ""), attributes.get("name", ""))
            self._case = on_one_line("::".join(filter(None, names))[: 2 * LONGEST_NAME])[:LONGEST_NAME]
            self._result = ""
        elif tag in self._counts and not self._result:
            self._result = tag

    def end(self, tag: str) -> None:
        if tag != "testcase":
            return
        self.tests += 1
        if self._result:
            self._counts[self._result] += 1
        if self._result in {"failure", "error"} and len(self.failing) < NAMES:
            self.failing.append(self._case)
        self._result = ""


def summary_in_time(pattern: str, since: float, remark: Callable[[str], None]) -> dict[str, Any]:
    """Return the result of `summary` within `JUNIT_TIMEOUT`, without raising, so that the event is sent in any case.

    A pattern may match a whole file system, or a file system may hang.
    """
    from threading import Thread

    found: dict[str, Any] = {}
    remarks: list[str] = []

    def read() -> None:
        try:
            found.update(summary(pattern, since, remarks.append))
        except Exception as error:
            remarks.append(one_line(error))

    reading = Thread(target=read, name="event junit", daemon=True)
    reading.start()
    reading.join(JUNIT_TIMEOUT)
    if reading.is_alive():
        found, remarks = {}, [f"not read within {JUNIT_TIMEOUT:g} s"]
    for text in remarks[:MOST_REMARKS]:
        remark(text)
    if len(remarks) > MOST_REMARKS:
        remark(f"… and {len(remarks) - MOST_REMARKS} more")
    return found


def summary(pattern: str, since: float, remark: Callable[[str], None]) -> dict[str, Any]:
    """Return the results of the reports as an event's data; an empty dict if there is no report.

    :param pattern: a path, or a glob pattern (``**`` for any directories)
    :param since: skip reports that were last changed before this time, in seconds since 1970
    :param remark: called with a line about each report that cannot be read
    """
    found = Summary()
    paths = _paths(pattern)
    room, read = LARGEST, 0
    if len(paths) > MOST_FILES:  # the first remark, since only some are printed
        remark(f"{len(paths)} reports; only the first {MOST_FILES} are read")
    for path in paths[:MOST_FILES]:
        try:
            report, size = _read(path, since - _CLOCKS_DIFFER, room)
        except (OSError, ValueError) as error:
            remark(f"{path!r}: {getattr(error, 'strerror', None) or error}")
        else:
            found.add(report)
            room -= size
            read += 1
    if not paths:
        remark(f"{pattern!r}: no such report")
    return found.as_data() if read else {}


def _paths(pattern: str) -> list[str]:
    from glob import glob, has_magic

    if os.path.lexists(pattern) or not has_magic(pattern):
        return [pattern] if os.path.lexists(pattern) else []
    return sorted(glob(pattern, recursive=True))


def _read(path: str, since: float, room: int) -> tuple[Summary, int]:
    """Return the counts of one report, and its size.

    :raises OSError: it cannot be read
    :raises ValueError: it is not a report, it is too old or it exceeds a limit
    """
    from xml.parsers.expat import ExpatError

    from event import _files

    with open(_files.open_regular(path), "rb") as file:
        status = os.fstat(file.fileno())
        if status.st_mtime < since:
            raise ValueError("it is older than the command")
        if status.st_size > room:
            raise ValueError(f"the reports are larger than {LARGEST >> 20} MiB")
        report = Summary()
        parser = _parser(report)
        left = status.st_size
        try:
            while left > 0 and (piece := file.read(min(_PIECE, left))):
                left -= len(piece)
                parser.Parse(piece)
            parser.Parse(b"", True)
        except ExpatError as error:
            raise ValueError(f"it is not XML: {error}") from error
    return report, status.st_size


def _parser(report: Summary) -> XMLParserType:
    from xml.parsers.expat import ParserCreate

    def refuse(*_args: object) -> None:
        raise ValueError("a document type is not accepted in a report")

    parser = ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = report.start
    parser.EndElementHandler = report.end
    return parser
