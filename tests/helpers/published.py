"""The messages that the broker handler has published."""

from __future__ import annotations

import time
from contextlib import contextmanager

import pika

import event
from event._broker import decode_message
from helpers.brokers import RabbitQueue, RedisQueue

SOON = 8.0  # seconds; less than any timeout that a test does not set, and enough for a busy machine

SHORT = 0.5  # seconds; the timeout of an attempt that must fail


def event_with_files(*files, **data):
    """Return a closed event whose attachments have the names of the files."""
    with event.Event("compile", **data) as made:
        for file in files:
            made.attach_file(file, file.name)
    return made


def take_all(server, queue):
    """Take all messages from a queue with a client of the broker."""
    client = (RabbitQueue if server.url.startswith("amqp") else RedisQueue)(server)
    client.name = queue
    try:
        return [*iter(client.get_message, None)]
    finally:
        client.close()


def take_messages(server, queue):
    """Take all messages from a queue and decode them."""
    return [decode_message(message.body) for message in take_all(server, queue)]


def take_only_message(server, queue):
    (message,) = take_messages(server, queue)
    return message


def content_of(message, number="0"):
    """Return the content of a file in a message, and check its SHA-1."""
    (digest,) = [digest for file, digest in message.attachments.values() if file == number]
    return b"".join(message.files[number].chunks(digest))


@contextmanager
def admin_channel(server):
    """Yield a channel to RabbitMQ."""
    with pika.BlockingConnection(pika.URLParameters(f"{server.url}%2F")) as connection:
        yield connection.channel()


def event_records(caplog):
    """Return the records of the logger `event`; the clients have their own loggers."""
    return [record for record in caplog.records if record.name == "event"]


@contextmanager
def within(seconds):
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds
