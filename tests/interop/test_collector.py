"""The handler otel with a real OpenTelemetry collector, which forwards the spans to a receiver."""

from __future__ import annotations

import pytest

import event
from event._outbox import Outbox
from event.handler.otel import OTelHandler
from helpers.delivering import deliver
from helpers.waiting import wait_until
from servers.otlp import otlp_receiver
from servers.rotel import rotel_collector

pytestmark = pytest.mark.server


@pytest.fixture
def receiver():
    with otlp_receiver() as receiver:
        yield receiver


@pytest.fixture
def collector(receiver, tmp_path):
    with rotel_collector(tmp_path, receiver.endpoint) as running:
        yield running


def finished(**data):
    with event.Event("compile", **data) as e:
        pass
    return e


def forwarded(receiver):
    """Wait for the span that the collector forwards; it answers earlier."""
    (span,) = wait_until(lambda: receiver.spans)
    return span


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_a_collector_forwards_the_span_unchanged(receiver, collector, monkeypatch, compression):
    e = finished(outcome="failure", text="\u00e9\U0001f600", numbers=[1, 2], ratio=0.5, big=2**62, yes=True)
    with otlp_receiver() as direct:
        assert OTelHandler(direct.endpoint).send_event(e)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", compression)
    assert OTelHandler(collector.endpoint).send_event(e)
    span, (sent,) = forwarded(receiver), direct.spans
    sent.pb.trace_id, sent.pb.span_id = span.pb.trace_id, span.pb.span_id  # each sending has its own ids
    assert span.pb == sent.pb
    assert (span.resource, span.scope) == (sent.resource, sent.scope)


def test_event_for_a_stopped_collector_is_delivered_later(receiver, collector, tmp_path):
    manager = event.EventManager(outbox=tmp_path / "outbox")
    manager.add_handler("otel", collector.endpoint)
    collector.kill()
    assert not manager.send_event(finished())
    collector.start()
    ((_, outcome),) = deliver(Outbox(tmp_path / "outbox"), everything=True)
    assert outcome
    assert forwarded(receiver).name == "RUN compile"


def test_a_wrong_path_is_a_permanent_error(collector):
    with pytest.raises(event.PermanentError, match="404 Not Found"):
        OTelHandler(f"{collector.endpoint}/v1/spans").send_event(finished())


def test_error_for_the_grpc_port_mentions_grpc(collector, caplog):
    assert not OTelHandler(f"http://127.0.0.1:{collector.grpc_port}").send_event(finished())
    assert "gRPC" in caplog.text
