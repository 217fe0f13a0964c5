"""Work at a broker: as a producer and a consumer with the library, or with plain kombu, the peer.

python relay.py publish URL COUNT                  publishes so many events
python relay.py publish-plain URL COUNT            publishes as many messages of that size with kombu
python relay.py consume URL COUNT                  takes so many with kombu, and prints the seconds of one
python relay.py echo URL DIRECTORY                 makes a file for each message with kombu, until stdin ends
python relay.py latency URL DIRECTORY COUNT        publishes one by one; prints the median of the seconds to a file
python relay.py latency-plain URL DIRECTORY COUNT  the same with kombu
"""

import os
import select
import sys
import time
from statistics import median

import kombu

import event

QUEUE = "e3-event"
PEER = "plain"  # its queue: kombu keeps lists in Redis, and declares classic queues
# What an event takes through a broker depends on the kind of its queue: the latencies compare two of one kind.
QUORUM = ("plain-quorum", {"x-queue-type": "quorum"})

what, url, *rest = sys.argv[1:]
os.environ["BENCH_URL"] = url


def made():
    """Return an event with three values."""
    with event.Event("compile", target="arm", status="ok", count=3) as e:
        pass
    return e


def sender():
    """Return what publishes an event."""
    return event.default_manager.get_handler("broker")("env:BENCH_URL", QUEUE).send_event


def taker(take, name=PEER, arguments=None):
    """Return a connection whose drain_events gives each message to take, and acknowledges it."""
    connection = kombu.Connection(url)
    channel = connection.default_channel
    channel.basic_qos(0, 20, False)

    def note(body, message):
        take(body)
        message.ack()

    queue = kombu.Queue(name, durable=True, queue_arguments=arguments)
    kombu.Consumer(channel, [queue], callbacks=[note], accept=None).consume()
    return connection


def plain_sender(name=PEER, arguments=None):
    """Return what publishes a message of the same size with kombu."""
    from event import _broker

    body = _broker.encode_message(_broker.EventMessage("0" * 36, time.time(), made(), {}, {}))
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
    """Publish so many events."""
    send = sender()
    for _ in range(int(count)):
        assert send(made()), "it was not taken"


def consume(count):
    """Take so many; return the seconds of one."""
    times = []
    connection = taker(lambda body: times.append(time.perf_counter()))
    while len(times) < int(count):
        connection.drain_events(timeout=10)
    return (times[-1] - times[0]) / (len(times) - 1)


def echo(directory):
    """Make a file for each message, until stdin ends."""
    connection = taker(lambda body: open(os.path.join(directory, f"{time.time_ns()}.json"), "w").close(), *QUORUM)
    print("ready", flush=True)
    while not select.select([0], [], [], 0)[0]:
        try:
            connection.drain_events(timeout=0.2)
        except TimeoutError:
            pass


def latency(directory, count, sender=sender):
    """Publish one by one; return the median of the seconds until a file is there."""
    send = sender()
    times = []
    for _ in range(int(count)):
        before = files(directory)
        start = time.perf_counter()
        assert send(made()), "it was not taken"
        while files(directory) == before:
            if time.perf_counter() > start + 30:
                sys.exit("no file has come")
        times.append(time.perf_counter() - start)
    return median(times)


def files(directory):
    """Return how many there are."""
    return sum(name.endswith(".json") for name in os.listdir(directory))


JOBS = {
    "publish": publish,
    "publish-plain": lambda count: publish(count, plain_sender),
    "consume": consume,
    "echo": echo,
    "latency": latency,
    "latency-plain": lambda directory, count: latency(directory, count, lambda: plain_sender(*QUORUM)),
}
result = JOBS[what](*rest)
if result is not None:
    print(result)
