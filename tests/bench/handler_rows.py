"""The rows about handlers: each handler compared with the same client library, used by hand.

The servers are those of the tests. Each runs on this machine, in a process of its own.
"""

from __future__ import annotations

from measure import Line, format_ratio, format_us, measure_in_turn, within

# Handler, server, client library, highest ratio that meets the target (None: no target).
_HANDLERS = (
    ("logging", None, "logging", 1.0),
    ("smtp", "smtp", "smtplib and email", None),
    ("s3", "s3", "boto3", None),
    ("http", "http", "urllib3", 1.15),
    ("apprise", "http", "Apprise", None),
    ("otel", "otlp", "OpenTelemetry's SDK", 0.8),
    ("broker", "rabbitmq", "kombu", None),
    ("broker", "redis", "kombu", None),
)
_NAMES = {"rabbitmq": "RabbitMQ", "redis": "Redis"}


def measure_handlers(place, size):
    """Compare sending an event through each handler with the same work by hand."""
    for handler, server, client, target in _HANDLERS:
        with place.server(server) as url:
            found = measure_in_turn(
                {how: how for how in ("handler", "hand")}, _once(place, size, handler, url), size.repeats
            )
        where = f" to {_NAMES[server]}, with confirmation" if server in _NAMES else ""
        ratio = found["handler"] / found["hand"]
        yield Line(
            what=f"{handler} handler{where}, event with 3 values, compared with {client} by hand",
            result=format_us(found["handler"]),
            compared_with=f"{format_ratio(ratio)} by hand, {format_us(found['hand'])}",
            e3="",
            target="" if target is None else format_ratio(target),
            target_met=None if target is None else within(ratio, target),
        )


def _once(place, size, handler, url):
    count = max(1, int(50 * size.share))

    def once(how):
        return float(place.run(place.python("handlers", place.jobs / "destination.py", handler, how, url, count)))

    return once


ROWS = {"handlers": measure_handlers}
