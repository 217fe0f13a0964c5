"""The logging handler: log each event with the standard library's logging."""

from __future__ import annotations

import logging

from event import Event, EventError, EventHandler, _handler_config, _json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_EXPECTED = "expected logging=LOGGER_NAME,LEVEL, the level a number or a name such as INFO"


class LoggingHandler(EventHandler):
    """Logs each event as JSON; the record's attribute ``event`` is the event itself.

    :param logger_name: the logger's name; empty for the root logger
    :param level: the record's level, as a number or a name (``logging.INFO``, ``"INFO"``)
    :raises EventError: there is no such level
    """

    def __init__(self, logger_name: str = "", level: int | str = logging.DEBUG) -> None:
        self.logger_name = logger_name
        self.level: int = _level(level)
        self.log: logging.Logger = logging.getLogger(logger_name)

    @classmethod
    def decode_config(cls, _config_str: str) -> dict[str, Any]:
        """Return the constructor's arguments from ``logger_name,level``. Both may be left out.

        :raises EventError: there are more than two values, or there is no such level
        """
        fields = _handler_config.split_fields(_config_str)
        if len(fields) > 2:
            raise EventError(f"logging: {len(fields)} values; {_EXPECTED}")
        config: dict[str, Any] = {"logger_name": fields[0]}
        if fields[1:] and fields[1].strip():
            config["level"] = _level(fields[1].strip())
        return config

    def encode_config(self) -> str:
        """Return ``logger_name,level``, the level as a number."""
        return _handler_config.join_fields([self.logger_name, str(self.level)])

    def send_event(self, event: Event) -> bool:
        """Log the event, unless the logger's level is higher than `level`."""
        if self.log.isEnabledFor(self.level):
            text = _json.dumps(event.as_dict(), indent=2, i_json=True)
            # `Logger.log` would search for its caller. That is slow, and the location would always be this line.
            record = self.log.makeRecord(
                self.log.name, self.level, __file__, 0, text, (), None, "send_event", {"event": event}
            )
            self.log.handle(record)
        return True


def _level(level: int | str) -> int:
    try:
        return int(level)
    except (TypeError, ValueError, OverflowError):
        pass
    for name in (str(level), str(level).upper()):
        try:
            return logging.Logger("", name).level  # noqa: LOG001  # the public way from a name to its number
        except ValueError:
            pass
    raise EventError(f"logging: there is no such level; {_EXPECTED}")
