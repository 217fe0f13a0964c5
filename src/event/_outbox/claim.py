"""An entry that this process has claimed: begin an attempt, record results, and release it."""

from __future__ import annotations

import os
import time

from event import _files, _log
from event._event_copies import with_attachments, with_delivered, with_sending, without_attachments
from event._outbox import entry as text
from event._outbox import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from event._event import Event
    from event._outbox.entry import Entry
    from event._outbox.layout import Layout
    from event._outcome import Delivery


class Claim:
    """The right of this process to deliver an entry, until the claim is released. It is not thread-safe.

    :param is_directory: whether the entry is a directory, because it has attachments
    :param torn: whether the last line of the entry's text may be incomplete
    :param shared: whether other entries are hard links to the same file
    :ivar entry: the content of the entry
    :ivar name: the entry's file name in ``claimed/``, for `Outbox.adopt`
    :ivar path: the entry's path
    :ivar unreadable: the names of a new entry's attachments that can't be read, and are omitted from every attempt
    """

    unreadable: Sequence[str] = ()

    def __init__(  # noqa: PLR0913  # the state of an entry on disk
        self, layout: Layout, path: str, entry: Entry, *, is_directory: bool, torn: bool = False, shared: bool = False
    ) -> None:
        self.entry = entry
        self.name = os.path.basename(path)
        self._layout = layout
        self.path = path
        self._is_directory = is_directory
        self._torn = torn
        self._is_shared = shared
        self._unwritten: dict[str, Any] | None = None
        self._pid = os.getpid()

    def __repr__(self) -> str:
        """Return the claim's name and the entry."""
        return f"<Claim {self.name} of {self.entry!r}>"

    def event(self, handler: str = "") -> Event:
        """Return the event to send, with the entry's copies of the attachments.

        :param handler: the handler that gets the event; the event then includes the parts that it has already delivered
        """
        event = self.entry.event
        if kept := event.get_attachments():
            own = {name: (os.path.join(self.path, file), digest) for name, (file, digest) in kept.items()}
            event = with_attachments(event, own)
        done = self.entry.delivered_parts(handler)
        return with_delivered(event, done) if done else event

    def omitted(self, event: Event) -> list[str]:
        """Return the names of the attachments that the new entry of an event does not have."""
        kept = self.entry.event.get_attachments()
        return [name for name in event.get_attachments() if name not in kept]

    def first_attempt(self, event: Event) -> Event:
        """Return the event of a new entry for the first attempt: with the sending's id and the original files."""
        unreadable = self.unreadable
        return with_sending(without_attachments(event, unreadable) if unreadable else event, self.entry.id)

    def damage(self) -> str | None:
        """Return how an attachment is damaged; None if all attachments are intact.

        :raises OSError: an attachment can't be read now
        """
        for name, (path, digest) in self.event().get_attachments().items():
            if problem := _damage(path, digest):
                return f"attachment {name!r}: {path} {problem}"
        return None

    def begin(self) -> None:
        """Journal the start of another attempt. The first attempt starts when the event is put."""
        self._journal({"time": time.time(), "attempt": self.entry.attempts + 1})

    def record(self, delivery: Delivery) -> None:
        """Journal the result of a handler, so that a retry skips the handler if it has delivered the event."""
        line = text.delivery_line(time.time(), delivery)
        self.entry.apply(line)
        if self.entry.is_delivered:
            self._unwritten = line  # because the entry is about to be removed
        else:
            self._write(line)

    def fix_handlers(self) -> None:
        """Replace the handlers whose configuration was invalid and has been fixed."""
        if self.entry.has_invalid_handlers:
            from event._outbox.fixed_config import replacements

            for line in replacements(self.entry):
                self._journal(line)

    def retry(self) -> None:
        """Make the entry due now, also for handlers that have failed permanently; see `postpone`."""
        now = time.time()
        self._journal({"time": now, "retry": True})
        self.postpone(now)

    def postpone(self, due: float) -> None:
        """Release the claim and make the entry due at `due`, in seconds since 1970 UTC; raise OSError if that fails."""
        self._layout.move_to_waiting(self.path, due)

    def may_try_after_crash(self) -> bool:
        """Return whether an entry whose last owner has died may be tried now; otherwise release the claim.

        The entry itself may have crashed its owner. So it waits for the back-off, as after a failure.

        :raises OSError: the entry can't be moved
        """
        now = time.time()
        due = min(self.entry.last_start, now) + self.entry.delay(0.5)
        if self.entry.is_expired(now):
            self.release()
        elif due > now:
            os.utime(self.path, (0, 0))  # an old date means: not tried in this pass; see `Turns`
            self.postpone(due)
        else:
            return True
        return False

    def discard(self) -> None:
        """Remove the entry, even if handlers are pending; raise OSError if that fails."""
        self._layout.discard(self.path, is_directory=self._is_directory)

    def release(self) -> str:
        """Release the claim and move the entry to the state that its journal requires. Never raise OSError.

        :return: the new state: ``delivered`` (the entry is removed), ``waiting``, ``failed`` (it is no longer retried),
            or ``claimed`` (it can't be moved; another process takes it over after this one has ended)
        """
        if self._pid != os.getpid():
            return "claimed"  # a child process that a handler has forked: the claim belongs to its parent
        try:
            return self._settle()
        except OSError as error:
            _log.warning(
                "outbox entry %s cannot be moved, and stays claimed until this process ends: %s", self.entry.id, error
            )
            if self._unwritten:
                self._write(self._unwritten)
            return "claimed"

    def exists(self) -> bool:
        """Return whether the entry is still on disk and claimed by this process."""
        return os.path.lexists(self.path)

    def _settle(self) -> str:
        entry = self.entry
        now = time.time()
        if self._unwritten or entry.is_delivered:
            self.discard()
            return "delivered"
        if not entry.pending or entry.is_expired(now):
            self._layout.move_to(self.path, "failed")
            _log.error("outbox entry %s is no longer retried, and is kept in failed/: %s", entry.id, entry.last_error)
            return "failed"
        self.postpone(now + entry.delay())
        return "waiting"

    def _journal(self, line: dict[str, Any]) -> None:
        self.entry.apply(line)
        self._write(line)

    def _write(self, content: dict[str, Any]) -> None:
        if self._pid != os.getpid():
            return  # a child process that a handler has forked must not write the parent's journal
        line, self._torn = (b"\n" if self._torn else b"") + text.encode_line(content), True
        try:
            if self._is_shared:
                files.give_own_file(self.path, self._layout.new_path("tmp", self.entry.id))
                self._is_shared = False
            if self._is_directory:
                os.utime(self.path)  # renews the lease
            files.append(files.text_path(self.path, is_directory=self._is_directory), line)
            self._torn = False
        except (OSError, ValueError) as error:
            # The delivery counts anyway. A later attempt may repeat it, with the same id.
            _log.warning("outbox entry %s: its journal cannot be written: %s", self.entry.id, error)


def _damage(path: str, digest: str) -> str | None:
    try:
        if os.path.islink(path):
            return "is a symbolic link"
        return None if _files.sha1(path, follow=False) == digest else "has changed"
    except _files.NotRegularError:
        return "is not a regular file"
    except FileNotFoundError:
        if files.exists(path):
            raise
        return "is missing"
