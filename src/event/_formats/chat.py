"""An event as a chat message."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

from event import _files
from event._formats.digest import digest_of
from event._formats.mentions import without_mentions
from event._formats.notice import CHAT_MAX, chat_text, clean, notice_of, plain_data, with_templates
from event._formats.notice_html import chat_html
from event._text import on_one_line
from event.error import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from event import Event
    from event._formats.notice import Notice
    from event._formats.template import Templates


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """The message for all chat services. Event data in it mentions no one, but a template may.

    :ivar files: name and path of each attachment, without the empty ones, which some services refuse
    :ivar empty: the names of the empty attachments
    :ivar events: the data of each event that the message lists; empty if it is about one event
    """

    notice: Notice
    files: Sequence[tuple[str, str]] = ()
    empty: Sequence[str] = ()
    events: Sequence[Mapping[str, Any]] = ()

    def problem(self) -> str:
        """Return the error of the first attachment that cannot be read; empty if there is none."""
        for name, path in self.files:
            try:
                os.close(_files.open_regular(path))
            except OSError as error:
                return f"attachment {name!r}: {one_line(error)}"
        return ""

    def body(self, preferred: str, limit: int) -> tuple[str, str]:
        """Return the body of the message, after its format.

        :param preferred: the format that a service prefers: TEXT, MARKDOWN or HTML
        :param limit: the maximum length in characters
        """
        if self.events:
            return "TEXT", digest_of(self.events, min(limit, CHAT_MAX)).body
        remarks = [f"attached: {without_mentions(name)}" for name, _ in self.files]
        remarks += [f"no output: {without_mentions(name)} (0 bytes, not attached)" for name in self.empty]
        if preferred == "HTML" and not self.notice.body:
            return preferred, chat_html(self.notice, remarks, limit)
        return "TEXT" if self.notice.body else preferred, chat_text(self.notice, remarks, limit) or self.notice.title


def message_about(event: Event, templates: Templates) -> ChatMessage:
    """Return the message about an event.

    :raises EventError: the data contains itself
    """
    data = _chat_data(event)
    files = [(on_one_line(clean(name)), path) for name, (path, _) in event.get_attachments().items()]
    empty = [file for file in files if _is_empty(file[1])]
    full = [file for file in files if file not in empty]
    return ChatMessage(with_templates(notice_of(data), templates, data), full, [name for name, _ in empty])


def _is_empty(path: str) -> bool:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return False  # `ChatMessage.problem` reports it
    return stat.S_ISREG(status.st_mode) and not status.st_size


def digest_about(events: Sequence[Event]) -> ChatMessage:
    """Return the message that lists many events. Their files are not attached.

    :raises EventError: the data of an event contains itself
    """
    found = [*map(_chat_data, events)]
    return ChatMessage(digest_of(found), events=found)


def _chat_data(event: Event) -> dict[str, Any]:
    data: dict[str, Any] = without_mentions(plain_data(event.as_dict()))
    return data
