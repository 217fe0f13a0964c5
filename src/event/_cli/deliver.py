"""``e3-event deliver``: send what waits in an outbox."""

from __future__ import annotations

import os
import sys

from event._cli._support import handler_options, json_output, outbox_index, terminal
from event._process.shutdown import GracefulShutdown

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from event._worker import OpenEntry, Supervisor

_DESCRIPTION = """\
Send what is due in an outbox, each event to the handlers that have not got it yet. Nothing
else needs to be configured: an entry holds the configuration of its handlers. Each handler
gets a line on stderr.

Several events are delivered at once, and a handler that fails, hangs or crashes delays no
other handler. What fails is tried again after a minute, then after two, four, ... up to six
hours, and is given up after five days. Several processes may deliver from one outbox at once.
"""

_EPILOG = """\
exit status:
  0  every event is delivered or still in the outbox; with --watch: SIGTERM has ended it
  1  the outbox cannot be used, or you named a directory that does not exist; with --strict:
     something that was due is not delivered. It waits for the next attempt, or is in failed/ or
     corrupt/ ("e3-event outbox list" shows it)
  2  the command line is wrong

examples:
  e3-event deliver outbox
  e3-event deliver outbox --all --timeout 30
"""

DEFAULT_JOBS = 8  # sendings to one destination at once; more help only slow handlers, see docs/explanation/speed.md
_SIGNAL_CHECK_INTERVAL = 1.0  # seconds between two looks at whether a signal has come, at most


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command; return its parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "deliver",
        help="send what waits in an outbox",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        usage="e3-event deliver [OUTBOX] [option]...",
    )
    parser.add_argument(
        "words", nargs="*", metavar="OUTBOX", help=f"the outbox's directory (default: {handler_options.OUTBOX_DEFAULT})"
    )
    parser.add_argument("--outbox", metavar="DIR", help="the same as OUTBOX")
    parser.add_argument("--config", metavar="FILE", help="a configuration file (default: that of E3_EVENT_CONFIG)")
    handler_options.add_timeout(parser, "each event")
    add_jobs(parser)
    parser.add_argument(
        "--watch",
        action="store_true",
        help="stay, and deliver what comes and what falls due, until SIGTERM or SIGINT (Ctrl-C); the deliveries that "
        "are being made then are finished first, unless the signal comes again",
    )
    parser.add_argument("--all", action="store_true", help="deliver everything now, ignoring the schedule")
    parser.add_argument(
        "--strict", action="store_true", help="exit with status 1 if something that was due is not delivered"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="print problems only")
    parser.add_argument(
        "--json", action="store_true", help="print what was delivered as JSON, at the end; not with --watch"
    )
    return parser


