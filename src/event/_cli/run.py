"""``e3-event run``: a command, and an event about it."""

from __future__ import annotations

import errno
import os
import stat

from event import Event, _ci, _trace
from event._cli import _handlers, _text, _words
from event._process import Process
from event._signals import above_standard
from event._track import outcome_of
from event.error import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from typing import Any, NoReturn

    from event._cli._capture import Capture
    from event._cli._late import Sender
    from event._process import Ending

_DESCRIPTION = """\
Run a command, and send an event when it has ended. The command gets our streams, and no shell
is asked; we end with its exit status. No trouble with the event changes that: it is a line on
stderr, and the command has run.

The event's data, beside what the words say:
  outcome     success, failure, or cancel where a signal stopped the command
  exit_code   the exit status
  signal      the signal that ended the command, as SIGTERM, or else that stopped it; or null
  duration    in seconds
  command     the command's name; with --arguments also "arguments", a list
  host        this machine's name
  ci          of a CI system's build: "system", "build_url", "branch", "commit"
  parent      the uid of the event that E3_EVENT_PARENT names, where it is set; the command's own
              processes find the uid of this event there
  traceparent the place in a trace (W3C Trace Context): within that of TRACEPARENT, where it is
              set; the command's own processes find this one there

With an outbox, the event is in it before the first handler is tried.
"""

_EPILOG = """\
signals:
  SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1 and SIGUSR2 reach the command, once. While the event
  is sent, they are ignored: that takes no longer than --timeout.

exit status:
  the command's; 128+N where signal N ended it; 127 where there is no such command, 126 where it
  cannot be executed
  1  with --strict: the command succeeded, but something went wrong with the event
  2  the command line is wrong; the command was not run

examples:
  e3-event run compile target=arm -- make -j8
  e3-event run tests --log tests.log --outbox /var/tmp/events -- pytest -q
  e3-event run deploy --start --timeout 10 -- ./deploy.sh production
"""


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command; return its parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "run",
        help="run a command, and send an event about it",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        usage="e3-event run NAME [key=value | key:=json]... [option]... -- COMMAND...",
    )
    group = parser.add_argument_group("event")
    group.add_argument(
        "words",
        nargs="*",
        metavar="NAME [key=value | key:=json]...",
        help="what the command does, and the event's data: key=value is a string, key:=json any JSON value",
    )
    group.add_argument(
        "--log",
        metavar="FILE",
        help='copy the command\'s stdout and stderr to this file too, and attach it as "log"; the command then writes '
        "to pipes, not to a terminal",
    )
    group.add_argument("--arguments", action="store_true", help="put the command's arguments into the event's data")
    group.add_argument("--start", action="store_true", help="send the open event too, when the command begins")
    _handlers.add_options(parser)
    group = _handlers.add_sending_options(parser, bounded=True)
    group.add_argument(
        "--strict", action="store_true", help="end with status 1 where the command succeeded, but its event did not"
    )
    parser.set_defaults(behind=[])
    return parser


def run(args: argparse.Namespace) -> int:
    """Run the command; return the exit status."""
    name, data = _words.name_and_data(args.words, _RESERVED, args.parser.error)
    if not args.behind:
        args.parser.error("the COMMAND is missing; it stands behind --, as in: e3-event run compile -- make")
    step = _Step(args, name, data)
    status = step.run()
    return 1 if args.strict and step.troubled and not status else status


