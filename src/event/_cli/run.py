"""``e3-event run``: run a command and send an event with its result."""

from __future__ import annotations

import errno
import os
import stat
import time

from event import Event, _trace_context, unique_id
from event._cli._support import arguments, handler_options, terminal
from event._cli._support.settings import Settings
from event._event import raw_content
from event._process import ci
from event._process.child import ChildProcess
from event._process.signals import above_standard
from event.error import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from threading import Thread
    from typing import Any

    from event._process.child import ExitResult
    from event._worker import EventSender

START_SHARE = 0.5  # of the timeout: the most that the start event may still use after the command has ended

DESCRIPTION = """\
Run a command and send an event when it ends. The command inherits stdin, stdout and stderr, and
runs without a shell. The exit status is the command's. If the event cannot be delivered, a line
on stderr reports it; the exit status does not change.

The event's data, in addition to your own:
  outcome     success or failure, or cancel if a signal stopped the command
  exit_code   the exit status
  signal      the signal that stopped the command, such as SIGTERM; null if none did
  duration    the command's run time in seconds
  command     the command's name; with --arguments also "arguments", a list
  host        this machine's name
  output_tail the last lines of the output, if the command failed and its stdout is not a
              terminal; see --tail
  tests, failures, errors, skipped, failing_tests
              the results of the JUnit reports, with --junit
  ci          in a CI job: "system", "build_url", "branch", "commit", "job", "attempt",
              "pull_request", "actor"
  parent      the value of E3_EVENT_PARENT, if it is set. For the command, E3_EVENT_PARENT is the
              uid of this event
  traceparent the span of the command (W3C Trace Context). Its parent is the span in TRACEPARENT,
              if it is set. For the command, TRACEPARENT is its own span

The event is saved in the outbox before any handler runs. The handlers then run at the same
time, in a separate process that is stopped after --timeout.
"""

EPILOG = """\
signals:
  SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGXCPU,
  SIGABRT, SIGIO and SIGPWR are passed to the command. While the event is sent, they are ignored.

exit status:
  the command's; 128+N if signal N ended it; 127 if the command was not found; 126 if it could
  not be executed
  1  with --strict: the command succeeded, but the event could not be fully delivered
  2  the command line is wrong; the command was not run

examples:
  e3-event run compile target=arm -- make -j8
  e3-event run tests --log tests.log --outbox /var/tmp/events -- pytest -q
  e3-event run deploy --start --timeout 10 -- ./deploy.sh production
"""


_NO_COMMAND = "the COMMAND is missing; put it after --, as in: e3-event run compile -- make"


USAGE = "e3-event run NAME [key=value | key:=json]... [option]... -- COMMAND..."


def add_options(parser: Any) -> None:
    _add_event_options(parser)
    handler_options.add_options(parser)
    handler_options.add_sending_options(
        parser, strict="if the command succeeded but the event could not be fully delivered"
    )
    handler_options.add_output_options(parser.add_argument_group("output"))
    parser.set_defaults(command_line=[])


def _add_event_options(parser: Any) -> None:
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
    group.add_argument(
        "--tail",
        metavar="N",
        type=_line_count,
        default=30,
        help="add the last N lines of a failed command's output to the event's data; 0 adds none (default: "
        "%(default)s)",
    )
    group.add_argument(
        "--junit",
        metavar="FILE|GLOB",
        help="add the numbers of tests in the JUnit reports that the command writes, and the first ten failed tests",
    )
    group.add_argument("--arguments", action="store_true", help="add the command's arguments to the event's data")
    group.add_argument("--start", action="store_true", help="also send the event, still open, when the command starts")


def run(args: argparse.Namespace) -> int:
    if not args.command_line and any("=" not in word for word in args.words[1:]):
        args.parser.error(_NO_COMMAND)  # a missing COMMAND is likelier than data without a value
    name, data, problems = arguments.name_and_data(args.words, _RESERVED, args.parser.error)
    if not args.command_line:
        args.parser.error(_NO_COMMAND)
    step = _Step(args, name, data)
    for problem in problems:
        step.print_problem(problem)
    status = step.run()
    return 1 if args.strict and step.has_problem and not status else status


