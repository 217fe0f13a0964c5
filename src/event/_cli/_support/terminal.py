"""Print to stdout and stderr safely, for any text, any encoding and a closed pipe."""

from __future__ import annotations

import os
import sys

from event.error import visible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, TextIO

JSON_VERSION = 1  # of the documents of ``--json``; it changes when their format changes
_MAX_LINE_LENGTH = 1000  # characters of one line; a server may answer with a long page


def printable_line(text: str) -> str:
    """Return text as one printable line, truncated to `_MAX_LINE_LENGTH`."""
    text = visible(" ".join(text.split()))
    return text if len(text) <= _MAX_LINE_LENGTH else f"{text[: _MAX_LINE_LENGTH - 1]}…"


def print_err(text: str, colour: str = "") -> None:
    """Print a line to stderr, after the pending output of stdout. Ignore errors.

    :param colour: `RED` or `GREEN`; used only if `has_colours` returns True
    """
    _flush()
    line = printable_line(text)
    try:
        _write_line(sys.stderr, f"{colour}{line}{_PLAIN}" if colour and has_colours(sys.stderr) else line)
    except OSError:
        _silence(sys.stderr)


RED, GREEN, _PLAIN = "\033[31m", "\033[32m", "\033[0m"


def has_colours(stream: TextIO | None) -> bool:
    """Return whether to use colours on a stream.

    A terminal has colours, unless its TERM is ``dumb``. FORCE_COLOR turns them on for every stream. NO_COLOR turns them
    off, even with FORCE_COLOR.
    """
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"


def print_out(text: str) -> None:
    """Print lines to stdout. `flush_out` reports an error later, so that the command continues."""
    try:
        _write_line(sys.stdout, text)
    except OSError as error:
        _failed.append(error)


def print_json(**content: Any) -> None:
    """Print a document of ``--json``. docs/reference/formats.md describes the documents."""
    from event import _json

    print_out(_json.dumps({"version": JSON_VERSION, **content}, indent=2))


def output_failed() -> bool:
    """Return whether a write to stdout has failed, for example because the reader has gone away."""
    return bool(_failed)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as lines of aligned columns, two spaces apart and indented by two."""
    cells = [[printable_line(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def width(stream: TextIO | None, default: int) -> int:
    """Return the number of columns of a terminal, or the default for any other stream."""
    try:
        return (os.get_terminal_size(stream.fileno()).columns if stream else 0) or default
    except (OSError, ValueError):
        return default


def flush_out() -> int:
    """Flush stdout; return 1 if some output could not be written, else 0.

    A closed pipe is not a failure: a reader such as ``head`` has read what it needs.
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
    """Redirect a stream to the null device. Otherwise, Python would flush it again at exit and print an error."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


_failed: list[OSError] = []
