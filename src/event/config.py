"""Helpers for handlers: read and write a configuration, and look up secrets.

A configuration is the text after a handler's name in E3_EVENT_HANDLERS. These functions treat it as the built-in
handlers do.
"""

from __future__ import annotations

from event._config import join_fields, split_fields
from event._secret import absolute, is_reference, resolve

__all__ = ["absolute", "is_reference", "join_fields", "resolve", "split_fields"]
