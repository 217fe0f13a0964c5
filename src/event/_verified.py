"""Verify the attachments of a dumped event against their checksums.

A dump contains the paths and checksums of its attachments. An attacker could write a dump, or replace a file after a
check, to make a handler send any file that this user can read. To prevent this, copy and hash each file in one pass,
and let handlers send the copies.
"""

from __future__ import annotations

import os
from contextlib import contextmanager

from event import _files
from event._event_copies import with_attachments
from event.error import EventError, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator

    from event._event import Event


@contextmanager
def verified_copy(event: Event) -> Generator[Event]:
    """Yield the event with verified copies of its attachments, which exist inside the ``with`` block.

    :raises EventError: a file is missing, not readable or has another checksum; the message names the attachment
    """
    if not event.get_attachments():
        yield event
        return
    from tempfile import TemporaryDirectory

    with TemporaryDirectory(prefix="e3-event-", ignore_cleanup_errors=True) as directory:
        copies: dict[str, tuple[str, str]] = {}
        for name, (path, digest) in event.get_attachments().items():
            # Each copy has its own directory, so that it can keep its name: handlers derive a file's type from it.
            own = os.path.join(directory, str(len(copies)))
            copies[name] = (os.path.join(own, os.path.basename(path)), digest)
            try:
                os.mkdir(own)
                found = _files.copy_and_hash(path, copies[name][0])
            except (OSError, ValueError) as error:
                raise EventError(f"attachment {name!r}: {one_line(error)}") from error
            if found != digest:
                raise EventError(f"attachment {name!r}: {path} has changed")
        yield with_attachments(event, copies)
