"""Find the class of a handler by its name: in the table of built-in handlers, then in the entry points."""

from __future__ import annotations

import os
import sys

from event.error import EventError, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.metadata import EntryPoint
    from typing import Any

# The same entry points as in pyproject.toml, which a test checks: importing importlib.metadata takes longer than
# sending an event.
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

# Plugins for e3-core use the first group. The built-in handlers of this package use the second group, because e3-core
# does not load a name that two distributions declare in the first group.
GROUPS = ("e3.event.handler", "event.handler")


def kind(name: str) -> str:
    """Return the kind of a handler: its name without label and conditions, ``file`` for ``file:nightly@failure``."""
    return name.partition(":")[0].partition("@")[0]


def is_installed(key: str) -> bool:
    """Return whether there is a handler of a kind, without importing importlib.metadata. If in doubt, return True."""
    return key in BUILTINS or _may_have_plugins(key)


def get_handler(name: str) -> Any:
    """Return the class of a handler; ignore the label and the conditions in its name.

    :raises EventError: there is no such handler, importing it fails, it is not a handler, or two distributions declare
        different handlers of that name
    """
    key = kind(name)
    if key in BUILTINS:
        module, attribute = BUILTINS[key]
        return getattr(__import__(module, fromlist=[attribute]), attribute)
    points = plugins().get(key)
    if not points:
        raise EventError(unknown(key))
    handler, *others = [_import(point) for point in points]
    if any(other is not handler for other in others):
        claims = " and ".join(f"{p.value} of {origin(p)}" for p in points)
        raise EventError(f"handler {key!r} is registered more than once: {claims}; uninstall all but one")
    return handler


def plugins() -> dict[str, list[EntryPoint]]:
    """Return the entry points of other handlers than the built-in ones, by name. A name may have several."""
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points():
        if point.name not in BUILTINS:
            found.setdefault(point.name, []).append(point)
    return found


def entry_points() -> list[EntryPoint]:
    """Return the entry points of both groups. Log a warning if those of a distribution can't be read."""
    if not _may_have_plugins():
        return []
    from importlib import metadata

    try:
        points = metadata.entry_points()  # called once, because each call reads all distributions
        return [point for group in GROUPS for point in points.select(group=group)]
    except Exception:  # entry_points() fails if a single distribution is damaged
        from event import _log

        found: list[EntryPoint] = []
        for distribution in metadata.distributions():
            try:
                found += [point for group in GROUPS for point in distribution.entry_points.select(group=group)]
            except Exception as error:
                where = getattr(distribution, "_path", "a distribution")
                _log.warning("the entry points of %s cannot be read: %s", where, one_line(error))
        return found


def _may_have_plugins(key: str = "") -> bool:
    """Return whether another distribution may declare a handler of this kind, or of any kind if the key is empty.

    If not, importlib.metadata is not imported, which takes longer than everything else in `e3-event check`. The format
    of the files is specified at https://packaging.python.org/en/latest/specifications/entry-points/
    """
    from importlib.machinery import PathFinder

    if any(hasattr(finder, "find_distributions") for finder in sys.meta_path if finder is not PathFinder):
        return True
    return any(_may_hold_plugins(path, key.encode()) for path in sys.path)


def _may_hold_plugins(path: str, key: bytes) -> bool:
    try:
        with os.scandir(path or ".") as found:
            names = [item.name for item in found if item.name.endswith((".dist-info", ".egg-info"))]
        return any(_declares(os.path.join(path, name), key) for name in names if not name.startswith("e3_event-"))
    except FileNotFoundError:
        return False
    except OSError:  # a zip file, or a directory that can't be read
        return True


def _declares(metadata: str, key: bytes) -> bool:
    try:
        with open(os.path.join(metadata, "entry_points.txt"), "rb") as file:
            content = file.read()
    except (FileNotFoundError, NotADirectoryError):  # most distributions have no such file; an old egg-info is a file
        return False
    return b"event.handler" in content and (
        not key or any(line.partition(b"=")[0].strip() == key for line in content.splitlines())
    )


def origin(point: EntryPoint) -> str:
    """Return the name of the distribution that declares an entry point."""
    try:
        name = point.dist.name  # type: ignore[union-attr]  # None has no name
    except Exception:  # damaged metadata; depending on the version, Python returns None or raises an error
        name = None
    return name or "an unknown distribution"


def _import(point: EntryPoint) -> Any:
    try:
        handler = point.load()
        fits = callable(handler) and callable(getattr(handler, "send_event", None))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # also SystemExit: a plugin must not end the program
        raise EventError(f"{_described(point)} fails to import: {one_line(error)}") from error
    if not fits:
        raise EventError(f"{_described(point)} is not a handler: expected a class with a method send_event(event)")
    return handler


def _described(point: EntryPoint) -> str:
    # Only for errors, because reading the distribution's name imports the email package.
    return f"handler {point.name!r} ({point.value} of {origin(point)})"


def unknown(key: str) -> str:
    """Return the error for a kind of which there is no handler."""
    from event._text import closest

    known = sorted([*BUILTINS, *plugins()])
    hint = closest(key, known)
    return f"no handler is named {key!r}{f', {hint}' if hint else '.'} There are: {', '.join(known)}"
