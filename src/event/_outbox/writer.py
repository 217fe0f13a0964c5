"""Putting events: each is written into tmp/ and synced, and its rename into claimed/ is synced too.

To make and remove a file costs a disk several times as much as a name for a file that there is. So small events that
are put together are written into one file, of which each gets a name.
"""

from __future__ import annotations

import os
import time

from event import _files, _trace_context
from event._event import Event, decode_event, encode_event, unique_id
from event._outbox import attachments, files
from event._outbox import entry as text
from event._outbox.claim import Claim
from event._outbox.entry import Entry
from event.error import EventError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType
    from typing import TypeAlias

    from event._outbox.layout import Layout
    from event._trace_context import Span

    # The path in tmp/, what it holds, and whether it is a directory.
    Written: TypeAlias = "tuple[str, Entry, bool]"

_MAX_SYNC_THREADS = 8  # that sync side by side
_MAX_SHARED = 8192  # bytes of an entry that may share its file


class NewEntry:
    """An event to be put.

    :param event: the event
    :param handlers: the configuration of each handler, by name
    :param sending: the id of the sending; a new one if it is empty
    :param span: what the event is sent in; if it is None, what is around us
    :param strict: whether all attachments must be kept, as they were attached; else those that cannot be read are left
        out, and what is kept is their present content
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
        """Return the event and the handlers' names; no configuration, which may hold a secret."""
        return f"<NewEntry {self.event!r} for {', '.join(self.handlers)}>"


class Workspace:
    """A directory for the attachments of an event that is about to be put."""

    def __init__(self, place: Layout) -> None:
        self._layout = place
        self._path = ""

    def __enter__(self) -> str:
        """Make the directory; return its path."""
        self._layout.prepare("tmp")
        self._path = self._layout.fresh("tmp", unique_id())
        os.mkdir(self._path, 0o700)
        return self._path

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        """Remove the directory and what is left in it."""
        files.remove(self._path)


def put(place: Layout, new: NewEntry) -> Claim:
    """Put an event, as `Outbox.put` describes."""
    place.prepare("tmp", "claimed")
    claim = _enter(place, _write_entry(place, new))
    _sync(place, [claim])
    return claim


def put_many(place: Layout, new: Sequence[NewEntry], *, together: bool) -> list[Claim | Exception]:
    """Put several events, as `Outbox.put_many` describes."""
    try:
        place.prepare("tmp", "claimed")
    except OSError as error:
        return [error] * len(new)
    shared = _put_together(place, new) if together else {}
    others = [number for number in range(len(new)) if number not in shared]
    written = _write_side_by_side(place, [new[number] for number in others])
    entered: dict[int, Claim | Exception] = {n: _entered(place, one) for n, one in zip(others, written, strict=True)}
    results = [shared[number] if number in shared else entered[number] for number in range(len(new))]
    try:
        _sync(place, [result for result in results if isinstance(result, Claim)])
    except OSError as error:
        return [error if isinstance(result, Claim) else result for result in results]
    return results


def _put_together(place: Layout, new: Sequence[NewEntry]) -> dict[int, Claim]:
    """Put those that may share a file into one, and sync it; return the claim of each by its number in `new`.

    Not all are put if the file system has no links, say. An entry for several handlers would soon need a file of its
    own, to note who has it.
    """
    small: dict[int, tuple[Entry, bytes]] = {}
    for number, item in enumerate(new):
        if len(item.handlers) == 1 and not item.event.get_attachments():
            try:
                entry, line = _encode(item, _id_of(item), {})
            except Exception:  # noqa: S112
                continue  # to put it by itself says why
            if len(line) <= _MAX_SHARED:
                small[number] = entry, line
    return _link(place, small) if len(small) > 1 else {}


