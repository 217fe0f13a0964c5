"""Decode a message and write its attachments to files, so that handlers can deliver the event."""

from __future__ import annotations

import os
from dataclasses import dataclass

from event._broker import message as _message
from event._broker.sink import Disposition, SinkResult, failed
from event._event_copies import with_attachments
from event.error import EventError, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from typing_extensions import Self

    from event._broker.message import EventMessage, S3Reference
    from event._event import Event
    from event._net.s3 import Store


class UnavailableError(Exception):
    """An attachment can't be fetched at the moment. A later attempt may succeed."""


@dataclass(frozen=True, slots=True)
class AttachmentSource:
    """Downloads attachments from S3.

    :ivar url: the only URL beneath which attachments may be fetched, s3://BUCKET/PREFIX; empty to fetch none
    :ivar store: the S3 client; None to fetch none
    """

    url: str = ""
    store: Store | None = None

    def fetch(self, file: S3Reference, path: str, sha1: str) -> None:
        """Download a file from S3.

        :param path: the path of the file to create
        :param sha1: the expected SHA-1, in hex
        :raises EventError: the file is not beneath `url`, is missing in S3, or has another size or SHA-1
        :raises UnavailableError: S3 does not respond
        :raises OSError: the file can't be written, for example because the disk is full
        """
        # A message must not make the relay read other objects to which it has access.
        if self.store is None or not file.url.startswith(f"{self.url.rstrip('/')}/"):
            raise EventError(f"an attachment is at {file.url}, which is outside of --s3")
        from event._net import s3

        try:
            self.store.download(file.url, path, file.size, sha1)
        except s3.NotThereError as error:
            raise EventError(f"an attachment is missing: {one_line(error)}") from error
        except s3.StoreError as error:
            raise UnavailableError(f"an attachment cannot be fetched now: {one_line(error)}") from error


@dataclass(slots=True)
class Unpacked:
    """A decoded message.

    :ivar message: the content of the message
    :ivar event: the event, whose attachments are files on disk
    """

    message: EventMessage
    event: Event


def unpack(body: bytes, directory: LazyDirectory, number: int, source: AttachmentSource) -> Unpacked | SinkResult:
    """Decode a message and write its attachments to a directory; if that fails, return the result for the relay.

    :param number: the index of the message in its batch, for unique file names
    """
    try:
        message = _message.decode_message(body)
        attachments: dict[str, tuple[str, str]] = {}
        for name, (file, sha1) in message.attachments.items():
            path = os.path.join(directory.path(), f"{number}-{len(attachments)}")
            _save(message.files[file], path, sha1, source)
            attachments[name] = (path, sha1)
        event = with_attachments(message.event, attachments) if attachments else message.event
        return Unpacked(message, event)
    except ValueError as error:
        return SinkResult(Disposition.DEAD_LETTER, f"it is not an e3-event message: {one_line(error)}")
    except UnavailableError as error:
        return SinkResult(Disposition.REQUEUE, one_line(error))
    except Exception as error:
        return failed(error)


def _save(file: _message.InlineFile | S3Reference, path: str, sha1: str, source: AttachmentSource) -> None:
    """Write an attachment to a new file.

    :raises ValueError: the content does not match its size or SHA-1
    :raises OSError: the file can't be written, for example because the disk is full
    """
    if not isinstance(file, _message.InlineFile):
        source.fetch(file, path, sha1)
        return
    with open(path, "xb") as target:
        target.writelines(file.chunks(sha1))


class LazyDirectory:
    """A directory that is created on first use, because most events have no attachments.

    :param make: returns the context manager that creates and removes the directory
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
        """Return the directory's path; create the directory at the first call.

        :raises OSError: the directory can't be created
        """
        self._path = self._path or self._stack.enter_context(self._make())
        return self._path
