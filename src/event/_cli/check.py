"""``e3-event check``: check the installed handlers and the configuration."""

from __future__ import annotations

from importlib import util

from event import Event, _registry, _secrets, unique_id
from event._cli._support import handler_options, outbox_index, terminal
from event._cli._support.settings import Settings
from event._event import raw_content
from event._outbox import Outbox
from event._redact import without_secrets
from event._version import VERSION
from event._worker import EventSender
from event._worker.capture import Capture
from event.error import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping
    from importlib.metadata import EntryPoint
    from typing import Any

    from event import EventHandler
    from event._cli._support.settings import Pairs
    from event._worker import Result

DESCRIPTION = """\
Check the setup and print four lists:
  Installed handlers  each handler with its package, and whether it can be used
  Handlers            each configured handler: whether it loads, and whether the secrets that it
                      references (env:NAME, file:PATH) can be read
  Outbox              the outbox's directory, and the number of its entries in each state
  Settings            each setting and its source

Nothing is sent without --send. Handler configurations are never shown.
"""

EPILOG = """\
exit status:
  0  no problem was found
  1  a handler is broken, a configured handler does not load or references a missing secret, or
     the outbox cannot be used; with --send: a handler did not deliver the test event, or there is
     no handler
  2  the command line is wrong

The test event goes directly to the handlers, without the outbox. If a handler's extra is not
installed, the handler is broken only if it is configured. A handler of e3-core with the name of
a built-in handler is not used and does not count as broken.

examples:
  e3-event check
  e3-event check --send
  e3-event check --send --handler file=events
"""


def add_options(parser: Any) -> None:
    parser.add_argument("--send", action="store_true", help="send a test event to the handlers, and show each result")
    handler_options.add_options(parser)
    handler_options.add_sending_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    settings = Settings(args)
    settings.report_missing_secrets()
    loaded, broken = settings.load(plugins=True)
    tables: dict[str, list[tuple[str, ...]]] = {
        "Installed handlers": _installed(),
        f"Handlers of {settings.handlers_from}": _entries(settings.handlers, loaded, broken),
        "Outbox": [_outbox(settings)],
        "Settings": [*settings.rows()],
    }
    if not args.json:
        lists = [f"{title}:\n{terminal.table(rows) or '  none'}" for title, rows in tables.items()]
        terminal.print_out("\n\n".join(lists))
    problems = sum(row[-1].startswith(_BROKEN) for rows in tables.values() for row in rows) + len(settings.problems)
    results = None
    if args.send:
        results = _send_test(args, settings, loaded)
        problems += sum(not result.ok for result in results) or not results
    if args.json:
        _print_json(settings, [*tables.values()], results)
    if problems:
        terminal.print_err(f"{args.parser.prog}: {problems} {'problem' if problems == 1 else 'problems'}")
    return 1 if problems else 0


def _print_json(settings: Settings, tables: list[list[tuple[str, ...]]], results: list[Result] | None) -> None:
    installed, handlers, ((_, outbox),), rows = tables
    terminal.print_json(
        installed=[{"handler": name, "distribution": dist, "state": state} for name, dist, state in installed],
        handlers=[{"handler": name, "state": state} for name, state in handlers],
        outbox={"path": settings.outbox, "state": outbox},
        settings={name: {"value": value, "from": origin or None} for name, value, origin in rows},
        test=None if results is None else [handler_options.result_as_dict(result, "lost") for result in results],
        problems=settings.problems,
    )


_OK = "ok"
_BROKEN = "broken: "


def _installed() -> list[tuple[str, ...]]:
    sources = dict.fromkeys(_registry.BUILTINS, f"e3-event {VERSION}")
    for name, points in sorted(_registry.plugins().items()):
        sources[name] = ", ".join(dict.fromkeys(map(_distribution, points)))
    return [*((name, source, _handler_state(name)) for name, source in sources.items()), *_shadowed()]


def _shadowed() -> list[tuple[str, ...]]:
    """Return the plugins that have the name of a built-in handler."""
    rows: list[tuple[str, ...]] = []
    for point in _registry.entry_points():
        if point.name in _registry.BUILTINS and point.value != ":".join(_registry.BUILTINS[point.name]):
            text = f"not used: {point.name!r} is a built-in handler"
            # This package replaces e3-core's handlers. In any other package, the name is a mistake.
            dist = _distribution(point)
            rows.append((point.name, dist, text if dist.startswith("e3-core ") else f"{_BROKEN}{text}"))
    return rows


def _handler_state(name: str) -> str:
    try:
        with Capture():
            requires = dict(getattr(_registry.get_handler(name), "requires", {}))
    except Exception as error:
        return f"{_BROKEN}{one_line(error)}"
    missing = [module for module in requires if not _is_there(module)]
    sources = " ".join(dict.fromkeys(f'"{requires[module]}"' for module in missing))
    return f"{', '.join(missing)} not installed; run: pip install {sources}" if missing else _OK


def _is_there(module: str) -> bool:
    try:
        return util.find_spec(module) is not None
    except ImportError:  # its package is missing too
        return False
    except ValueError:  # it is loaded, and has replaced itself in sys.modules
        return True


def _distribution(point: EntryPoint) -> str:
    dist: Any = point.dist
    try:
        name, version = dist.name, dist.version
    except Exception:  # damaged metadata; some versions of Python return None, others raise
        name = version = None
    return f"{name} {version}" if name else "an unknown distribution"


def _entries(pairs: Pairs, loaded: Mapping[str, EventHandler], broken: Mapping[str, str]) -> list[tuple[str, ...]]:
    names = [name for name, _ in pairs]
    rows: list[tuple[str, ...]] = []
    for position, name in enumerate(names):
        if name in names[position + 1 :]:
            state = "not used: a later entry has the same name"
        elif name in broken:
            state = f"{_BROKEN}{broken[name]}"
        else:
            state = _references_of(name, dict(pairs)[name], loaded[name])
        rows.append((name, state))
    return rows


def _references_of(name: str, config: str, handler: Any) -> str:
    """Return the state of a loaded handler. It is broken if one of its secret references cannot be read."""
    try:
        for attribute in getattr(handler, "references", ()):
            value = getattr(handler, attribute)
            for text in [value] if isinstance(value, str) else value:
                _secrets.resolve_secret(text, attribute)
    except Exception as error:  # a plugin's code may raise anything
        return f"{_BROKEN}{without_secrets(one_line(error), {name: config})}"
    return _OK


def _outbox(settings: Settings) -> tuple[str, str]:
    path = settings.outbox
    if path is None:
        return ("none", "if a handler fails, the event is lost")
    outbox = Outbox(path)
    try:
        outbox.require_writable()
        if not outbox.exists():
            return (path, "ok; it is created when the first event is sent")
        counts = outbox.summary().counts
    except OSError as error:
        return (path, f"{_BROKEN}{one_line(error)}")
    shown = ", ".join(f"{outbox_index.number(counts[state])} {word}" for state, word in outbox_index.WORDS.items())
    return (path, f"ok; {shown}")


def _send_test(args: argparse.Namespace, settings: Settings, loaded: Mapping[str, EventHandler]) -> list[Result]:
    """Send a test event to the loaded handlers; return the result of each."""
    pairs = [(name, config) for name, config in dict(settings.handlers).items() if name in loaded]
    if not pairs:
        why = "nothing is sent: no handler could be loaded" if settings.handlers else settings.no_handler_line()
        terminal.print_err(f"{args.parser.prog}: {why}")
        return []
    event = Event("e3-event check", test=True, message="This is a test event; e3-event check sent it.")
    event.close()
    sender = EventSender(pairs, outbox=None, timeout=settings.timeout, log=terminal.print_err, worker=args.worker)
    try:
        results = sender.send(raw_content(event), sending=unique_id()).results
    finally:
        sender.close()
    if not args.json:
        lines = [(result.handler, handler_options.result_line(result, "not delivered")) for result in results]
        terminal.print_out(f"\nTest event {event.uid}:\n" + terminal.table(lines))
    return results
