"""Helpers for your own handlers: read and write a configuration, and look up secrets.

A handler configuration is the text after the handler's name in E3_EVENT_HANDLERS. The built-in handlers use the same
functions.
"""

from __future__ import annotations

from event._handler_config import join_fields, split_fields
from event._secrets import absolute_reference, is_reference, resolve_secret

__all__ = ["absolute_reference", "is_reference", "join_fields", "resolve_secret", "split_fields"]
