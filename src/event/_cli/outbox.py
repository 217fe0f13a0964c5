"""``e3-event outbox``: list, show, retry or delete the entries of an outbox."""

from __future__ import annotations

from event._cli._support import handler_options, outbox_index, outbox_listing, terminal
from event._worker.capture import Capture
from event.error import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from event._cli._support.settings import Settings
    from event._outbox import Candidate, Outbox

_DESCRIPTION = """\
List, show, retry or delete the entries of an outbox. You can shorten an ID to any unique prefix;
a full ID is found faster. Handler configurations are never shown, because they may contain
secrets.
"""

_EPILOG = """\
states of an entry:
  in delivery   a process is delivering it
  waiting       "e3-event deliver" delivers it when it is due
  failed        it is no longer retried: it is five days old, or its pending handlers failed permanently
  corrupt       its content or an attachment is damaged

examples:
  e3-event outbox list
  e3-event outbox list outbox
  e3-event outbox prune --older-than 30d
"""

_LIST = (
    "List the entries, one per line: first those in delivery, then the waiting ones by due time, then the\n"
    "failed and the corrupt ones."
)
_SHOW = "Show an entry: the event, the pending handlers, and the result of each attempt."
_RETRY = """\
Make entries due now, including failed and corrupt ones. "e3-event deliver" then delivers them,
also to handlers that have failed permanently.
"""
_DROP = "Delete entries. Pending handlers will never receive these events."
_PRUNE = "Delete old failed and corrupt entries. Waiting entries are kept."
_STATUS = """\
exit status:
  0  done
  1  {}
  2  the command line is wrong
"""
_NOT_ALL_PROCESSED = "an ID is unknown, ambiguous or being delivered; other IDs were processed"


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command and its actions; return its parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "outbox",
        help="list, show, retry or delete the entries of an outbox",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    below = parser.add_subparsers(
        dest="action", metavar="ACTION", required=True, title="actions", parser_class=type(parser)
    )
    command = _add(below, "list", ("list the entries", _LIST, "an entry cannot be read"), "[OUTBOX]")
    _add_outbox_word(command)
    command = _add_for_ids(below, "show", ("show an entry", _SHOW, _NOT_ALL_PROCESSED), "ID")
    _add_retry(below)
    command = _add_for_ids(below, "drop", ("delete entries", _DROP, _NOT_ALL_PROCESSED), "ID...")
    command.add_argument("--failed", action="store_true", help="delete all failed entries")
    command = _add(
        below, "prune", ("delete old failed and corrupt entries", _PRUNE, "an entry could not be deleted"), "[OUTBOX]"
    )
    _add_outbox_word(command)
    command.add_argument(
        "--older-than",
        metavar="AGE",
        type=_age,
        default=_age("30d"),
        help="the minimum age, such as 30d, 12h or 90m (default: 30d)",
    )
    for name in ("list", "show"):
        below.choices[name].add_argument("--json", action="store_true", help="print JSON")
    return parser


def _add_retry(below: Any) -> None:
    command = _add_for_ids(below, "retry", ("make entries due now", _RETRY, _NOT_ALL_PROCESSED), "ID...")
    command.add_argument("--all", action="store_true", help="retry all entries")
    command.add_argument(
        "--handler",
        dest="handlers",
        metavar="NAME[=CONFIG]",
        action="append",
        default=[],
        help="give the event to this handler instead of the pending ones, for example if their name or configuration "
        "is wrong; may be repeated. The entry gets a new ID, which is printed",
    )


def _add_outbox_word(command: argparse.ArgumentParser) -> None:
    command.add_argument("words", nargs="*", metavar="OUTBOX", help="the same as --outbox")


def _add_for_ids(below: Any, name: str, texts: tuple[str, str, str], words: str) -> argparse.ArgumentParser:
    command = _add(below, name, texts, words)
    command.add_argument("words", nargs="*", metavar=words, help='the ID that "list" shows, or its beginning')
    return command


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
    """Run the action; return the exit status."""
    takes_outbox = args.action in {"list", "prune"}
    settings = outbox_index.settings_from_args(args.words if takes_outbox else (), args)
    if settings.outbox is None:
        return 0 if takes_outbox else 1
    from event._outbox import Outbox

    outbox = Outbox(settings.outbox)
    if not takes_outbox:
        _check_ids(args)
    args.replacements = _replacements(args, settings) if getattr(args, "handlers", None) else {}
    if not outbox.exists() and not (args.action == "list" and args.json):
        terminal.print_err(f"{args.parser.prog}: there is no outbox {outbox.path}{' yet' if takes_outbox else ''}")
        return 0 if takes_outbox else 1
    if args.action == "list":
        return outbox_listing.list_entries(outbox, args.parser.prog, as_json=args.json)
    if args.action == "prune" or _takes_all(args):
        return _on_all(outbox, args)
    return max(_on_one(outbox, args, word) for word in dict.fromkeys(args.words))


