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

from measure import Line, format_count, format_ratio, measure_in_turn, within

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
            times = _latencies(place, size, url)
        plain = times["plain"]
        yield Line(
            what=f"{name}: time from sending an event to its file, relay with an outbox on a disk / without",
            result=f"{times['outbox'] * 1e3:.1f} / {times['direct'] * 1e3:.1f} ms",
            compared_with=f"{format_ratio(times['outbox'] / plain)} / {format_ratio(times['direct'] / plain)} "
            f"the time with plain kombu, {plain * 1e3:.1f} ms",
            e3="",
            target="3.00 x",
            target_met=within(max(times["outbox"], times["direct"]) / plain, 3),
        )
        yield Line(
            what=f"{name}: the same with {format_count(size.waiting[-1])} waiting in the outbox, compared with none",
            result=f"{times['full'] * 1e3:.1f} ms",
            compared_with=f"{format_ratio(times['full'] / times['outbox'])} with none, {times['outbox'] * 1e3:.1f} ms",
            e3="",
            target="1.20 x",
            target_met=within(times["full"] / times["outbox"], 1.2),
        )


def _latencies(place, size, url):
    """Return the median latency of three relays and of plain kombu, each with a queue of its own.

    All of them run all the time, and are measured in turn: how fast this machine switches between processes varies.
    """
    with ExitStack() as stack:
        relays = {
            "outbox": _relays(place, url, 1, 0, "outbox"),
            "direct": _relays(place, url, 1, None, "direct"),
            "full": _relays(place, url, 1, size.waiting[-1], "full"),
        }
        jobs = {
            queue: _job(place, "latency", url, stack.enter_context(relay), size.latencies, queue)
            for queue, relay in relays.items()
        }
        directory = stack.enter_context(_echo(place, url))
        jobs["plain"] = _job(place, "latency-plain", url, directory, size.latencies)
        return measure_in_turn(jobs, lambda job: float(place.run(job)), size.repeats)


def _job(place, *arguments):
    return place.python("handlers", place.jobs / "relay.py", *arguments)


def _consumed(place, size, url):
    place.run(_job(place, "publish-plain", url, size.messages))
    return 1 / float(place.run(_job(place, "consume", url, size.messages)))


def _relayed(place, size, url, number, outbox):
    """Return how many events per second pass through the relays."""
    place.run(_job(place, "publish", url, size.messages))
    with _relays(place, url, number, 0 if outbox else None) as directory:
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
def _relays(place, url, number, waiting, queue="e3-event"):
    """Run relays; yield the directory into which they write.

    :param number: number of relays
    :param waiting: number of entries in the outbox, none of them due; None for no outbox
    """
    with ExitStack() as stack:
        directory = stack.enter_context(place.fresh_directory())
        command = place.python("handlers", "-m", "event", "relay", "env:BENCH_URL", "--handler", f"file={directory}")
        for _ in range(number):
            options = ["--queue", queue]
            if waiting is not None:
                home = stack.enter_context(place.fresh_directory(on_disk=True))
                options += ["--outbox", f"{home}/outbox"]
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


ROWS = {"relay": measure_rates, "latency": measure_latency}