def _link(place: Layout, small: dict[int, tuple[Entry, bytes]]) -> dict[int, Claim]:
    claims: dict[int, Claim] = {}
    path = place.fresh("tmp", unique_id())
    try:
        _files.write_new(path, b"".join(line for _, line in small.values()))
        for number, (entry, _) in small.items():
            target = place.fresh("claimed", entry.id)
            os.link(path, target)
            claims[number] = Claim(place, target, entry, is_directory=False, shared=True)
    except OSError:
        pass  # the others are put one by one, which works or says why it does not
    finally:
        files.remove(path)
    return claims


def _id_of(new: NewEntry) -> str:
    entry_id = new.sending or unique_id()
    if not text.is_id(entry_id):
        raise EventError(f"{entry_id!r} cannot be the id of a sending: expected letters, digits, '-' and '_'")
    return entry_id


def _write_entry(place: Layout, new: NewEntry) -> Written:
    """Write an entry into tmp/, and sync it."""
    entry_id = _id_of(new)
    path = place.fresh("tmp", entry_id)
    has_attachments = bool(new.event.get_attachments())
    try:
        copies: dict[str, list[str]] = {}
        if has_attachments:
            os.mkdir(path, 0o700)
            copies = attachments.keep(new.event, path, place.place("tmp"), strict=new.strict)
        entry, line = _encode(new, entry_id, copies)
        _files.write_new(files.text_path(path, is_directory=has_attachments), line)
        if has_attachments:
            _files.sync_directory(path)
    except BaseException:
        files.remove(path)
        raise
    return path, entry, has_attachments


def _encode(new: NewEntry, entry_id: str, copies: dict[str, list[str]]) -> tuple[Entry, bytes]:
    """Return an entry and its text.

    :raises EventError: the event could not be read back from it
    """
    content = encode_event(new.event, copies)
    span = new.span or _trace_context.span_for(new.event) or _trace_context.NO_SPAN
    try:
        entry = Entry(entry_id, time.time(), decode_event(content, Event), new.handlers, span=span)
    except ValueError as error:
        raise EventError(f"{new.event!r} cannot be kept: {error}") from error
    line = text.encode_entry(entry, content)
    if len(line) > text.MAX_ENTRY_SIZE:
        raise EventError(f"{new.event!r} cannot be kept: it has {len(line)} bytes; {text.MAX_ENTRY_SIZE} are the most")
    return entry, line


def _enter(place: Layout, written: Written) -> Claim:
    """Claim an entry that is in tmp/; its name is not synced yet."""
    path, entry, is_directory = written
    target = place.place("claimed", os.path.basename(path))
    try:
        os.rename(path, target)
    except BaseException:
        files.remove(path)
        raise
    return Claim(place, target, entry, is_directory=is_directory)


def _entered(place: Layout, written: Written | Exception) -> Claim | Exception:
    try:
        return written if isinstance(written, Exception) else _enter(place, written)
    except OSError as error:
        return error


def _sync(place: Layout, claims: list[Claim]) -> None:
    """Have the names of claims on the disk. If that fails, none is kept."""
    try:
        _files.sync_directory(place.place("claimed"))
    except BaseException:
        for claim in claims:
            claim.discard()
        raise


def _write_side_by_side(place: Layout, new: Sequence[NewEntry]) -> list[Written | Exception]:
    """Write entries in several threads, since a disk syncs several files in the time of one."""
    from contextvars import copy_context
    from threading import Thread

    results: dict[int, Written | Exception] = {}

    def work(numbers: range) -> None:
        for number in numbers:
            try:
                results[number] = _write_entry(place, new[number])
            except Exception as error:
                results[number] = error

    threads = []
    step = min(len(new), _MAX_SYNC_THREADS)
    for first in range(1, step):
        numbers = range(first, len(new), step)
        thread = Thread(target=copy_context().run, args=(work, numbers), name="event outbox")
        try:
            thread.start()
        except RuntimeError:  # there is no room for another
            work(numbers)
        else:
            threads.append(thread)
    work(range(0, len(new), step or 1))
    for thread in threads:
        thread.join()
    return [results[number] for number in range(len(new))]
