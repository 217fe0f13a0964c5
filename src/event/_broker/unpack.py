"""Decode a message and write its attachments to files, so that handlers can deliver the event."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache

from event._broker.message import InlineFile, decode_message
from event._broker.sink import Disposition, SinkResult, failed
from event._event_copies import with_attachments
from event.error import EventError, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from event._broker.message import EventMessage, S3Reference
    from event._broker.sink import Incoming
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

    def save(self, file: InlineFile | S3Reference, path: str, sha1: str) -> None:
        """Write an attachment to a new file.

        :param sha1: the expected SHA-1, in hex
        :raises ValueError: the content does not match its size or SHA-1
        :raises EventError: the file is not beneath `url`, is missing in S3, or has another size or SHA-1
        :raises UnavailableError: S3 does not respond
        :raises OSError: the file can't be written, for example because the disk is full
        """
        if isinstance(file, InlineFile):
            with open(path, "xb") as target:
                target.writelines(file.chunks(sha1))
            return
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


def process_batch(
    batch: Sequence[Incoming],
    source: AttachmentSource,
    make_directory: Callable[[], AbstractContextManager[str]],
    deliver: Callable[[Sequence[tuple[Incoming, EventMessage]]], list[SinkResult]],
) -> list[SinkResult]:
    """Decode messages, write their attachments to files, and deliver the events. Never raise an exception.

    :param make_directory: creates a directory for attachments; called if a message has one
    :param deliver: called with the messages that could be decoded; returns their results in order
    :return: the results of all messages in order
    """
    try:
        with ExitStack() as stack:
            directory = cache(lambda: stack.enter_context(make_directory()))
            items = [_unpack(incoming.body, directory, number, source) for number, incoming in enumerate(batch)]
            pairs = [*zip(batch, items, strict=True)]
            results = iter(deliver([(incoming, item) for incoming, item in pairs if not isinstance(item, SinkResult)]))
            return [item if isinstance(item, SinkResult) else next(results) for item in items]
    except Exception as error:
        return [failed(error)] * len(batch)


def _unpack(
    body: bytes, directory: Callable[[], str], number: int, source: AttachmentSource
) -> EventMessage | SinkResult:
    """Decode a message and write its attachments to files; if that fails, return the result for the relay.

    :param directory: returns the directory for attachments
    :param number: the index of the message in its batch, for unique file names
    :return: the message, whose event has the paths of the files
    """
    try:
        message = decode_message(body)
        attachments: dict[str, tuple[str, str]] = {}
        for name, (file, sha1) in message.attachments.items():
            path = os.path.join(directory(), f"{number}-{len(attachments)}")
            source.save(message.files[file], path, sha1)
            attachments[name] = (path, sha1)
        if attachments:
            message.event = with_attachments(message.event, attachments)
        return message
    except ValueError as error:
        return SinkResult(Disposition.DEAD_LETTER, f"it is not an e3-event message: {one_line(error)}")
    except UnavailableError as error:
        return SinkResult(Disposition.REQUEUE, one_line(error))
    except Exception as error:
        return failed(error)
