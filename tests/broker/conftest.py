"""Fixtures for the tests of brokers."""

from __future__ import annotations

import pytest

from event._broker import redis as redis_adapter
from event._broker import relay as relay_module
from event._broker import sqs as sqs_adapter


@pytest.fixture
def short_lease(monkeypatch):
    """Let Redis redeliver the messages of a dead consumer soon."""
    monkeypatch.setattr(redis_adapter, "MESSAGE_LEASE", 0.2)
    monkeypatch.setattr(redis_adapter, "_CLAIM_PAUSE", 0.05)


@pytest.fixture
def short_delays(monkeypatch):
    """Let a relay wait for a few hundredths of a second instead of seconds."""
    monkeypatch.setattr(relay_module, "_FIRST_DELAY", 0.02)
    monkeypatch.setattr(relay_module, "_RECEIVE_TIMEOUT", 0.05)
    monkeypatch.setattr(relay_module, "_MAX_PAUSE", 0.2)
    monkeypatch.setattr(sqs_adapter.SQSConsumer, "poll_interval", 1.0)