def _check_ids(args: argparse.Namespace) -> None:
    """Reject a command line without an ID, or with too many."""
    if _takes_all(args):
        if getattr(args, "handlers", None):
            args.parser.error("--handler needs an ID; it cannot be combined with --all")
        if args.words:
            args.parser.error(
                f"unrecognized argument {args.words[0]!r}; an ID cannot be combined with --all or --failed"
            )
    elif not args.words:
        args.parser.error("the ID is missing")
    elif args.action == "show" and len(args.words) > 1:
        args.parser.error(f"unrecognized argument {args.words[1]!r}; expected one ID")


def _takes_all(args: argparse.Namespace) -> bool:
    return bool(getattr(args, "all", False) or getattr(args, "failed", False))


def _on_all(outbox: Outbox, args: argparse.Namespace) -> int:
    """Run the action on all entries that it selects; return the exit status."""
    states = {"retry": ("waiting", "failed", "corrupt"), "drop": ("failed",), "prune": ("failed", "corrupt")}
    # A list, since a retried entry moves, and the iteration would find it again.
    candidates = [
        candidate
        for candidate, entry in outbox.entries(*states[args.action])
        if args.action != "prune" or outbox_listing.age(outbox, candidate, entry) > args.older_than
    ]
    status = max([_act(outbox, args, candidate, candidate.id) for candidate in candidates], default=0)
    done = {"retry": "due now", "drop": "dropped", "prune": "dropped"}[args.action]
    terminal.print_err(f"{args.parser.prog}: {len(candidates)} {'entry' if len(candidates) == 1 else 'entries'} {done}")
    return status


def _on_one(outbox: Outbox, args: argparse.Namespace, word: str) -> int:
    """Run the action on the entry with this ID or prefix; return the exit status."""
    try:
        candidate = _find_entry(outbox, word)
    except (LookupError, OSError) as error:
        terminal.print_err(
            f"{args.parser.prog}: {error.args[0] if isinstance(error, LookupError) else one_line(error)}"
        )
        return 1
    return _act(outbox, args, candidate, word)


def _act(outbox: Outbox, args: argparse.Namespace, candidate: Candidate, word: str) -> int:
    """Run the action on an entry; return the exit status."""
    capture = Capture()
    try:
        try:
            with capture:
                done = _ACTIONS[args.action](outbox, candidate, args)
        finally:
            for text in capture.messages:
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
    """Return the only entry whose ID begins with `word`.

    :raises LookupError: no entry matches, or several do
    """
    found = outbox.find(word)
    if not found:
        raise LookupError(f"no entry's ID begins with {word!r}")
    if len(found) > 1:
        number = outbox_index.number(len(found))
        raise LookupError(f"{number} IDs begin with {word!r}; give a longer prefix")
    return found[0]


def _retry(outbox: Outbox, candidate: Candidate, args: argparse.Namespace) -> str:
    due = outbox.retry(candidate, args.replacements)
    if not due:
        raise LookupError(f"{candidate.id} is not retried: it is being delivered or cannot be read")
    return f"{candidate.id} is due now{f', with the new ID {due}' if args.replacements else ''}"


def _replacements(args: argparse.Namespace, settings: Settings) -> dict[str, str]:
    """Return the handlers of ``--handler``, with their configurations for the outbox. Reject one that cannot work."""
    from event import _registry
    from event._cli._support.handler_loading import load
    from event._lazy_handler import LazyHandler

    _, broken = load(settings.handlers, plugins=True)
    for name, reason in broken.items():
        args.parser.error(f"--handler: {name}: {reason.removeprefix(f'{_registry.kind(name)}: ')}")
    return {name: LazyHandler(name, config).encode_config() for name, config in settings.handlers}


def _drop(outbox: Outbox, candidate: Candidate, _args: argparse.Namespace) -> str:
    if not outbox.drop(candidate):
        raise LookupError(f"{candidate.id} is not dropped: it is being delivered")
    return f"{candidate.id} is dropped"


def _show(outbox: Outbox, candidate: Candidate, args: argparse.Namespace) -> str:
    if args.json:
        return outbox_listing.entry_as_json(outbox, candidate)
    return outbox_listing.entry_as_text(outbox, candidate)


_ACTIONS = {"show": _show, "retry": _retry, "drop": _drop, "prune": _drop}


def _age(text: str) -> float:
    """Return an age in seconds."""
    number, unit = text[:-1], text[-1:]
    if not (number.isascii() and number.isdecimal() and unit in _UNITS):
        from argparse import ArgumentTypeError

        raise ArgumentTypeError(f"expected an age such as 30d, 12h or 90m, not {text!r}")
    return int(number) * _UNITS[unit]


_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0}
