"""The options that say which handlers get an event and how, and the lines about what the handlers did."""

from __future__ import annotations

from event._cli._support.settings import DEADLINE
from event.error import EventError, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from event._worker import Result, Sent

    # A parser or a group of options. The type has no public name.
    Options = argparse._ActionsContainer  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]

OUTBOX_DEFAULT = "E3_EVENT_OUTBOX, or else e3-event/outbox in the user's state directory"
_ROOM = 900  # characters of a reason, so that what stands behind it is seen


def result_line(result: Result, rest: str = "") -> str:
    """Return a line about what a handler did, without its name.

    :param rest: what becomes of an event that the handler has not taken, such as ``kept``
    """
    if result.skipped:
        return "skipped"
    if result.ok:
        return f"delivered in {result.seconds:.3f} s{'; warning: ' if result.said else ''}{result.said}"
    error = _cause(result)
    return f"{error}; {rest}" if rest else error


def _cause(result: Result) -> str:
    """Return a handler's error without what the line says already: its kind, and the names and numbers of errors."""
    import re  # the command has loaded it, for JSON

    kind = result.handler.partition(":")[0].partition("@")[0]
    text = f"; {result.error[:_ROOM]}".replace(f"; {kind}: ", "; ")[2:].rstrip(".")
    text = text.removeprefix("TimeoutError: ")
    # As in "ConnectionRefusedError: [Errno 111] Connection refused", perhaps after a place and a colon.
    return re.sub(r"\b[A-Za-z]{1,60}: \[Errno -?[0-9]{1,9}\] (.)", lambda found: found[1].lower(), text)


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
    handlers = parser.add_argument_group("handlers")
    add_config(handlers)
    group = handlers.add_mutually_exclusive_group()
    group.add_argument(
        "--handler",
        dest="handlers",
        metavar="NAME[=CONFIG]",
        action="append",
        default=[],
        help="use this handler instead of those in E3_EVENT_HANDLERS and the file; may be repeated. Add a label to "
        "NAME to use one kind twice: file:nightly=DIR. Conditions after @ select its events: smtp@failure+fixed=...",
    )
    group.add_argument(
        "--env",
        metavar="VAR",
        default="E3_EVENT_HANDLERS",
        help="the environment variable that names the handlers: NAME=CONFIG|NAME=CONFIG (default: %(default)s)",
    )


def add_config(parser: Options) -> None:
    """Add the option ``--config``."""
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="the configuration file, or none (default: E3_EVENT_CONFIG, or else e3-event.toml or pyproject.toml in "
        "the working directory or one above it)",
    )


def add_output_options(parser: Options) -> None:
    """Add the options ``--quiet`` and ``--verbose``."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("-q", "--quiet", action="store_true", help="print problems only")
    group.add_argument(
        "-v", "--verbose", action="store_true", help="print also which settings are used, and where each comes from"
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


def _timeout_argument(text: str) -> float:
    from argparse import ArgumentTypeError

    from event._manager import seconds

    try:
        return seconds(text, "the timeout")
    except EventError as error:
        raise ArgumentTypeError(one_line(error)) from error
