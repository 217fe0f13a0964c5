"""The rows about handlers that talk to a server: each beside the same client library, used by hand.

The servers are those of the tests, on this machine, each in a process of its own.
"""

from __future__ import annotations

from measure import Line, fold, in_turn, micro, within

# Handler, server, what does it by hand, the ratio to reach (None: none is set).
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
    """Compare a sending with the same by hand."""
    for handler, server, client, reach in _HANDLERS:
        with place.server(server) as url:
            found = in_turn({how: how for how in ("ours", "hand")}, _once(place, size, handler, url), size.repeats)
        where = f" to {_NAMES[server]}, with confirmation" if server in _NAMES else ""
        ratio = found["ours"] / found["hand"]
        yield Line(
            what=f"{handler} handler{where}, event with 3 values, compared with {client} by hand",
            ours=micro(found["ours"]),
            beside=f"{fold(ratio)} by hand, {micro(found['hand'])}",
            e3="",
            reach="" if reach is None else fold(reach),
            reached=None if reach is None else within(ratio, reach),
        )


def _once(place, size, handler, url):
    count = max(1, int(50 * size.share))

    def once(how):
        return float(place.run(place.python("handlers", place.jobs / "destination.py", handler, how, url, count)))

    return once


ROWS = {"handlers": measure_handlers}
