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

    from event._worker import Result

DEADLINE = 30.0  # seconds for one event, for a command that does not wait without end
_ROOM = 900  # characters of a reason, so that what stands behind it is seen

Pairs = list[tuple[str, str]]


def result_line(result: Result, *, kept: bool) -> str:
    """Return a line about what a handler did, without its name.

    :param kept: whether the outbox keeps the event for it, if it has not taken it
    """
    if result.ok:
        return f"delivered in {result.seconds:.3f} s{'; warning: ' if result.said else ''}{result.said}"
    text = f"not delivered: {result.error}"
    return f"{text[:_ROOM]}; kept in the outbox" if kept and not result.permanent else text


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
    parser: argparse.ArgumentParser, what: str = "the event", *, bounded: bool = False
) -> argparse._ArgumentGroup:
    """Add the options that say how an event is sent, ``outbox`` and ``timeout``; return their group.

    :param bounded: whether `DEADLINE` holds where nothing else does
    """
    group = parser.add_argument_group("delivery")
    group.add_argument(
        "--outbox",
        metavar="DIR",
        help=f"keep {what} in this directory until every handler has it (default: that of E3_EVENT_OUTBOX, if any)",
    )
    add_timeout(group, what, bounded=bounded)
    return group


def add_timeout(parser: argparse._ActionsContainer, what: str, *, bounded: bool = False) -> None:
    """Add the option ``--timeout``; see `add_sending_options`."""
    del bounded  # every command is
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=_timeout_argument,
        help=f"the longest time for giving {what} to all handlers (default: E3_EVENT_TIMEOUT, or else {DEADLINE:g})",
    )


def outbox_path(args: argparse.Namespace) -> str | None:
    """Return the outbox's directory that the option, or else the variable, names; None where there is none."""
    if args.outbox == "":
        args.parser.error("--outbox: expected a directory")
    path = args.outbox or os.environ.get("E3_EVENT_OUTBOX")
    if not path:
        return None
    from event import _files

    return _files.absolute(path)  # now: a command may remove the working directory


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
