"""Choose the attachments that fit into a mail, and their form: whole, compressed, or only the end of a log."""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass, field
from mimetypes import guess_type
from urllib.parse import quote

from event import _files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Literal, TypeAlias

    from event import Event

    Form: TypeAlias = Literal["whole", "compressed", "end", "empty", "left out"]

COMPRESSIBLE = 512 << 20  # bytes; compressing a larger file would take too long
_COMPRESS_CHUNK = 1 << 20  # bytes
_TEXT_PROBE = 1 << 13  # bytes that are read to decide whether a file is text
_SMALLEST_END = 1 << 10  # bytes; a shorter end of a log is useless
_PARTIAL_LINE = 1 << 12  # bytes; in the end of a log, a longer first line is kept even if it is incomplete


@dataclass(frozen=True, slots=True)
class File:
    """An attached file.

    :ivar size: the size in bytes when the mail was started
    :ivar is_log: whether it is a text with the name ``log``, as from `Event.attach_file` and ``run --log``
    """

    name: str
    path: str
    size: int
    is_log: bool = False


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file and its form in the mail.

    :ivar content: the attached bytes; empty if the file is not attached
    """

    file: File
    form: Form
    content: bytes = field(default=b"", repr=False)

    @property
    def file_name(self) -> str:
        """The name under which the file is attached: ``log.txt`` for a log."""
        name = f"{self.file.name}.txt" if self.file.is_log else self.file.name
        return f"{name}.gz" if self.form == "compressed" else name

    @property
    def content_type(self) -> str:
        """The media type, guessed from the file's name, or else from the attachment's name."""
        if self.form == "compressed":
            return "application/gzip"
        if self.file.is_log:
            return "text/plain"
        kind, encoding = guess_type(self.file.path) if guess_type(self.file.path)[0] else guess_type(self.file.name)
        if (kind, encoding) == ("application/x-tar", "gzip"):
            return "application/x-tar-gz"
        # RFC 2046 forbids base64 for these two types. Without base64, servers change the line ends.
        if not kind or encoding or kind.startswith(("message/", "multipart/")):
            return "application/octet-stream"
        return kind


def attached_files(event: Event) -> list[File]:
    """Return an event's attachments with their sizes.

    :raises OSError: a file is missing, not a regular file, or not readable
    """
    files: list[File] = []
    for name, (path, _) in event.get_attachments().items():
        with open(_files.open_regular(path), "rb") as file:
            is_log = name == "log" and not guess_type(path)[1] and b"\0" not in file.read(_TEXT_PROBE)
            files.append(File(name, path, os.fstat(file.fileno()).st_size, is_log))
    return files


def fit(files: Iterable[File], room: int) -> list[Attachment]:
    """Return the attachments of a mail, one for each file, in the same order.

    Files that fit are attached whole, in order. A text that does not fit is compressed. If it still does not fit, only
    its end is attached. Empty files are not attached, because some services refuse them.

    :param room: the available size in bytes
    :raises OSError: a file could not be read
    """
    chosen: dict[File, Attachment] = {}
    for file in files:
        attachment = _whole(file, room)
        room -= _cost(attachment)
        chosen[file] = attachment
    for file in _left_out(chosen):
        chosen[file] = _compressed(file, room)
        room -= _cost(chosen[file])
    texts = _left_out(chosen)
    for position, file in enumerate(texts):
        chosen[file] = _end(file, room // (len(texts) - position))
        room -= _cost(chosen[file])
    return list(chosen.values())


def _left_out(chosen: dict[File, Attachment]) -> list[File]:
    """Return the texts that do not fit."""
    return [file for file, attachment in chosen.items() if attachment.form == "left out" and _is_text(file)]


def _whole(file: File, room: int) -> Attachment:
    if file.size == 0:
        return Attachment(file, "empty")
    if file.size > _capacity(file, room):
        return Attachment(file, "left out")
    return Attachment(file, "whole", _read_part(file, 0, file.size))


def _compressed(file: File, room: int) -> Attachment:
    if file.size > COMPRESSIBLE:
        return Attachment(file, "left out")
    most = _capacity(file, room)
    packer = zlib.compressobj(wbits=31)  # the gzip format, without a time stamp
    packed = bytearray()
    left = file.size  # a log may grow meanwhile
    with open(_files.open_regular(file.path), "rb") as source:
        while len(packed) <= most and (chunk := source.read(min(_COMPRESS_CHUNK, left))):
            left -= len(chunk)
            packed += packer.compress(chunk)
    packed += packer.flush()
    return Attachment(file, "compressed", bytes(packed)) if len(packed) <= most else Attachment(file, "left out")


def _end(file: File, room: int) -> Attachment:
    size = _capacity(file, room)
    if size < _SMALLEST_END:
        return Attachment(file, "left out")
    return Attachment(file, "end", _from_line_start(_read_part(file, file.size - size, size)))


def _from_line_start(text: bytes) -> bytes:
    """Return text without an incomplete line or character at its start."""
    line = text.find(b"\n", 0, _PARTIAL_LINE)
    if line >= 0:
        return text[line + 1 :]
    return text[:4].lstrip(bytes(range(0x80, 0xC0))) + text[4:]


def _cost(attachment: Attachment) -> int:
    """Return an upper bound of an attachment's size in a mail, in bytes."""
    size = len(attachment.content)
    # Base64 has lines of 76 characters.
    return _overhead(attachment.file) + 4 * -(-size // 3) + 2 * -(-size // 57) if size else 0


def _capacity(file: File, room: int) -> int:
    """Return how many bytes of a file fit; negative if not even its name fits."""
    return (room - _overhead(file)) // 78 * 57


def _overhead(file: File) -> int:
    """Return an upper bound of the size of an attachment's header and its line in the mail's text."""
    return 700 + 4 * len(quote(file.name, safe="", errors="replace"))


def _is_text(file: File) -> bool:
    return b"\0" not in _read_part(file, 0, _TEXT_PROBE)


def _read_part(file: File, start: int, size: int) -> bytes:
    with open(_files.open_regular(file.path), "rb") as source:
        source.seek(start)
        return source.read(size)
