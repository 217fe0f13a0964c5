"""``e3-event deliver``: deliver the events that are waiting in an outbox."""

from __future__ import annotations

import os
import sys

from event._cli._support import handler_options, outbox_index, terminal
from event._process.shutdown import GracefulShutdown

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from event._worker import OpenEntry, Supervisor

DESCRIPTION = """\
Deliver the due events of an outbox to their pending handlers. You need not configure the
handlers: each entry contains their configuration. A line on stderr shows the result of each
handler.

Events are delivered in parallel, and a handler that fails, hangs or crashes does not delay the
others. A failed delivery is retried after 1 minute, then 2, 4, and so on up to 6 hours. After
5 days, the entry has failed and is no longer retried. You can run several "deliver" on one outbox.
"""

EPILOG = """\
exit status:
  0  every event is delivered or still in the outbox; with --watch: stopped by SIGTERM
  1  the outbox cannot be used, or you named a directory that does not exist; with --strict: a
     due event was not delivered ("e3-event outbox list" shows it)
  2  the command line is wrong

examples:
  e3-event deliver outbox
  e3-event deliver outbox --all --timeout 30
"""

DEFAULT_JOBS = 8  # parallel sendings to one destination; more help only slow ones, see docs/explanation/speed.md
_MOST_JOBS = 100
_SIGNAL_CHECK_INTERVAL = 1.0  # longest time in seconds between two checks for a signal


USAGE = "e3-event deliver [OUTBOX] [option]..."


def add_options(parser: Any) -> None:
    parser.add_argument(
        "words", nargs="*", metavar="OUTBOX", help=f"the outbox's directory (default: {handler_options.OUTBOX_DEFAULT})"
    )
    parser.add_argument("--outbox", metavar="DIR", help="the same as OUTBOX")
    parser.add_argument("--config", metavar="FILE", help="the configuration file (default: E3_EVENT_CONFIG)")
    handler_options.add_timeout(parser, "each event")
    add_jobs(parser)
    parser.add_argument(
        "--watch",
        action="store_true",
        help="keep running, and deliver each event when it is due. On SIGTERM or SIGINT (Ctrl-C), finish the current "
        "deliveries and exit; a second signal aborts them",
    )
    parser.add_argument("--all", action="store_true", help="deliver everything now, ignoring the schedule")
    parser.add_argument("--strict", action="store_true", help="exit with status 1 if a due event is not delivered")
    parser.add_argument("-q", "--quiet", action="store_true", help="print only problems")
    parser.add_argument("--json", action="store_true", help="print the results as JSON at the end; not with --watch")


def add_jobs(parser: Any) -> None:
    parser.add_argument(
        "--jobs",
        metavar="N",
        type=_number,
        default=DEFAULT_JOBS,
        help="send up to N events to one handler in parallel, if the handler supports it (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    settings = outbox_index.settings_from_args(args.words, args, finds_file=False)
    if settings.outbox is None:
        return 0
    if args.json and args.watch:
        args.parser.error("--json cannot be used with --watch")
    from event._worker import Supervisor

    report = Report(args.parser.prog, quiet=args.quiet, keeps_results=args.json)
    job = {
        "job": "watch" if args.watch else "deliver",
        "outbox": settings.outbox,
        "everything": args.all,
        "timeout": settings.timeout,
        "jobs": args.jobs,
        "quiet": args.quiet and not args.json,
    }
    supervisor = Supervisor(job, report, args.worker)
    with GracefulShutdown() as shutdown:
        try:
            while not supervisor.finished:
                supervisor.step(_SIGNAL_CHECK_INTERVAL)
                report.show_progress(supervisor)
                if shutdown.requested.is_set():
                    supervisor.stop()
        except KeyboardInterrupt:
            supervisor.abort()
            return 130
        finally:
            report.clear()
    if args.watch or shutdown.requested.is_set():
        return shutdown.status
    status = _finish(supervisor, report, settings.outbox, strict=args.strict, named=args.outbox is not None)
    if args.json:
        _print_json(supervisor, report, settings.outbox)
    return status


def _finish(supervisor: Supervisor, report: Report, path: str, *, strict: bool, named: bool) -> int:
    """Report the result of a run without ``--watch``; return the exit status.

    :param named: whether the command line names the outbox; its directory must then exist
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
    """Prints the result of each delivery and, on a terminal, the progress.

    :ivar entries: the number of entries that were tried
    :ivar delivered: the number of these that every handler has delivered
    :ivar has_trouble: whether another problem was logged
    :ivar results: the result of each delivery, for ``--json``; empty without `keeps_results`
    """

    def __init__(self, prog: str, *, quiet: bool = False, keeps_results: bool = False) -> None:
        self.entries = self.delivered = 0
        self.has_trouble = False
        self.results: list[dict[str, Any]] = []
        self._prog = prog
        self._quiet = quiet
        self._keeps_results = keeps_results
        self._terminal = sys.stderr is not None and sys.stderr.isatty()
        self._shown = ""

    def entry(self, entry: OpenEntry, where: str) -> None:
        if not entry.results and where == "waiting":
            return  # put back untried; if its handler is paused, another line reports that
        self.entries += 1
        self.delivered += where == "delivered"
        rest = _REST.get(where, "")
        for result in entry.results:
            if self._keeps_results:  # a long-running command has any number of them
                content = handler_options.result_as_dict(result, rest)
                self.results.append({"entry": entry.id, "event": entry.name, **content})
            if not (self._quiet and result.ok and not result.said):
                line = handler_options.result_line(result, rest)
                colour = terminal.GREEN if result.ok else terminal.RED
                self._print(f"{entry.id[:13]} {entry.name}: {result.handler}: {line}", colour)

    def log(self, text: str) -> None:
        """Print a line that was logged outside of a delivery."""
        self.has_trouble = True
        self.note(text)

    def note(self, text: str) -> None:
        self._print(f"{self._prog}: {text}")

    def show_progress(self, supervisor: Supervisor) -> None:
        """Show the progress on a terminal; the next text replaces it."""
        if self._terminal and not self._quiet and not supervisor.finished:
            missed = self.entries - self.delivered
            total = f"{self.entries} of {max(supervisor.total, self.entries)} done"
            text = terminal.printable_line(f"{total}{f', {missed} not delivered' if missed else ''}")
            self.clear()
            self._shown = text[: terminal.width(sys.stderr, 80) - 1]  # a full line would wrap and could not be erased
            _raw(self._shown)

    def clear(self) -> None:
        if self._shown:
            _raw("\r" + " " * len(self._shown) + "\r")
            self._shown = ""

    def _print(self, text: str, colour: str = "") -> None:
        self.clear()
        terminal.print_err(text, colour)


def _print_json(supervisor: Supervisor, report: Report, path: str) -> None:
    summary = supervisor.summary or {}
    due = summary.get("next_due")
    terminal.print_json(
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
        return f"{text}; nothing is waiting"
    next_due = f", the next one due at {outbox_index.utc(summary['next_due'])}" if summary["next_due"] else ""
    return f"{text}; {outbox_index.number(summary['waiting'])} waiting in {path}{next_due}"


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 0 < int(text) <= _MOST_JOBS):
        from argparse import ArgumentTypeError

        raise ArgumentTypeError(f"expected a number from 1 to {_MOST_JOBS}, not {text!r}")
    return int(text)


def _raw(text: str) -> None:
    try:
        sys.stderr.write(text.encode("ascii", "replace").decode())
        sys.stderr.flush()
    except OSError:
        pass  # the terminal is gone; the deliveries continue
