"""``e3-event outbox``: list, show, retry or delete the entries of an outbox."""

from __future__ import annotations

from event._cli._support import handler_options, outbox_index, outbox_listing, terminal
from event._worker.capture import Capture
from event.error import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping
    from typing import Any

    from event._cli._support.settings import Settings
    from event._outbox import Candidate, Outbox

DESCRIPTION = """\
List, show, retry or delete the entries of an outbox. You can shorten an ID to any unique prefix;
a full ID is found faster. Handler configurations are never shown, because they may contain
secrets.
"""

EPILOG = """\
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

_STATUS = """\
exit status:
  0  done
  1  {}
  2  the command line is wrong
"""
_SOME_FAILED = "an ID is unknown, ambiguous or being delivered; other IDs were processed"
# For each action: its arguments, its help, its description, and the meaning of the exit status 1.
_ACTIONS = {
    "list": (
        "[OUTBOX]",
        "list the entries",
        "List the entries, one per line: first those in delivery, then the waiting ones by due time, then the\n"
        "failed and the corrupt ones.",
        "an entry cannot be read",
    ),
    "show": (
        "ID",
        "show an entry",
        "Show an entry: the event, the pending handlers, and the result of each attempt.",
        _SOME_FAILED,
    ),
    "retry": (
        "ID...",
        "make entries due now",
        'Make entries due now, including failed and corrupt ones. "e3-event deliver" then delivers them,\n'
        "also to handlers that have failed permanently.\n",
        _SOME_FAILED,
    ),
    "drop": (
        "ID...",
        "delete entries",
        "Delete entries. Pending handlers will never receive these events.",
        _SOME_FAILED,
    ),
    "prune": (
        "[OUTBOX]",
        "delete old failed and corrupt entries",
        "Delete old failed and corrupt entries. Waiting entries are kept.",
        "an entry could not be deleted",
    ),
}
_TAKES_OUTBOX = frozenset({"list", "prune"})


def add_options(parser: Any) -> None:
    below = parser.add_subparsers(
        dest="action", metavar="ACTION", required=True, title="actions", parser_class=type(parser)
    )
    for name, (words, summary, description, problem) in _ACTIONS.items():
        action = below.add_parser(
            name,
            help=summary,
            description=description,
            epilog=_STATUS.format(problem),
            usage=f"e3-event outbox {name} {words} [--outbox DIR]",
        )
        action.set_defaults(parser=action, all=False, failed=False, handlers=[], json=False)
        action.add_argument(
            "--outbox", metavar="DIR", help=f"the outbox's directory (default: {handler_options.OUTBOX_DEFAULT})"
        )
        meaning = "the same as --outbox" if name in _TAKES_OUTBOX else 'the ID that "list" shows, or its beginning'
        action.add_argument("words", nargs="*", metavar=words.strip("[]"), help=meaning)
    _add_action_options(below.choices)


def _add_action_options(actions: Mapping[str, Any]) -> None:
    actions["retry"].add_argument("--all", action="store_true", help="retry all entries")
    actions["retry"].add_argument(
        "--handler",
        dest="handlers",
        metavar="NAME[=CONFIG]",
        action="append",
        help="give the event to this handler instead of the pending ones, for example if their name or configuration "
        "is wrong; may be repeated. The entry gets a new ID, which is printed",
    )
    actions["drop"].add_argument("--failed", action="store_true", help="delete all failed entries")
    actions["prune"].add_argument(
        "--older-than",
        metavar="AGE",
        type=_age,
        default=_age("30d"),
        help="the minimum age, such as 30d, 12h or 90m (default: 30d)",
    )
    for name in ("list", "show"):
        actions[name].add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    takes_outbox = args.action in _TAKES_OUTBOX
    settings = outbox_index.settings_from_args(args.words if takes_outbox else (), args)
    if settings.outbox is None:
        return 0 if takes_outbox else 1
    from event._outbox import Outbox

    outbox = Outbox(settings.outbox)
    if not takes_outbox:
        _check_ids(args)
    args.replacements = _replacements(args, settings) if args.handlers else {}
    if not outbox.exists() and not (args.action == "list" and args.json):
        terminal.print_err(f"{args.parser.prog}: there is no outbox {outbox.path}{' yet' if takes_outbox else ''}")
        return 0 if takes_outbox else 1
    if args.action == "list":
        return outbox_listing.list_entries(outbox, args.parser.prog, as_json=args.json)
    if args.action == "prune" or args.all or args.failed:
        return _on_all(outbox, args)
    return max(_on_one(outbox, args, word) for word in dict.fromkeys(args.words))


def _check_ids(args: argparse.Namespace) -> None:
    """Reject a command line without an ID, or with too many."""
    if args.all or args.failed:
        if args.handlers:
            args.parser.error("--handler needs an ID; it cannot be combined with --all")
        if args.words:
            option = "--all" if args.all else "--failed"
            args.parser.error(f"unrecognized argument {args.words[0]!r}; an ID cannot be combined with {option}")
    elif not args.words:
        args.parser.error("the ID is missing")
    elif args.action == "show" and len(args.words) > 1:
        args.parser.error(f"unrecognized argument {args.words[1]!r}; expected one ID")


def _on_all(outbox: Outbox, args: argparse.Namespace) -> int:
    """Run the action on all entries that it selects; return the exit status."""
    states = {"retry": ("waiting", "failed", "corrupt"), "drop": ("failed",), "prune": ("failed", "corrupt")}
    # A list, since a retried entry moves, and the iteration would find it again.
    candidates = [
        candidate
        for candidate, entry in outbox.entries(*states[args.action])
        if args.action != "prune" or outbox_listing.age(outbox, candidate, entry) > args.older_than
    ]
    status = max([_on_one(outbox, args, each.id, each) for each in candidates], default=0)
    done = "due now" if args.action == "retry" else "dropped"
    terminal.print_err(f"{args.parser.prog}: {len(candidates)} {'entry' if len(candidates) == 1 else 'entries'} {done}")
    return status


def _on_one(outbox: Outbox, args: argparse.Namespace, word: str, candidate: Candidate | None = None) -> int:
    """Run the action on the entry whose ID begins with a word; return the exit status."""
    status = 1
    capture = Capture()
    try:
        with capture:
            done = _RUN[args.action](outbox, candidate or _find_entry(outbox, word), args)
        terminal.print_out(done)
        status = 0
    except LookupError as error:
        capture.messages.append(error.args[0])
    except OSError as error:
        capture.messages.append(f"{word}: {one_line(error)}")
    for text in capture.messages:
        terminal.print_err(f"{args.parser.prog}: {text}")
    return status


def _find_entry(outbox: Outbox, word: str) -> Candidate:
    """Return the only entry whose ID begins with `word`, or raise LookupError."""
    found = outbox.find(word)
    if not found:
        raise LookupError(f"no entry's ID begins with {word!r}")
    if len(found) > 1:
        raise LookupError(f"{outbox_index.number(len(found))} IDs begin with {word!r}; give a longer prefix")
    return found[0]


def _retry(outbox: Outbox, candidate: Candidate, args: argparse.Namespace) -> str:
    due = outbox.retry(candidate, args.replacements)
    if not due:
        raise LookupError(f"{candidate.id} is not retried: it is being delivered or cannot be read")
    return f"{candidate.id} is due now{f', with the new ID {due}' if args.replacements else ''}"


def _replacements(args: argparse.Namespace, settings: Settings) -> dict[str, str]:
    """Return the handlers of ``--handler``, with their configurations for the outbox. Reject one that cannot work."""
    from event import _handler_config, _registry
    from event._lazy_handler import LazyHandler

    try:
        _handler_config.format_handlers(settings.handlers)
    except ValueError as error:
        args.parser.error(f"--handler: {error}; use one option per handler")
    _, broken = settings.load(plugins=True)
    for name, reason in broken.items():
        args.parser.error(f"--handler: {name}: {reason.removeprefix(f'{_registry.kind(name)}: ')}")
    return {name: LazyHandler(name, config).encode_config() for name, config in settings.handlers}


def _drop(outbox: Outbox, candidate: Candidate, _args: argparse.Namespace) -> str:
    if not outbox.drop(candidate):
        raise LookupError(f"{candidate.id} is not dropped: it is being delivered")
    return f"{candidate.id} is dropped"


def _show(outbox: Outbox, candidate: Candidate, args: argparse.Namespace) -> str:
    return outbox_listing.describe_entry(outbox, candidate, as_json=args.json)


_RUN = {"show": _show, "retry": _retry, "drop": _drop, "prune": _drop}


def _age(text: str) -> float:
    number, unit = text[:-1], text[-1:]
    if not (number.isascii() and number.isdecimal() and unit in _UNITS):
        from argparse import ArgumentTypeError

        raise ArgumentTypeError(f"expected an age such as 30d, 12h or 90m, not {text!r}")
    return int(number) * _UNITS[unit]


_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0}
