"""Replace handlers whose configuration was invalid when the event was stored, after their file has been fixed."""

from __future__ import annotations

from event import _config_file, _handler_config
from event._event import raw_data
from event._lazy_handler import LazyHandler
from event.error import EventError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from event._event import Event
    from event._outbox.entry import Entry


def replace_fixed_handlers(entry: Entry) -> dict[str, dict[str, str]]:
    """Replace the pending handlers of an entry whose configuration can be read now.

    If the file has no handler that the entry lacks, the handlers stay: the file may be incomplete.

    :return: for each replaced handler, the handlers that get the event instead, with their configurations
    """
    replaced: dict[str, dict[str, str]] = {}
    before = {*entry.handlers}
    for name, config in entry.pending.items():
        fixed = _config_file.fixed_handlers(config) if _handler_config.is_invalid_config(config) else None
        if fixed and any(other == name or other not in before for other, _ in fixed):
            replaced[name] = {
                other: LazyHandler(other, text).encode_config() for other, text in fixed if _may_get(other, entry.event)
            }
            entry.replace(name, replaced[name])
    return replaced


def _may_get(name: str, event: Event) -> bool:
    """Return whether an event may meet a handler's conditions. The previous outcome is not known."""
    try:
        conditions = _handler_config.split_conditions(name)[1]
    except EventError:
        return True  # the delivery reports the error
    outcome = str(raw_data(event).get("outcome"))
    met = {"always", outcome, *_handler_config.MET_BY_CHANGE.get(outcome, ())}
    return not conditions or bool(conditions & met)
