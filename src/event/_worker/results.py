"""What became of one event, and what each handler did with it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


class Result:
    """What one handler did with one event.

    :ivar handler: the handler's name
    :ivar ok: whether it took the event
    :ivar error: why it did not, on one line; empty if it did
    :ivar said: what it logged meanwhile
    :ivar seconds: how long it took
    :ivar permanent: whether no later attempt can succeed
    :ivar done: the keys of the parts that need no further attempt
    :ivar loaded: whether the handler could be imported and constructed
    :ivar skipped: whether it did not get the event, since its conditions are not met; `ok` is true then
    :ivar timed_out: whether it was not done within the timeout
    """

    __slots__ = ("done", "error", "handler", "loaded", "ok", "permanent", "said", "seconds", "skipped", "timed_out")

    def __init__(self, handler: str, report: Mapping[str, Any]) -> None:
        """Take what a report ``result`` holds. What is missing, or of a wrong type, counts as not so."""
        self.handler = handler
        self.ok = report.get("ok") is True
        self.error = text_or_empty(report.get("error"))
        self.said = text_or_empty(report.get("said"))
        self.seconds = float(report.get("seconds", 0.0)) if type(report.get("seconds")) in {int, float} else 0.0
        self.permanent = report.get("permanent") is True
        done = report.get("done")
        self.done = [key for key in done if isinstance(key, str)] if isinstance(done, list) else []
        self.loaded = report.get("loaded") is not False
        self.skipped = report.get("skipped") is True
        self.timed_out = report.get("timed_out") is True

    def __repr__(self) -> str:
        """Return the handler and whether it took the event."""
        return f"<Result {self.handler}: {'delivered' if self.ok else 'not delivered'}>"

    def as_dict(self) -> dict[str, Any]:
        """Return the result as the job ``resume`` takes it."""
        return {name: getattr(self, name) for name in self.__slots__}


def text_or_empty(value: object) -> str:
    """Return a value of a report if it is a string, or else an empty string."""
    return value if isinstance(value, str) else ""


def counts_by_name(value: object) -> dict[str, int]:
    """Return the integers of a report's object, by key."""
    return {k: n for k, n in value.items() if isinstance(n, int)} if isinstance(value, dict) else {}


class Sent:
    """What became of one sending.

    :ivar results: of each handler, in the order in which they were named; empty if `refused`
    :ivar kept: whether the outbox has, or had, the event for the handlers that have not taken it
    :ivar refused: why nothing was sent; empty if it was
    :ivar backlog: how many earlier events each handler has taken from the outbox, by name
    :ivar clean: whether no code of the first worker may still run, so that it can take the next event
    """

    __slots__ = ("backlog", "clean", "kept", "refused", "results")

    def __init__(self) -> None:
        self.results: list[Result] = []
        self.backlog: dict[str, int] = {}
        self.kept = False
        self.refused = ""
        self.clean = True
