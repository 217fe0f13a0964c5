"""``e3-event relay``: receive events from a broker's queue and give them to handlers."""

from __future__ import annotations

import logging
from functools import partial

from event import EventManager, _broker, _registry, _secret
from event._cli import _handlers, _text
from event._cli._capture import Capture
from event._cli._deliverer import Deliverer
from event._cli._ending import Ending
from event._cli._flag import Flag
from event._cli._loaded import Handlers
from event._cli._watchdog import Watchdog
from event._outbox import Outbox
from event._outbox.delivery import Late
from event.error import EventError, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping
    from typing import Any, NoReturn

    from event import Delivery
    from event._broker import AttachmentSource, BrokerURL, EventMessage, Relay
    from event._broker.relay import RelayCounts

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
  1    it could not start: there is no handler, or one cannot be loaded and there is no outbox;
       or it cannot go on, since without an outbox a thousand deliveries hang
  2    the command line is wrong
  130  SIGINT or a second signal ended it; what was received is safe too

examples:
  E3_EVENT_HANDLERS='file=/srv/events|smtp=Nightly,ci@example.com,dev@example.com,mail.example.com'
  export E3_EVENT_HANDLERS
  e3-event relay env:BROKER_URL --outbox /var/lib/e3-event/outbox
  e3-event relay amqps://relay@rabbit.example.com/ci --queue nightly
  e3-event relay env:BROKER_URL --queue e3-event.dead
"""

_MOST_HUNG = 1000  # deliveries; each occupies a thread
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
        help="the broker, as for the handler broker; prefer env:NAME or file:PATH: others see a command line",
    )
    group.add_argument("--queue", default=_broker.DEFAULT_QUEUE, help="the queue (default: %(default)s)")
    group.add_argument(
        "--s3",
        metavar="URL",
        default="",
        help="fetch attachments that are in S3 from beneath this URL, s3://BUCKET/PREFIX, as the producers have it",
    )
    group.add_argument("--profile", help="the profile of the AWS configuration, for --s3")
    _handlers.add_options(parser)
    _handlers.add_sending_options(parser, "each event", bounded=True)
    return parser


def run(args: argparse.Namespace) -> int:
    """Relay; return the exit status."""
    url = _url(args)
    pairs = _handlers.wanted(args)
    source = _source(args)
    _refuse_a_circle(args, url, pairs)
    outbox = _handlers.outbox(args)
    with Capture():  # importing event has already reported what is wrong with the variables
        timeout = EventManager(timeout=args.timeout).timeout or _handlers.DEADLINE
    handlers = Handlers(pairs, outbox=outbox, timeout=timeout, late=True)
    for name, reason in handlers.broken.items():
        _text.tell(f"{name}: not loaded: {reason} (in {_handlers.source(args)})")
    if not handlers or (handlers.broken and outbox is None):
        _tell(args.parser.prog, f"nothing is relayed: {_why_not(args, handlers)}")
        return 1
    where = f"; outbox {outbox}" if outbox else ""
    _tell(args.parser.prog, f"{url.shown}, queue {args.queue} -> {', '.join(dict(pairs))}{where}")
    for library in _LIBRARIES:  # what matters is raised; logging prints the rest if nobody else takes it
        logging.getLogger(library).addHandler(logging.NullHandler())
    stop = _Stop()
    ending = Ending(stop.flag.set)
    make = partial(_broker.Relay, url, args.queue, report=partial(_tell, args.parser.prog))
    with _Said(pairs), ending:
        if outbox is None:
            relay = _relay_directly(make, handlers, timeout, source, pairs, stop)
        else:
            with Deliverer(outbox, timeout) as deliverer:
                relay = make(sink=_broker.OutboxSink(Outbox(outbox), _elsewhere(pairs), deliverer.wake, source))
                relay.run(stop.flag)
    _tell(args.parser.prog, f"{_summary(relay.counts)}{stop.why}")
    return 1 if stop.why else ending.status


def _relay_directly(  # noqa: PLR0913  # all that a relay without an outbox is made of
    make: Callable[..., Relay],
    handlers: _handlers.Handlers,
    timeout: float,
    source: AttachmentSource,
    pairs: _handlers.Pairs,
    stop: _Stop,
) -> Relay:
    """Relay to the handlers themselves, without an outbox; return the relay when it has ended."""

    def report(message: EventMessage, delivery: Delivery) -> None:
        _report(dict(pairs), message, delivery)
        if sink.hung > _MOST_HUNG:
            stop.fail("a process has no room for more deliveries that hang; an outbox helps")

    sink = _broker.DirectSink(handlers.loaded, timeout, report, source)
    relay = make(sink=sink)
    with Watchdog(timeout):
        relay.run(stop.flag)
    return relay


def _summary(counts: RelayCounts) -> str:
    dead = f", {counts.dead_lettered} dead-lettered" if counts.dead_lettered else ""
    return f"{counts.finished} relayed{dead}"


class _Stop:
    """Ends a relay.

    :ivar flag: set when it is to end
    :ivar why: what else than a signal has ended it
    """

    def __init__(self) -> None:
        self.flag = Flag()
        self.why = ""

    def fail(self, why: str) -> None:
        """End the relay, which has failed."""
        if not self.flag.is_set():
            self.why = f"; ended, since {why}"
            self.flag.set()


class _Said(Capture):
    """Tells at once what is logged, without what the configurations hold."""

    def __init__(self, pairs: _handlers.Pairs) -> None:
        super().__init__()
        self._configs = dict(pairs)

    def emit(self, record: logging.LogRecord) -> None:
        """Tell a record's message, unless a Delivery has it."""
        super().emit(record)
        while self.said:
            _text.tell(_handlers.masked(self.said.pop(), self._configs))