class _Step:
    """One command and its event.

    :ivar troubled: whether something went wrong with the event
    """

    def __init__(self, args: argparse.Namespace, name: str, data: dict[str, Any]) -> None:
        self.troubled = False
        self._args = args
        self._pairs = _handlers.wanted(args)
        self._outbox = _handlers.outbox(args)
        self._sender: Sender | None = None
        self._span = _trace.begin(_trace.around())
        self._data = {**_surroundings(args), **_trace.as_data(self._span), **data}
        self._begun = Event(name, **self._data)

    def run(self) -> int:
        """Run the command, and send what is to be sent; return the command's exit status."""
        log = None if self._args.log is None else self._opened_log()
        environment = _trace.environment(self._span, {**os.environ, "E3_EVENT_PARENT": self._begun.uid})
        process = Process(self._args.behind, environment, log)
        process.start()
        from event._cli._capture import Capture

        with Capture() as capture:
            self._guarded(lambda: self._prepare(capture))
            ending = process.wait()
            self._tell_about(ending, process.log_error)
            self._guarded(lambda: self._end(ending, attach=log is not None))
        self._guarded(process.finish)
        if self._sender and self._sender.hung:  # pragma: no cover  # os._exit leaves no word to coverage
            _leave(1 if self._args.strict and not ending.status else ending.status)
        return ending.status

    def _prepare(self, capture: Capture) -> None:
        """Do, while the command runs, what need not wait for its end."""
        if not self._pairs:
            self._tell(_handlers.none_to_send(self._args, _handlers.Handlers([])))
            return
        from event._cli._late import Sender

        self._sender = Sender(self._pairs, self._outbox, self._args.timeout, capture, self._tell)
        if self._args.start:
            self._sender.begin(self._begun)
        self._sender.prepare()

    def _end(self, ending: Ending, *, attach: bool) -> None:
        """Send the closed event."""
        if self._sender is None:
            return
        begun = self._begun
        event = Event(begun.name, begun.uid, **{"begin_time": begun.begin_time, **self._data, **_result(ending)})
        if attach:
            self._guarded(lambda: event.attach_file(self._args.log))
        event.close()
        self._sender.end(event)

    def _opened_log(self) -> int | None:
        try:
            return _opened(self._args.log)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            self._tell(f"--log: {self._args.log!r} cannot be written: {reason}")
            return None

    def _tell_about(self, ending: Ending, log_error: OSError | None) -> None:
        if ending.error:
            # As a shell does; it is no trouble with the event.
            _text.tell(f"{self._args.parser.prog}: {self._args.behind[0]}: {ending.error.strerror}")
        if log_error:
            self._tell(f"--log: {self._args.log!r} is not complete: {log_error.strerror}")

    def _guarded(self, work: Callable[[], object]) -> None:
        """Do what must not keep the command's exit status from being ours, whatever happens."""
        try:
            work()
        except Exception as error:
            self._tell(one_line(error))

    def _tell(self, text: str) -> None:
        self.troubled = True
        _text.tell(f"{self._args.parser.prog}: {text}")


def _surroundings(args: argparse.Namespace) -> dict[str, Any]:
    """Return what is known before the command begins."""
    command, *arguments = args.behind
    data: dict[str, Any] = {"command": command}
    if args.arguments:
        data["arguments"] = arguments
    data["host"] = os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "")
    if build := _ci.build(os.environ):
        data["ci"] = build
    if parent := os.environ.get("E3_EVENT_PARENT"):
        data["parent"] = parent
    return data


def _result(ending: Ending) -> dict[str, Any]:
    """Return what is known when the command has ended."""
    data: dict[str, Any] = {
        "outcome": ending.outcome,
        "exit_code": ending.status,
        "signal": ending.signal,
        "duration": round(ending.seconds, 3),
    }
    if ending.error:
        data |= outcome_of(ending.error)
    return data


def _opened(path: str) -> int:
    """Open the log, empty; return its descriptor.

    :raises OSError: it cannot be written, or is no regular file: a FIFO would hold us until somebody reads it
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | _PLAIN, 0o666)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file")
    return above_standard(fd)


def _leave(status: int) -> NoReturn:  # pragma: no cover  # as above
    """Exit at once: a handler that hangs may have left what the interpreter would wait for."""
    _text.finish()
    os._exit(status)


# Windows translates line ends else; and to open a FIFO waits for its reader.
_PLAIN = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)

_RESERVED = {
    "name": "it is the first argument",
    "uid": "it is drawn at random",
    "end_time": "it is when the command ends",
    **dict.fromkeys(("outcome", "exit_code", "signal", "duration", "error"), "it is what the command comes to"),
}
