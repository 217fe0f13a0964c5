"""A mail: addresses read and written, and an event made into a message (RFC 5322, RFC 2045 to 2047, RFC 2231).

The text is put together here, not by `email.message`: its generator breaks a ``message/rfc822`` attachment, takes no
line break in a file name, and goes through 40 MiB several times more.
"""

from __future__ import annotations

import os
import re
from base64 import encodebytes
from datetime import datetime, timezone
from email.header import Header
from email.utils import format_datetime
from mimetypes import guess_type
from urllib.parse import quote

from event import _files, _json, unique_id
from event.error import EventError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from event import Event

    Mailbox = tuple[str, str]  # display name, address
    File = tuple[str, str, int]  # name, path, size in bytes

MAX_SIZE = 40 << 20  # bytes on the wire, after base64

_LINE_MAX = 900  # characters; RFC 5322 allows 998 bytes in a line
_VALUE_MAX = 200  # characters of one value in the text that a person reads
_VALUES_MAX = 50

_QUOTED = r'"(?:\\.|[^"\\])*"'
_ELEMENT = re.compile(rf"(?:{_QUOTED}|<[^>]*>|\([^()]*\)|[^,])+", re.DOTALL)
_NAMED = re.compile(rf'((?:{_QUOTED}|[^<>"])*)<([^<>]*)>', re.DOTALL)
_COMMENTED = re.compile(r"(\S+)\s*\(([^()]*)\)", re.DOTALL)
_ATOM = r'[^\s"<>(),:;@\[\]\\\x00-\x1f\x7f]+'
_ADDRESS = re.compile(rf'(?:{_ATOM}|"(?:\\[ -~]|[^"\\\x00-\x1f\x7f])+")(?:@(?:{_ATOM}|\[[0-9A-Za-z:.]+\]))?')
_PLAIN_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~ -]*")


def mailboxes(value: str | Iterable[str]) -> list[Mailbox]:
    """Return the mailboxes of an address list.

    :param value: ``a@x, "Doe, Jane" <b@x>``; or a list, each element of which is one mailbox or such a string. In a
        list's element, what stands before the ``<`` is a name, whatever commas it holds.
    :raises EventError: there is no mailbox, or one has an address that cannot be
    """
    texts = [value] if isinstance(value, str) else [*value]
    found = []
    for text in texts:
        if not isinstance(value, str) and _NAMED.fullmatch(text.strip()):
            found.append(mailbox(text))
        else:
            found += [mailbox(element) for element in _ELEMENT.findall(text) if element.strip()]
    if not found:
        raise EventError(f"smtp: {value!r} holds no mail address; expected one such as builds@example.com")
    return found


def mailbox(text: str) -> Mailbox:
    """Return the display name and the address of ``NAME <ADDRESS>``, ``ADDRESS (NAME)`` or ``ADDRESS``.

    :raises EventError: the address cannot be: it holds a space, a line break, a second address, …
    """
    text = text.strip()
    name, address = "", text
    if match := _NAMED.fullmatch(text):
        name, address = match[1].strip(), match[2].strip()
        name = re.sub(_QUOTED, lambda quoted: re.sub(r"\\(.)", r"\1", quoted[0][1:-1]), name)
    elif match := _COMMENTED.fullmatch(text):
        address, name = match[1], match[2]
    if not _ADDRESS.fullmatch(address):
        raise EventError(f"smtp: {text!r} is no mail address; expected one such as Jane Doe <jane@example.com>")
    return _clean(name), address


def address_list(boxes: list[Mailbox]) -> str:
    """Return what `mailboxes` reads as boxes: an address list for a person, non-ASCII as it is."""
    return ", ".join(f"{_quoted(name)} <{address}>" if name else address for name, address in boxes)


def wire_address(address: str) -> str:
    """Return an address as the protocol takes it: the domain in IDNA form, a local part beyond ASCII as it is.

    :raises EventError: the domain has no such form
    """
    local, at, domain = address.rpartition("@")
    try:
        address.encode()
        return address if domain.isascii() else f"{local}{at}{domain.encode('idna').decode('ascii')}"
    except UnicodeError as error:
        raise EventError(f"smtp: {address!r} is no mail address: {error}") from error


def compose(event: Event, subject: str, sender: Mailbox, recipients: list[Mailbox]) -> tuple[str, list[str]]:
    """Return the mail that tells of an event, and the names of the attachments that it has no room for.

    Lines end in a line feed. The text is ASCII, unless the local part of an address is not (RFC 6531).

    :raises EventError: the data alone is over MAX_SIZE, holds itself, or an address cannot be
    :raises OSError: an attachment is missing, no regular file, or not readable
    """
    data = event.as_dict()
    boundary = f"=-{unique_id()}"
    head = _head(subject, sender, recipients, boundary)
    json = _part("application/json", "event", _json.dumps(data, i_json=True).encode("ascii"))
    files = [(name, path, os.stat(path).st_size) for name, (path, _) in event.get_attachments().items()]
    # Counted with the text as if no file fitted, its longest form, and with a charset for each file.
    room = MAX_SIZE - _wire_size(f"{head}{_text_part(_summary(data, [], files))}{json}") - 6 * len(boundary)
    if room < 0:
        raise EventError(
            f"the data alone is over {MAX_SIZE >> 20} MiB, which no mail server takes; attach it as a file"
        )
    kept, left_out = _chosen(files, room - 2 * len(boundary))
    parts = [_text_part(_summary(data, kept, left_out)), json]
    parts += [_part(_content_type(name, path), name, _read(path, size)) for name, path, size in kept]
    body = "".join(f"--{boundary}\n{part}\n" for part in parts)
    return f"{head}\n{body}--{boundary}--\n", [name for name, _, _ in left_out]


