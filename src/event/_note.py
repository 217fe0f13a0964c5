"""What relays note beside a message, in a header: who still owes it what, and from when on it is to be tried again.

It is JSON in ASCII, under the name `NAME`::

    {"attempts": 3, "since": 1780000000.0, "due": 1780000300.5, "deaths": 0,
     "owing": ["smtp"], "refused": {"http": "…"}}

Everything may be missing. What is none of ours, whoever has written it, counts as no note.
"""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

NAME = "e3-event-relay"
_MOST = 60_000  # characters; all properties of a message must go into one frame of AMQP
_REASON = 200  # characters of one reason
_END_OF_TIME = 1e11  # seconds since 1970 UTC


class Note:
    """What is noted.

    :ivar attempts: how often the event was given to handlers
    :ivar since: when the first of them began, in seconds since 1970 UTC; 0 before
    :ivar due: when the next one is to begin, likewise
    :ivar deaths: how many relays have ended with it since it was last tried
    :ivar owing: the handlers that are still to get it; None for all
    :ivar refused: why handlers have refused it for good, by name
    """

    __slots__ = ("attempts", "deaths", "due", "owing", "refused", "since")

    attempts: int
    since: float
    due: float
    deaths: int
    owing: list[str] | None
    refused: dict[str, str]

    def __init__(self, headers: Mapping[Any, Any]) -> None:
        content = _read(headers.get(NAME))
        self.attempts, self.deaths = content.get("attempts", 0), content.get("deaths", 0)
        self.since, self.due = content.get("since", 0), content.get("due", 0)
        self.refused = content.get("refused", {})
        owing = content.get("owing")
        # A message that is owed to nobody is none of ours.
        self.owing = None if owing is None or not (owing or self.refused) else [*dict.fromkeys(owing)]

    def header(self) -> dict[str, str]:
        """Return the header that holds it."""
        content = {name: getattr(self, name) for name in self.__slots__}
        content["refused"] = {name: reason[:_REASON] for name, reason in self.refused.items()}
        return {NAME: json.dumps(content)}

    def owes(self, handler: str) -> bool:
        """Tell whether a handler is still to get the event."""
        return self.owing is None or handler in self.owing

    def begin_anew(self) -> None:
        """Forget the attempts. Those that have refused it are to get it too."""
        if self.owing is not None:
            self.owing = [*dict.fromkeys([*self.owing, *self.refused])]
        self.attempts = self.deaths = 0
        self.since = self.due = 0.0
        self.refused = {}


def _read(text: Any) -> dict[str, Any]:
    if not isinstance(text, str) or not text.isascii() or len(text) > _MOST:
        return {}
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(content, dict):
        return {}
    return content if all(fits(content[name]) for name, fits in _FITS.items() if name in content) else {}


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and 0 <= value < _END_OF_TIME


def _is_time(value: Any) -> bool:
    return isinstance(value, (int, float)) and 0 <= value < _END_OF_TIME


def _are_names(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(name, str) for name in value))


def _are_reasons(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(reason, str) for reason in value.values())


_FITS = {
    "attempts": _is_count,
    "deaths": _is_count,
    "since": _is_time,
    "due": _is_time,
    "owing": _are_names,
    "refused": _are_reasons,
}
