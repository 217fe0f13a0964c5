"""The result of sending one event, and the result of each handler."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


class Result:
    """The result of one handler for one event.

    :ivar handler: the handler's name
    :ivar ok: whether the handler delivered the event
    :ivar error: the reason for the failure, on one line; empty if `ok`
    :ivar said: the handler's log messages at WARNING and above, on one line
    :ivar seconds: how long the handler took
    :ivar permanent: whether the failure is permanent
    :ivar done: the keys of the parts that need no further attempt; see `event.PartialDeliveryError`
    :ivar loaded: whether the handler could be imported and constructed
    :ivar skipped: whether the event does not meet the handler's conditions; `ok` is true then
    :ivar timed_out: whether the handler exceeded the timeout
    """

    __slots__ = ("done", "error", "handler", "loaded", "ok", "permanent", "said", "seconds", "skipped", "timed_out")

    def __init__(self, handler: str, report: Mapping[str, Any]) -> None:
        """Read the fields of a report ``result``. A missing field, or one of the wrong type, gets its default."""
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
        """Return the handler's name and whether it delivered the event."""
        return f"<Result {self.handler}: {'delivered' if self.ok else 'not delivered'}>"

    def as_dict(self) -> dict[str, Any]:
        """Return the result as a dict, for the job ``resume``."""
        return {name: getattr(self, name) for name in self.__slots__}


def text_or_empty(value: object) -> str:
    """Return `value` if it is a string, otherwise an empty string."""
    return value if isinstance(value, str) else ""


def counts_by_name(value: object) -> dict[str, int]:
    """Return the items of a dict whose values are integers; an empty dict if `value` is not a dict."""
    return {k: n for k, n in value.items() if isinstance(n, int)} if isinstance(value, dict) else {}


class Sent:
    """The result of sending one event.

    :ivar results: one `Result` for each handler, in the order of the configuration
    :ivar kept: whether the event was stored in the outbox, so that failed deliveries are retried
    :ivar not_attached: the names of the files that could not be attached; the event was sent without them
    :ivar backlog: how many earlier events from the outbox each handler has delivered, by the handler's name
    """

    __slots__ = ("backlog", "kept", "not_attached", "results")

    def __init__(self) -> None:
        self.results: list[Result] = []
        self.backlog: dict[str, int] = {}
        self.kept = False
        self.not_attached: list[str] = []
