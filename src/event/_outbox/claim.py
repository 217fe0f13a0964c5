"""An entry in the hands of this process."""

from __future__ import annotations

import os
import time

from event import _files, _log
from event._event_copies import with_delivered, with_sending
from event._outbox import attachments, files
from event._outbox import entry as text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from event._event import Event
    from event._outbox.entry import Entry
    from event._outbox.layout import Layout
    from event._outcome import Delivery


class Claim:
    """An entry that no other process delivers, until it is given back. One thread at a time may use it.

    :param torn: whether the entry's text may end within a line
    :param shared: whether other entries are names of the same file
    :ivar entry: what it holds
    :ivar name: its name in ``claimed/``, for `Outbox.adopt`
    :ivar path: where it is
    """

    def __init__(  # noqa: PLR0913  # what is known of an entry on disk
        self,
        place: Layout,
        path: str,
        entry: Entry,
        *,
        is_directory: bool,
        torn: bool = False,
        shared: bool = False,
    ) -> None:
        self.entry = entry
        self.name = os.path.basename(path)
        self._layout = place
        self.path = path
        self._is_directory = is_directory
        self._torn = torn
        self._is_shared = shared
        self._unwritten: tuple[float, Delivery] | None = None
        self._pid = os.getpid()

    def __repr__(self) -> str:
        """Return the name and the entry."""
        return f"<Claim {self.name} of {self.entry!r}>"

    def event(self, handler: str = "") -> Event:
        """Return the event to send; its attachments are the entry's own copies.

        :param handler: who gets it; it learns which parts it has finished on earlier attempts
        """
        kept = self.entry.event.get_attachments()
        own = {name: (os.path.join(self.path, file), digest) for name, (file, digest) in kept.items()}
        event = with_sending(self.entry.event, self.entry.id, own)
        done = self.entry.delivered_parts(handler)
        return with_delivered(event, done) if done else event

    def damage(self) -> str | None:
        """Return why the attachments are not what was put; None if they are.

        :raises OSError: they cannot be read now
        """
        for name, (path, digest) in self.event().get_attachments().items():
            if problem := _damage(path, digest):
                return f"attachment {name!r}: {path} {problem}"
        return None

    def begin(self) -> None:
        """Note that another attempt begins. Putting an event begins the first one."""
        self.entry.attempts += 1
        self._write(text.encode_attempt(time.time(), self.entry.attempts))

    def record(self, delivery: Delivery) -> None:
        """Note what a handler did, before another one is tried: those that have the event do not get it again."""
        now = time.time()
        self.entry.journal.append(text.record_of(now, delivery))
        if self._is_done():
            self._unwritten = (now, delivery)  # the entry is about to be removed
        else:
            self._write(text.encode_delivery(now, delivery))

    def retry(self) -> None:
        """Give the entry back, due at once, also for handlers that have failed permanently.

        :raises OSError: it cannot be moved
        """
        now = time.time()
        self._write(text.encode_retry(now))
        self.postpone(now)

    def postpone(self, due: float) -> None:
        """Give the entry back, to be delivered from a point in time on, in seconds since 1970 UTC.

        :raises OSError: it cannot be moved
        """
        self._layout.make_wait(self.path, self.entry.id, due)

    def keep_distance(self) -> bool:
        """Return whether an entry whose last owner has died is to be delivered now. Else it is given back.

        It may have killed its owner: it waits as after a failure, and others go first.

        :raises OSError: it cannot be moved
        """
        now = time.time()
        due = min(self.entry.last_start, now) + self.entry.delay(0.5)
        if self.entry.is_expired(now):
            self.release()
        elif due > now:
            os.utime(self.path, (0, 0))  # it was not attempted in this pass
            self.postpone(due)
        else:
            return True
        return False

    def discard(self) -> None:
        """Remove the entry, whatever is pending.

        :raises OSError: it cannot be removed
        """
        self._layout.discard(self.path, self.entry.id)

    def dead_letter(self, problem: str) -> None:
        """Move the entry to corrupt/.

        :raises OSError: it cannot be moved
        """
        _log.error("outbox entry %s is moved to corrupt/: %s", self.entry.id, problem)
        self._layout.lay_aside(self.path, "corrupt", self.entry.id)

    def release(self) -> str:
        """Give the entry back. Where it goes follows from what was recorded.

        This raises nothing of the operating system's: the sending is over, and its outcome known.

        :return: ``delivered``, it is removed; ``waiting``; ``failed``, it is given up; or ``claimed``, it cannot be
            moved, and another process takes it over when this one has ended
        """
        if self._pid != os.getpid():
            return "claimed"  # a handler forked, and this is the child: the entry is its parent's
        try:
            return self._settle()
        except OSError as error:
            _log.warning(
                "outbox entry %s cannot be moved, and stays claimed until this process ends: %s", self.entry.id, error
            )
            if self._unwritten:
                self._write(text.encode_delivery(*self._unwritten))
            return "claimed"

    def exists(self) -> bool:
        """Return whether the entry is on the disk, in the hands of this process."""
        return os.path.lexists(self.path)

    def _is_done(self) -> bool:
        return not self.entry.pending and not self.entry.has_permanent_failure

    def _settle(self) -> str:
        entry = self.entry
        now = time.time()
        if self._is_done():
            self.discard()
            return "delivered"
        if not entry.pending or entry.is_expired(now):
            self._layout.lay_aside(self.path, "failed", entry.id)
            _log.error("outbox entry %s is given up, and kept in failed/: %s", entry.id, entry.last_error)
            return "failed"
        self.postpone(now + entry.delay())
        return "waiting"

    def _write(self, line: bytes) -> None:
        if self._pid != os.getpid():
            return  # the child of a handler that forked: what it does is not what was done
        line, self._torn = (b"\n" if self._torn else b"") + line, True
        try:
            if self._is_shared:
                files.separate(self.path, self._layout.fresh("tmp", self.entry.id), self.entry.id)
                self._is_shared = False
            if self._is_directory:
                os.utime(self.path)  # the lease goes by it
            files.append(files.text_path(self.path, is_directory=self._is_directory), line)
            self._torn = False
        except (OSError, ValueError) as error:
            # The delivery counts all the same; a later process may make it again, with the same id.
            _log.warning("outbox entry %s: its journal cannot be written: %s", self.entry.id, error)


def _damage(path: str, digest: str) -> str | None:
    try:
        if os.path.islink(path):
            return "is a symbolic link"
        return None if attachments.sha1_no_follow(path) == digest else "has changed"
    except _files.NotRegularError:
        return "is not a regular file"
    except FileNotFoundError:
        if files.exists(path):
            raise
        return "is missing"
