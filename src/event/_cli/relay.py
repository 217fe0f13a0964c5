"""``e3-event relay``: receive events from a broker's queue and give them to handlers."""

from __future__ import annotations

import logging
from functools import partial

from event import _broker, _registry, _secrets
from event._cli._support import handler_options, terminal
from event._cli._support.handler_loading import load
from event._cli._support.settings import Settings
from event._cli.deliver import Report, add_jobs
from event._process.shutdown import GracefulShutdown
from event._process.signal_flag import SignalFlag
from event._worker import WorkerSink
from event.error import EventError, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping
    from typing import Any, NoReturn

    from event._broker import BrokerURL
    from event._broker.relay import RelayCounts
    from event._cli._support.settings import Pairs

_DESCRIPTION = """\
Receive the events that the handler "broker" has published, and give each one to the handlers.
Run relays on as many machines as you like: each event goes to one of them. If the broker is
unreachable, the relay keeps trying.

With an outbox, an event is acknowledged once it is on disk, and delivered from there, as often
as it takes. Without one, it is acknowledged once every handler has it; if one has not, the event
goes to the end of the queue and is delivered to that handler again later.

A message that cannot be delivered at all goes to the queue QUEUE.dead and does not stop the
others. A relay of that queue tries it again.

SIGTERM and SIGINT (Ctrl-C) end it: it stops receiving and delivers what it has and what is due
in the outbox. What is left stays there, or goes back to the broker. A second signal ends it now.
"""

_EPILOG = """\
exit status:
  0    SIGTERM ended it, and all that was received is delivered or safe
  1    it could not start: there is no handler, or one cannot be loaded and there is no outbox
  2    the command line is wrong
  130  SIGINT or a second signal ended it; what was received is safe too

examples:
  E3_EVENT_HANDLERS='file=/srv/events|smtp=Nightly,ci@example.com,dev@example.com,mail.example.com'
  export E3_EVENT_HANDLERS
  # The broker's URL is in BROKER_URL, the queue is e3-event:
  e3-event relay env:BROKER_URL --outbox /var/lib/e3-event/outbox
  e3-event relay amqps://relay@rabbit.example.com/ci --queue nightly
  e3-event relay env:BROKER_URL --queue e3-event.dead
"""

_LIBRARIES = ("pika", "redis", "boto3", "botocore", "urllib3")


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command; return its parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "relay",
        help="receive events from a broker and give them to handlers",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        usage="e3-event relay URL [option]...",
    )
    group = parser.add_argument_group("broker")
    group.add_argument(
        "words",
        nargs="*",
        metavar="URL",
        help="the broker's URL, as for the handler broker. Prefer env:NAME or file:PATH, since others can see the "
        "command line",
    )
    group.add_argument("--queue", default=_broker.DEFAULT_QUEUE, help="the queue (default: %(default)s)")
    group.add_argument(
        "--s3",
        metavar="URL",
        default="",
        help="the S3 location of large attachments, s3://BUCKET/PREFIX; the same as s3= of the handlers that publish",
    )
    group.add_argument("--profile", help="the profile of the AWS configuration, for --s3")
    handler_options.add_options(parser)
    add_jobs(handler_options.add_sending_options(parser, "each event", default="E3_EVENT_OUTBOX, or else none"))
    return parser