def _head(subject: str, sender: Mailbox, recipients: list[Mailbox], boundary: str) -> str:
    domain = wire_address(sender[1]).rpartition("@")[2]
    fields = {
        "MIME-Version": "1.0",
        "Content-Type": f'multipart/mixed; boundary="{boundary}"',
        "Subject": _encoded(_clean(str(subject)), "Subject"),
        "From": _mailbox_field(sender),
        "To": ",\n ".join(map(_mailbox_field, recipients)),
        "Date": format_datetime(datetime.now(timezone.utc)),
        # The sender's domain: email.utils.make_msgid would ask DNS for this machine's name, and tell it.
        "Message-ID": f"<{unique_id()}@{domain if domain.isascii() else 'localhost'}>",
    }
    return "".join(f"{name}: {value}\n" for name, value in fields.items())


def _mailbox_field(box: Mailbox) -> str:
    name, address = box
    address = wire_address(address)
    if not name:
        return address
    short_ascii = name.isascii() and len(name) < _LINE_MAX
    return f"{_quoted(name) if short_ascii else _encoded(name, 'To')} <{address}>"


def _quoted(name: str) -> str:
    """Return a display name, quoted where it holds what an address list uses (RFC 5322, section 3.2.4)."""
    return name if _PLAIN_NAME.fullmatch(name) else '"' + re.sub(r'(["\\])', r"\\\1", name) + '"'


def _encoded(text: str, field: str) -> str:
    """Return a header's text, folded; beyond ASCII, and where a word fills a line, in RFC 2047's encoded words."""
    as_it_is = text.isascii() and max(map(len, text.split(" "))) < _LINE_MAX
    return Header(text, "us-ascii" if as_it_is else "utf-8", header_name=field).encode()


def _clean(text: str) -> str:
    """Return a header's text on one line: no line break, control character or half of a surrogate pair is left."""
    text = "".join(c if c.isprintable() else "?" if "\ud800" <= c <= "\udfff" else " " for c in text)
    return " ".join(text.split())


def _chosen(files: list[File], room: int) -> tuple[list[File], list[File]]:
    """Return the files that fit, taken in order, and those that do not.

    :param room: bytes on the wire
    """
    kept: list[File] = []
    left_out: list[File] = []
    for file in files:
        name, path, size = file
        cost = _wire_size(_part(_content_type(name, path), name, b"")) + 100 + 4 * -(-size // 3) + 2 * -(-size // 57)
        (kept if cost <= room else left_out).append(file)
        room -= cost if cost <= room else 0
    return kept, left_out


def _wire_size(text: str) -> int:
    return len(text) + text.count("\n")


def _read(path: str, size: int) -> bytes:
    """Return a regular file's first bytes: a log that is being written may have grown since its size was counted."""
    with open(_files.open_regular(path), "rb") as file:
        return file.read(size)


def _content_type(name: str, path: str) -> str:
    kind, encoding = guess_type(path) if guess_type(path)[0] else guess_type(name)
    if (kind, encoding) == ("application/x-tar", "gzip"):
        return "application/x-tar-gz"
    # RFC 2046 forbids base64 in these two, and without it no server leaves a mail's line ends as they are.
    if not kind or encoding or kind.startswith(("message/", "multipart/")):
        return "application/octet-stream"
    return kind


def _part(kind: str, name: str, content: bytes) -> str:
    charset = '; charset="utf-8"' if kind.startswith("text/") and _is_utf8(content) else ""
    return (
        f"Content-Type: {kind}{charset}\n"
        "Content-Transfer-Encoding: base64\n"
        f"Content-Disposition: attachment;{_filename(name)}\n"
        f"\n{encodebytes(content).decode('ascii')}"
    )


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _filename(name: str) -> str:
    """Return the parameter of a file name: as RFC 2231 has it, unless the name is short and plain."""
    if len(name) <= 60 and re.fullmatch(r"[\w .,+@%()-]+", name, re.ASCII):
        return f' filename="{name}"'
    pieces = re.findall(r"(?:%..|.){1,20}", quote(name, safe="", errors="replace"))
    first, *rest = pieces
    return ";".join(
        [f"\n filename*0*=utf-8''{first}", *(f"\n filename*{i}*={piece}" for i, piece in enumerate(rest, 1))]
    )


def _text_part(text: str) -> str:
    if text.isascii():
        return f'Content-Type: text/plain; charset="us-ascii"\nContent-Transfer-Encoding: 7bit\n\n{text}'
    content = encodebytes(text.encode("utf-8", "replace")).decode("ascii")
    return f'Content-Type: text/plain; charset="utf-8"\nContent-Transfer-Encoding: base64\n\n{content}'


def _summary(data: dict[str, Any], kept: list[File], left_out: list[File]) -> str:
    """Return what a person reads first: the data, a line each and cut, and what became of the attachments."""
    lines = [_line(key, value) for key, value in list(data.items())[:_VALUES_MAX]]
    if len(data) > _VALUES_MAX:
        lines.append(f"... and {len(data) - _VALUES_MAX} more in the attached event")
    lines += [f"attached: {_short(name)} ({size} bytes)" for name, _, size in kept]
    limit = f"a mail holds {MAX_SIZE >> 20} MiB"
    lines += [f"left out, no room: {_short(name)} ({size} bytes; {limit})" for name, _, size in left_out]
    return "\n".join(lines) + "\n"


def _line(key: Any, value: Any) -> str:
    return f"{_short(str(key))}: {_short(value if isinstance(value, str) else _json.dumps(value))}"


def _short(text: str) -> str:
    text = _clean(text[: 4 * _VALUE_MAX])
    return text if len(text) <= _VALUE_MAX else f"{text[:_VALUE_MAX]}..."
