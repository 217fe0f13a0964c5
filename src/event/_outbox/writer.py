"""Put events into an outbox: write each entry to tmp/, sync it, rename it to claimed/ and sync the directory.

On a disk, creating and removing a file takes several times as long as creating a hard link. So small events that are
put together are written to one file, and each entry is a hard link to it.
"""

from __future__ import annotations

import errno
import os
import time

from event import _files, _log, _trace_context
from event._event import Event, decode_event, encode_event, unique_id
from event._event_copies import without_attachments
from event._outbox import entry as text
from event._outbox import files
from event._outbox.claim import Claim
from event._outbox.entry import Entry
from event._redact import redact_text
from event.error import EventError, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from event._outbox.layout import Layout
    from event._trace_context import Span

_MAX_SYNC_THREADS = 8  # that write and sync at the same time
_MAX_SHARED = 8192  # bytes of an entry in a shared file
_NO_ROOM = frozenset({errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)})


class NewEntry:
    """An event to put into an outbox.

    :param event: the event
    :param handlers: the configuration of each handler, by name
    :param sending: the id of the sending; empty to create one
    :param span: the span in which the event is sent; None for the span that is active now
    :param strict: whether an attachment that can't be read, does not fit on the disk, or has changed is an error.
        Otherwise, it is omitted and listed in the data as ``not_attached``, or stored with its current content.
    """

    __slots__ = ("event", "handlers", "sending", "span", "strict")

    def __init__(
        self,
        event: Event,
        handlers: Mapping[str, str],
        *,
        sending: str = "",
        span: Span | None = None,
        strict: bool = False,
    ) -> None:
        self.event = event
        self.handlers = handlers
        self.sending = sending
        self.span = span
        self.strict = strict

    def __repr__(self) -> str:
        """Return the event and the handlers' names, without configurations, which may contain secrets."""
        return f"<NewEntry {self.event!r} for {', '.join(self.handlers)}>"


def put(layout: Layout, new: NewEntry) -> Claim:
    """Put an event; see `Outbox.put`. Try twice, since an error such as ESTALE or EMFILE may be temporary.

    So an attachment is omitted only if it can't be stored twice.
    """
    try:
        return _put(layout, new, may_omit=False)
    except OSError:
        return _put(layout, new, may_omit=not new.strict)


def _put(layout: Layout, new: NewEntry, *, may_omit: bool) -> Claim:
    layout.prepare("tmp", "claimed")
    claim = _write_entry(layout, new, may_omit=may_omit)
    _sync(layout, [claim])
    return claim


def put_many(layout: Layout, new: Sequence[NewEntry], *, together: bool) -> list[Claim | Exception]:
    """Put several events; see `Outbox.put_many`."""
    try:
        layout.prepare("tmp", "claimed")
    except OSError as error:
        return [error] * len(new)
    shared = _put_in_shared_file(layout, new) if together else {}
    others = {number: item for number, item in enumerate(new) if number not in shared}
    done = {**shared, **_write_in_threads(layout, others)}
    results = [done[number] for number in range(len(new))]
    try:
        _sync(layout, [result for result in results if isinstance(result, Claim)])
    except OSError as error:
        return [error if isinstance(result, Claim) else result for result in results]
    return results


def _put_in_shared_file(layout: Layout, new: Sequence[NewEntry]) -> dict[int, Claim]:
    """Put the events that may share a file, and sync it; return the claim of each, by its index in `new`.

    Omit events with attachments, large events and events for several handlers, whose journal soon needs its own file.
    Also omit events that can't be put in this way, for example because the file system has no hard links.
    """
    small: dict[int, tuple[Entry, bytes]] = {}
    for number, item in enumerate(new):
        if len(item.handlers) == 1 and not item.event.get_attachments():
            try:
                entry, line = _encode(item, _id_of(item), {})
            except Exception:  # noqa: S112
                continue  # putting it separately raises the error again
            if len(line) <= _MAX_SHARED:
                small[number] = entry, line
    return _link(layout, small) if len(small) > 1 else {}


def _link(layout: Layout, small: dict[int, tuple[Entry, bytes]]) -> dict[int, Claim]:
    claims: dict[int, Claim] = {}
    path = layout.new_path("tmp", unique_id())
    try:
        _files.write_new(path, b"".join(line for _, line in small.values()))
        for number, (entry, _) in small.items():
            target = layout.new_path("claimed", entry.id)
            os.link(path, target)
            claims[number] = Claim(layout, target, entry, is_directory=False, shared=True)
    except OSError:
        pass  # the remaining entries are put separately
    finally:
        files.remove(path)
    return claims


def _id_of(new: NewEntry) -> str:
    entry_id = new.sending or unique_id()
    if not text.is_id(entry_id):
        raise EventError(f"{entry_id!r} cannot be the id of a sending: expected letters, digits, '-' and '_'")
    return entry_id


