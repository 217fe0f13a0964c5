"""The state that relays store in a header of a message, such as the number of attempts.

The header `HEADER` contains JSON in ASCII::

    {"attempts": 3, "crash_count": 0, "on_trial": false, "first_seen": 1780000000.0, "due": 1780000300.5,
     "pending_handlers": ["smtp"], "refused": {"http": "…"}}

All keys are optional. A header with an invalid value is ignored.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from event import _json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

HEADER = "e3-event-relay"
_MAX_COUNT = 10**11
_MAX_STATE_LENGTH = 60_000  # characters; all properties of an AMQP message must fit in one frame
_MAX_STORED_REASON = 200  # characters


@dataclass(slots=True)
class RelayState:
    """The state of a message, for the next relay that receives it.

    :ivar attempts: how often the event was given to handlers
    :ivar crash_count: how many relays or workers have crashed with the message since the last completed attempt
    :ivar on_trial: whether `crash_count` includes a crash in advance, until the next delivery completes
    :ivar first_seen: when the first attempt started, in seconds since 1970 UTC; 0 if there was none
    :ivar due: when the next attempt is due, in seconds since 1970 UTC; 0 for now
    :ivar pending_handlers: the names of the pending handlers; None for all handlers
    :ivar refused: the error of each handler that has failed permanently, by its name
    """

    attempts: int = 0
    crash_count: int = 0
    on_trial: bool = False
    first_seen: float = 0.0
    due: float = 0.0
    pending_handlers: list[str] | None = None
    refused: dict[str, str] = field(default_factory=dict)

    @classmethod
    def from_headers(cls, headers: Mapping[str, str]) -> RelayState:
        """Return the state from a message's headers; a new state if there is none or it is invalid."""
        text = headers.get(HEADER)
        if text is None:
            return cls()
        state = cls(**_decode_state(text))
        if state.pending_handlers is not None:
            # An empty list was not written by a relay, unless handlers have failed permanently.
            pending = [*dict.fromkeys(state.pending_handlers)]
            state.pending_handlers = pending if pending or state.refused else None
        return state

    def as_headers(self) -> dict[str, str]:
        """Return the state as a header. Long reasons are shortened."""
        content = asdict(self)
        content["refused"] = {name: reason[:_MAX_STORED_REASON] for name, reason in self.refused.items()}
        return {HEADER: json.dumps(content)}

    def restarted(self) -> RelayState:
        """Return a new state, in which handlers that have failed permanently are pending again."""
        pending = self.pending_handlers
        return RelayState(pending_handlers=None if pending is None else [*dict.fromkeys([*pending, *self.refused])])


def _decode_state(text: str) -> dict[str, Any]:
    if not text.isascii() or len(text) > _MAX_STATE_LENGTH:
        return {}
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(content, dict):
        return {}
    known = {name: content[name] for name in _IS_VALID if name in content}
    return known if all(_IS_VALID[name](value) for name, value in known.items()) else {}


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MAX_COUNT


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _are_names(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(name, str) for name in value))


def _are_reasons(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(reason, str) for reason in value.values())


_IS_VALID = {
    "attempts": _is_count,
    "crash_count": _is_count,
    "on_trial": _is_flag,
    "first_seen": _json.is_time,
    "due": _json.is_time,
    "pending_handlers": _are_names,
    "refused": _are_reasons,
}
