"""The receiver for the tests of the otel handler."""

from __future__ import annotations

import os
import re

import pytest

from event.handler.otel import OTelHandler
from helpers.events import closed_event
from servers.otlp import otlp_receiver

OTEL_VARIABLES = re.compile(
    r"OTEL_.*|TRACEPARENT|TRACESTATE|(HTTPS?|ALL|NO)_PROXY|(REQUESTS|CURL)_CA_BUNDLE", re.IGNORECASE
)


@pytest.fixture(autouse=True)
def no_telemetry_variables(monkeypatch):
    for name in filter(OTEL_VARIABLES.fullmatch, [*os.environ]):
        monkeypatch.delenv(name)


@pytest.fixture
def receiver():
    with otlp_receiver() as receiver:
        yield receiver


@pytest.fixture
def send(receiver):
    """Return a function that sends a closed event with some data, and returns the received span."""

    def send(**data):
        assert OTelHandler(receiver.endpoint).send_event(closed_event(**data))
        return receiver.spans[-1]

    return send
