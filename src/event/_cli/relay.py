"""``e3-event relay``: take events from a broker's queue, and give them to handlers."""

from __future__ import annotations

import logging
from functools import partial

from event import EventManager, _message, _registry, _secret
from event._acceptor import Giver, Keeper
from event._cli import _handlers, _text
from event._cli._capture import Capture
from event._cli._deliverer import Deliverer
from event._cli._ending import Ending
from event._cli._flag import Flag
from event._cli._loaded import Handlers
from event._cli._watchdog import Watchdog
from event._cli.deliver import hung
from event._outbox import Outbox
from event._outbox.delivery import Late
from event.error import EventError, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping
    from typing import Any, NoReturn

    from event import Delivery
    from event._broker import Broker
    from event._message import Parcel
    from event._s3 import Store

_DESCRIPTION = """\
Take the events that the handler "broker" has published, and give each one to the handlers, on
as many machines as are wanted: each event goes to one of the relays. A broker that is away is
waited for.

With an outbox, an event is acknowledged when it is there, on the disk, and delivered from
there, as often as it takes. Without one it is acknowledged when every handler has taken it; if
one has not, the event goes to the end of the queue, and comes again for that handler.

A message that cannot be delivered at all is put into the queue QUEUE.aside, and does not stop
the others. A relay of that queue tries it again.

SIGTERM and SIGINT (Ctrl-C) end it: it takes no more, delivers what it has and what is due in
the outbox, and what is left stays there, or goes back to the broker. A second one ends it now.
"""

_EPILOG = """\
exit status:
  0    SIGTERM has ended it, and all that was taken is delivered, or safe
  1    it could not begin: there is no handler, or one cannot be loaded and there is no outbox;
       or it cannot go on, since without an outbox a thousand deliveries hang
  2    the command line is wrong
  130  SIGINT has ended it, or a second signal; what was taken is safe too

examples:
  E3_EVENT_HANDLERS='file=/srv/events|smtp=Nightly,ci@example.com,dev@example.com,mail.example.com'
  export E3_EVENT_HANDLERS
  e3-event relay env:BROKER_URL --outbox /var/lib/e3-event/outbox
  e3-event relay amqps://relay@rabbit.example.com/ci --queue nightly
  e3-event relay env:BROKER_URL --queue e3-event.aside
"""

_MOST_HUNG = 1000  # deliveries; each keeps a thread


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command; return its parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "relay",
        help="take events from a broker, and give them to handlers",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        usage="e3-event relay URL [option]...",
    )
    group = parser.add_argument_group("broker")
    group.add_argument(
        "words",
        nargs="*",
        metavar="URL",
        help="the broker, as for the handler broker; better env:NAME or file:PATH, since others see a command line",
    )
    group.add_argument("--queue", default=_message.QUEUE, help="the queue (default: %(default)s)")
    group.add_argument(
        "--s3",
        metavar="URL",
        default="",
        help="fetch attachments that are in S3 from beneath this URL, s3://BUCKET/PREFIX; the one of the producers",
    )
    group.add_argument("--profile", help="the profile of the AWS configuration, for --s3")
    _handlers.add_options(parser)
    _handlers.add_sending_options(parser, "each event", bounded=True)
    return parser


