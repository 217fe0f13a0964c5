"""``e3-event outbox``: look at what waits in an outbox, try it again, remove it."""

from __future__ import annotations

import os
import sys

from event import _json
from event._cli._support import handler_options, outbox_index, terminal
from event._worker.capture import Capture
from event.error import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from event._outbox import Candidate, Entry, Outbox

_DESCRIPTION = """\
Look at what an outbox holds. You can shorten an ID to any unique prefix; a full ID is found
at once, however many entries there are. Handler configurations are never shown: they may
hold secrets.
"""

_EPILOG = """\
An entry is
  in delivery   a process is delivering it
  waiting       "e3-event deliver" sends it when it is due
  failed        given up: retried for five days, or permanently failed
  corrupt       damaged: its content is not what was written

examples:
  e3-event outbox list
  e3-event outbox list --outbox outbox
"""

_LIST = "List the entries, one a line, as they are found: the oldest need not be the first."
_SHOW = "Show an entry: the event, the pending handlers, and the result of each attempt."
_RETRY = """\
Make entries due now, also failed and corrupt ones. "e3-event deliver" then sends them, also to
handlers that have failed permanently.
"""
_DROP = "Delete entries. Pending handlers will never receive these events."
_STATUS = """\
exit status:
  0  done
  1  {}
  2  the command line is wrong
"""
_NOT_ALL_PROCESSED = "an ID is unknown, ambiguous or being delivered; other IDs were processed"


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command and those beneath it; return its parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "outbox", help="list, show, retry or drop the entries of an outbox", description=_DESCRIPTION, epilog=_EPILOG
    )
    below = parser.add_subparsers(
        dest="action", metavar="ACTION", required=True, title="actions", parser_class=type(parser)
    )
    command = _add(below, "list", ("list the entries", _LIST, "an entry cannot be read"), "[OUTBOX]")
    command.add_argument("words", nargs="*", metavar="OUTBOX", help="the outbox's directory, as with --outbox")
    command.set_defaults(act=None)
    for name, act, short, description, words in (
        ("show", _show, "show an entry", _SHOW, "ID"),
        ("retry", _retry, "make entries due now", _RETRY, "ID..."),
        ("drop", _drop, "remove entries", _DROP, "ID..."),
    ):
        command = _add(below, name, (short, description, _NOT_ALL_PROCESSED), words)
        command.add_argument("words", nargs="*", metavar=words, help='as "list" shows it, or its beginning')
        command.set_defaults(act=act)
    return parser


