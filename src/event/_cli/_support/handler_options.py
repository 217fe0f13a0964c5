"""The options that say which handlers get an event and how, and the lines about what the handlers did."""

from __future__ import annotations

import os

from event import _handler_config
from event._cli._support import terminal
from event.error import EventError, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from event._worker import Result, Sent

    # A parser or a group of options. The type has no public name.
    Options = argparse._ActionsContainer  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]

DEADLINE = 30.0  # seconds for one event, for a command that does not wait without end
OUTBOX_DEFAULT = "E3_EVENT_OUTBOX, or else e3-event/outbox in the user's directory for the state of programs"
_ROOM = 900  # characters of a reason, so that what stands behind it is seen

Pairs = list[tuple[str, str]]


def result_line(result: Result, rest: str = "") -> str:
    """Return a line about what a handler did, without its name.

    :param rest: what becomes of an event that the handler has not taken, such as ``kept``
    """
    if result.ok:
        return f"delivered in {result.seconds:.3f} s{'; warning: ' if result.said else ''}{result.said}"
    return f"{result.error[:_ROOM]}; {rest}" if rest else result.error


def rest_of(sent: Sent, result: Result) -> str:
    """Return what becomes of an event that a handler has not taken, for `result_line`."""
    if not sent.kept:
        return "lost"
    return "refused for good, kept" if result.permanent else "kept"


def masked(text: str, configs: Mapping[str, str]) -> str:
    """Return text without what the configurations hold; see `event._redact`."""
    from event._redact import without_secrets

    return without_secrets(text, configs)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which handlers to use."""
    group = parser.add_argument_group("handlers").add_mutually_exclusive_group()
    group.add_argument(
        "--handler",
        dest="handlers",
        metavar="NAME[=CONFIG]",
        action="append",
        default=[],
        help="use this handler instead of those in the variable; may be repeated. Add a label to NAME to use one kind "
        "twice: file:nightly=DIR",
    )
    group.add_argument(
        "--env",
        metavar="VAR",
        default="E3_EVENT_HANDLERS",
        help="the environment variable that names the handlers: NAME=CONFIG|NAME=CONFIG (default: %(default)s)",
    )


def selected_handlers(args: argparse.Namespace) -> Pairs:
    """Return the name and the configuration of each handler that the options, or else the variable, ask for.

    A name may come twice in a variable, where the last one counts.
    """
    if not args.handlers:
        return _handler_config.parse_handlers(os.environ.get(args.env, ""))
    pairs = [(name.strip(), config) for name, _, config in (text.partition("=") for text in args.handlers)]
    names = [name for name, _ in pairs]
    for name in names:
        if not name:
            args.parser.error("--handler: the name is missing; expected --handler NAME=CONFIG")
        if names.count(name) > 1:
            args.parser.error(f"--handler: {name!r} is given twice; add a label, as in {name}:other=CONFIG")
    return pairs


def where_named(args: argparse.Namespace) -> str:
    """Return where the handlers are named."""
    return "--handler" if args.handlers else terminal.printable_line(args.env)


def no_handler_line(args: argparse.Namespace) -> str:
    """Return what to do about an event that has nowhere to go."""
    return (
        f"nothing is sent: {where_named(args)} names no handler; "
        f"set it, as in {args.env}=file=events, or give --handler file=events"
    )


def add_sending_options(
    parser: argparse.ArgumentParser,
    what: str = "the event",
    *,
    default: str = OUTBOX_DEFAULT,
    strict: str | None = None,
) -> Options:
    """Add the options for how an event is sent (``--outbox``, ``--timeout``, perhaps ``--strict``); return their group.

    :param default: which outbox is used without the option
    :param strict: when ``--strict`` makes the exit status 1; None for no such option
    """
    group = parser.add_argument_group("delivery")
    group.add_argument(
        "--outbox",
        metavar="DIR",
        help=f"keep {what} in this directory until every handler has it; none for no outbox (default: {default})",
    )
    add_timeout(group, what)
    if strict:
        group.add_argument("--strict", action="store_true", help=f"exit with status 1 {strict}")
    return group


def add_timeout(parser: Options, what: str) -> None:
    """Add the option ``--timeout``."""
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=_timeout_argument,
        help=f"the longest time for giving {what} to all handlers (default: E3_EVENT_TIMEOUT, or else {DEADLINE:g})",
    )


def outbox_path(args: argparse.Namespace, *, default: bool = True) -> str | None:
    """Return the outbox that the option, or the variable, or else the platform names; None for no outbox.

    The path is absolute now: a command may remove the working directory.

    :param default: whether the platform counts
    """
    if args.outbox == "":
        args.parser.error("--outbox: expected a directory, or none")
    from event import _places
    from event._manager import named_outbox

    if text := args.outbox or os.environ.get("E3_EVENT_OUTBOX"):
        return named_outbox(text)
    if not default:
        return None
    try:
        return _places.default_outbox()
    except EventError as error:
        terminal.print_err(f"{args.parser.prog}: no outbox is used: {one_line(error)}")
        return None


def timeout_seconds(args: argparse.Namespace) -> float:
    """Return the timeout that the option, or else the variable, gives; `DEADLINE` if neither does."""
    value: float | None = args.timeout
    if value is None:
        from event import default_manager

        value = default_manager.timeout  # a wrong value of the variable was reported when it was read
    return value or DEADLINE


def _timeout_argument(text: str) -> float:
    from argparse import ArgumentTypeError

    from event._manager import seconds

    try:
        return seconds(text, "the timeout")
    except EventError as error:
        raise ArgumentTypeError(one_line(error)) from error
