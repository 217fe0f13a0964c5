"""The errors of this package.

`EventError` reports a problem that the caller can fix, such as a wrong name, an invalid configuration, a malformed file
or a closed event. Its message names the subject, the value and what was expected. Errors of the operating system are
`OSError`, and calls with wrong arguments raise `TypeError`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from typing_extensions import Self


LONGEST_TEXT: int = 20_000
"""The largest number of characters of an error that is shown, for an exception that quotes all that it has read."""


class E3Error(Exception):
    """An error with one or more messages.

    Catch it to end a script with a readable message.

    :param message: the message, or a list of messages
    :param origin: the subject of the error; `str()` puts it before the message
    """

    def __init__(self, message: str | list[str] | None, origin: str | None = None) -> None:
        super().__init__(message, origin)
        self.origin = origin
        self.messages: list[str] = []
        if message is not None:
            self.__iadd__(message)

    def __iadd__(self, other: str | list[str] | E3Error) -> Self:
        """Add a message, several messages, or the messages of another error."""
        if isinstance(other, E3Error):
            self.messages += other.messages
        elif isinstance(other, str):
            self.messages.append(other)
        else:
            self.messages += other
        return self

    def __str__(self) -> str:
        """Return the last message, prefixed by the origin if there is one."""
        message = self.messages[-1] if self.messages else type(self).__name__
        return f"{self.origin}: {message}\n" if self.origin else message

    def __reduce__(self) -> tuple[Any, ...]:
        """Support pickle and copy with all messages, including those that were added later."""
        return _reduced(self)


if not TYPE_CHECKING:
    try:
        # If e3-core is installed, use its class as the base, so that `except e3.error.E3Error` in a script also catches
        # the errors of this package.
        from e3.error import E3Error
    except Exception:  # noqa: S110  # e3-core is not installed, or another module has its name
        pass


class EventError(E3Error):
    """An event, a handler or a configuration cannot be used.

    Fix the cause named in the message; retrying unchanged will fail again.

    :param message: the message, or a list of messages
    :param origin: the subject of the error
    """

    def __reduce__(self) -> tuple[Any, ...]:
        """Support pickle and copy with all messages. E3-core's base class loses messages that were added later."""
        return _reduced(self)


class PermanentError(EventError):
    """The destination has refused this event permanently: no retry can deliver it.

    Handlers raise it. The outbox then stops the retries and keeps the event as a failed entry, for you to inspect.

    :param message: the message, or a list of messages
    :param origin: the subject of the error
    :param done: the parts that were delivered nevertheless; see `PartialDeliveryError`
    """

    def __init__(self, message: str | list[str] | None, origin: str | None = None, *, done: Iterable[str] = ()) -> None:
        super().__init__(message, origin)
        self.done: frozenset[str] = frozenset(done)


class PartialDeliveryError(EventError):
    """Some parts of a delivery are finished, and a retry can finish the others.

    Raise it in a handler with several destinations, such as the recipients of a mail. The outbox stores `done`; on the
    next attempt, `event.already_delivered` returns it.

    :param message: the message, or a list of messages
    :param origin: the subject of the error
    :param done: a key for each part that needs no further attempt, including those from earlier attempts. A key is any
        string that identifies the same part on the next attempt. It must not contain a secret.
    :param remaining: the parts that a later attempt must deliver, for a log
    """

    def __init__(
        self,
        message: str | list[str] | None,
        origin: str | None = None,
        *,
        done: Iterable[str] = (),
        remaining: Iterable[str] = (),
    ) -> None:
        super().__init__(message, origin)
        self.done: frozenset[str] = frozenset(done)
        self.remaining: tuple[str, ...] = tuple(remaining)


def shown(value: object) -> str:
    """Return the repr of a value, or its type and address if its `__repr__` fails."""
    try:
        return repr(value)
    except KeyboardInterrupt:
        raise
    except BaseException:
        return object.__repr__(value)


def _reduced(error: E3Error) -> tuple[Any, ...]:
    state = {name: value for name, value in error.__dict__.items() if name not in {"messages", "origin"}}
    return type(error), (list(error.messages), error.origin), state


def one_line(error: BaseException) -> str:
    """Return an error on one line: all messages of an `E3Error`, or ``Type: message`` of another exception.

    An `OSError` is shown in plain words without its type, such as ``connection refused``. A long text is cut after
    `LONGEST_TEXT` characters.
    """
    kind = type(error).__name__
    try:
        if isinstance(error, E3Error):
            text = "; ".join(error.messages)
        elif isinstance(error, OSError):
            text = _system_text(error)
        else:
            text = f"{kind}: {error}".removesuffix(": ")
    except BaseException:
        text = ""
    return visible(" ".join(text.split())[:LONGEST_TEXT] or kind)


def root_cause(error: BaseException) -> str:
    """Return the cause of another library's error on one line, without the name of its type.

    If a system error caused it, such as a refused connection, return only this cause.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, TimeoutError) or (isinstance(cause, OSError) and isinstance(cause.strerror, str)):
            return one_line(cause)
        cause = cause.__cause__ or cause.__context__
    return one_line(error).removeprefix(f"{type(error).__name__}: ").removesuffix(".")


def _system_text(error: OSError) -> str:
    """Return the message and the files of an `OSError` in plain words."""
    text = error.strerror
    if not isinstance(text, str):
        return str(error) or ("timed out" if isinstance(error, TimeoutError) else "")
    if isinstance(reason := getattr(error, "reason", None), str):  # as `ssl.SSLError` has it: WRONG_VERSION_NUMBER
        detail = getattr(error, "verify_message", "").rstrip(".")
        text = f"TLS: {reason.lower().replace('_', ' ')}{f': {detail}' if detail else ''}"
    elif text[1:2].islower():
        text = text[0].lower() + text[1:]
    files = " -> ".join(repr(name) for name in (error.filename, error.filename2) if name is not None)
    return f"{text}: {files}" if files else text


def visible(text: str) -> str:
    r"""Escape control characters and other characters that are not printable, as ``\xNN``, ``\n`` or ``\uNNNN``.

    So untrusted text in a log or on a terminal can't start a new line or control the terminal.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