def run(args: argparse.Namespace) -> int:
    """Relay; return the exit status."""
    url = _url(args)
    settings = Settings(args, default_outbox=False, finds_file=False)
    pairs, outbox, timeout = settings.handlers, settings.outbox, settings.timeout
    _check_source(args)
    _refuse_a_circle(args, url, pairs)
    _loaded, broken = load(pairs, plugins=False)
    for name, reason in broken.items():
        terminal.print_err(f"{name}: not loaded: {reason} (in {settings.handlers_from})")
    if not pairs or (broken and outbox is None):
        _print_problem(args.parser.prog, f"nothing is relayed: {_why_not(settings, broken)}")
        return 1
    where = f"; outbox {outbox}" if outbox else ""
    _print_problem(args.parser.prog, f"{url.shown}, queue {args.queue} -> {', '.join(dict(pairs))}{where}")
    for library in _LIBRARIES:  # what matters is raised; logging prints the rest if nobody else takes it
        logging.getLogger(library).addHandler(logging.NullHandler())
    stop = SignalFlag()
    shutdown = GracefulShutdown(stop.set)
    with shutdown:
        sink = WorkerSink(_job(args, pairs, outbox, timeout), Report(args.parser.prog, quiet=True))
        relay = _broker.Relay(url, args.queue, sink, partial(_print_problem, args.parser.prog))
        try:
            relay.run(stop)
            sink.close()
        except KeyboardInterrupt:
            sink.abort()
            shutdown.status = 130
    _print_problem(args.parser.prog, _relay_summary(relay.counts))
    return shutdown.status


def _job(args: argparse.Namespace, pairs: Pairs, outbox: str | None, timeout: float) -> dict[str, Any]:
    """Return what the worker is to do; see `event._worker.relay_job`."""
    return {
        "job": "relay",
        "handlers": [*dict(pairs).items()],
        "outbox": outbox,
        "timeout": timeout,
        "jobs": args.jobs,
        "everything": False,
        "quiet": True,
        "s3": args.s3,
        "profile": args.profile,
        "alone": False,
    }


def _relay_summary(counts: RelayCounts) -> str:
    dead = f", {counts.dead_lettered} dead-lettered" if counts.dead_lettered else ""
    return f"{counts.finished - counts.dead_lettered} relayed{dead}"


def _print_problem(prog: str, text: str) -> None:
    terminal.print_err(f"{prog}: {text}")


def _url(args: argparse.Namespace) -> BrokerURL:
    """Return the broker that is to be relayed from."""
    fail: Callable[[str], NoReturn] = args.parser.error
    if len(args.words) != 1:  # which are not shown: another URL holds a password too
        fail(f"expected one URL, not {len(args.words)} words" if args.words else "the broker's URL is missing")
    if not _broker.is_queue_name(args.queue):
        fail(f"--queue: {args.queue!r} cannot be the name of a queue; expected 240 printable bytes at most")
    (word,) = args.words
    try:
        url = _broker.BrokerURL(_secrets.resolve_secret(word, "the broker's URL"))
        _broker.load_client(url)
    except EventError as error:
        fail(one_line(error))
    if url.has_secret and not _secrets.is_reference(word):
        _print_problem(args.parser.prog, "warning: password visible in the process list; use env:NAME or file:PATH")
    return url


def _check_source(args: argparse.Namespace) -> None:
    """Refuse a place for attachments from which none can be fetched."""
    if not args.s3:
        return
    from event._handler import import_extra
    from event._net import s3

    try:
        import_extra("boto3", "e3-event[s3]")
        s3.location(args.s3)
    except EventError as error:
        args.parser.error(f"--s3: {one_line(error)}")


def _why_not(settings: Settings, broken: Mapping[str, str]) -> str:
    if broken:
        return "it could not be delivered; with an outbox, events would be kept until they can be"
    return f"{settings.handlers_from} names no handler"


def _refuse_a_circle(args: argparse.Namespace, url: BrokerURL, pairs: Pairs) -> None:
    """Refuse a handler that would publish to the queue that is relayed."""
    for name, config in pairs:
        if _registry.kind(name) != "broker":
            continue
        try:
            wanted = _registry.get_handler(name).decode_config(config)
            other = _broker.BrokerURL(_secrets.resolve_secret(wanted["url"], name))
        except EventError:
            continue  # reported when the handler is loaded
        if wanted.get("queue", _broker.DEFAULT_QUEUE) == args.queue and other.is_same(url):
            args.parser.error(
                f"the handler {name!r} publishes to the queue that is relayed; events would go in a circle"
            )