def _write_entry(layout: Layout, new: NewEntry, *, may_omit: bool) -> Claim:
    """Write an entry to tmp/, sync it, and move it to claimed/, without syncing the directory."""
    entry_id = _id_of(new)
    path = layout.new_path("tmp", entry_id)
    target = layout.path("claimed", os.path.basename(path))
    has_attachments = bool(new.event.get_attachments())
    copies: dict[str, list[str]] = {}
    unreadable: list[str] = []
    try:
        if has_attachments:
            os.mkdir(path, 0o700)
            copies, unreadable = _keep_attachments(new, path, layout.path("tmp", ""), may_omit=may_omit)
        entry, line = _encode(new, entry_id, copies)
        _files.write_new(files.text_path(path, is_directory=has_attachments), line)
        if has_attachments:
            _files.sync_directory(path)
        os.rename(path, target)
    except BaseException:
        files.remove(path)
        raise
    claim = Claim(layout, target, entry, is_directory=has_attachments)
    claim.unreadable = unreadable
    return claim


def _keep_attachments(
    new: NewEntry, directory: str, workspaces: str, *, may_omit: bool
) -> tuple[dict[str, list[str]], list[str]]:
    """Copy an event's attachments into a directory, but move files in a workspace.

    :param may_omit: whether to omit a file that can't be read or does not fit, with a warning; otherwise raise OSError
    :return: name -> [file, SHA-1]; the names of the files that can't be read
    """
    copies: dict[str, list[str]] = {}
    unreadable: list[str] = []
    for name, (path, expected) in new.event.get_attachments().copy().items():
        file = str(len(copies))
        target = os.path.join(directory, file)
        if path.startswith(workspaces):
            _move_synced(path, target)
            copies[name] = [file, expected]
            continue
        try:
            found = _files.copy_and_hash(path, target, mode=0o400, sync=True)  # regardless of the original's mode
        except OSError as error:
            if not may_omit or not (isinstance(error, _files.UnreadableError) or error.errno in _NO_ROOM):
                raise
            _files.unlink_quietly(target)
            if isinstance(error, _files.UnreadableError):
                unreadable.append(name)
            verb = "read, and is left out" if name in unreadable else "kept in the outbox"
            _log.warning("attachment %r of %r cannot be %s: %s", name, new.event, verb, redact_text(one_line(error)))
            continue
        if new.strict and found != expected:
            raise EventError(f"attachment {name!r} of {new.event!r} has changed since it was attached: {path}")
        copies[name] = [file, found]
    return copies, unreadable


def _move_synced(source: str, target: str) -> None:
    fd = os.open(source, os.O_RDWR | files.OPEN_FLAGS)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(source, target)


def _encode(new: NewEntry, entry_id: str, copies: dict[str, list[str]]) -> tuple[Entry, bytes]:
    """Return an entry and its text; raise EventError if the event is too large or could not be decoded again."""
    omitted = [name for name in new.event.get_attachments() if name not in copies]
    content = encode_event(without_attachments(new.event, omitted) if omitted else new.event, copies)
    span = new.span or _trace_context.span_for(new.event) or _trace_context.NO_SPAN
    try:
        entry = Entry(entry_id, time.time(), decode_event(content, Event, entry_id), new.handlers, span=span)
    except ValueError as error:
        raise EventError(f"{new.event!r} cannot be kept: {error}") from error
    line = text.encode_entry(entry, content)
    if len(line) > text.MAX_ENTRY_SIZE:
        raise EventError(f"{new.event!r} cannot be kept: it has {len(line)} bytes; the limit is {text.MAX_ENTRY_SIZE}")
    return entry, line


def _sync(layout: Layout, claims: list[Claim]) -> None:
    """Sync the directory of new claims to disk. If that fails, remove all of them."""
    try:
        _files.sync_directory(layout.path("claimed"))
    except BaseException:
        for claim in claims:
            claim.discard()
        raise


def _write_in_threads(layout: Layout, new: dict[int, NewEntry]) -> dict[int, Claim | Exception]:
    """Write entries in several threads, because a disk can sync several files at once; return the results by number."""
    from contextvars import copy_context
    from threading import Thread

    results: dict[int, Claim | Exception] = {}
    numbers = [*new]

    def work(first: int) -> None:
        for number in numbers[first::_MAX_SYNC_THREADS]:
            try:
                results[number] = _write_entry(layout, new[number], may_omit=not new[number].strict)
            except Exception as error:
                results[number] = error

    threads = []
    for first in range(1, min(len(new), _MAX_SYNC_THREADS)):
        thread = Thread(target=copy_context().run, args=(work, first), name="event outbox")
        try:
            thread.start()
        except RuntimeError:  # no more threads can be started
            work(first)
        else:
            threads.append(thread)
    work(0)
    for thread in threads:
        thread.join()
    return results