def _elsewhere(pairs: _handlers.Pairs) -> dict[str, str]:
    """Return the configuration of each handler as a process in another directory needs it."""
    return {name: Late(name, config).encode_config() for name, config in dict(pairs).items()}


def _tell(prog: str, text: str) -> None:
    _text.tell(f"{prog}: {text}")


def _report(configs: Mapping[str, str], message: EventMessage, delivery: Delivery) -> None:
    """Print what failed; successes would fill the log."""
    if not delivery.ok or delivery.said:
        about = _handlers.about(delivery, configs, kept=False)
        _text.tell(f"{message.id[:13]} {message.event.name}: {delivery.handler}: {about}")


def _url(args: argparse.Namespace) -> BrokerURL:
    """Return the broker that is to be relayed from."""
    fail: Callable[[str], NoReturn] = args.parser.error
    if len(args.words) != 1:  # which are not shown: another URL holds a password too
        fail(f"expected one URL, not {len(args.words)} words" if args.words else "the broker's URL is missing")
    if not _broker.is_queue_name(args.queue):
        fail(f"--queue: {args.queue!r} cannot be the name of a queue; expected 240 printable bytes at most")
    (word,) = args.words
    try:
        url = _broker.BrokerURL(_secret.resolve(word, "the broker's URL"))
        _broker.load_client(url)
    except EventError as error:
        fail(one_line(error))
    if url.has_secret and not _secret.is_reference(word):
        _tell(args.parser.prog, "warning: password visible in the process list; use env:NAME or file:PATH")
    return url


def _source(args: argparse.Namespace) -> AttachmentSource:
    """Return where attachments may be fetched from."""
    if not args.s3:
        return _broker.AttachmentSource()
    from event import _s3
    from event._handler import import_extra

    try:
        import_extra("boto3", "s3")
        _s3.location(args.s3)
    except EventError as error:
        args.parser.error(f"--s3: {one_line(error)}")
    return _broker.AttachmentSource(args.s3, _s3.Store(args.profile))


def _why_not(args: argparse.Namespace, handlers: Handlers) -> str:
    if handlers.broken:
        return "it could not be delivered; with an outbox, events would be kept until they can be"
    return f"{_handlers.source(args)} names no handler"


def _refuse_a_circle(args: argparse.Namespace, url: BrokerURL, pairs: _handlers.Pairs) -> None:
    """Refuse a handler that would publish to the queue that is relayed."""
    for name, config in pairs:
        if _registry.kind(name) != "broker":
            continue
        try:
            wanted = _registry.get_handler(name).decode_config(config)
            other = _broker.BrokerURL(_secret.resolve(wanted["url"], name))
        except EventError:
            continue  # reported when the handler is loaded
        if wanted.get("queue", _broker.DEFAULT_QUEUE) == args.queue and other.is_same(url):
            args.parser.error(
                f"the handler {name!r} publishes to the queue that is relayed; events would go in a circle"
            )
