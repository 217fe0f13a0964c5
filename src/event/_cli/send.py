"""``e3-event send``: create an event, or read dumped ones, and send it to the handlers."""

from __future__ import annotations

import os

from event import Event, _files, unique_id
from event._cli._support import arguments, handler_options, terminal
from event._cli._support.settings import Settings
from event._event import raw_content
from event.error import EventError, one_line, visible

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping
    from typing import Any, NoReturn

    from event._worker import Result, Sent

DESCRIPTION = """\
Send an event and print its uid on stdout. A line on stderr shows the result of each handler.
If a handler fails, the others still get the event.

The event begins now, unless you set begin_time:=SECONDS (since 1970, UTC). It ends now.
Arguments after "--" are never options, even if they begin with "-".

The event is saved in the outbox before any handler runs. The handlers then run at the same
time, in a separate process that is stopped after --timeout. If a handler fails, the event stays
in the outbox. It is retried when this handler delivers a later event, or by "e3-event deliver".
"""

EPILOG = """\
exit status:
  0  every handler delivered the event, or it is in the outbox, or no handler is configured; also
     if stdout cannot be written
  1  the event is lost: a handler failed and the event is not in an outbox, or a file of
     --from-file could not be read; with --strict: a handler did not deliver the event now, a
     file or a value could not be read, or no handler is configured
  2  the command line is wrong; nothing was sent

examples:
  e3-event send compile target=arm errors:=0 'flags:=["-O2", "-g"]'
  e3-event send tests passed:=true --attach build.log --attach report=out/junit.xml
  e3-event send deploy --handler file=events --handler file:copy=/srv/events
  e3-event send compile --handler logging=build,ERROR
  e3-event send --from-file events/*.json
  e3-event send nightly --outbox outbox --timeout 10
  uid=$(e3-event send begin) && e3-event send end parent="$uid"

handlers and their CONFIG ("e3-event check" lists all that are installed):
  file=DIRECTORY
  logging=LOGGER,LEVEL
  smtp=SUBJECT,FROM,TO,SERVER[,SERVER...]
  s3=EVENT_URL,LOG_URL,SSE,PROFILE                 each URL as s3://BUCKET/PREFIX
  http=URL,FORMAT,SECRET[,KEY=VALUE...]            FORMAT is cloudevents, cdevents or json
  apprise=URLS,TITLE,BODY
  otel=ENDPOINT,SERVICE,HEADERS
  broker=URL,QUEUE[,KEY=VALUE...]                  KEY is limit, s3, profile, sse, timeout
Keep secrets out of the command line: write env:NAME or file:PATH in place of a URL or a secret.
"""


USAGE = (
    "e3-event send NAME [key=value | key:=json]... [option]...\n       e3-event send --from-file FILE... [option]..."
)


def add_options(parser: Any) -> None:
    _add_event_options(parser)
    handler_options.add_options(parser)
    handler_options.add_sending_options(parser, strict="unless every handler delivers the event now")
    group = parser.add_argument_group("output")
    handler_options.add_output_options(group)
    group.add_argument("--json", action="store_true", help="print the result as JSON, instead of the uid")


def _add_event_options(parser: Any) -> None:
    group = parser.add_argument_group("event")
    group.add_argument(
        "words",
        nargs="*",
        metavar="NAME [key=value | key:=json]...",
        help="what happened, and the event's data: key=value is a string, key:=json any JSON value. "
        "key=@FILE reads the value from a file. If it cannot be read, a line on stderr gives the reason, and the event "
        "is sent without the key. If a value is not JSON, it is sent as a string",
    )
    group.add_argument(
        "--attach",
        dest="attachments",
        metavar="[NAME=]PATH",
        action="append",
        default=[],
        help="attach a file; may be repeated. NAME is the attachment's name (default: the file's name). If PATH is -, "
        "stdin is read to its end and attached. If PATH itself contains = and such a file exists, the whole argument "
        "is the path. If a file cannot be read, a line on stderr gives the reason, and the event is sent without it: "
        "its data has the file's name in not_attached",
    )
    group.add_argument("--uid", help="the event's unique id (default: a random UUID)")
    group.add_argument(
        "--from-file",
        dest="files",
        metavar="FILE",
        action="extend",
        nargs="+",
        default=[],
        help="send events that Event.dump wrote. If an attachment has changed since then, its event is not sent",
    )


def run(args: argparse.Namespace) -> int:
    status = _send(args)
    terminal.flush_out()  # if stdout is full, a line reports it; the status is that of the event
    return status


def _send(args: argparse.Namespace) -> int:
    settings = Settings(args)
    settings.report_missing_secrets()
    event, files, problems = (None, {}, []) if args.files else _event_from_args(args)
    if event is None and (args.words or args.attachments or args.uid is not None):
        args.parser.error("--from-file takes no NAME, data, --attach or --uid: they are in the file")
    for problem in problems:
        terminal.print_err(f"{args.parser.prog}: {settings.masked(problem)}")
    if not settings.handlers:
        return _without_handlers(args, settings, event, problems)
    if args.verbose:
        settings.print_origins()
    sending = _Command(args, settings)
    try:
        results = [sending.send_attaching(event, files)] if event else [*map(sending.send_file, args.files)]
    finally:
        sending.close()
    if args.json:
        terminal.print_json(events=sending.events)
    return 0 if all(results) and not settings.dropped and not (args.strict and problems) else 1


