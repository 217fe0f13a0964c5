"""Return the end of a command's output as readable text."""

from __future__ import annotations

import os
import sys

from event._process.signals import above_standard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

KEPT = 1 << 17  # bytes to keep of each source
LONGEST_LINE = 500  # characters

# Terminal control sequences (ECMA-48, section 5), except "erase in line", which changes the visible text.
_SEQUENCE = (
    r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?"  # a title, a link
    r"|\x1b[PX^_][^\x1b]*(?:\x1b\\)?"
    r"|(?:\x1b\[|\x9b)(?![012]?K)[0-?]*[ -/]*[@-~]?"
    r"|\x1b[ -/]+[0-~]?|\x1b[0-Z\\-~]"
)
_MOVE = r"(\r|\x08|(?:\x1b\[|\x9b)[012]?K)"
# Control characters, and characters that change the direction of text.
_UNPRINTABLE = "[\0-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]"


class Ring:
    """Keeps the last bytes that are written to it, at least `KEPT`."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._is_cut = False

    def append(self, data: bytes) -> None:
        self._bytes += data
        if len(self._bytes) > 2 * KEPT:  # seldom, so that every byte is moved once
            del self._bytes[:-KEPT]
            self._is_cut = True

    def content(self) -> bytes:
        """Return the kept bytes, from the start of a line if there is one."""
        return _whole_lines(bytes(self._bytes), is_cut=self._is_cut)


class FileEnd:
    """Returns the end of the output that is written to a regular file through one of our descriptors.

    :raises OSError: the file cannot be read
    """

    def __init__(self, target: int) -> None:
        self._reader = above_standard(os.open(_path_of(target), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        found = os.fstat(self._reader)
        if not os.path.samestat(found, os.fstat(target)):
            os.close(self._reader)
            raise FileNotFoundError
        self._start = found.st_size if _appends(target) else os.lseek(target, 0, os.SEEK_CUR)

    def content(self) -> bytes:
        """Return the end of the data that was written since the start, including data of other processes."""
        try:
            with open(self._reader, "rb", buffering=0) as file:
                size = os.fstat(self._reader).st_size
                start = self._start if size >= self._start else 0  # otherwise the file was truncated
                first = max(start, size - KEPT)
                file.seek(first)
                return _whole_lines(file.read(KEPT), is_cut=first > start)
        except OSError:  # the network file system has lost the file
            return b""


if sys.platform == "win32":  # pragma: no cover  # platform: Windows

    def _path_of(target: int) -> str:
        raise FileNotFoundError(target)

    def _appends(target: int) -> bool:
        raise NotImplementedError(target)

else:

    def _path_of(target: int) -> str:
        import fcntl

        if sys.platform == "darwin":  # pragma: no cover  # platform: macOS
            return os.fsdecode(fcntl.fcntl(target, fcntl.F_GETPATH, bytes(1024)).rstrip(b"\0"))
        return f"/proc/self/fd/{target}"

    def _appends(target: int) -> bool:
        import fcntl

        return bool(fcntl.fcntl(target, fcntl.F_GETFL) & os.O_APPEND)


def _whole_lines(content: bytes, *, is_cut: bool) -> bytes:
    return content[content.find(b"\n") + 1 :] if is_cut else content


def last_lines(ends: Iterable[bytes], count: int, redact: Callable[[str], str]) -> str:
    """Return the last lines of a command's output as a terminal shows them; empty if there are none.

    :param ends: the end of each source
    :param count: the number of lines
    :param redact: a function that replaces the secrets in a text, which may span several lines
    """
    lines: list[str] = []
    for content in ends:
        text = _without_overwritten(content.decode(errors="replace"), redact)
        text = "\n".join(map(as_shown, text.split("\n")))
        lines += redact(text).rstrip().split("\n")
    kept = [line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE - 3]}..." for line in lines[-count:]]
    return "\n".join(kept).strip("\n")


def _without_overwritten(text: str, redact: Callable[[str], str]) -> str:
    """Replace the secrets that later output overwrites, because a part of a secret may remain on its line."""
    if "\r" not in text and "\b" not in text:
        return text
    import re

    pieces = re.split("([\r\b\n]+)", text)
    shown = [as_shown(piece) for piece in pieces[::2]]
    if redact(joined := "\n".join(shown)) != joined:
        found = map(redact, shown)
        pieces[::2] = [
            piece if after == before else after for piece, before, after in zip(pieces[::2], shown, found, strict=True)
        ]
    return "".join(pieces)


def as_shown(line: str) -> str:
    """Return the final state of a line on a terminal, where a progress bar overwrites itself."""
    if line.isprintable():
        return line
    import re

    cells: list[str] = []
    column = 0
    for part in re.split(_MOVE, re.sub(_SEQUENCE, "", line)):
        if part == "\r":
            column = 0
        elif part == "\b":
            column = max(0, column - 1)
        elif part.endswith("K") and part[0] in "\x1b\x9b":
            _erase(cells, column, part[-2])
        else:
            text = re.sub(_UNPRINTABLE, "", part)
            cells += " " * (column - len(cells))
            cells[column : column + len(text)] = text
            column += len(text)
    return "".join(cells).rstrip()


def _erase(cells: list[str], column: int, which: str) -> None:
    """Erase part of a line: after the column, up to the column (1), or all of it (2)."""
    if which == "1":
        cells[: column + 1] = " " * min(column + 1, len(cells))
    else:
        del cells[0 if which == "2" else column :]