def _add(below: Any, name: str, texts: tuple[str, str, str], words: str) -> argparse.ArgumentParser:
    short, description, problem = texts
    parser: argparse.ArgumentParser = below.add_parser(
        name,
        help=short,
        description=description,
        epilog=_STATUS.format(problem),
        usage=f"e3-event outbox {name} {words} [--outbox DIR]",
    )
    parser.set_defaults(parser=parser)
    parser.add_argument(
        "--outbox", metavar="DIR", help=f"the outbox's directory (default: {handler_options.OUTBOX_DEFAULT})"
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Do what is asked; return the exit status."""
    outbox = outbox_index.outbox_from_args(args.words if args.act is None else (), args)
    if outbox is None:
        return 0 if args.act is None else 1
    if args.act is None:
        return _list(outbox, args)
    if not args.words:
        args.parser.error("the ID is missing")
    if args.act is _show and len(args.words) > 1:
        args.parser.error(f"unrecognized argument {args.words[1]!r}; expected one ID")
    if not outbox.exists():
        terminal.print_err(f"{args.parser.prog}: there is no outbox {outbox.path}")
        return 1
    return max(_on_one(outbox, args, word) for word in dict.fromkeys(args.words))


def _list(outbox: Outbox, args: argparse.Namespace) -> int:
    if not outbox.exists():
        terminal.print_err(f"{args.parser.prog}: there is no outbox {outbox.path} yet")
        return 0
    width = _line_width()
    counts = dict.fromkeys(outbox_index.WORDS, 0)
    unreadable = False
    for candidate, entry in outbox.entries():
        if not any(counts.values()):
            terminal.print_out(_row("ID", "STATE", "SINCE", "TRIED", "EVENT -> PENDING: LAST ERROR")[:width])
        counts[candidate.state] += 1
        unreadable = unreadable or isinstance(entry, str)
        terminal.print_out(_entry_line(candidate, entry)[:width])
        if terminal.output_failed():
            break  # nobody reads it any more, as with head
    found = [f"{count} {outbox_index.WORDS[state]}" for state, count in counts.items() if count]
    terminal.print_err(f"{args.parser.prog}: {', '.join(found) or 'nothing'}")
    return 1 if unreadable else 0


def _entry_line(candidate: Candidate, entry: Entry | str) -> str:
    word = outbox_index.WORDS[candidate.state]
    if isinstance(entry, str):
        return _row(candidate.id, word, "", "", f"cannot be read: {entry}")
    about = f"{entry.event.name} -> {', '.join(entry.pending) or 'none'}"
    if error := handler_options.masked(entry.last_error, entry.handlers):
        about += f": {error}"
    return _row(candidate.id, word, outbox_index.utc(entry.created), f"{entry.attempts} x", about)


def _row(*cells: str) -> str:
    return "{:<36}  {:<11}  {:<20}  {:>5}  {}".format(*map(terminal.printable_line, cells))


def _line_width() -> int:
    """Return how much of a line is shown: on a terminal, where it would wrap, what fits."""
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or 10_000
    except (OSError, ValueError, AttributeError):
        return 10_000


def _on_one(outbox: Outbox, args: argparse.Namespace, word: str) -> int:
    """Do what is asked to the entry that a word means; return the exit status."""
    capture = Capture()
    try:
        candidate = _find_entry(outbox, word)
        try:
            with capture:
                done = args.act(outbox, candidate)
        finally:
            for text in capture.said:
                terminal.print_err(f"{args.parser.prog}: {text}")
    except LookupError as error:
        terminal.print_err(f"{args.parser.prog}: {error.args[0]}")
        return 1
    except OSError as error:
        terminal.print_err(f"{args.parser.prog}: {word}: {one_line(error)}")
        return 1
    terminal.print_out(done)
    return 0


def _find_entry(outbox: Outbox, word: str) -> Candidate:
    """Return the one entry that a word means.

    :raises LookupError: there is none, or it is not the only one; the message says so
    """
    found = outbox.find(word)
    if not found:
        raise LookupError(f"no entry's ID begins with {word!r}")
    if len(found) > 1:
        number = outbox_index.number(len(found))
        raise LookupError(f"{number} entries have an ID that begins with {word!r}; give more of it")
    return found[0]


def _retry(outbox: Outbox, candidate: Candidate) -> str:
    if not outbox.retry(candidate):
        raise LookupError(f"{candidate.id} is being delivered, or cannot be read; it is not retried")
    return f"{candidate.id} is due now"


def _drop(outbox: Outbox, candidate: Candidate) -> str:
    if not outbox.drop(candidate):
        raise LookupError(f"{candidate.id} is being delivered; it is not dropped")
    return f"{candidate.id} is dropped"


def _show(outbox: Outbox, candidate: Candidate) -> str:
    path = os.path.join(outbox.path, candidate.name)
    rows = [("id", candidate.id), ("state", _state_word(candidate)), ("path", path)]
    try:
        entry = outbox.read(candidate)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        rows.append(("problem", f"it cannot be read: {error}"))
        return terminal.table([*rows, *_files_row(path)])
    return "\n\n".join(
        filter(
            None,
            [terminal.table(rows + _rows(entry)), _attachments_text(entry, path), _journal(entry), _data_text(entry)],
        )
    )


def _files_row(path: str) -> list[tuple[str, str]]:
    return [("files", ", ".join(sorted(os.listdir(path))))] if os.path.isdir(path) else []


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
        error = f"not delivered: {handler_options.masked(record.error, entry.handlers)}"
        rows.append((when, record.handler, "delivered" if record.ok else error))
    return f"Journal:\n{terminal.table(rows)}" if rows else ""


def _data_text(entry: Entry) -> str:
    text = _json.dumps(entry.event.as_dict(), indent=2)
    return "Data:\n" + "\n".join(f"  {line}" for line in text.splitlines())


def _state_word(candidate: Candidate) -> str:
    word = outbox_index.WORDS[candidate.state]
    return word if candidate.due is None else f"{word}, until {outbox_index.utc(candidate.due)}"