def _without_handlers(args: argparse.Namespace, settings: Settings, event: Event | None, problems: list[str]) -> int:
    """Print the result of a command that sends nothing; return the exit status."""
    if not (args.quiet or settings.problems or settings.is_unused_here):
        terminal.print_err(f"{args.parser.prog}: {settings.no_handler_line()}")
    if args.json:
        terminal.print_json(events=[{**_named(event), "state": "no handlers", "results": []}] if event else [])
    elif event:
        terminal.print_out(visible(str(event.uid)))
    if settings.is_unused_here:
        return int(bool(args.strict and (problems or settings.problems)))
    return int(bool(args.strict or settings.problems))


class _Command:
    def __init__(self, args: argparse.Namespace, settings: Settings) -> None:
        self._args = args
        self._prog = args.parser.prog
        self._source = settings.handlers_from
        self._masked = settings.masked
        self.events: list[dict[str, Any]] = []  # for --json
        self._sender = settings.sender(terminal.print_err)
        self.close = self._sender.close

    def send(self, event: Event, files: Mapping[str, str], about: str = "") -> bool:
        """Send an event and print its uid; return whether it was a success, as `EPILOG` defines it.

        :param files: the path of each file to attach, by name
        :param about: the prefix of each line about a handler
        """
        sent = self._sender.send(raw_content(event), attach=[*files.items()], sending=unique_id())
        if self._args.json:
            self.events.append(_as_dict(event, sent))
        for result in sent.results:
            if not (self._args.quiet and result.ok and not result.said):
                colour = terminal.GREEN if result.ok else terminal.RED
                terminal.print_err(f"{about}{result.handler}: {self._line(sent, result)}", colour)
        if sent.backlog and not self._args.quiet:
            counts = ", ".join(f"{count} to {name}" for name, count in sent.backlog.items())
            terminal.print_err(f"{self._prog}: delivered earlier events from the outbox: {counts}")
        if not sent.kept and not any(result.loaded for result in sent.results):
            terminal.print_err(f"{self._prog}: nothing is sent: no handler could be loaded")
            return False
        if not self._args.json:
            terminal.print_out(visible(str(event.uid)))
        if self._args.strict:
            return not sent.not_attached and all(result.ok for result in sent.results)
        return sent.kept or all(result.ok for result in sent.results)

    def send_attaching(self, event: Event, files: Mapping[str, str]) -> bool:
        """Send an event, with the content of stdin as the file ``-``; return the same as `send`."""
        if "-" not in files.values():
            return self.send(event, files)
        from event._cli._support.stdin_file import StdinFile

        with StdinFile() as stdin:
            if stdin.problem:
                terminal.print_err(f"{self._prog}: {stdin.problem}")
            sent = self.send(event, {name: stdin.path if path == "-" else path for name, path in files.items()})
            return sent and not (self._args.strict and stdin.problem)

    def send_file(self, path: str) -> bool:
        """Send a dumped event; return the same as `send`."""
        from event._verified import verified_copy

        try:
            with verified_copy(Event.load(path)) as event:
                return self.send(event, {}, f"{path}: ")
        except (EventError, OSError) as error:
            terminal.print_err(self._masked(f"{path}: not sent: {one_line(error)}"))
            self.events.append({"file": path, "state": "lost", "error": one_line(error), "results": []})
            return False

    def _line(self, sent: Sent, result: Result) -> str:
        rest = handler_options.rest_of(sent, result)
        is_named = result.loaded or self._source in result.error
        return handler_options.result_line(result, rest if is_named else f"not loaded (in {self._source}); {rest}")


def _as_dict(event: Event, sent: Sent) -> dict[str, Any]:
    """Return the result of an event, for ``--json``."""
    delivered = bool(sent.results) and all(result.ok for result in sent.results)
    state = "delivered" if delivered else "kept" if sent.kept else "lost"
    content: dict[str, Any] = {**_named(event), "state": state}
    if sent.not_attached:
        content["not_attached"] = sent.not_attached
    results = [handler_options.result_as_dict(result, handler_options.rest_of(sent, result)) for result in sent.results]
    return {**content, "results": results, "backlog": sent.backlog}


def _named(event: Event) -> dict[str, Any]:
    return {"name": event.name, "uid": event.uid}


def _event_from_args(args: argparse.Namespace) -> tuple[Event, dict[str, str], list[str]]:
    """Return the closed event of the command line, its attachments, and a line for each value that cannot be read."""
    fail = args.parser.error
    name, data, problems = arguments.name_and_data(args.words, _RESERVED, fail)
    if args.uid is not None and (not args.uid.strip() or visible(args.uid) != args.uid):
        fail("--uid: expected printable characters")
    files = _attachments_from_args(args.attachments, fail)
    event = Event(name, args.uid, **data)
    event.close()
    return event, files, problems


def _attachments_from_args(texts: list[str], fail: Callable[[str], NoReturn]) -> dict[str, str]:
    """Return the path of each attachment, by name."""
    files: dict[str, str] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if text == "-":
            name, equals, path = "stdin", "=", "-"
        if not equals or os.path.exists(text):
            name, path = os.path.basename(_files.absolute(text)) or text, text
        if not name or not path:
            fail(f"--attach: {text!r}: expected PATH or NAME=PATH")
        if name in files:
            fail(f"--attach: two files are named {name!r}; give one another name, as in NAME=PATH")
        if path == "-" and "-" in files.values():
            fail("--attach: stdin can be attached once only")
        files[name] = path
    return files


_RESERVED = {
    "name": "it is the first argument",
    "uid": "use --uid UID",
    "end_time": "it is the time of sending",
}
