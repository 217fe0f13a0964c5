"""``e3-event outbox``: look at what waits in an outbox, try it again, remove it."""

from __future__ import annotations

import os
import sys

from event import _json
from event._cli import _handlers, _shelves, _text
from event._cli._capture import Capture
from event._disk import read_entry
from event.error import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from typing import Any

    from event._entry import Entry
    from event._outbox import Outbox

    # Does something to the entry of a state, a name on disk and an id; returns a line about it, or raises.
    Act = Callable[[Outbox, str, str, str], str]

_DESCRIPTION = """\
Look at what an outbox holds. An ID may be shortened, as long as it fits one entry alone.
Configurations of handlers are never shown: they may hold secrets.
"""

_EPILOG = """\
An entry is
  in delivery   a process is delivering it
  waiting       for its time; "e3-event deliver" sends it
  failed        given up: five days old, or refused for good
  corrupt       its files have been changed, or cannot be read

examples:
  e3-event outbox list
  e3-event outbox list --outbox outbox
"""

_LIST = "List the entries, one a line, as they are found: the oldest need not be the first."
_SHOW = "Show an entry: the event, whom it waits for, what every attempt brought."
_RETRY = """\
Make entries due now, those in failed/ and corrupt/ too. "e3-event deliver" then sends them, also
to handlers that had refused them for good.
"""
_DROP = "Remove entries. Nobody gets the event any more who has not got it yet."
_STATUS = """\
exit status:
  0  done
  1  {}
  2  the command line is wrong
"""
_MISSING = "an ID fits no entry, or several, or the entry is not to be had; the others are done"


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command and those beneath it; return its parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "outbox", help="list, show, retry or drop what waits in an outbox", description=_DESCRIPTION, epilog=_EPILOG
    )
    below = parser.add_subparsers(
        dest="action", metavar="ACTION", required=True, title="actions", parser_class=type(parser)
    )
    _add(below, "list", ("list what is in it", _LIST, "something in it cannot be read")).set_defaults(act=None)
    for name, act, short, description, words in (
        ("show", _show, "show an entry", _SHOW, "ID"),
        ("retry", _retry, "make entries due now", _RETRY, "ID..."),
        ("drop", _drop, "remove entries", _DROP, "ID..."),
    ):
        command = _add(below, name, (short, description, _MISSING), words)
        command.add_argument("words", nargs="*", metavar=words, help='as "list" shows it')
        command.set_defaults(act=act)
    return parser


def _add(below: Any, name: str, texts: tuple[str, str, str], words: str = "") -> argparse.ArgumentParser:
    short, description, problem = texts
    parser: argparse.ArgumentParser = below.add_parser(
        name,
        help=short,
        description=description,
        epilog=_STATUS.format(problem),
        usage=" ".join(f"e3-event outbox {name} {words} [--outbox DIR]".split()),
    )
    parser.set_defaults(parser=parser)
    parser.add_argument("--outbox", metavar="DIR", help="the outbox's directory (default: that of E3_EVENT_OUTBOX)")
    return parser


def run(args: argparse.Namespace) -> int:
    """Do what is asked; return the exit status."""
    outbox = _shelves.named(args.outbox, args)
    if args.act is None:
        return _list(outbox, args)
    if not args.words:
        args.parser.error("the ID is missing")
    if args.act is _show and len(args.words) > 1:
        args.parser.error(f"what is {args.words[1]!r}? expected one ID")
    if not _shelves.exists(outbox):
        _text.tell(f"{args.parser.prog}: there is no outbox {outbox.path}")
        return 1
    return max(_on_one(outbox, args, word) for word in dict.fromkeys(args.words))


def _list(outbox: Outbox, args: argparse.Namespace) -> int:
    if not _shelves.exists(outbox):
        _text.tell(f"{args.parser.prog}: there is no outbox {outbox.path} yet")
        return 0
    width = _width()
    counts = dict.fromkeys(_shelves.WORDS.values(), 0)
    unreadable = False
    for state, entry_id, entry in outbox.entries(*_shelves.WORDS):
        word = _shelves.WORDS[state]
        if not any(counts.values()):
            _text.show(_row("ID", "STATE", "SINCE", "TRIED", "EVENT -> WAITS FOR: LAST ERROR")[:width])
        counts[word] += 1
        unreadable = unreadable or isinstance(entry, str)
        _text.show(_line(entry_id, word, entry)[:width])
        if _text._failed:
            break  # nobody reads it any more, as behind head
    found = [f"{count} {word}" for word, count in counts.items() if count]
    _text.tell(f"{args.parser.prog}: {', '.join(found) or 'nothing'}")
    return 1 if unreadable else 0


def _line(entry_id: str, word: str, entry: Entry | str) -> str:
    if isinstance(entry, str):
        return _row(entry_id[:13], word, "", "", f"cannot be read: {entry}")
    about = f"{entry.event.name} -> {', '.join(entry.owing) or 'nobody'}"
    if error := _handlers.masked(entry.last_error, entry.handlers):
        about += f": {error}"
    return _row(entry_id[:13], word, _shelves.utc(entry.created), f"{entry.attempts} x", about)