class _Step:
    """One command and its event."""

    def __init__(self, args: argparse.Namespace, name: str, data: dict[str, Any]) -> None:
        self._args = args
        self._settings = Settings(args)
        self._settings.report_missing_secrets()
        self.has_problem = bool(self._settings.problems)  # with the event or its log
        self._sender: EventSender | None = None
        self._start_thread: Thread | None = None
        self._log_file: os.stat_result | None = None
        self._log_path = ""  # absolute, since the command may delete the working directory
        self._span = _trace_context.new_span(_trace_context.current_span())
        self._data = {**_start_data(args), **_trace_context.to_data(self._span), **data}
        self._start_event = Event(name, **self._data)

    def run(self) -> int:
        log = None if self._args.log is None else self._open_log()
        environment = _trace_context.environment(self._span, {**os.environ, "E3_EVENT_PARENT": self._start_event.uid})
        keep_end = bool(self._args.tail and self._settings.handlers)
        process = ChildProcess(self._args.command_line, environment, log, keep_end=keep_end)
        self._catch_errors(self._prepare)
        exit_result = process.wait()
        self._report_exit(exit_result, None if log is None else process.tee.error)
        self._catch_errors(lambda: self._send_end(process, exit_result, attach=log is not None))
        self._catch_errors(process.finish)
        if process.tee.show_error:
            self.print_problem(f"the command's output is not complete: {process.tee.show_error.strerror}")
        return exit_result.status or (1 if process.tee.show_error else 0)

    def _prepare(self) -> None:
        """Prepare the sending, and send the start event, while the command runs."""
        # Import all that is needed later, because the command may remove or upgrade this package.
        from event import _redact  # noqa: F401

        settings = self._settings
        if not settings.handlers:
            return
        if self._args.verbose:
            settings.print_origins()
        if self._args.junit is not None:
            from event._process import junit  # noqa: F401

        self._sender = sender = settings.sender(self.print_problem)
        sender.prepare()
        if self._args.start:
            from threading import Thread

            sender.delivers_backlog = False  # the sending of the end event does
            args = (self._send, sender, self._start_event, "start: ")
            self._start_thread = Thread(target=self._catch_errors, args=args, daemon=True)
            self._start_thread.start()

    def _send_end(self, process: ChildProcess, exit_result: ExitResult, *, attach: bool) -> None:
        """Send the closed event, after the open one."""
        sender = self._sender
        if sender is None:
            settings = self._settings
            if not (settings.handlers or settings.problems or settings.is_unused_here or self._args.quiet):
                self.print_problem(settings.no_handler_line())
            return
        event = Event(
            self._start_event.name,
            self._start_event.uid,
            **{
                "begin_time": self._start_event.begin_time,
                **self._junit_data(),
                **self._data,
                **_result_data(exit_result),
                **self._tail_data(process, exit_result),
            },
        )
        event.close()
        deadline = time.monotonic() + sender.timeout
        if self._start_thread:
            sender.hurry(START_SHARE * sender.timeout)
            self._start_thread.join(sender.timeout)
            sender.delivers_backlog = True
            sender.hurry(None)
        left = max(deadline - time.monotonic(), START_SHARE / 2 * sender.timeout)
        self._send(sender, event, "", attach=attach, timeout=left)
        sender.close()

    def _tail_data(self, process: ChildProcess, exit_result: ExitResult) -> dict[str, str]:
        if exit_result.outcome == "success" or not self._args.tail:
            return {}
        from event._redact import redact_text

        secrets = self._settings.redact
        tail = process.tee.last_lines(
            self._args.tail, lambda text: text if secrets is None else redact_text(text, secrets)
        )
        return {"output_tail": tail} if tail else {}

    def _junit_data(self) -> dict[str, Any]:
        """Return the results in the command's JUnit reports. An unreadable report does not affect `has_problem`."""
        if self._args.junit is None:
            return {}
        from event._process import junit

        return junit.summary_in_time(
            self._args.junit, self._start_event.begin_time, lambda text: self._print(f"--junit: {text}")
        )

    def _send(
        self,
        sender: EventSender,
        event: Event,
        which: str,
        *,
        attach: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Send an event, and print each problem.

        :param which: the prefix of each line about the event
        """
        files = self._log_to_attach() if attach else []
        sent = sender.send(raw_content(event), attach=files, sending=unique_id(), timeout=timeout)
        for result in sent.results:
            line = handler_options.result_line(result, handler_options.rest_of(sent, result))
            text = f"{which}{result.handler}: {line}"
            if not result.ok or result.said:
                self.print_problem(text)
            elif self._args.verbose:
                terminal.print_err(f"{self._args.parser.prog}: {text}", terminal.GREEN)

    def _open_log(self) -> int | None:
        """Create or truncate the log; return its descriptor. It must be a file: a FIFO would block until it is read."""
        try:
            fd = os.open(self._args.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | _PLAIN, 0o666)
            self._log_file = os.stat(fd)
            if not stat.S_ISREG(self._log_file.st_mode):
                os.close(fd)
                raise OSError(errno.EINVAL, "not a regular file")
            self._log_path = os.path.abspath(self._args.log)
            return above_standard(fd)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            self.print_problem(f"--log: {self._args.log!r} cannot be written: {reason}")
            return None

    def _report_exit(self, exit_result: ExitResult, log_error: OSError | None) -> None:
        if exit_result.error:
            # A shell prints the same. It is not a problem with the event, so `has_problem` stays False.
            self._print(f"{self._args.command_line[0]}: {exit_result.error.strerror}")
        if log_error:
            self.print_problem(f"--log: {self._args.log!r} is not complete: {log_error.strerror}")

    def _log_to_attach(self) -> list[tuple[str, str]]:
        """Return the log's name and path. If another file has replaced the log, return nothing: it may be any file."""
        try:
            if self._log_file and os.path.samestat(self._log_file, os.stat(self._log_path)):
                return [("log", self._log_path)]
            reason = "another file has taken its place"
        except OSError as error:
            reason = error.strerror or str(error)
        self.print_problem(f"--log: {self._args.log!r} is not attached: {reason}")
        return []

    def _catch_errors(self, work: Callable[..., object], *args: object) -> None:
        """Call `work`; print its error instead of raising it, so that the command's exit status is kept."""
        try:
            work(*args)
        except Exception as error:
            self.print_problem(one_line(error))

    def print_problem(self, text: str) -> None:
        self.has_problem = True
        self._print(text)

    def _print(self, text: str) -> None:
        terminal.print_err(f"{self._args.parser.prog}: {self._settings.masked(text)}")


def _start_data(args: argparse.Namespace) -> dict[str, Any]:
    """Return the data that is known before the command starts."""
    command, *rest = args.command_line
    data: dict[str, Any] = {"command": command}
    if args.arguments:
        data["arguments"] = rest
    data["host"] = os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "")
    if build := ci.build(os.environ):
        data["ci"] = build
    if parent := os.environ.get("E3_EVENT_PARENT"):
        data["parent"] = parent
    return data


def _result_data(exit_result: ExitResult) -> dict[str, Any]:
    """Return the data that is known after the command has ended."""
    data: dict[str, Any] = {
        "outcome": exit_result.outcome,
        "exit_code": exit_result.status,
        "signal": exit_result.signal,
        "duration": round(exit_result.seconds, 3),
    }
    if exit_result.error:
        from event._tracking import outcome_of

        data |= outcome_of(exit_result.error)
    return data


def _line_count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        from argparse import ArgumentTypeError

        raise ArgumentTypeError(f"{text!r} is not a number of lines; expected 0 or more")
    return int(text[:9])


# Without O_BINARY, Windows translates line ends. Without O_NONBLOCK, opening a FIFO waits for its reader.
_PLAIN = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)

_RESERVED = {
    "name": "it is the first argument",
    "uid": "it is generated",
    "end_time": "it is when the command ends",
    **dict.fromkeys(
        ("outcome", "exit_code", "signal", "duration", "error", "output_tail"), "it is the result of the command"
    ),
}
