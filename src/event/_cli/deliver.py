"""``e3-event deliver``: send what waits in an outbox."""

from __future__ import annotations

import os
import sys
import threading
import time
from threading import Thread

from event import EventManager
from event._cli import _handlers, _text, outbox_index
from event._cli._capture import Capture
from event._cli._deliverer import FAREWELL
from event._cli._ending import Ending
from event._cli._flag import Flag
from event._cli._watchdog import Watchdog
from event._outbox import Outbox
from event._outbox.delivery import deliver
from event.error import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from typing import Any

    from event import Outcome
    from event._outbox import Entry

_DESCRIPTION = """\
Send what is due in an outbox, each event to the handlers that have not got it yet. Nothing
else needs to be configured: an entry holds the configuration of its handlers. Each handler
gets a line on stderr.

What fails is tried again after a minute, then after two, four, ... up to six hours, and is
given up after five days. Several processes may deliver from one outbox at once.
"""

_EPILOG = """\
exit status:
  0  all that was due is delivered, or nothing was due; with --watch: SIGTERM has ended it
  1  something that was due is not delivered; it waits for the next attempt, or is in failed/
     or corrupt/ ("e3-event outbox list" shows it)
  2  the command line is wrong

examples:
  e3-event deliver outbox
  e3-event deliver outbox --all --timeout 30
"""

_POLL = 1.0  # seconds
_RESCAN = 60.0  # seconds; for entries whose owner has died, and for clocks that were set
_RESCAN_CLAIMED = 5.0  # seconds, while something is claimed
_MOST_HUNG = 100  # deliveries of a relay's deliverer
_LAST = 10.0  # seconds that a relay's deliverer has for its end
_COARSE = 2.5  # seconds; a directory changed more recently may change again and bear the same time


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
        "words", nargs="*", metavar="OUTBOX", help="the outbox's directory (default: that of E3_EVENT_OUTBOX)"
    )
    _handlers.add_timeout(parser, "each event")
    parser.add_argument(
        "--watch",
        action="store_true",
        help="stay, and deliver what comes and what falls due, until SIGTERM or SIGINT (Ctrl-C); the delivery that is "
        "being made then is finished first, unless the signal comes again",
    )
    parser.add_argument("--all", action="store_true", help="also what is not due yet")
    return parser


def run(args: argparse.Namespace) -> int:
    """Deliver; return the exit status."""
    if len(args.words) > 1:
        args.parser.error(f"what is {args.words[1]!r}? expected one OUTBOX")
    outbox = outbox_index.outbox_from_args(args.words[0] if args.words else None, args)
    with Capture():  # importing event has already said what is wrong with the variables
        args.timeout = EventManager(timeout=args.timeout).timeout
    report = Report(args.parser.prog)
    try:
        return _watch(outbox, args, report) if args.watch else _once(outbox, args, report)
    finally:
        report.clear()


class Report:
    """Tells what is delivered, and on a terminal how far it is.

    :param quiet: tell only what goes wrong
    :ivar entries: how many were tried
    :ivar delivered: how many of them every handler has now
    :ivar trouble: whether anything else went wrong
    """

    def __init__(self, prog: str, *, quiet: bool = False) -> None:
        self.entries = self.delivered = 0
        self.trouble = False
        self._prog = prog
        self._quiet = quiet
        self._terminal = sys.stderr is not None and sys.stderr.isatty()
        self._shown = ""

    def tell(self, text: str) -> None:
        """Write a line above the progress."""
        self.clear()
        _text.tell(text)

    def entry(self, entry: Entry, outcome: Outcome, *, kept: bool) -> None:
        """Tell what became of an entry."""
        self.entries += 1
        self.delivered += bool(outcome)
        for delivery in outcome:
            if self._quiet and delivery.ok and not delivery.said:
                continue
            line = _handlers.about(delivery, entry.handlers, kept=kept)
            self.tell(f"{entry.id[:13]} {entry.event.name}: {delivery.handler}: {line}")

    def beside(self, said: list[str], configs: dict[str, str]) -> None:
        """Tell what the outbox has said, which is trouble each time."""
        for text in said:
            self.trouble = True
            self.tell(f"{self._prog}: {_handlers.masked(text, configs)}")

    def progress(self, text: str) -> None:
        """Show on a terminal how far it is; the next text replaces it."""
        if self._terminal and not self._quiet:
            self.clear()
            width = _width() - 1  # a full line would wrap, and could not be taken back
            self._shown = _text.line(text)[:width]
            _raw(self._shown)

    def clear(self) -> None:
        """Take the progress back."""
        if self._shown:
            _raw("\r" + " " * len(self._shown) + "\r")
            self._shown = ""


def _once(outbox: Outbox, args: argparse.Namespace, report: Report) -> int:
    start = time.time()
    if not outbox.exists():
        _text.tell(f"{args.parser.prog}: nothing to deliver: there is no outbox {outbox.path} yet")
        return 0
    _pass(outbox, args, report)
    report.tell(f"{args.parser.prog}: {_summary(report, outbox, start)}")
    return 1 if report.trouble or report.delivered < report.entries else 0


def _summary(report: Report, outbox: Outbox, start: float) -> str:
    text = "nothing was due"
    if report.entries:
        text = f"{report.delivered} of {report.entries} delivered"
    found = outbox.summary(start)
    count = found.counts["waiting"]
    if not count:
        return f"{text}; nothing waits"
    waiting = f"{text}; {outbox_index.number(count)} {'waits' if count == 1 else 'wait'}"
    return f"{waiting}, the next one until {outbox_index.utc(found.next_due)}" if found.next_due else waiting


