"""Work at a broker, as a producer, or as a consumer without the library.

python relay.py publish URL COUNT            publishes so many events
python relay.py consume URL COUNT            takes so many with kombu, and prints the seconds of one
python relay.py echo URL DIRECTORY           takes what comes with kombu, and makes a file for each, until stdin ends
python relay.py latency URL DIRECTORY COUNT  publishes one by one; prints the seconds until a file is there, the median
"""

import os
import select
import sys
import time
from statistics import median

import kombu

import event

QUEUE = "e3-event"

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


def taker(take):
    """Return a connection whose drain_events gives each message to take, and acknowledges it."""
    connection = kombu.Connection(url)
    channel = connection.default_channel
    channel.basic_qos(0, 20, False)

    def note(body, message):
        take(body)
        message.ack()

    kombu.Consumer(channel, [kombu.Queue(QUEUE, durable=True)], callbacks=[note], accept=None).consume()
    return connection


def publish(count):
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
    connection = taker(lambda body: open(os.path.join(directory, f"{time.time_ns()}.json"), "w").close())
    print("ready", flush=True)
    while not select.select([0], [], [], 0)[0]:
        try:
            connection.drain_events(timeout=0.2)
        except TimeoutError:
            pass


def latency(directory, count):
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


result = {"publish": publish, "consume": consume, "echo": echo, "latency": latency}[what](*rest)
if result is not None:
    print(result)
