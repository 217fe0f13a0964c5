"""Secret references: ``env:NAME`` or ``file:PATH``, which are resolved when an event is sent.

So an environment variable, a log or an outbox contains only the reference, never the secret.
"""

from __future__ import annotations

import os

from event import _log, _places
from event.error import EventError

_LARGEST = 1 << 16  # bytes of a file with a secret


def is_reference(text: str) -> bool:
    """Return whether a text is a secret reference: ``env:NAME`` or ``file:PATH``."""
    return text.startswith(("env:", "file:"))


def resolve_secret(reference: str, what: str) -> str:
    """Resolve a secret reference. Return any other text unchanged.

    Call this when an event is sent, so that the configuration, the log and the outbox contain only the reference.

    :param reference: ``env:NAME`` for an environment variable, or ``file:PATH`` for the content of a file (at most
        64 KiB, without trailing white space)
    :param what: the purpose of the secret, such as ``the board's token``; errors start with it
    :raises EventError: the variable or file does not exist or is empty; the message contains only the reference
    """
    kind, _, name = reference.partition(":")
    if not is_reference(reference):
        return reference
    secret = os.environ.get(name, "") if kind == "env" else _content(reference, name, what)
    if not secret:
        raise EventError(f"{what}: {reference} is not set or empty; expected it to hold the secret")
    return secret


def absolute_reference(text: str) -> str:
    """Make the path of a ``file:`` reference absolute, for another working directory. Return other texts unchanged."""
    kind, _, path = text.partition(":")
    return f"file:{os.path.abspath(_places.expand_home(path))}" if kind == "file" else text


def warn_if_clear(text: str, what: str) -> None:
    """Log a warning if a secret is given in clear text instead of as a reference. The secret itself is not logged."""
    if text and not is_reference(text):
        _log.warning("%s is given in clear text; use env:NAME or file:PATH", what)


def _content(reference: str, path: str, what: str) -> str:
    from event import _files

    try:
        with open(_files.open_regular(_places.expand_home(path)), "rb") as file:
            content = file.read(_LARGEST)
        return content.decode().rstrip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise EventError(f"{what}: {reference} cannot be read: {reason}") from error
