"""Compose a mail about an event: a notice as text and HTML, the data as JSON, and the attachments (RFC 5322, 2045)."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.header import Header
from email.message import EmailMessage, MIMEPart
from email.policy import EmailPolicy
from email.utils import format_datetime
from urllib.parse import quote

from event import _json, sending_id, unique_id
from event._formats.address import quoted
from event._formats.attachments import Attachment, attached_files, fit
from event._formats.digest import digest_of
from event._formats.notice import notice_of, plain_data, short, text_of, with_templates
from event._formats.notice_html import html_of
from event._text import on_one_line
from event.error import PermanentError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from event import Event
    from event._formats.address import Mailbox
    from event._formats.attachments import File
    from event._formats.notice import Notice
    from event._formats.template import Templates

MAX_SIZE = 40 << 20  # bytes of a mail, in base64; few servers accept more

_MAX_MAIL_LINE = 900  # characters; RFC 5322 allows 998 bytes in a line
_PIECES = re.compile(r"(?:%..|.){1,20}")  # the pieces of a percent-encoded name


class _Folded(str):
    """The value of a header that is already encoded and folded."""

    __slots__ = ()


class _Policy(EmailPolicy):
    """The rules for the header. This module folds addresses and file names itself.

    When the library folds a display name, it loses the quotes, so ``"Doe, Ann"`` would become two recipients. It also
    writes a name of 1000 letters on one line, and does not encode a line break in a file name.
    """

    def header_store_parse(self, name: str, value: Any) -> tuple[str, Any]:
        """Return the name and value of a header for storage."""
        return (name, value) if isinstance(value, _Folded) else super().header_store_parse(name, value)

    def fold(self, name: str, value: Any) -> str:
        """Return a header as text."""
        return f"{name}: {value}\r\n" if isinstance(value, _Folded) else super().fold(name, value)

    def fold_binary(self, name: str, value: Any) -> bytes:
        """Return a header as bytes."""
        return self.fold(name, value).encode("utf-8" if self.utf8 else "ascii")


_ASCII = _Policy(linesep="\r\n", cte_type="7bit")
_UTF8 = _Policy(linesep="\r\n", cte_type="7bit", utf8=True)  # for a non-ASCII local part of an address (RFC 6531)


@dataclass(frozen=True, slots=True)
class MailContent:
    """The content of a mail, independent of its recipients.

    :ivar sending: the id of the sending, the same for every attempt
    :ivar thread: a key that is equal for mails of one thread
    :ivar remarks: lines after the notice
    :ivar json_name: the name under which `json` is attached
    :ivar json: the data of the event or the events
    """

    subject: str
    sending: str
    thread: Sequence[str]
    notice: Notice
    json_name: str
    json: bytes = field(repr=False)
    remarks: Sequence[str] = ()
    files: Sequence[File] = ()


def content_of(event: Event, subject: str, templates: Templates) -> MailContent:
    """Return the content of the mail about an event.

    :param subject: the subject; if the event has an outcome or `templates` a title, the title follows it
    :raises EventError: the data contains itself
    :raises OSError: an attachment is missing, not a regular file, or not readable
    """
    values = event.as_dict()
    data = plain_data(values)
    notice = with_templates(notice_of(data), templates, data)
    has_title = bool(templates.title or notice.outcome)
    branch = next((value for label, value in notice.facts if label == "branch"), "")
    return MailContent(
        subject=f"{subject}: {notice.title}" if has_title else str(subject),
        sending=sending_id(event),
        thread=(str(subject), str(event.name), branch),
        notice=notice,
        json_name="event",
        json=_json.dumps(values, i_json=True).encode("ascii"),
        files=attached_files(event),
    )


def digest_content(events: Sequence[Event], subject: str) -> MailContent:
    """Return the content of one mail about many events. Their attachments are not included.

    :raises EventError: the data of an event contains itself
    """
    values = [event.as_dict() for event in events]
    notice = digest_of([*map(plain_data, values)])
    files = sum(len(event.get_attachments()) for event in events)
    return MailContent(
        subject=f"{subject}: {notice.title}",
        sending="\n".join(map(sending_id, events)),
        thread=(str(subject), "digest"),
        notice=notice,
        json_name="events",
        json=_json.dumps(values, i_json=True).encode("ascii"),
        remarks=[f"not attached: the files of these events ({files})"] if files else [],
    )


class Mail:
    """A mail. It is composed for each server, because the server's size limit determines which attachments fit.

    :ivar remarks: a line about each attachment that is shortened or left out, since the mail was composed
    :raises EventError: an address is invalid
    """

    def __init__(self, content: MailContent, sender: Mailbox, recipients: Sequence[Mailbox]) -> None:
        addresses = [box.wire_address for box in (sender, *recipients)]
        self._policy = _ASCII if "".join(addresses).isascii() else _UTF8
        self._content = content
        thread = _message_id("\n".join(content.thread), addresses[0])
        self._fields = {
            "Subject": on_one_line(content.subject),
            "From": _mailbox_field(sender, addresses[0]),
            "To": _Folded(",\r\n ".join(map(_mailbox_field, recipients, addresses[1:]))),
            "Date": format_datetime(datetime.now(timezone.utc)),
            "Message-ID": _message_id(content.sending, addresses[0]),
            # The id of a mail that does not exist. Mail programs show all mails that refer to it as one thread.
            "In-Reply-To": thread,
            "References": thread,
            "Auto-Submitted": "auto-generated",  # RFC 3834: no out-of-office reply
        }
        self.remarks: list[str] = []

    def compose(self, limit: int | None) -> bytes:
        """Return the mail for a server, with CRLF line ends. It is ASCII unless the local part of an address is not.

        :param limit: the server's size limit in bytes; None if it has none
        :raises PermanentError: the data alone exceeds the limit
        :raises OSError: an attachment is missing, not a regular file, or not readable
        """
        size = min(limit or MAX_SIZE, MAX_SIZE)
        none = [Attachment(file, "left out") for file in self._content.files]
        with_html = True
        room = size - len(self._encode(none, size, with_html=True))
        if room < 0:
            with_html = False  # the plain text has the same content
            room = size - len(self._encode(none, size, with_html=False))
        if room < 0:
            raise PermanentError(f"the data alone is over {_size_text(size)}, the limit of a mail; attach it as a file")
        attachments = fit(self._content.files, room)
        self.remarks = [_note(a, size) for a in attachments if a.form in {"end", "left out"}]
        return self._encode(attachments, size, with_html=with_html)

    def _encode(self, attachments: list[Attachment], size: int, *, with_html: bool) -> bytes:
        message: Any = EmailMessage(policy=self._policy)  # its annotations do not allow parts that are not messages
        for name, value in self._fields.items():
            message[name] = value
        content = self._content
        lines = [*content.remarks, *(_note(attachment, size) for attachment in attachments)]
        message.set_content(text_of(content.notice, lines))
        if with_html:
            message.add_alternative(html_of(content.notice, lines), subtype="html")
        # Without a boundary of ours, the library chooses one, and searches the whole mail for it.
        message.make_mixed(boundary=f"=-{unique_id()}")
        message.attach(_part("application/json", content.json_name, content.json))
        for attachment in attachments:
            if attachment.content:
                message.attach(_part(attachment.content_type, attachment.file_name, attachment.content))
        encoded: bytes = message.as_bytes()
        return encoded


def _message_id(sending: str, sender: str) -> str:
    """Return a message id that is the same on every attempt, so that mail programs can recognize a repeated mail.

    Its domain is that of the sender. `email.utils.make_msgid` would ask DNS for this machine's name, and publish it.
    """
    domain = sender.rpartition("@")[2]
    if not re.fullmatch(r"[A-Za-z0-9-]{1,64}", sending):
        sending = hashlib.sha256(sending.encode("utf-8", "replace")).hexdigest()
    return f"<{sending}@{domain if domain.isascii() else 'localhost'}>"


def _mailbox_field(box: Mailbox, address: str) -> _Folded:
    if not box.name:
        return _Folded(address)
    is_short = box.name.isascii() and len(box.name) < _MAX_MAIL_LINE
    name = quoted(box.name) if is_short else Header(box.name, "utf-8", header_name="To").encode(linesep="\r\n")
    return _Folded(f"{name} <{address}>")


def _part(kind: str, name: str, content: bytes) -> MIMEPart:
    part = MIMEPart(policy=_ASCII)
    params = {"charset": "utf-8"} if kind.startswith("text/") and _is_utf8(content) else {}
    maintype, _, subtype = kind.partition("/")
    part.set_content(content, maintype, subtype, cte="base64", params=params)
    part["Content-Disposition"] = _Folded(f"attachment;{_file_name(name)}")
    return part


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _file_name(name: str) -> str:
    """Return the parameter for a file name, in the form of RFC 2231 unless the name is short and plain."""
    if len(name) <= 60 and re.fullmatch(r"[\w .,+@%()-]+", name, re.ASCII):
        return f' filename="{name}"'
    first, *rest = _PIECES.findall(quote(name, safe="", errors="replace"))
    pieces = [f"*0*=utf-8''{first}", *(f"*{number}*={piece}" for number, piece in enumerate(rest, 1))]
    return ";".join(f"\r\n filename{piece}" for piece in pieces)


def _note(attachment: Attachment, limit: int) -> str:
    file, name = attachment.file, short(attachment.file_name)
    if attachment.form == "whole":
        return f"attached: {name} ({file.size} bytes)"
    if attachment.form == "empty":
        return f"no output: {name} (0 bytes, not attached)"
    if attachment.form == "compressed":
        return f"attached: {name} ({file.size} bytes, compressed)"
    if attachment.form == "end":
        return f"attached: the last {len(attachment.content)} of {file.size} bytes of {name}; no room for the rest"
    return f"left out, no room: {name} ({file.size} bytes; a mail holds {_size_text(limit)})"


def _size_text(size: int) -> str:
    return f"{size} bytes" if size % (1 << 20) else f"{size >> 20} MiB"
