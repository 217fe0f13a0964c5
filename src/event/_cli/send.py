"""``e3-event send``: make an event, or take dumped ones, and give it to the handlers."""

from __future__ import annotations

import os

from event import Event, _files
from event._cli import _handlers, _text, _words
from event.error import EventError, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from typing import Any, NoReturn

_DESCRIPTION = """\
Send an event, and write its uid to stdout. Each handler gets a line on stderr: that it
delivered the event, or why it did not. One that fails does not stop the next.

The event begins now, or when begin_time:=SECONDS says (since 1970, UTC), and ends now.
Behind "--", an argument may begin with "-" without being an option.

With an outbox, what a handler does not take is not lost: it waits there for
"e3-event deliver".
"""

_EPILOG = """\
exit status:
  0  every handler took the event
  1  a handler failed or could not be loaded (the others did get the event, and an outbox
     keeps it for this one), there was no handler at all, or a file could not be read
     (nothing was sent)
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
A URL or a secret is better named than shown: env:NAME or file:PATH.
"""


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command; return its parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "send",
        help="send an event",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        usage="e3-event send NAME [key=value | key:=json]... [option]...\n"
        "       e3-event send --from-file FILE... [option]...",
    )
    group = parser.add_argument_group("event")
    group.add_argument(
        "words",
        nargs="*",
        metavar="NAME [key=value | key:=json]...",
        help="what happened, and the event's data: key=value is a string, key:=json any JSON value",
    )
    group.add_argument(
        "--attach",
        dest="attachments",
        metavar="[NAME=]PATH",
        action="append",
        default=[],
        help="attach a file; may be repeated. NAME is what handlers call it (default: the file's name). A PATH that "
        "holds a '=' is taken whole where there is such a file",
    )
    group.add_argument("--uid", help="the event's unique id (default: a random UUID)")
    group.add_argument(
        "--from-file",
        dest="files",
        metavar="FILE",
        action="extend",
        nargs="+",
        default=[],
        help="send events that Event.dump wrote, each only if its attachments are unchanged since",
    )
    _handlers.add_options(parser)
    _handlers.add_sending_options(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Send; return the exit status."""
    pairs = _handlers.wanted(args)
    event = None if args.files else _event(args)
    if event is None and (args.words or args.attachments or args.uid is not None):
        args.parser.error("--from-file takes no NAME, data, --attach or --uid: they are in the file")
    handlers = _handlers.Handlers(pairs, outbox=_handlers.outbox(args), timeout=args.timeout, late=True)
    for name, reason in handlers.broken.items():
        _text.tell(f"{name}: not loaded: {reason} (in {_handlers.source(args)})")
    if not handlers:
        _text.tell(f"{args.parser.prog}: {_handlers.none_to_send(args, handlers)}")
        return 1
    results = [_send(event, handlers)] if event else [_send_file(path, handlers) for path in args.files]
    return 0 if all(results) and not handlers.broken else 1


def _send(event: Event, handlers: _handlers.Handlers, about: str = "") -> bool:
    """Give an event to each handler, and show its uid; return whether all took it."""
    delivered = True
    for name, taken, text in handlers.deliver(event):
        _text.tell(f"{about}{name}: {text}")
        delivered = delivered and taken
    _text.show(_text.visible(str(event.uid)))
    return delivered


def _send_file(path: str, handlers: _handlers.Handlers) -> bool:
    try:
        event = _dumped(path)
    except (EventError, OSError) as error:
        _text.tell(f"{path}: not sent: {one_line(error)}")
        return False
    return _send(event, handlers, f"{path}: ")


def _dumped(path: str) -> Event:
    event = Event.load(path)
    if problem := _files.changed(event.get_attachments()):
        raise EventError(problem)
    return event


def _event(args: argparse.Namespace) -> Event:
    """Return the event of the command line, closed.

    :raises EventError: a file cannot be attached
    """
    fail = args.parser.error
    name, data = _words.name_and_data(args.words, _RESERVED, fail)
    if args.uid is not None and (not args.uid.strip() or _text.visible(args.uid) != args.uid):
        fail("--uid: expected printable characters")
    files = _attachments(args.attachments, fail)
    event = Event(name, args.uid, **data)
    for label, path in files.items():
        event.attach_file(path, label)
    event.close()
    return event


def _attachments(texts: list[str], fail: Callable[[str], NoReturn]) -> dict[str, str]:
    """Return the path of each attachment, by name."""
    files: dict[str, str] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals or os.path.exists(text):
            name, path = os.path.basename(os.path.abspath(text)) or text, text
        if not name or not path:
            fail(f"--attach: {text!r}: expected PATH or NAME=PATH")
        if name in files:
            fail(f"--attach: two files are named {name!r}; give one another name, as in NAME=PATH")
        if path != text and not os.path.exists(path):
            raise EventError(f"--attach: there is no file {path!r}, and no {text!r}")
        files[name] = path
    return files


_RESERVED = {
    "name": "it is the first argument",
    "uid": "it is given as --uid UID",
    "end_time": "it is the time of sending",
}
