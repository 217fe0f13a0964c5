"""The rows about ``e3-event relay``, compared with a plain kombu consumer that ignores what it receives.

The broker, the producer, one or two relays and their workers share the processors of this machine.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from statistics import median

from measure import Line, format_count, format_ratio, within

_TIMEOUT = 300  # seconds


def measure_rates(place, size):
    """Measure how many events per second pass through one relay and through two."""
    for name, server in (("RabbitMQ", "rabbitmq"), ("Redis", "redis")):
        with place.server(server) as url:
            plain = median(_consumed(place, size, url) for _ in range(size.relays))
            for outbox in (True, False):
                one, two = (
                    median(_relayed(place, size, url, number, outbox) for _ in range(size.relays)) for number in (1, 2)
                )
                yield Line(
                    what=f"{name}: events per second through one / two relays, "
                    f"{'outbox on a disk' if outbox else 'no outbox'}, file handler",
                    result=f"{one:.0f} / {two:.0f} /s",
                    compared_with=f"{format_ratio(plain / one)} the time of receiving it with plain kombu, "
                    f"{plain:.0f} /s",
                    e3="",
                    target="",
                    target_met=None,
                )


def measure_latency(place, size):
    """Measure the time from sending an event to the file that the relay writes."""
    for name, server in (("RabbitMQ", "rabbitmq"), ("Redis", "redis")):
        with place.server(server) as url:
            ours = {outbox: _latency(place, size, url, _relays(place, url, 1, outbox)) for outbox in (True, False)}
            plain = _latency(place, size, url, _echo(place, url), "latency-plain")
            many = _latency(place, size, url, _relays(place, url, 1, outbox=True, waiting=size.waiting[-1]))
        yield Line(
            what=f"{name}: time from sending an event to its file, relay with an outbox on a disk / without",
            result=f"{ours[True] * 1e3:.1f} / {ours[False] * 1e3:.1f} ms",
            compared_with=f"{format_ratio(ours[True] / plain)} / {format_ratio(ours[False] / plain)} "
            f"the time with plain kombu, {plain * 1e3:.1f} ms",
            e3="",
            target="",
            target_met=None,
        )
        yield Line(
            what=f"{name}: the same with {format_count(size.waiting[-1])} waiting in the outbox, compared with none",
            result=f"{many * 1e3:.1f} ms",
            compared_with=f"{format_ratio(many / ours[True])} with none, {ours[True] * 1e3:.1f} ms",
            e3="",
            target="1.20 x",
            target_met=within(many / ours[True], 1.2),
        )


def _job(place, *arguments):
    return place.python("handlers", place.jobs / "relay.py", *arguments)


def _consumed(place, size, url):
    place.run(_job(place, "publish-plain", url, size.messages))
    return 1 / float(place.run(_job(place, "consume", url, size.messages)))


def _relayed(place, size, url, number, outbox):
    """Return how many events per second pass through the relays."""
    place.run(_job(place, "publish", url, size.messages))
    with _relays(place, url, number, outbox) as directory:
        end = time.monotonic() + _TIMEOUT
        while len(times := _times(directory)) < size.messages:
            if time.monotonic() > end:
                sys.exit(f"{len(times)} of {size.messages} events were relayed")
            time.sleep(0.2)
    return (len(times) - 1) / max(max(times) - min(times), 1e-9)


def _times(directory):
    with os.scandir(directory) as entries:
        return [entry.stat().st_mtime for entry in entries if entry.name.endswith(".json")]


@contextmanager
def _relays(place, url, number, outbox, waiting=0):
    """Run relays; yield the directory into which they write.

    :param number: number of relays
    :param waiting: number of entries in the outbox that are not due
    """
    with ExitStack() as stack:
        directory = stack.enter_context(place.fresh_directory())
        command = place.python("handlers", "-m", "event", "relay", "env:BENCH_URL", "--handler", f"file={directory}")
        for _ in range(number):
            options = []
            if outbox:
                home = stack.enter_context(place.fresh_directory(on_disk=True))
                options = ["--outbox", f"{home}/outbox"]
            if waiting:
                place.run(place.python("handlers", place.jobs / "outbox.py", "fill-later", home, waiting))
            process = place.start([*command, *options], stderr=subprocess.PIPE, BENCH_URL=url)
            stack.callback(_end, process)
            process.stderr.readline()  # the first line shows that it has started
        yield directory


def _end(process):
    process.terminate()
    process.communicate(timeout=_TIMEOUT)


@contextmanager
def _echo(place, url):
    with place.fresh_directory() as directory:
        process = place.start(_job(place, "echo", url, directory), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        process.stdout.readline()
        try:
            yield directory
        finally:
            process.communicate(timeout=_TIMEOUT)


def _latency(place, size, url, consumers, job="latency"):
    with consumers as directory:
        return float(place.run(_job(place, job, url, directory, size.latencies)))


ROWS = {"relay": measure_rates, "latency": measure_latency}
