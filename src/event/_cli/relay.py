"""``e3-event relay``: receive events from a broker's queue and give them to handlers."""

from __future__ import annotations

import logging

from event import _broker, _registry, _secrets
from event._cli._support import handler_options, terminal
from event._cli._support.settings import Settings
from event._cli.deliver import Report, add_jobs
from event._process.shutdown import GracefulShutdown
from event._worker import WorkerSink
from event.error import EventError, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from typing import Any, NoReturn

    from event._broker import BrokerURL
    from event._cli._support.settings import Pairs

DESCRIPTION = """\
Receive the events that the "broker" handler has published, and deliver them to your handlers.
You can run relays on any number of machines: each event goes to one of them. If the broker is
unreachable, the relay keeps trying.

With an outbox, the relay acknowledges an event when it is on disk, then delivers and retries it
from there. Without an outbox, it acknowledges an event when every handler has delivered it. If a
handler fails, the event goes to the end of the queue, to be retried with that handler.

A message that can never be delivered moves to the dead-letter queue, QUEUE.dead. To try these
messages again, run a relay on that queue.

On SIGTERM or SIGINT (Ctrl-C), the relay stops receiving, delivers the events that it has and the
due events of the outbox, and exits. Undelivered events stay in the outbox or return to the
broker. On a second signal, it exits immediately.
"""

EPILOG = """\
exit status:
  0    stopped by SIGTERM; every received event is delivered, or safe in the outbox or the broker
  1    the relay did not start: no handler is configured, or there is no outbox and a handler
       cannot be loaded
  2    the command line is wrong
  130  stopped by SIGINT or by a second signal; the received events are safe too

examples:
  E3_EVENT_HANDLERS='file=/srv/events|smtp=Nightly,ci@example.com,dev@example.com,mail.example.com'
  export E3_EVENT_HANDLERS
  # The broker's URL is in BROKER_URL, the queue is e3-event:
  e3-event relay env:BROKER_URL --outbox /var/lib/e3-event/outbox
  e3-event relay amqps://relay@rabbit.example.com/ci --queue nightly
  e3-event relay env:BROKER_URL --queue e3-event.dead
"""

_LIBRARIES = ("pika", "redis", "boto3", "botocore", "urllib3")


USAGE = "e3-event relay URL [option]..."


def add_options(parser: Any) -> None:
    group = parser.add_argument_group("broker")
    group.add_argument(
        "words",
        nargs="*",
        metavar="URL",
        help="the broker's URL, as for the broker handler. Prefer env:NAME or file:PATH: other users can see your "
        "command lines",
    )
    group.add_argument("--queue", default=_broker.DEFAULT_QUEUE, help="the queue (default: %(default)s)")
    group.add_argument(
        "--s3",
        metavar="URL",
        default="",
        help="the S3 location of large attachments, s3://BUCKET/PREFIX; must equal s3= of the publishing handlers",
    )
    group.add_argument("--profile", help="the AWS profile to use for --s3")
    handler_options.add_options(parser)
    add_jobs(handler_options.add_sending_options(parser, "each event", default="E3_EVENT_OUTBOX, or else none"))


def run(args: argparse.Namespace) -> int:
    report = Report(args.parser.prog, quiet=True)
    say = report.note
    url = _url(args, say)
    settings = Settings(args, default_outbox=False, finds_file=False)
    pairs, outbox, timeout = settings.handlers, settings.outbox, settings.timeout
    _check_source(args)
    _refuse_a_circle(args, url, pairs)
    _loaded, broken = settings.load(plugins=False)
    for name, reason in broken.items():
        terminal.print_err(f"{name}: not loaded: {reason} (in {settings.handlers_from})")
    if broken and outbox is None:
        say("nothing is relayed: its events could not be delivered; add --outbox to keep them until they can be")
        return 1
    if not pairs:
        say(f"nothing is relayed: {settings.handlers_from} names no handler")
        return 1
    where = f"; outbox {outbox}" if outbox else ""
    say(f"{url.shown}, queue {args.queue} -> {', '.join(dict(pairs))}{where}")
    for library in _LIBRARIES:  # errors are raised; without a handler, logging would print the rest
        logging.getLogger(library).addHandler(logging.NullHandler())
    with GracefulShutdown() as shutdown:
        sink = WorkerSink(_job(args, pairs, outbox, timeout), report)
        relay = _broker.Relay(url, args.queue, sink, say)
        try:
            relay.run(shutdown.requested)
            sink.close()
        except KeyboardInterrupt:
            sink.abort()
            shutdown.status = 130
    dead = relay.dead_lettered
    say(f"{relay.relayed} relayed{f', {dead} dead-lettered' if dead else ''}")
    return shutdown.status


def _job(args: argparse.Namespace, pairs: Pairs, outbox: str | None, timeout: float) -> dict[str, Any]:
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


def _url(args: argparse.Namespace, warn: Callable[[str], None]) -> BrokerURL:
    fail: Callable[[str], NoReturn] = args.parser.error
    if len(args.words) != 1:  # the words are not shown: one may be a URL with a password
        fail(f"expected one URL, not {len(args.words)} words" if args.words else "the broker's URL is missing")
    if not _broker.is_queue_name(args.queue):
        fail(f"--queue: {args.queue!r} is not a valid queue name; expected at most 240 printable bytes")
    (word,) = args.words
    try:
        url = _broker.BrokerURL(_secrets.resolve_secret(word, "the broker's URL"))
        _broker.load_client(url)
    except EventError as error:
        fail(one_line(error))
    if url.has_secret and not _secrets.is_reference(word):
        warn("warning: password visible in the process list; use env:NAME or file:PATH")
    return url


def _check_source(args: argparse.Namespace) -> None:
    """Reject a value of ``--s3`` from which no attachment can be fetched."""
    if not args.s3:
        return
    from event._handler import import_extra
    from event._net import s3

    try:
        import_extra("boto3", "e3-event[s3]")
        s3.location(args.s3)
    except EventError as error:
        args.parser.error(f"--s3: {one_line(error)}")


def _refuse_a_circle(args: argparse.Namespace, url: BrokerURL, pairs: Pairs) -> None:
    """Reject a handler that publishes to the queue that this relay consumes."""
    for name, config in pairs:
        if _registry.kind(name) != "broker":
            continue
        try:
            wanted = _registry.get_handler(name).decode_config(config)
            other = _broker.BrokerURL(_secrets.resolve_secret(wanted["url"], name))
        except EventError:
            continue  # reported when the handler is loaded
        if wanted.get("queue", _broker.DEFAULT_QUEUE) == args.queue and other.is_same(url):
            args.parser.error(f"the handler {name!r} publishes to the relay's own queue; events would go in a circle")