def _row(*cells: str) -> str:
    return "{:<13}  {:<11}  {:<20}  {:>5}  {}".format(*map(_text.line, cells))


def _width() -> int:
    """Return how much of a line is shown: on a terminal, where it would wrap, what fits."""
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or 10_000
    except (OSError, ValueError, AttributeError):
        return 10_000


def _on_one(outbox: Outbox, args: argparse.Namespace, word: str) -> int:
    """Do what is asked to the entry whose id begins so; return the exit status."""
    capture = Capture()
    try:
        place = _found(outbox, word)
        try:
            with capture:
                done = args.act(outbox, *place)
        finally:
            for text in capture.said:
                _text.tell(f"{args.parser.prog}: {text}")
    except LookupError as error:
        _text.tell(f"{args.parser.prog}: {error.args[0]}")
        return 1
    except OSError as error:
        _text.tell(f"{args.parser.prog}: {word}: {one_line(error)}")
        return 1
    _text.show(done)
    return 0


def _found(outbox: Outbox, word: str) -> tuple[str, str, str]:
    """Return the state, the name on disk and the id of the one entry that a word means.

    :raises LookupError: there is none, or it is not the only one; the message says so
    """
    found = _shelves.find(outbox, word) if word else []
    found = [place for place in found if place[2] == word] or found
    if not found:
        raise LookupError(f"no entry's id begins with {word!r}")
    if len(found) > 1:
        raise LookupError(f"{len(found)} entries have an id that begins with {word!r}; give more of it")
    return found[0]


def _retry(outbox: Outbox, state: str, name: str, entry_id: str) -> str:
    claim = None if state == "claimed" else outbox._claim(state, name, entry_id)
    if claim is None:
        raise LookupError(f"{entry_id} is being delivered, or cannot be read; it is left as it is")
    claim.retry()
    return f"{entry_id} is due now"


def _drop(outbox: Outbox, state: str, name: str, entry_id: str) -> str:
    if state == "claimed" or not outbox._discard(outbox._place(state, name), entry_id):
        raise LookupError(f"{entry_id} is being delivered; it is not dropped")
    return f"{entry_id} is dropped"


def _show(outbox: Outbox, state: str, name: str, entry_id: str) -> str:
    path = outbox._place(state, name)
    rows = [("id", entry_id), ("state", _state(state, name)), ("path", path)]
    try:
        entry = read_entry(path)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        rows.append(("problem", f"it cannot be read: {error}"))
        rows.append(("files", ", ".join(sorted(os.listdir(path)))))
        return _text.table(rows)
    return "\n\n".join(
        filter(None, [_text.table(rows + _rows(entry)), _attachments(entry, path), _history(entry), _data(entry)])
    )


def _rows(entry: Entry) -> list[tuple[str, str]]:
    taken = {line["handler"] for line in entry.history if line.get("ok")}
    refused = entry.settled - taken
    return [
        ("since", _shelves.utc(entry.created)),
        ("tried", f"{entry.attempts} x, last at {_shelves.utc(entry.last_start)}"),
        ("event", f"{entry.event.name} ({entry.event.uid})"),
        ("waits for", ", ".join(entry.owing) or "nobody"),
        *(
            (word, ", ".join(who))
            for word, names in (("delivered", taken), ("refused", refused))
            if (who := [n for n in entry.handlers if n in names])
        ),
    ]


def _attachments(entry: Entry, path: str) -> str:
    rows = []
    for name, (file, digest) in entry.event.get_attachments().items():
        try:
            size = f"{os.lstat(os.path.join(path, file)).st_size} bytes"
        except OSError as error:
            size = one_line(error)
        rows.append((name, file, size, f"SHA-1 {digest}"))
    return f"Attachments (name, file, size, checksum):\n{_text.table(rows)}" if rows else ""


def _history(entry: Entry) -> str:
    rows = []
    for line in entry.history:
        moment = line.get("time")
        when = _shelves.utc(moment) if isinstance(moment, (int, float)) else "?"
        what = (
            "delivered"
            if line.get("ok")
            else f"not delivered: {_handlers.masked(str(line.get('error', '')), entry.handlers)}"
        )
        rows.append((when, line["handler"], what))
    return f"History:\n{_text.table(rows)}" if rows else ""


def _data(entry: Entry) -> str:
    text = _json.dumps(entry.event.as_dict(), indent=2)
    return "Data:\n" + "\n".join(f"  {line}" for line in text.splitlines())


def _state(state: str, name: str) -> str:
    word = _shelves.WORDS[state]
    due = name.partition(".")[0]
    return f"{word}, until {_shelves.utc(int(due))}" if state == "new" and due.isdecimal() else word
