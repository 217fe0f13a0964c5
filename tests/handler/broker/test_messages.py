"""The published message, and the queue that it is published to."""

from __future__ import annotations

import hashlib
import itertools
import os
import time

import pika
import pytest

import event
from event._broker import InlineFile, decode_message
from event._outbox import Outbox
from event.handler.broker import BrokerHandler
from helpers.delivering import deliver
from helpers.events import closed_event
from helpers.published import (
    SHORT,
    admin_channel,
    content_of,
    event_records,
    event_with_files,
    take_all,
    take_messages,
    take_only_message,
)
from servers.rabbitmq import LARGEST
from servers.tcp_proxy import Proxy

# Messages


def test_message_contains_the_event(server, queue, handler, tmp_path):
    log = tmp_path / "build.log"
    log.write_bytes(b"done\n")
    with event.Event("compile", uid="42", target="ärm", flags={"b", "a"}) as made:
        made.attach_file(log)
    assert handler.send_event(made)
    (raw,) = take_all(server, queue)
    message = decode_message(raw.body)
    assert message.event.as_dict() == {**made.as_dict(), "flags": ["a", "b"]}
    assert message.event._closed
    assert message.attachments == {"log": ("0", hashlib.sha1(b"done\n").hexdigest())}
    assert message.files == {"0": InlineFile.of(b"done\n")}
    assert abs(message.created - time.time()) < 300
    assert message.span is None
    assert raw.id == message.id
    if properties := raw.properties:
        assert (properties.content_type, properties.content_encoding) == ("application/vnd.e3-event+json", "utf-8")
        assert properties.delivery_mode == 2


