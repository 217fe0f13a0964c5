"""The capture of the log, for the commands that have not moved to the worker yet."""

from __future__ import annotations

from event._worker.capture import Capture

__all__ = ["Capture"]
