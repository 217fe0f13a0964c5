"""Secrets by reference: ``env:NAME`` or ``file:PATH``, resolved when sending.

The reference may stand in a variable, a log or an outbox; the secret stands in none of them.
"""

from __future__ import annotations

import os

from event import _log
from event.error import EventError

_LARGEST = 1 << 16  # bytes; a secret's file is small, and /dev/zero is no secret


def is_reference(text: str) -> bool:
    """Return whether a text refers to a secret: ``env:NAME`` or ``file:PATH``."""
    return text.startswith(("env:", "file:"))


def resolve_secret(reference: str, what: str) -> str:
    """Return the secret that a reference leads to. Any other text is returned as it is.

    Call it when sending, so that the configuration, the log and the outbox hold only the reference.

    :param reference: ``env:NAME``, an environment variable, or ``file:PATH``, the content of a file of at most 64 KiB,
        without white space at its end
    :param what: what the secret is for, such as ``the board's token``; errors begin with it
    :raises EventError: there is no such variable or file, or it is empty; the message holds only the reference
    """
    kind, _, name = reference.partition(":")
    if not is_reference(reference):
        return reference
    secret = os.environ.get(name, "") if kind == "env" else _content(reference, name, what)
    if not secret:
        raise EventError(f"{what}: {reference} is not set or empty; expected it to hold the secret")
    return secret


def absolute_reference(text: str) -> str:
    """Return a ``file:`` reference with an absolute path, for another working directory; any other text unchanged."""
    kind, _, path = text.partition(":")
    return f"file:{os.path.abspath(os.path.expanduser(path))}" if kind == "file" else text


def warn_if_clear(text: str, what: str) -> None:
    """Log how to do better where a secret is given in clear. The secret itself is not logged."""
    if text and not is_reference(text):
        _log.warning("%s is given in clear; use env:NAME or file:PATH", what)


def _content(reference: str, path: str, what: str) -> str:
    from event import _files

    try:
        with open(_files.open_regular(os.path.expanduser(path)), "rb") as file:
            content = file.read(_LARGEST)
        return content.decode().rstrip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise EventError(f"{what}: {reference} cannot be read: {reason}") from error
