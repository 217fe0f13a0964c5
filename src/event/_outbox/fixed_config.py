"""Replace handlers whose configuration was invalid when the event was stored, after their file has been fixed."""

from __future__ import annotations

import time

from event import _config_file, _handler_config
from event._event import raw_data
from event._lazy_handler import LazyHandler
from event._outbox.entry import handler_list
from event.error import EventError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from event._event import Event
    from event._outbox.entry import Entry


def replacements(entry: Entry) -> list[dict[str, Any]]:
    """Return a journal line for each pending handler of an entry whose configuration can be read now.

    The handlers of the file replace it, and get the event without the secrets that the file names. If the file has no
    handler that the entry lacks, there is no line: the file may be incomplete.
    """
    lines: list[dict[str, Any]] = []
    for name, config in entry.pending.items():
        fixed = _config_file.fixed_handlers(config) if _handler_config.is_invalid_config(config) else None
        pairs, redact = fixed or ([], [])
        if any(other == name or other not in entry.handlers for other, _ in pairs):
            others = {
                other: LazyHandler(other, text).encode_config() for other, text in pairs if _may_get(other, entry.event)
            }
            line = {"time": time.time(), "replace": name, "handlers": handler_list(others)}
            lines.append({**line, "redact": redact} if redact else line)
    return lines


def _may_get(name: str, event: Event) -> bool:
    """Return whether an event may meet a handler's conditions. The previous outcome is not known."""
    try:
        conditions = _handler_config.split_conditions(name)[1]
    except EventError:
        return True  # the delivery reports the error
    outcome = str(raw_data(event).get("outcome"))
    met = {"always", outcome, *_handler_config.MET_BY_CHANGE.get(outcome, ())}
    return not conditions or bool(conditions & met)