def _pass(
    outbox: Outbox, args: argparse.Namespace, report: Report, stopped: Callable[[], bool] = lambda: False
) -> None:
    """Deliver what is due now, or with ``--all`` whatever waits."""
    found = outbox.summary()
    total = found.counts["waiting"] if args.all else found.due
    before, delivered = report.entries, report.delivered
    deliveries = deliver(outbox, args.timeout, everything=args.all)
    while not stopped():
        done = report.entries - before
        missed = done - (report.delivered - delivered)
        report.progress(f"{done} of {max(total, done)} done{f', {missed} not delivered' if missed else ''}")
        with Capture() as capture:
            step = next(deliveries, None)
        report.beside(capture.said, step[0].handlers if step else {})
        if step is None:
            break
        report.entry(*step, kept=not capture.said)
    report.clear()


def _watch(outbox: Outbox, args: argparse.Namespace, report: Report) -> int:
    """Deliver until a signal; return the exit status."""
    stop = _Stop()
    ending = Ending(stop.set)
    with ending:
        _deliver_until(stop, outbox, args, report)
    return ending.status


def follow(path: str, timeout: float) -> int:
    """Deliver for a relay, which writes to our stdin when something has come; return the exit status.

    Its farewell ends us once all that is due was tried, and the end of stdin, where the relay was killed, after the
    delivery that is being made. Signals are the relay's to answer.

    :param path: the outbox
    :param timeout: for each event, in seconds
    """
    import argparse
    import signal

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _pass_over)  # not SIG_IGN, which the processes of a handler would inherit
    line = _Line()
    report = Report("e3-event relay", quiet=True)
    args = argparse.Namespace(timeout=timeout, all=False, parser=argparse.Namespace(prog="e3-event relay"))
    status = 0
    try:
        with Watchdog(timeout):
            _deliver_until(line, Outbox(path), args, report)
            if not line.crowded():
                _pass(Outbox(path), args, report, line.gone.is_set)
        if line.crowded():
            _text.tell(f"{args.parser.prog}: {_MOST_HUNG} deliveries hang")
            status = 1  # begin anew, without them
    except OSError as error:
        _text.tell(f"{args.parser.prog}: {one_line(error)}")
        status = 1
    # A handler may have left something that keeps the interpreter from ending.
    Thread(target=_end_at_last, args=(status,), daemon=True).start()
    return status


def _pass_over(_number: int, _frame: object) -> None:
    """Do nothing about a signal."""


def _end_at_last(status: int) -> None:
    time.sleep(_LAST)
    os._exit(status)


def hung() -> int:
    """Return how many deliveries go on that were left at their deadline; each keeps a thread."""
    return sum(thread.name.startswith("event ") for thread in threading.enumerate())  # as _dispatch names them


class _Stop:
    """Ends a watch.

    :ivar bell: set when there is something to look at; also when it is to end
    """

    def __init__(self) -> None:
        self.bell = Flag()
        self._stop = Flag()

    def set(self) -> None:
        """End the watch."""
        self._stop.set()
        self.bell.set()

    def is_set(self) -> bool:
        """Tell whether it is to end."""
        return self._stop.is_set()


class _Line(_Stop):
    """What a relay tells us through stdin, which nobody else reads from then on.

    :ivar gone: set when the relay has ended
    """

    def __init__(self) -> None:
        super().__init__()
        self.gone = Flag()
        self._fd = os.dup(0)
        nowhere = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nowhere, 0)
        os.close(nowhere)
        Thread(target=self._read, daemon=True).start()

    def is_set(self) -> bool:
        """Tell whether the watch is to end."""
        return super().is_set() or self.crowded()

    def crowded(self) -> bool:
        """Tell whether so many deliveries hang that the process may soon have no room for another."""
        return hung() > _MOST_HUNG

    def _read(self) -> None:
        while word := os.read(self._fd, 1 << 12):
            if FAREWELL in word:
                self.set()
            self.bell.set()
        self.gone.set()
        self.set()


def _deliver_until(stop: _Stop, outbox: Outbox, args: argparse.Namespace, report: Report) -> None:
    """Deliver what comes and what falls due."""
    trouble = ""
    while not stop.is_set():
        stop.bell.clear()
        seen, start = outbox.changes(), time.time()
        next_due, rescan = start, _RESCAN
        try:
            _pass(outbox, args, report, stop.is_set)
            found = outbox.summary(start)
            next_due = found.next_due or float("inf")
            waits = (
                f"{outbox_index.number(found.counts['waiting'])} wait" if found.counts["waiting"] else "nothing waits"
            )
            report.progress(f"{report.delivered} delivered; {waits}")
            if found.counts["claimed"]:
                rescan = _RESCAN_CLAIMED
            trouble = ""
        except OSError as error:  # the file system may come back
            report.clear()
            trouble, told = one_line(error), trouble
            if trouble != told:
                _text.tell(f"{args.parser.prog}: {trouble}")
        args.all = False  # what has failed keeps its distance
        if not stop.is_set():  # else the bell that was cleared may have been its
            _pause(outbox, stop.bell, seen, next_due, rescan)


def _pause(outbox: Outbox, bell: Flag, seen: tuple[int, ...], next_due: float, rescan: float) -> None:
    """Wait until something may be due. While nothing changes, no directory is read.

    :param seen: what `Outbox.changes` returned before the outbox was read
    :param rescan: seconds after which to look again nevertheless
    """
    end = time.monotonic() + rescan
    fresh = any(abs(time.time() - stamp / 1e9) < _COARSE for stamp in seen)
    while not bell.wait(_POLL):
        if fresh or outbox.changes() != seen or time.time() >= next_due or time.monotonic() >= end:
            return


def _width() -> int:
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
