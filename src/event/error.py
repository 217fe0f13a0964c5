"""The errors of this package.

`EventError` reports a mistake that the caller can fix, such as an invalid name or configuration, a malformed file or a
closed event. Its message contains the subject, the value and the expected form. Operating system errors are `OSError`,
and calls with wrong arguments are `TypeError`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from typing_extensions import Self


class E3Error(Exception):
    """An error with one or more messages.

    Catch it to exit a script with a readable message.

    :param message: the message, or several
    :param origin: the subject of the error; `str()` prefixes the message with it
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
        """Return the last message, after the origin if there is one."""
        message = self.messages[-1] if self.messages else type(self).__name__
        return f"{self.origin}: {message}\n" if self.origin else message

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy with all messages, including those added later."""
        return _reduced(self)


if not TYPE_CHECKING:
    try:
        # If e3-core is installed, use its class as the base. `except E3Error` in a script for e3-core then also catches
        # the errors of this package.
        from e3.error import E3Error
    except Exception:  # noqa: S110  # e3-core is not installed, or the build has a module named e3
        pass


class EventError(E3Error):
    """An event, a handler or a configuration cannot be used.

    Fix the cause named in the message; retrying unchanged will fail again.

    :param message: the message, or several
    :param origin: what the error is about
    """

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy with all messages. e3-core's base class would drop those added later."""
        return _reduced(self)


class PermanentError(EventError):
    """The destination has refused this event permanently: no retry can deliver it.

    Handlers raise it. The outbox then stops the retries and keeps the event as a failed entry, for you to inspect.

    :param message: the message, or several
    :param origin: what the error is about
    :param done: the parts that were delivered; see `PartialDeliveryError`
    """

    def __init__(self, message: str | list[str] | None, origin: str | None = None, *, done: Iterable[str] = ()) -> None:
        super().__init__(message, origin)
        self.done: frozenset[str] = frozenset(done)


class PartialDeliveryError(EventError):
    """Some parts of a delivery are finished, and a retry can finish the others.

    A handler with several destinations raises it, for example if some recipients of a mail did not get it. The outbox
    stores `done`. On the next attempt, `event.already_delivered` returns it.

    :param message: the message, or several
    :param origin: what the error is about
    :param done: a key for each part that needs no further attempt, including those of earlier attempts. A key is any
        string that has the same meaning on the next attempt. It must not contain a secret
    :param remaining: the parts that a retry must deliver, for log messages
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
    """Return an error on one line: all messages of an `E3Error`, ``Type: message`` for any other."""
    if isinstance(error, E3Error):
        text = "; ".join(error.messages) or type(error).__name__
    else:
        try:
            text = f"{type(error).__name__}: {error}".removesuffix(": ")
        except BaseException:
            text = type(error).__name__
    return visible(" ".join(text.split()))


def visible(text: str) -> str:
    r"""Return text with each unprintable character escaped, as ``\xNN``, ``\n`` or ``\uNNNN``.

    Text from elsewhere can then neither start a new line in a log nor send control sequences to a terminal.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
