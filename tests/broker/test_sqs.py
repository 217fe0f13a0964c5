"""Amazon SQS: visibility, limits and errors."""

from __future__ import annotations

import pytest
from botocore.exceptions import ClientError

from event._broker import (
    BrokerError,
    BrokerURL,
    NotAcceptedError,
    OutgoingMessage,
    ReceivedMessage,
    RefusedError,
    TooLargeError,
    connect_consumer,
)
from event._broker import (
    sqs as sqs_adapter,
)
from helpers.brokers import DEAD_SUFFIX
from helpers.connections import bodies, consumer_of, publisher_of, receive

# Queues and messages


def test_created_queues_keep_messages_for_fourteen_days(sqs):
    with consumer_of(sqs):
        for queue in (sqs.name, sqs.name + DEAD_SUFFIX):
            assert sqs.attributes(queue)["MessageRetentionPeriod"] == str(14 * 86400)


def test_fifo_queue_is_refused(sqs):
    with publisher_of(sqs) as publisher, pytest.raises(RefusedError, match="FIFO queues are not supported"):
        publisher.publish("builds.fifo", OutgoingMessage(b"{}"), 10.0)
    with pytest.raises(RefusedError, match="FIFO queues are not supported"):
        connect_consumer(sqs.url, "builds.fifo")


def test_each_receipt_of_a_message_is_counted(sqs, monkeypatch):
    monkeypatch.setattr(sqs_adapter, "_VISIBILITY", 0)
    sqs.put(b"1")
    with consumer_of(sqs) as consumer:
        assert [receive(consumer)[0].redelivered for _ in range(3)] == [0, 1, 2]


def test_keep_alive_sets_the_visibility_timeout_of_held_messages(sqs, monkeypatch):
    sqs.put(b"1", b"2")
    with consumer_of(sqs) as consumer:
        receive(consumer, 2)
        monkeypatch.setattr(sqs_adapter, "MESSAGE_LEASE", 0.0)  # half of it has passed already
        with consumer_of(sqs) as other:
            consumer.keep_alive()
            assert other.receive(10, 0.0) == []
            # A timeout of zero makes the messages visible at once, so the test need not wait for a longer one.
            monkeypatch.setattr(sqs_adapter, "_VISIBILITY", 0)
            consumer.keep_alive()
            monkeypatch.undo()
            assert bodies(receive(other, 2)) == [b"1", b"2"]


def test_requeued_message_is_delayed(sqs):
    sqs.put(b"1")
    with consumer_of(sqs) as consumer:
        (message,) = receive(consumer)
        consumer.requeue(message, {}, 600.0)
        assert consumer.receive(1, 1.0) == []


# Errors


def test_message_above_the_limit_of_sqs_is_too_large(sqs):
    with publisher_of(sqs) as publisher, pytest.raises(TooLargeError):
        publisher.publish(sqs.name, OutgoingMessage(b"x" * (2 << 20)), 10.0)


def test_unreachable_sqs_is_an_error_with_its_address(sqs, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with publisher_of(sqs) as publisher, pytest.raises(BrokerError, match=r"127\.0\.0\.1:1"):
        publisher.publish(sqs.name, OutgoingMessage(b"1"), 2.0)
    with pytest.raises(BrokerError):
        connect_consumer(sqs.url, sqs.name)


def test_invalid_region_is_an_error(sqs, monkeypatch):
    monkeypatch.setenv("AWS_DEFAULT_REGION", "no region !")
    with pytest.raises(BrokerError, match=r"(?i)region|endpoint"):
        connect_consumer(BrokerURL("sqs://"), sqs.name)


class FailingSQS:
    """A client of SQS. All its calls fail with an error code."""

    def __init__(self, code):
        self.code = code

    def __getattr__(self, name):
        def fail(**_):
            raise ClientError({"Error": {"Code": self.code, "Message": "no"}}, name)

        return fail


@pytest.mark.parametrize(
    ("code", "error"),
    [("AccessDenied", RefusedError), ("RequestThrottled", NotAcceptedError), ("InternalError", BrokerError)],
)
def test_sqs_error_has_the_class_for_its_code(code, error):
    publisher = sqs_adapter.SQSPublisher(BrokerURL("sqs://eu-west-1;sqs://eu-west-2"), FailingSQS(code))
    # The error does not begin with a region, because the publisher does not know which one it uses.
    with pytest.raises(error, match=r"^An error") as raised:
        publisher.publish("q", OutgoingMessage(b"1"), 1.0)
    assert type(raised.value) is error


def test_message_that_is_not_deleted_is_an_error(sqs):
    with consumer_of(sqs) as consumer, pytest.raises(BrokerError, match="a message was not deleted: "):
        consumer.acknowledge([ReceivedMessage(b"1", "an invalid receipt handle")])