def add_jobs(parser: handler_options.Options) -> None:
    """Add the option ``--jobs``."""
    parser.add_argument(
        "--jobs",
        metavar="N",
        type=_number,
        default=DEFAULT_JOBS,
        help="give each handler up to N events at once, if it waits for its server and takes several "
        "(default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Deliver; return the exit status."""
    settings = outbox_index.settings_from_args(args.words, args, finds_file=False)
    if settings.outbox is None:
        return 0
    if args.json and args.watch:
        args.parser.error("--json: not with --watch, which does not end")
    from event._worker import Supervisor

    report = Report(args.parser.prog, quiet=args.quiet)
    job = {
        "job": "watch" if args.watch else "deliver",
        "outbox": settings.outbox,
        "everything": args.all,
        "timeout": settings.timeout,
        "jobs": args.jobs,
        "quiet": args.quiet and not args.json,
    }
    supervisor = Supervisor(job, report, args.worker)
    shutdown = GracefulShutdown()
    with shutdown:
        try:
            while not supervisor.finished:
                supervisor.step(_SIGNAL_CHECK_INTERVAL)
                report.show_progress(supervisor)
                if shutdown.requested:
                    supervisor.stop()
        except KeyboardInterrupt:
            supervisor.abort()
            return 130
        finally:
            report.clear()
    if args.watch or shutdown.requested:
        return shutdown.status
    status = _finish(supervisor, report, settings.outbox, strict=args.strict, named=args.outbox is not None)
    if args.json:
        _print_json(supervisor, report, settings.outbox)
    return status


def _finish(supervisor: Supervisor, report: Report, path: str, *, strict: bool, named: bool) -> int:
    """Report the end of a single pass; return the exit status.

    :param named: whether the command line names the outbox, whose directory must exist then
    """
    if supervisor.failed:
        report.note(supervisor.failed)
        return 1
    if supervisor.is_absent:
        is_mistyped = named and not os.path.isdir(path)
        report.note(f"nothing to deliver: there is no {'directory' if is_mistyped else 'outbox'} {path} yet")
        return int(is_mistyped)
    report.note(_delivery_summary(report, supervisor.summary, path))
    return int(strict and (report.has_trouble or report.delivered < report.entries))


class Report:
    """Reports what is delivered, and on a terminal how far it is.

    :ivar entries: how many were tried
    :ivar delivered: how many of them every handler has now
    :ivar has_trouble: whether anything else is wrong
    """

    def __init__(self, prog: str, *, quiet: bool = False) -> None:
        self.entries = self.delivered = 0
        self.has_trouble = False
        self._prog = prog
        self.results: list[dict[str, Any]] = []  # for --json
        self._quiet = quiet
        self._terminal = sys.stderr is not None and sys.stderr.isatty()
        self._shown = ""

    def entry(self, entry: OpenEntry, where: str) -> None:
        """Report the result of an entry."""
        if not entry.results and where == "waiting":
            return  # it was put back untried; a line of its own says so if its handler rests
        self.entries += 1
        self.delivered += where == "delivered"
        for result in entry.results:
            self.results.append(
                {
                    "entry": entry.id,
                    "event": entry.name,
                    **json_output.result_as_dict(result, _REST.get(where, "")),
                }
            )
            if not (self._quiet and result.ok and not result.said):
                line = handler_options.result_line(result, _REST.get(where, ""))
                colour = terminal.GREEN if result.ok else terminal.RED
                self._print(f"{entry.id[:13]} {entry.name}: {result.handler}: {line}", colour)

    def log(self, text: str) -> None:
        """Report what was logged outside of a delivery."""
        self.has_trouble = True
        self.note(text)

    def note(self, text: str) -> None:
        """Write a line about the command itself."""
        self._print(f"{self._prog}: {text}")

    def show_progress(self, supervisor: Supervisor) -> None:
        """Show on a terminal how far it is; the next text replaces it."""
        if self._terminal and not self._quiet and not supervisor.finished:
            missed = self.entries - self.delivered
            total = f"{self.entries} of {max(supervisor.total, self.entries)} done"
            self._progress(f"{total}{f', {missed} not delivered' if missed else ''}")

    def clear(self) -> None:
        """Remove the progress."""
        if self._shown:
            _raw("\r" + " " * len(self._shown) + "\r")
            self._shown = ""

    def _progress(self, text: str) -> None:
        self.clear()
        most = _terminal_width() - 1  # a full line would wrap, and could not be removed
        self._shown = terminal.printable_line(text)[:most]
        _raw(self._shown)

    def _print(self, text: str, colour: str = "") -> None:
        self.clear()
        terminal.print_err(text, colour)


def _print_json(supervisor: Supervisor, report: Report, path: str) -> None:
    summary = supervisor.summary or {}
    due = summary.get("next_due")
    json_output.print_json(
        outbox=path,
        entries=report.entries,
        delivered=report.delivered,
        waiting=summary.get("waiting"),
        next_due=outbox_index.utc(due) if due else None,
        results=report.results,
        error=supervisor.failed or None,
    )


_REST = {"waiting": "kept", "claimed": "kept", "failed": "given up, kept in failed/"}


def _delivery_summary(report: Report, summary: dict[str, Any] | None, path: str) -> str:
    text = f"{report.delivered} of {report.entries} delivered" if report.entries else "nothing was due"
    if summary is None:
        return text
    if not summary["waiting"]:
        return f"{text}; nothing waits"
    waits = f"{outbox_index.number(summary['waiting'])} {'waits' if summary['waiting'] == 1 else 'wait'}"
    until = f", the next one until {outbox_index.utc(summary['next_due'])}" if summary["next_due"] else ""
    return f"{text}; {waits} in {path}{until}"


def _number(text: str) -> int:
    """Return a positive number."""
    from argparse import ArgumentTypeError

    if not (text.isascii() and text.isdecimal() and 0 < int(text) <= _MOST_JOBS):
        raise ArgumentTypeError(f"expected a number from 1 to {_MOST_JOBS}, not {text!r}")
    return int(text)


_MOST_JOBS = 100


def _terminal_width() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def _raw(text: str) -> None:
    try:
        sys.stderr.write(text.encode("ascii", "replace").decode())
        sys.stderr.flush()
    except OSError:
        pass  # the terminal is gone; what is being done goes on