def run(args: argparse.Namespace) -> int:
    """Relay; return the exit status."""
    broker = _broker(args)
    from event._relay import Relay  # it needs kombu, which _broker tells of

    pairs = _handlers.wanted(args)
    places = _places(args)
    _refuse_a_circle(args, broker, pairs)
    outbox = _handlers.outbox(args)
    with Capture():  # importing event has already said what is wrong with the variables
        timeout = EventManager(timeout=args.timeout).timeout or _handlers.DEADLINE
    handlers = Handlers(pairs, outbox=outbox, timeout=timeout, late=True)
    for name, reason in handlers.broken.items():
        _text.tell(f"{name}: not loaded: {reason} (in {_handlers.source(args)})")
    if not handlers or (handlers.broken and outbox is None):
        _tell(args.parser.prog, f"nothing is taken: {_why_not(args, handlers)}")
        return 1
    where = f"; outbox {outbox}" if outbox else ""
    _tell(args.parser.prog, f"{broker.shown}, queue {args.queue} -> {', '.join(dict(pairs))}{where}")
    for library in ("amqp", "kombu"):  # what matters is raised; the rest would be told with nothing before it
        logging.getLogger(library).addHandler(logging.NullHandler())
    make = partial(Relay, broker, args.queue, places=places, patience=timeout, tell=partial(_tell, args.parser.prog))
    stop = _Stop()
    ending = Ending(stop.flag.set)
    with _Said(pairs), ending:
        if outbox is None:
            relay = make(Giver(handlers.loaded, timeout, partial(_report, dict(pairs), stop)))
            with Watchdog(timeout):
                relay.run(stop.flag)
        else:
            with Deliverer(outbox, timeout) as deliverer:
                relay = make(Keeper(Outbox(outbox), _elsewhere(pairs), deliverer.wake))
                relay.run(stop.flag)
    _tell(args.parser.prog, f"{relay.taken} taken{f', {relay.aside} put aside' if relay.aside else ''}{stop.why}")
    return 1 if stop.why else ending.status


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


def _report(configs: Mapping[str, str], stop: _Stop, parcel: Parcel, delivery: Delivery) -> None:
    """Tell what went wrong; of what goes well, a relay would tell without end."""
    if not delivery.ok or delivery.said:
        about = _handlers.about(delivery, configs, kept=False)
        _text.tell(f"{parcel.id[:13]} {parcel.event.name}: {delivery.handler}: {about}")
    if hung() > _MOST_HUNG:
        stop.fail("a process has no room for more deliveries that hang; an outbox helps")


def _broker(args: argparse.Namespace) -> Broker:
    """Return the broker that is to be relayed from."""
    fail: Callable[[str], NoReturn] = args.parser.error
    if len(args.words) != 1:  # which are not shown: another URL holds a password too
        fail(f"expected one URL, not {len(args.words)} words" if args.words else "the broker's URL is missing")
    if not _message.is_queue(args.queue):
        fail(f"--queue: {args.queue!r} is no name of a queue; expected {_message.QUEUE_MAX} bytes at most")
    (url,) = args.words
    try:
        broker = _broker_at(url, "the broker's URL")
    except EventError as error:
        fail(one_line(error))
    if broker.has_secret and not _secret.is_reference(url):
        _tell(args.parser.prog, "the URL's password can be seen by others; give env:NAME or file:PATH")
    return broker


def _broker_at(url: str, what: str) -> Broker:
    from event._handler import import_extra

    import_extra("kombu", "broker")
    from event._broker import Broker

    return Broker(_secret.resolve(url, what))


def _places(args: argparse.Namespace) -> tuple[str, Store] | None:
    if not args.s3:
        return None
    from event import _s3
    from event._handler import import_extra

    try:
        import_extra("boto3", "s3")
        _s3.location(args.s3)
    except EventError as error:
        args.parser.error(f"--s3: {one_line(error)}")
    return args.s3, _s3.Store(args.profile)


def _why_not(args: argparse.Namespace, handlers: Handlers) -> str:
    if handlers.broken:
        return "it could not be delivered; with an outbox it would be kept until it can be"
    return f"{_handlers.source(args)} names no handler"


def _refuse_a_circle(args: argparse.Namespace, broker: Broker, pairs: _handlers.Pairs) -> None:
    """Refuse a handler that would publish to the queue that we take from."""
    for name, config in pairs:
        if _registry.kind(name) != "broker":
            continue
        try:
            wanted = _registry.get_handler(name).decode_config(config)
            other = _broker_at(wanted["url"], name)
        except EventError:
            continue  # it is told where it is loaded
        if wanted.get("queue", _message.QUEUE) == args.queue and other.is_same(broker):
            args.parser.error(
                f"the handler {name!r} publishes to the queue that is relayed; events would go in a circle"
            )
