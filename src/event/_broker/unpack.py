"""From a message's body to an event whose attachments are files."""

from __future__ import annotations

import os
from dataclasses import dataclass

from event._broker import message as _message
from event._broker.sink import Disposition, SinkResult, failed
from event._event_copies import with_sending
from event.error import EventError, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from typing_extensions import Self

    from event._broker.message import EventMessage, S3Reference
    from event._event import Event
    from event._net.s3 import Store


class LaterError(Exception):
    """An attachment cannot be fetched now; later it may be."""


@dataclass(frozen=True, slots=True)
class AttachmentSource:
    """Where attachments may be fetched from.

    :ivar url: the URL beneath which they must be, s3://BUCKET/PREFIX; empty for none
    """

    url: str = ""
    store: Store | None = None

    def fetch(self, file: S3Reference, path: str, sha1: str) -> None:
        """Write what is in S3 to a new file.

        :raises EventError: it is not beneath the URL, is missing there, or is not what the message states
        :raises LaterError: S3 does not answer
        :raises OSError: the disk is full, say
        """
        # Whoever may publish must not make us read everything that we may read.
        if self.store is None or not file.url.startswith(f"{self.url.rstrip('/')}/"):
            raise EventError(f"an attachment is at {file.url}, and this relay fetches none from there (--s3)")
        from event._net import s3

        try:
            self.store.download(file.url, path, file.size, sha1)
        except s3.NotThereError as error:
            raise EventError(f"an attachment is missing: {one_line(error)}") from error
        except s3.StoreError as error:
            raise LaterError(f"an attachment cannot be fetched now: {one_line(error)}") from error


@dataclass(slots=True)
class Unpacked:
    """A message whose event is ready for handlers."""

    message: EventMessage
    event: Event


def unpack(body: bytes, directory: LazyDirectory, number: int, source: AttachmentSource) -> Unpacked | SinkResult:
    """Return a message's event, with its attachments in a directory; or what is to become of the message."""
    try:
        message = _message.decode_message(body)
        attachments: dict[str, tuple[str, str]] = {}
        for name, (file, sha1) in message.attachments.items():
            path = os.path.join(directory.path(), f"{number}-{len(attachments)}")
            _save(message.files[file], path, sha1, source)
            attachments[name] = (path, sha1)
        return Unpacked(message, with_sending(message.event, message.id, attachments))
    except ValueError as error:
        return SinkResult(Disposition.DEAD_LETTER, f"it is not an event's message: {one_line(error)}")
    except LaterError as error:
        return SinkResult(Disposition.REQUEUE, one_line(error))
    except Exception as error:
        return failed(error)


def _save(file: _message.InlineFile | S3Reference, path: str, sha1: str, source: AttachmentSource) -> None:
    """Write a file's content to a path; each byte is written once.

    :raises ValueError: the content is not what the message states
    :raises OSError: the disk is full, say
    """
    if not isinstance(file, _message.InlineFile):
        source.fetch(file, path, sha1)
        return
    with open(path, "xb") as target:
        target.writelines(file.chunks(sha1))


class LazyDirectory:
    """A directory that is made when it is first needed: most events have no attachments.

    :param make: returns the context manager that makes and removes it
    """

    def __init__(self, make: Callable[[], AbstractContextManager[str]]) -> None:
        from contextlib import ExitStack

        self._make = make
        self._stack = ExitStack()
        self._path = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_args: object) -> None:
        self._stack.close()

    def path(self) -> str:
        """Return its path.

        :raises OSError: it cannot be made
        """
        self._path = self._path or self._stack.enter_context(self._make())
        return self._path
