"""The package's logger, fetched only when there is something to say: importing logging costs more than sending."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from logging import Logger


def get_logger() -> Logger:
    """Return the logger named ``event``."""
    from logging import getLogger

    return getLogger("event")
