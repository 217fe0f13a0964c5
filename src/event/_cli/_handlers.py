"""Handlers for a command: named in options or a variable, loaded one by one, given an event together."""

from __future__ import annotations

import os
import re

from event import EventManager, _config, _manager, _registry
from event._cli import _text
from event._cli._capture import Capture
from event._dispatch import Contained
from event.error import EventError, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping
    from typing import Any

    from event import Delivery, Event, EventHandler

# Their errors hold no secret, and may quote the directory or the server that they are about.
_OPEN = frozenset({"file", "logging", "smtp", "s3", "http", "apprise", "otel", "broker"})
DEADLINE = 30.0  # seconds for one event, for a command that does not wait without end
_ROOM = 900  # characters of a reason, so that what stands behind it is seen
_SHORTEST_SECRET = 4  # characters; shorter ones would be masked in every other word

# In whatever URL an error quotes: no configuration of ours need hold it.
_USERINFO = re.compile(r"(://[^\s/@:]*:)[^\s/@]+@")

Pairs = list[tuple[str, str]]


class Handlers:
    """The handlers that were asked for.

    :param pairs: the name and the configuration of each
    :param outbox: the directory that keeps an event until all of them have it; None for no outbox
    :param timeout: for one event, in seconds; E3_EVENT_TIMEOUT where it is None
    :param late: whether plugins are imported only when they are given the event, where there is an outbox or a timeout:
        after the one has it, and within the other

    :ivar loaded: those that could be loaded, by name
    :ivar broken: why the others could not, by name
    """

    def __init__(
        self, pairs: Pairs, *, outbox: str | None = None, timeout: float | None = None, late: bool = False
    ) -> None:
        with Capture():  # importing event has already said what is wrong with the variables
            self._manager = EventManager(timeout=timeout)
        self._manager.outbox = outbox
        self.loaded: dict[str, EventHandler] = self._manager.handlers
        self.broken: dict[str, str] = {}
        self._configs = dict(pairs)
        late = late and (outbox is not None or self._manager.timeout is not None)
        with Capture():
            plugins = _registry.plugins() if late else {}
        for name, config in self._configs.items():
            if _registry.kind(name) in plugins:
                self.loaded[name] = _late_handler(name, config)
            else:
                self._load(name)

    def __bool__(self) -> bool:
        """Return whether an event would go anywhere: to a handler, or into the outbox for one."""
        return bool(self.loaded or (self.broken and self._manager.outbox))

    def deliver(self, event: Event) -> list[tuple[str, bool, str]]:
        """Give an event to the handlers; return, for each, its name, whether it took the event, and a line about it.

        With an outbox, those that could not be loaded are among them. What goes wrong with the outbox goes to stderr.
        """
        with Capture() as capture:
            outcome = self._manager.dispatch(event)
        for text in capture.said:
            _text.tell(masked(text, self._configs))
        # What the outbox could not keep, or has given up, it has said.
        kept = self._manager.outbox is not None and not capture.said
        results = [(d.handler, d.ok, about(d, self._configs, kept=kept)) for d in outcome]
        if kept:
            results += [(name, False, "kept in the outbox until it can be loaded") for name in self.broken]
        return results

    def _load(self, name: str) -> None:
        config = self._configs[name]
        with Capture():
            try:
                kind = _registry.get_handler(name)
            except Exception as error:
                self._broken(name, one_line(error))
                return
            try:
                handler: Any = Contained(kind(**kind.decode_config(config)))
            except (Exception, SystemExit) as error:
                self._broken(name, masked(one_line(error), {name: config}))
            else:
                self.loaded[name] = handler

    def _broken(self, name: str, reason: str) -> None:
        self.broken[name] = reason
        self._manager._unloaded[name] = self._configs[name]


def _late_handler(name: str, config: str) -> Any:
    from event._outbox.delivery import Late

    return Late(name, config)


def about(delivery: Delivery, configs: Mapping[str, str], *, kept: bool) -> str:
    """Return a line about what a handler did, without its name and without secrets.

    :param configs: the configuration of each handler, by name
    :param kept: whether an outbox keeps the event for it, where it did not take it
    """
    name = delivery.handler
    text = masked(delivery.reason or delivery.said, {name: configs.get(name, "")})
    if delivery.ok:
        return f"delivered in {delivery.seconds:.3f} s{'; warning: ' if text else ''}{text}"
    if kept and not delivery.permanent:
        return f"not delivered: {text[:_ROOM]}; kept in the outbox"
    return f"not delivered: {text}"


def masked(text: str, configs: Mapping[str, str]) -> str:
    """Return text without what the configurations hold: a plugin's error may quote a password or a token.

    :param configs: the configuration of each handler, by name
    """
    parts: set[str] = set()
    for name, config in configs.items():
        if _registry.kind(name) not in _OPEN:
            for whole in (config, _config.unquote(config)):
                parts |= {whole, *whole.split(","), *re.split(r"[\s,;|/?&=@:]+", whole)}
    parts |= {repr(part)[1:-1] for part in parts}  # as a message with %r shows it
    for part in sorted((part for part in parts if len(part) >= _SHORTEST_SECRET), key=len, reverse=True):
        text = text.replace(part, "***")
    return _USERINFO.sub(r"\1***@", text)


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


def add_sending_options(
    parser: argparse.ArgumentParser, what: str = "the event", *, bounded: bool = False
) -> argparse._ArgumentGroup:
    """Add the options that say how an event is sent, ``outbox`` and ``timeout``; return their group.

    :param bounded: whether `DEADLINE` holds where nothing else does
    """
    group = parser.add_argument_group("delivery")
    group.add_argument(
        "--outbox",
        metavar="DIR",
        help=f"keep {what} in this directory until every handler has it (default: that of E3_EVENT_OUTBOX, if any)",
    )
    add_timeout(group, what, bounded=bounded)
    return group


def add_timeout(parser: argparse._ActionsContainer, what: str, *, bounded: bool = False) -> None:
    """Add the option ``--timeout``; see `add_sending_options`."""
    otherwise = f"or else {DEADLINE:g}" if bounded else "if set; else one after the other, as long as each takes"
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=_seconds,
        help=f"give {what} to all handlers side by side, and wait no longer (default: E3_EVENT_TIMEOUT, {otherwise})",
    )


def outbox(args: argparse.Namespace) -> str | None:
    """Return the outbox's directory that the option, or else the variable, names; None where there is none."""
    if args.outbox == "":
        args.parser.error("--outbox: expected a directory")
    path = args.outbox or os.environ.get("E3_EVENT_OUTBOX")
    return os.path.abspath(path) if path else None  # now: a command may remove this directory


def _seconds(text: str) -> float:
    from argparse import ArgumentTypeError

    try:
        return _manager._seconds(text, "the timeout")
    except EventError as error:
        raise ArgumentTypeError(one_line(error)) from error
