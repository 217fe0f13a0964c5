"""Helpers for handlers: read and write a configuration, and look up secrets.

A configuration is the text after a handler's name in E3_EVENT_HANDLERS. These functions treat it as the built-in
handlers do.
"""

from __future__ import annotations

from event._handler_config import join_fields, split_fields
from event._secrets import absolute_reference, is_reference, resolve_secret

__all__ = ["absolute_reference", "is_reference", "join_fields", "resolve_secret", "split_fields"]