def test_current_span_is_in_the_message(server, queue, handler, monkeypatch):
    monkeypatch.setenv("TRACEPARENT", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    monkeypatch.setenv("TRACESTATE", "v=1")
    assert handler.send_event(closed_event())
    span = take_only_message(server, queue).span
    assert (span.traceparent, span.state) == (os.environ["TRACEPARENT"], "v=1")


def test_events_arrive_in_order_with_their_own_ids(server, queue, handler):
    assert all(handler.send_event(closed_event(number=number)) for number in range(5))
    received = take_messages(server, queue)
    assert [message.event.number for message in received] == [*range(5)]
    assert len({message.id for message in received}) == 5


def test_all_attempts_from_an_outbox_have_one_id(server, queue, as_reference, tmp_path):
    """The message of the first attempt is stored, but its confirmation is lost."""
    with Proxy(server) as proxy:
        manager = event.EventManager(outbox=tmp_path / "outbox")
        manager.add_handler("broker", as_reference(proxy.url()), queue)
        assert manager.send_event(closed_event(number=0))
        manager.handlers["broker"].timeout = SHORT
        proxy.replacement = itertools.repeat(b"")
        assert not manager.send_event(closed_event(number=1))
        proxy.wait()
        proxy.replacement = None
        ((_, outcome),) = deliver(Outbox(manager.outbox), everything=True)
        assert outcome
    first, *others = take_messages(server, queue)
    assert [message.event.number for message in others] == [1, 1]
    assert {message.id for message in others} - {first.id} == {others[0].id}


def test_circular_data_is_refused_before_publishing(server, queue, handler):
    made = event.Event("compile", loop=[])
    made.loop.append(made.loop)
    with pytest.raises(event.EventError, match="loop' contains itself"):
        handler.send_event(made)
    assert handler.send_event(closed_event())
    assert len(take_messages(server, queue)) == 1


def test_batch_is_published_with_a_result_for_each_event(server, queue, handler):
    circular = closed_event()
    circular._data["self"] = circular._data
    first, second, third = handler.send_events([closed_event(uid="1"), circular, closed_event(uid="3")])
    assert (first, third) == (True, True)
    assert isinstance(second, event.EventError)
    assert [message.event.uid for message in take_messages(server, queue)] == ["1", "3"]


def test_event_is_published_to_sqs(sqs, files):
    handler = BrokerHandler("sqs://us-east-1", sqs.name)
    assert handler.send_event(event_with_files(files("log", b"x" * 1000), uid="42"))
    message = decode_message(sqs.get()[0])
    assert (message.event.uid, content_of(message)) == ("42", b"x" * 1000)


# Queues


def test_missing_queue_is_created_as_durable(rabbitmq, queue, as_reference):
    assert BrokerHandler(as_reference(rabbitmq.url), queue).send_event(closed_event())
    # RabbitMQ refuses to declare an existing queue with another durability.
    not_equivalent = pytest.raises(pika.exceptions.ChannelClosedByBroker, match="inequivalent arg 'durable'")
    with admin_channel(rabbitmq) as channel, not_equivalent:
        channel.queue_declare(queue, durable=False)
    assert len(take_messages(rabbitmq, queue)) == 1


@pytest.mark.parametrize(
    ("durable", "arguments"),
    [
        pytest.param(True, {"x-queue-type": "quorum"}, id="quorum"),
        pytest.param(True, {"x-max-length": 2}, id="limited"),
        pytest.param(False, {}, id="transient"),
    ],
)
def test_existing_queue_is_used_unchanged(rabbitmq, queue, as_reference, durable, arguments):
    handler = BrokerHandler(as_reference(rabbitmq.url), queue)
    with admin_channel(rabbitmq) as channel:
        channel.queue_declare(queue, durable=durable, auto_delete=False, arguments=arguments)
        assert handler.send_event(closed_event())
        assert channel.queue_declare(queue, passive=True).method.message_count == 1


def test_queue_removed_between_two_events_is_created_again(rabbitmq, queue, as_reference):
    handler = BrokerHandler(as_reference(rabbitmq.url), queue)
    assert handler.send_event(closed_event(number=1))
    with admin_channel(rabbitmq) as channel:
        channel.queue_delete(queue)
    assert handler.send_event(closed_event(number=2))
    assert handler.send_event(closed_event(number=3))
    assert [message.event.number for message in take_messages(rabbitmq, queue)] == [2, 3]


def test_full_queue_is_a_failure_until_a_message_is_taken(rabbitmq, queue, as_reference, caplog):
    handler = BrokerHandler(as_reference(rabbitmq.url), queue)
    with admin_channel(rabbitmq) as channel:
        limit = {"x-max-length": 1, "x-overflow": "reject-publish"}
        channel.queue_declare(queue, durable=True, auto_delete=False, arguments=limit)
    assert handler.send_event(closed_event(number=1))
    assert not handler.send_event(closed_event(number=2))
    assert [record.levelname for record in event_records(caplog)] == ["WARNING"]
    assert "broker: env:BROKER: the broker has rejected the message; the queue may be full; <Event " in caplog.text
    assert take_only_message(rabbitmq, queue).event.number == 1
    assert handler.send_event(closed_event(number=3))


def test_message_above_the_size_limit_is_a_permanent_failure(rabbitmq, queue, as_reference, tmp_path):
    manager = event.EventManager(outbox=tmp_path / "outbox")
    manager.add_handler("broker", as_reference(rabbitmq.url), queue)
    (delivery,) = manager.dispatch(closed_event(text="x" * LARGEST))
    assert delivery.permanent
    assert delivery.reason.startswith("broker: env:BROKER: ")
    assert f"is larger than configured max size {LARGEST}" in delivery.reason
    assert manager.send_event(closed_event())
    assert len(take_messages(rabbitmq, queue)) == 1
    assert [*deliver(Outbox(manager.outbox), everything=True)] == []


def test_forbidden_queue_is_a_failure(rabbitmq, queue, as_reference, caplog):
    with admin_channel(rabbitmq) as channel:
        channel.queue_declare(queue, exclusive=True)
        assert not BrokerHandler(as_reference(rabbitmq.url), queue).send_event(closed_event())
    assert "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue" in caplog.text
