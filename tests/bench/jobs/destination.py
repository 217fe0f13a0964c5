"""Time sending an event to a server: python destination.py HANDLER handler|hand URL COUNT.

Print the seconds per event, from the best repeat. `hand` uses only the client library of the handler.
"""

import json
import logging
import os
import sys
import uuid
from timeit import Timer

import event

REPEATS = 10

handler, how, url, count = sys.argv[1:]
os.environ["E3_ENABLE_FEATURE"] = "smtp_nossl"
os.environ.update(
    AWS_ENDPOINT_URL=url, AWS_ACCESS_KEY_ID="bench", AWS_SECRET_ACCESS_KEY="bench", AWS_DEFAULT_REGION="us-east-1"
)
os.environ["BENCH_URL"] = url

ARGUMENTS = {
    "logging": ("bench", "INFO"),
    "smtp": ("Bench", "ci@localhost", "dev@localhost", url),
    "s3": ("s3://bench/events", "s3://bench/logs", ""),
    "http": (url, "json"),
    "apprise": (url.replace("http://", "json://"), "{name}", "{status}"),
    "otel": (url, "bench"),
    "broker": ("env:BENCH_URL", "bench"),
}


def make_event():
    """Return an event with three values."""
    with event.Event("compile", target="arm", status="ok", count=3) as e:
        pass
    return e


def with_handler():
    """Return a function that sends an event through the handler."""
    send = event.default_manager.get_handler(handler)(*ARGUMENTS[handler]).send_event

    def once():
        assert send(make_event()), "not delivered"

    return once


def text(**more):
    """Return the data of an event as JSON, without the library."""
    data = {"uid": str(uuid.uuid4()), "name": "compile", "target": "arm", "status": "ok", "count": 3}
    return json.dumps(data, **more)


def hand_logging():
    """Return a function that logs an event's data."""
    logger = logging.getLogger("bench")
    return lambda: logger.info(text(indent=2))


def hand_smtp():
    """Return a function that mails an event's data."""
    import smtplib
    from email.message import EmailMessage

    host, port = url.split(":")

    def once():
        mail = EmailMessage()
        mail["Subject"], mail["From"], mail["To"] = ARGUMENTS["smtp"][:3]
        mail.set_content("compile: ok")
        mail.add_attachment(text().encode(), maintype="application", subtype="json", filename="event")
        with smtplib.SMTP(host, int(port)) as client:
            client.send_message(mail)

    return once


def hand_s3():
    """Return a function that uploads an event's data."""
    import boto3

    client = boto3.client("s3")
    return lambda: client.put_object(
        Bucket="bench", Key=f"events/{uuid.uuid4()}", Body=text(), ContentType="application/json"
    )


def hand_http():
    """Return a function that posts an event's data."""
    import urllib3

    pool = urllib3.PoolManager()
    return lambda: pool.request("POST", url, body=text(), headers={"Content-Type": "application/json"})


def hand_apprise():
    """Return a function that sends a notification."""
    import apprise

    def once():
        target = apprise.Apprise()
        target.add(ARGUMENTS["apprise"][0])
        assert target.notify(title="compile", body="ok")

    return once


def hand_otel():
    """Return a function that exports a span."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(f"{url}/v1/traces")))
    tracer = provider.get_tracer("bench")

    def once():
        with tracer.start_as_current_span("compile") as span:
            span.set_attributes({"target": "arm", "status": "ok", "count": 3})

    return once


def hand_broker():
    """Return a function that publishes an event's data."""
    import kombu

    connection = kombu.Connection(url, transport_options={"confirm_publish": True} if "amqp" in url else {})
    channel = connection.default_channel
    queue = kombu.Queue("plain", durable=True)
    queue(channel).declare()
    producer = kombu.Producer(channel)
    return lambda: producer.publish(text(), routing_key="plain", content_type="application/json", delivery_mode=2)


class FormatOnly(logging.Handler):
    """Format each log record, as a handler that writes it would."""

    def emit(self, record):
        self.format(record)


logging.getLogger("bench").addHandler(FormatOnly())
logging.getLogger("bench").setLevel(logging.INFO)
timer = Timer(with_handler() if how == "handler" else globals()[f"hand_{handler}"]())
timer.timeit(1)  # the first call imports and connects
print(min(timer.repeat(REPEATS, int(count))) / int(count))
