"""Show the entries of an outbox, as text and as JSON."""

from __future__ import annotations

import os
import sys
import time

from event import _json
from event._cli._support import outbox_index, terminal
from event._redact import without_secrets
from event.error import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from event._outbox import Candidate, Entry, Outbox

    Found = Iterator[tuple[Candidate, Entry | str]]


def list_entries(outbox: Outbox, prog: str, *, as_json: bool) -> int:
    """List the entries of an outbox; return the exit status.

    The waiting entries are sorted by due time. The use of memory does not depend on the number of entries.
    """
    counts = dict.fromkeys(outbox_index.WORDS, 0)
    unreadable = False

    def counted() -> Found:
        nonlocal unreadable
        for candidate, entry in outbox.entries():
            counts[candidate.state] += 1
            unreadable = unreadable or isinstance(entry, str)
            yield candidate, entry
            if terminal.output_failed():
                break  # the reader has gone away, such as head

    for line in _json_lines(counted(), outbox.path) if as_json else _table_lines(counted()):
        terminal.print_out(line)
    found = [f"{count} {outbox_index.WORDS[state]}" for state, count in counts.items() if count]
    terminal.print_err(f"{prog}: {', '.join(found) or 'nothing'}")
    return 1 if unreadable else 0


def _table_lines(found: Found) -> Iterator[str]:
    width = terminal.width(sys.stdout, 10_000)  # a longer line would wrap
    for position, (candidate, entry) in enumerate(found):
        if not position:
            yield _row("ID", "STATE", "DUE", "SINCE", "TRIED", "EVENT -> PENDING: LAST ERROR")[:width]
        yield _entry_line(candidate, entry)[:width]


def _json_lines(found: Found, path: str) -> Iterator[str]:
    head = _json.dumps({"version": terminal.JSON_VERSION, "outbox": path})
    yield f'{head.removesuffix("}")}, "entries": ['
    separator = ""
    for candidate, entry in found:
        yield separator + _json.dumps(_summary_as_dict(candidate, entry))
        separator = ","
    yield "]}"


def _summary_as_dict(candidate: Candidate, entry: Entry | str) -> dict[str, Any]:
    content: dict[str, Any] = {
        "id": candidate.id,
        "state": outbox_index.WORDS[candidate.state],
        "due": _due(candidate) or None,
    }
    if isinstance(entry, str):
        return {**content, "problem": entry}
    return {
        **content,
        "created": outbox_index.utc(entry.created),
        "attempts": entry.attempts,
        "event": {"name": entry.event.name, "uid": entry.event.uid},
        "pending": [*entry.pending],
        "last_error": without_secrets(entry.last_error, entry.handlers) or None,
    }


def age(outbox: Outbox, candidate: Candidate, entry: Entry | str) -> float:
    """Return an entry's age in seconds; for an unreadable entry, the time since its last change."""
    if isinstance(entry, str):
        try:
            return time.time() - os.lstat(os.path.join(outbox.path, candidate.name)).st_mtime
        except OSError:
            return 0.0  # it no longer exists
    return time.time() - entry.created


def _due(candidate: Candidate) -> str:
    return "" if candidate.due is None else outbox_index.utc(candidate.due)


def _entry_line(candidate: Candidate, entry: Entry | str) -> str:
    shown = _summary_as_dict(candidate, entry)
    head = [shown["id"], shown["state"], shown["due"] or ""]
    if isinstance(entry, str):
        return _row(*head, "", "", f"cannot be read: {entry}")
    error = f": {shown['last_error']}" if shown["last_error"] else ""
    about = f"{entry.event.name} -> {', '.join(entry.pending) or 'none'}{error}"
    return _row(*head, shown["created"], f"{entry.attempts} x", about)


def _row(*cells: str) -> str:
    return "{:<36}  {:<11}  {:<20}  {:<20}  {:>5}  {}".format(*map(terminal.printable_line, cells))


def describe_entry(outbox: Outbox, candidate: Candidate, *, as_json: bool) -> str:
    """Return an entry as text or JSON, without the handlers' configurations, which may contain secrets.

    :raises OSError: the entry no longer exists
    """
    path = os.path.join(outbox.path, candidate.name)
    entry: Entry | str
    try:
        entry = outbox.read(candidate)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        entry = str(error)
    if not as_json:
        return _entry_as_text(candidate, entry, path)
    details = {} if isinstance(entry, str) else _details(entry)
    content = {"version": terminal.JSON_VERSION, **_summary_as_dict(candidate, entry), **details, "path": path}
    return _json.dumps(content, indent=2)


def _details(entry: Entry) -> dict[str, Any]:
    return {
        "delivered": sorted(entry.delivered),
        "failed": sorted(entry.finished - entry.delivered),
        "attachments": [
            {"name": name, "file": file, "sha1": digest}
            for name, (file, digest) in entry.event.get_attachments().items()
        ],
        "journal": [
            {
                "time": None if record.time is None else outbox_index.utc(record.time),
                "handler": record.handler,
                "ok": record.ok,
                "error": without_secrets(record.error, entry.handlers) or None,
            }
            for record in entry.journal
        ],
        "data": entry.event.as_dict(),
    }


def _entry_as_text(candidate: Candidate, entry: Entry | str, path: str) -> str:
    state = outbox_index.WORDS[candidate.state]
    due = "" if candidate.due is None else f", due at {_due(candidate)}"
    rows = [("id", candidate.id), ("state", f"{state}{due}"), ("path", path)]
    if isinstance(entry, str):
        files = [("files", ", ".join(sorted(os.listdir(path))))] if os.path.isdir(path) else []
        return terminal.table([*rows, ("problem", f"the entry cannot be read: {entry}"), *files])
    parts = [terminal.table(rows + _rows(entry)), _attachments_text(entry, path), _journal(entry), _data_text(entry)]
    return "\n\n".join(filter(None, parts))


def _rows(entry: Entry) -> list[tuple[str, str]]:
    failed = entry.finished - entry.delivered
    return [
        ("since", outbox_index.utc(entry.created)),
        ("tried", f"{entry.attempts} x, last at {outbox_index.utc(entry.last_start)}"),
        ("event", f"{entry.event.name} ({entry.event.uid})"),
        ("pending", ", ".join(entry.pending) or "none"),
        *(
            (word, ", ".join(who))
            for word, names in (("delivered", entry.delivered), ("failed", failed))
            if (who := [name for name in entry.handlers if name in names])
        ),
    ]


def _attachments_text(entry: Entry, path: str) -> str:
    rows = []
    for name, (file, digest) in entry.event.get_attachments().items():
        try:
            size = f"{os.lstat(os.path.join(path, file)).st_size} bytes"
        except OSError as error:
            size = one_line(error)
        rows.append((name, file, size, f"SHA-1 {digest}"))
    return f"Attachments (name, file, size, checksum):\n{terminal.table(rows)}" if rows else ""


def _journal(entry: Entry) -> str:
    rows = []
    for record in entry.journal:
        when = "?" if record.time is None else outbox_index.utc(record.time)
        error = f"not delivered: {without_secrets(record.error, entry.handlers)}"
        rows.append((when, record.handler, "delivered" if record.ok else error))
    return f"Journal:\n{terminal.table(rows)}" if rows else ""


def _data_text(entry: Entry) -> str:
    text = _json.dumps(entry.event.as_dict(), indent=2)
    return "Data:\n" + "\n".join(f"  {line}" for line in text.splitlines())
