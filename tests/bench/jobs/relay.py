"""Publish and consume messages, with e3-event or with plain kombu, its peer.

python relay.py publish URL COUNT                  publish COUNT events
python relay.py publish-plain URL COUNT            publish COUNT messages of the same size with kombu
python relay.py consume URL COUNT                  consume COUNT messages with kombu; print the seconds per message
python relay.py echo URL DIRECTORY                 consume with kombu, and create a file per message, until stdin ends
python relay.py latency URL DIRECTORY COUNT QUEUE  publish one event at a time; print the median seconds until its file
python relay.py latency-plain URL DIRECTORY COUNT  the same with kombu

The last two need Linux's inotify. Listing the directory in a loop would occupy a processor, and would lock the
directory so often that the consumer could hardly create a file in it.
"""

import ctypes
import os
import select
import sys
import time
from statistics import median

import kombu

import event

QUEUE = "e3-event"
PEER = "plain"  # kombu's queue: a classic queue in RabbitMQ, a list in Redis
# The latency depends on the type of the queue, so both sides use a quorum queue for it.
QUORUM = ("plain-quorum", {"x-queue-type": "quorum"})

what, url, *rest = sys.argv[1:]
os.environ["BENCH_URL"] = url


def make_event():
    """Return an event with three values."""
    with event.Event("compile", target="arm", status="ok", count=3) as e:
        pass
    return e


def sender(queue=QUEUE):
    """Return a function that publishes an event."""
    return event.default_manager.get_handler("broker")("env:BENCH_URL", queue).send_event


def consumer(receive, name=PEER, arguments=None):
    """Return a connection whose drain_events calls `receive` with each message and acknowledges it."""
    connection = kombu.Connection(url)
    channel = connection.default_channel
    channel.basic_qos(0, 20, False)

    def on_message(body, message):
        receive(body)
        message.ack()

    queue = kombu.Queue(name, durable=True, queue_arguments=arguments)
    kombu.Consumer(channel, [queue], callbacks=[on_message], accept=None).consume()
    return connection


def plain_sender(name=PEER, arguments=None):
    """Return a function that publishes a message of the same size with kombu."""
    from event import _broker

    body = _broker.encode_message(_broker.EventMessage("0" * 36, time.time(), make_event(), {}, {}))
    connection = kombu.Connection(url, transport_options={"confirm_publish": True} if "amqp" in url else {})
    queue = kombu.Queue(name, durable=True, queue_arguments=arguments)(connection.default_channel)
    queue.declare()
    producer = kombu.Producer(connection.default_channel)

    def send(_event):
        producer.publish(
            body, routing_key=name, content_type="application/data", content_encoding="binary", delivery_mode=2
        )
        return True

    return send


def publish(count, sender=sender):
    """Publish this number of events."""
    send = sender()
    for _ in range(int(count)):
        assert send(make_event()), "not published"


def consume(count):
    """Consume this number of messages; return the seconds per message."""
    times = []
    connection = consumer(lambda body: times.append(time.perf_counter()))
    while len(times) < int(count):
        connection.drain_events(timeout=10)
    return (times[-1] - times[0]) / (len(times) - 1)


def echo(directory):
    """Create a file for each message, until stdin ends."""
    connection = consumer(lambda body: open(os.path.join(directory, f"{time.time_ns()}.json"), "w").close(), *QUORUM)
    print("ready", flush=True)
    while not select.select([0], [], [], 0)[0]:
        try:
            connection.drain_events(timeout=0.2)
        except TimeoutError:
            pass


def latency(directory, count, send):
    """Publish one event at a time; return the median seconds until its file exists."""
    new_files = watch(directory)
    times = []
    for _ in range(int(count)):
        start = time.perf_counter()
        assert send(make_event()), "not published"
        while b".json\0" not in names_from(new_files):
            pass
        times.append(time.perf_counter() - start)
    return median(times)


def watch(directory):
    """Return a file descriptor from which the names of new files in a directory can be read; see inotify(7)."""
    libc = ctypes.CDLL(None)
    created, renamed = 0x100, 0x80
    descriptor = libc.inotify_init1(os.O_CLOEXEC)
    assert libc.inotify_add_watch(descriptor, os.fsencode(directory), created | renamed) > 0, "no inotify"
    return descriptor


def names_from(descriptor):
    """Wait until there are new files; return their names, among other bytes."""
    assert select.select([descriptor], [], [], 30)[0], "no file was written"
    return os.read(descriptor, 1 << 16)


JOBS = {
    "publish": publish,
    "publish-plain": lambda count: publish(count, plain_sender),
    "consume": consume,
    "echo": echo,
    "latency": lambda directory, count, queue: latency(directory, count, sender(queue)),
    "latency-plain": lambda directory, count: latency(directory, count, plain_sender(*QUORUM)),
}
result = JOBS[what](*rest)
if result is not None:
    print(result)
