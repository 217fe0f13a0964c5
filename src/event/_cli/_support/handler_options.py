"""The options of several commands (handlers, outbox, timeout), and how they show a handler's result."""

from __future__ import annotations

from event._cli._support.settings import DEADLINE
from event.error import EventError, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from event._worker import Result, Sent

OUTBOX_DEFAULT = "E3_EVENT_OUTBOX, else the configuration file's, else e3-event/outbox in the user's state directory"
_ROOM = 900  # characters of a reason, so that the text after it is still shown


def result_line(result: Result, rest: str = "") -> str:
    """Return the line that shows a handler's result, without the handler's name.

    :param rest: the state of the event if the handler failed, such as ``kept``
    """
    if result.skipped:
        return "skipped"
    if result.ok:
        return f"delivered in {result.seconds:.3f} s{'; warning: ' if result.said else ''}{result.said}"
    from event import _registry  # needed only after a failure

    # The line already shows the handler's kind.
    error = f"; {result.error[:_ROOM]}".replace(f"; {_registry.kind(result.handler)}: ", "; ")[2:].rstrip(".")
    return f"{error}; {rest}" if rest else error


def rest_of(sent: Sent, result: Result) -> str:
    """Return the state of an event that a handler did not deliver, for `result_line`."""
    if not sent.kept:
        return "lost"
    return "refused for good, kept" if result.permanent else "kept"


def result_as_dict(result: Result, rest: str) -> dict[str, Any]:
    """Return a handler's result for ``--json``."""
    return {
        "handler": result.handler,
        "state": "skipped" if result.skipped else "delivered" if result.ok else rest,
        "error": result.error or None,
        "warning": result.said or None if result.ok else None,
        "seconds": round(result.seconds, 3),
    }


def add_options(parser: Any) -> None:
    handlers = parser.add_argument_group("handlers")
    handlers.add_argument(
        "--config",
        metavar="FILE",
        help='the configuration file; "none" reads no file (default: E3_EVENT_CONFIG, else the nearest e3-event.toml '
        "or pyproject.toml in the working directory or above it)",
    )
    group = handlers.add_mutually_exclusive_group()
    group.add_argument(
        "--handler",
        dest="handlers",
        metavar="NAME[=CONFIG]",
        action="append",
        default=[],
        help="use this handler instead of those in E3_EVENT_HANDLERS and the configuration file; may be repeated. To "
        "use a handler twice, add a label: file:nightly=DIR. To send it only some events, add conditions after @: "
        "smtp@failure+fixed=...",
    )
    group.add_argument(
        "--env",
        metavar="VAR",
        default="E3_EVENT_HANDLERS",
        help="the environment variable that lists the handlers: NAME=CONFIG|NAME=CONFIG (default: %(default)s)",
    )


def add_output_options(parser: Any) -> None:
    group = parser.add_mutually_exclusive_group()
    group.add_argument("-q", "--quiet", action="store_true", help="print only problems")
    group.add_argument("-v", "--verbose", action="store_true", help="also print each setting and its source")


def add_sending_options(
    parser: Any,
    what: str = "the event",
    *,
    default: str = OUTBOX_DEFAULT,
    strict: str | None = None,
) -> Any:
    """Add ``--outbox``, ``--timeout`` and perhaps ``--strict``; return their group.

    :param what: what is sent, for the help
    :param default: the outbox that is used without the option, for the help
    :param strict: the condition in which ``--strict`` makes the exit status 1; None for no such option
    """
    group = parser.add_argument_group("delivery")
    group.add_argument(
        "--outbox",
        metavar="DIR",
        help=f'keep {what} in this directory until every handler has delivered it; "none" uses no outbox (default: '
        f"{default})",
    )
    add_timeout(group, what)
    if strict:
        group.add_argument("--strict", action="store_true", help=f"exit with status 1 {strict}")
    return group


def add_timeout(parser: Any, what: str) -> None:
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=_timeout_argument,
        help=f"the longest time that the handlers may take for {what} (default: E3_EVENT_TIMEOUT, else the "
        f"configuration file's, else {DEADLINE:g})",
    )


def _timeout_argument(text: str) -> float:
    from event._handler_config import positive_seconds

    try:
        return positive_seconds(text, "the timeout")
    except EventError as error:
        from argparse import ArgumentTypeError

        raise ArgumentTypeError(one_line(error)) from error
