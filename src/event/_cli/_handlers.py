"""Handlers for a command: named in options or a variable, loaded one by one, given an event one by one."""

from __future__ import annotations

import os
import re

from event import EventManager, _config, _registry
from event._cli import _text
from event._cli._capture import Capture
from event.error import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from event import Delivery, Event, EventHandler

# Their configuration holds no secret: an error may quote the directory or the server that it is about.
_OPEN = frozenset({"file", "logging", "smtp", "s3"})
_SHORTEST_SECRET = 4  # characters; shorter ones would be masked in every other word

Pairs = list[tuple[str, str]]


class Handlers:
    """The handlers that were asked for.

    :param pairs: the name and the configuration of each

    :ivar loaded: those that could be loaded, by name
    :ivar broken: why the others could not, by name
    """

    def __init__(self, pairs: Pairs) -> None:
        self.loaded: dict[str, EventHandler] = {}
        self.broken: dict[str, str] = {}
        self._configs = dict(pairs)
        for name in self._configs:
            self._load(name)

    def deliver(self, name: str, event: Event) -> tuple[bool, str]:
        """Give an event to one handler; return whether it was taken, and a line about it."""
        manager = EventManager()
        manager.handlers[name] = self.loaded[name]
        try:
            with Capture() as capture:
                (delivery,) = manager.dispatch(event)
        except SystemExit as stop:  # a handler that fails is no reason to leave out the next one
            return False, self._masked(name, f"not delivered: {one_line(stop)}")
        return delivery.ok, self._masked(name, _describe(delivery, capture.reasons))

    def _load(self, name: str) -> None:
        with Capture():
            try:
                handler = _registry.get_handler(name)
            except Exception as error:
                self.broken[name] = one_line(error)
                return
            try:
                self.loaded[name] = handler(**handler.decode_config(self._configs[name]))
            except (Exception, SystemExit) as error:
                self.broken[name] = self._masked(name, one_line(error))

    def _masked(self, name: str, text: str) -> str:
        """Return text without what the configuration holds: a plugin's error may quote a password or a token."""
        if _registry.kind(name) in _OPEN:
            return text
        config = self._configs[name]
        parts = {
            part
            for whole in (config, _config.unquote(config))
            for part in (whole, *whole.split(","), *re.split(r"[\s,;|/?&=@:]+", whole))
            if len(part) >= _SHORTEST_SECRET
        }
        for part in sorted(parts, key=len, reverse=True):
            text = text.replace(part, "***")
        return text


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which handlers to use."""
    group = parser.add_argument_group("handlers").add_mutually_exclusive_group()
    group.add_argument(
        "--handler",
        dest="handlers",
        metavar="NAME[=CONFIG]",
        action="append",
        default=[],
        help="use this handler, and not those of the variable; may be repeated. NAME may bear a label, so that one "
        "kind can stand twice: file:nightly=DIR",
    )
    group.add_argument(
        "--env",
        metavar="VAR",
        default="E3_EVENT_HANDLERS",
        help="the environment variable that names the handlers: NAME=CONFIG|NAME=CONFIG (default: %(default)s)",
    )


def wanted(args: argparse.Namespace) -> Pairs:
    """Return the name and the configuration of each handler that the options, or else the variable, ask for.

    A name may come twice in a variable, where the last one counts.
    """
    if not args.handlers:
        return _config.parse(os.environ.get(args.env, ""))
    pairs = [(name.strip(), config) for name, _, config in (text.partition("=") for text in args.handlers)]
    names = [name for name, _ in pairs]
    for name in names:
        if not name:
            args.parser.error("--handler: the name is missing; expected --handler NAME=CONFIG")
        if names.count(name) > 1:
            args.parser.error(f"--handler: {name!r} stands twice; a label tells two apart, as in {name}:other=CONFIG")
    return pairs


def source(args: argparse.Namespace) -> str:
    """Return where the handlers are named."""
    return "--handler" if args.handlers else _text.line(args.env)


def none_to_send(args: argparse.Namespace, handlers: Handlers) -> str:
    """Return why an event has nowhere to go, and what to do about it."""
    if handlers.broken:
        return "nothing is sent: no handler could be loaded"
    return (
        f"nothing is sent: {source(args)} names no handler; "
        f"set it, as in {args.env}=file=events, or give --handler file=events"
    )


def _describe(delivery: Delivery, reasons: list[str]) -> str:
    said = "; ".join(reasons)
    text = str(delivery).removeprefix(f"{delivery.handler}: ")
    if delivery.ok:
        return f"{text}; warning: {said}" if said else text
    if delivery.error is None and said:
        return f"not delivered: {said}"
    return text
