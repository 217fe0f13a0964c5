"""Connections to a queue through the interface under test, also in a process that is then killed."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time

from event._broker import OutgoingMessage, connect_consumer, connect_publisher


@contextlib.contextmanager
def consumer_of(queue, **options):
    consumer = connect_consumer(queue.url, queue.name, **options)
    try:
        yield consumer
    finally:
        consumer.close()


@contextlib.contextmanager
def publisher_of(queue):
    publisher = connect_publisher(queue.url, 0, 10.0)
    try:
        yield publisher
    finally:
        publisher.close(1.0)


def publish(queue, *bodies):
    with publisher_of(queue) as publisher:
        for body in bodies:
            publisher.publish(queue.name, OutgoingMessage(body), 10.0)


def receive(consumer, count=1):
    """Receive exactly `count` messages, in one or more batches."""
    received = []
    end = time.monotonic() + 30
    while len(received) < count:
        received += consumer.receive(count - len(received), 1.0)
        assert time.monotonic() < end, f"only {received}"
    return received


def bodies(messages):
    return sorted(message.body for message in messages)


CONSUME = """
import sys, time
from event._broker import BrokerURL, connect_consumer
consumer = connect_consumer(BrokerURL(sys.argv[1]), sys.argv[2])
received = []
while len(received) < int(sys.argv[3]):
    received += consumer.receive(10, 1.0)
print("received", flush=True)
time.sleep(60)
"""


def crash_consumer(queue, count):
    """Receive `count` messages in another process, and kill it before it acknowledges them."""
    command = [sys.executable, "-c", CONSUME, queue.server.url, queue.name, str(count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "received\n"
        process.send_signal(signal.SIGKILL)
