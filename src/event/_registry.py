"""From a handler's name to its class: the built-ins' table first, then the entry points of all distributions."""

from __future__ import annotations

import os
import sys

from event.error import EventError, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.metadata import EntryPoint
    from typing import Any

# Our own entry points once more: reading them with importlib.metadata costs more than all the rest of a run. A test
# holds this table and pyproject.toml together.
BUILTINS = {
    "file": ("event.handler.file", "FileHandler"),
    "logging": ("event.handler.logging", "LoggingHandler"),
    "smtp": ("event.handler.smtp", "SMTPHandler"),
    "s3": ("event.handler.s3", "S3Handler"),
    "http": ("event.handler.http", "HTTPHandler"),
    "apprise": ("event.handler.apprise", "AppriseHandler"),
    "otel": ("event.handler.otel", "OTelHandler"),
    "broker": ("event.handler.broker", "BrokerHandler"),
}

# The first is where plugins written for e3-core register; the second is where our own pyproject.toml declares the
# built-ins, since e3-core refuses to load a name that two distributions declare in the first.
GROUPS = ("e3.event.handler", "event.handler")


def kind(name: str) -> str:
    """Return the handler's kind: ``file:nightly`` and ``file@failure`` are a ``file``."""
    return name.partition(":")[0].partition("@")[0]


def get_handler(name: str) -> Any:
    """Return the class of a handler.

    :param name: the kind, with or without a label
    :raises EventError: there is no such handler, it fails to import, it is no handler, or two distributions register
        different ones
    """
    key = kind(name)
    if key in BUILTINS:
        module, attribute = BUILTINS[key]
        return getattr(__import__(module, fromlist=[attribute]), attribute)
    points = plugins()
    if key not in points:
        raise EventError(_unknown(key, [*BUILTINS, *points]))
    return _load(key, points[key])


def plugins() -> dict[str, list[EntryPoint]]:
    """Return the entry points that are not our built-ins, by name; one name may have several."""
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points():
        if point.name not in BUILTINS:
            found.setdefault(point.name, []).append(point)
    return found


def entry_points() -> list[EntryPoint]:
    """Return the entry points of both groups that other distributions declare, and ours if there are such.

    If the entry points of a distribution cannot be read, the log names it.
    """
    if not _may_have_plugins():
        return []
    from importlib import metadata

    try:
        points = metadata.entry_points()  # once: each call reads all distributions
        return [point for group in GROUPS for point in points.select(group=group)]
    except Exception:  # one damaged distribution hides all others from it
        from event import _log

        found: list[EntryPoint] = []
        for distribution in metadata.distributions():
            try:
                found += [point for group in GROUPS for point in distribution.entry_points.select(group=group)]
            except Exception as error:
                where = getattr(distribution, "_path", "a distribution")
                _log.warning("the entry points of %s cannot be read: %s", where, one_line(error))
        return found


def _may_have_plugins() -> bool:
    """Return whether another distribution may declare a handler; if not, importlib.metadata need not be imported.

    That import costs more than all else of `e3-event check`. The files are those of the entry points specification:
    https://packaging.python.org/en/latest/specifications/entry-points/
    """
    from importlib.machinery import PathFinder

    if any(hasattr(finder, "find_distributions") for finder in sys.meta_path if finder is not PathFinder):
        return True
    return any(map(_may_hold_plugins, sys.path))


def _may_hold_plugins(path: str) -> bool:
    try:
        with os.scandir(path or ".") as found:
            names = [item.name for item in found if item.name.endswith((".dist-info", ".egg-info"))]
        return any(_names_a_group(os.path.join(path, name)) for name in names if not name.startswith("e3_event-"))
    except FileNotFoundError:
        return False
    except OSError:  # a zip file, or a directory that cannot be read
        return True


def _names_a_group(metadata: str) -> bool:
    try:
        with open(os.path.join(metadata, "entry_points.txt"), "rb") as file:
            return b"event.handler" in file.read()
    except (FileNotFoundError, NotADirectoryError):  # most have none; an old egg-info is a file
        return False


_UNKNOWN = "an unknown distribution"


def origin(point: EntryPoint) -> str:
    """Return the name of the distribution that declares an entry point."""
    dist: Any = point.dist
    try:
        return str(dist.name or _UNKNOWN)
    except Exception:  # damaged metadata; which versions of Python return None there, and which raise, differs
        return _UNKNOWN


def _load(key: str, points: list[EntryPoint]) -> Any:
    handler, *others = [_import(point) for point in points]
    if any(other is not handler for other in others):
        claims = " and ".join(f"{p.value} of {origin(p)}" for p in points)
        raise EventError(f"handler {key!r} is registered more than once: {claims}; uninstall all but one")
    return handler


def _import(point: EntryPoint) -> Any:
    try:
        handler = point.load()
        fits = callable(handler) and callable(getattr(handler, "send_event", None))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit too: a plugin that gives up does not end the program
        raise EventError(f"{_described(point)} fails to import: {one_line(error)}") from error
    if not fits:
        raise EventError(f"{_described(point)} is no handler: it must be a class with a method send_event(event)")
    return handler


def _described(point: EntryPoint) -> str:
    # For errors alone: the distribution's name stands in its metadata, which take the email package to read.
    return f"handler {point.name!r} ({point.value} of {origin(point)})"


def _unknown(key: str, known: list[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(key, known, n=1)
    hint = f", did you mean {close[0]!r}?" if close else "."
    return f"no handler is named {key!r}{hint} There are: {', '.join(sorted(known))}"
