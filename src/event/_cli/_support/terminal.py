"""What goes to the terminal: one line at a time, whatever the text, the encoding or the other end of the pipe."""

from __future__ import annotations

import os
import sys

from event.error import visible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TextIO

_MAX_LINE_LENGTH = 1000  # characters of one line; a server may answer with a whole page


def printable_line(text: str) -> str:
    """Return text as one line that a terminal shows as it is, cut where it is very long."""
    text = visible(" ".join(text.split()))
    return text if len(text) <= _MAX_LINE_LENGTH else f"{text[: _MAX_LINE_LENGTH - 1]}…"


def print_err(text: str, colour: str = "") -> None:
    """Write a line to stderr, behind what was shown; where it cannot be written, there is nobody to tell.

    :param colour: `RED` or `GREEN`, where `has_colours` holds
    """
    _flush()
    line = printable_line(text)
    try:
        _write_line(sys.stderr, f"{colour}{line}{_PLAIN}" if colour and has_colours(sys.stderr) else line)
    except OSError:
        _silence(sys.stderr)


RED, GREEN, _PLAIN = "\033[31m", "\033[32m", "\033[0m"


def has_colours(stream: TextIO | None) -> bool:
    """Return whether a stream shows colours: on a terminal, unless NO_COLOR is set; anywhere if FORCE_COLOR is set.

    A terminal of which TERM says that it is ``dumb`` shows none.
    """
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"


def print_out(text: str) -> None:
    """Write lines to stdout. Where they cannot be written, `flush_out` reports it: what is being done goes on."""
    try:
        _write_line(sys.stdout, text)
    except OSError as error:
        _failed.append(error)


def output_failed() -> bool:
    """Return whether something could not be written to stdout, for example because its reader has gone away."""
    return bool(_failed)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as lines of aligned columns, two spaces apart and indented by two."""
    cells = [[printable_line(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def flush_out() -> int:
    """Flush stdout; return 1 where something that was shown could not be written.

    A reader that has gone away, as head does, has seen what it wanted: that is no failure.
    """
    _flush()
    failed = [error for error in _failed if not isinstance(error, BrokenPipeError)]
    _failed.clear()
    if failed:
        print_err(f"e3-event: cannot write to stdout: {failed[0].strerror}")
    return 1 if failed else 0


def _flush() -> None:
    stream: TextIO | None = sys.stdout
    if stream is not None:
        try:
            stream.flush()
        except OSError as error:
            _failed.append(error)
            _silence(stream)


def _write_line(stream: TextIO | None, text: str) -> None:
    if stream is not None:  # None: the process was started with this stream closed
        encoding = stream.encoding or "utf-8"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")


def _silence(stream: TextIO) -> None:
    """Let a stream lead nowhere; else the interpreter tries again as it ends, and complains in its own words."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


_failed: list[OSError] = []
