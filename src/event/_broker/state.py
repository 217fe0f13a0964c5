"""RelayState: what relays remember about a message, in a header of it.

The header is JSON in ASCII, under the name `HEADER`::

    {"attempts": 3, "crash_count": 0, "on_trial": false, "first_seen": 1780000000.0, "due": 1780000300.5,
     "pending_handlers": ["smtp"], "refused": {"http": "…"}}

Every key may be missing. A header that is not of this form counts as none, whoever wrote it.
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
_MAX_STATE_LENGTH = 60_000  # characters; all properties of an AMQP message must fit into one frame
_MAX_STORED_REASON = 200  # characters


@dataclass(slots=True)
class RelayState:
    """What is remembered.

    :ivar attempts: how often the event was given to handlers
    :ivar crash_count: how often the message came back from a relay or worker that had crashed, since the last attempt
        that ended
    :ivar on_trial: whether the last crash is counted in advance, for the delivery that comes next
    :ivar first_seen: when the first attempt began, in seconds since 1970 UTC; 0 before it
    :ivar due: when the next one is due, likewise
    :ivar pending_handlers: the handlers that have not got the event; None for all
    :ivar refused: why handlers have refused it for good, by name
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
        """Return the state that a message's headers hold; a fresh one if they hold none."""
        text = headers.get(HEADER)
        if text is None:
            return cls()
        state = cls(**_decode_state(text))
        if state.pending_handlers is not None:
            # A message that is pending for nobody was not written by a relay.
            pending = [*dict.fromkeys(state.pending_handlers)]
            state.pending_handlers = pending if pending or state.refused else None
        return state

    def as_headers(self) -> dict[str, str]:
        """Return the header that holds the state; the longest reasons are cut."""
        content = asdict(self)
        content["refused"] = {name: reason[:_MAX_STORED_REASON] for name, reason in self.refused.items()}
        return {HEADER: json.dumps(content)}

    def begin_anew(self) -> None:
        """Forget the attempts. Handlers that have refused the event are pending again."""
        if self.pending_handlers is not None:
            self.pending_handlers = [*dict.fromkeys([*self.pending_handlers, *self.refused])]
        self.attempts = self.crash_count = 0
        self.on_trial = False
        self.first_seen = self.due = 0.0
        self.refused = {}


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
