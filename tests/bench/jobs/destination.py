"""Time a sending to a server: python destination.py HANDLER ours|hand URL COUNT; prints the seconds of one.

By hand, the same client library does what the handler has it do. The best of the repeats counts.
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

OURS = {
    "logging": ("bench", "INFO"),
    "smtp": ("Bench", "ci@localhost", "dev@localhost", url),
    "s3": ("s3://bench/events", "s3://bench/logs", ""),
    "http": (url, "json"),
    "apprise": (url.replace("http://", "json://"), "{name}", "{status}"),
    "otel": (url, "bench"),
    "broker": ("env:BENCH_URL", "bench"),
}


def made():
    """Return an event with three values."""
    with event.Event("compile", target="arm", status="ok", count=3) as e:
        pass
    return e


def ours():
    """Return what sends an event with the handler."""
    send = event.default_manager.get_handler(handler)(*OURS[handler]).send_event

    def once():
        assert send(made()), "it was not taken"

    return once


def text(**more):
    """Return the data of an event as JSON, made without the library."""
    data = {"uid": str(uuid.uuid4()), "name": "compile", "target": "arm", "status": "ok", "count": 3}
    return json.dumps(data, **more)


def hand_logging():
    """Return what logs an event's data."""
    logger = logging.getLogger("bench")
    return lambda: logger.info(text(indent=2))


def hand_smtp():
    """Return what mails an event's data."""
    import smtplib
    from email.message import EmailMessage

    host, port = url.split(":")

    def once():
        mail = EmailMessage()
        mail["Subject"], mail["From"], mail["To"] = OURS["smtp"][:3]
        mail.set_content("compile: ok")
        mail.add_attachment(text().encode(), maintype="application", subtype="json", filename="event")
        with smtplib.SMTP(host, int(port)) as client:
            client.send_message(mail)

    return once


def hand_s3():
    """Return what puts an event's data into a bucket."""
    import boto3

    client = boto3.client("s3")
    return lambda: client.put_object(
        Bucket="bench", Key=f"events/{uuid.uuid4()}", Body=text(), ContentType="application/json"
    )


def hand_http():
    """Return what posts an event's data."""
    import urllib3

    pool = urllib3.PoolManager()
    return lambda: pool.request("POST", url, body=text(), headers={"Content-Type": "application/json"})


def hand_apprise():
    """Return what notifies of an event."""
    import apprise

    def once():
        target = apprise.Apprise()
        target.add(OURS["apprise"][0])
        assert target.notify(title="compile", body="ok")

    return once


def hand_otel():
    """Return what exports a span."""
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
    """Return what publishes an event's data."""
    import kombu

    connection = kombu.Connection(url, transport_options={"confirm_publish": True} if "amqp" in url else {})
    channel = connection.default_channel
    queue = kombu.Queue("plain", durable=True)
    queue(channel).declare()
    producer = kombu.Producer(channel)
    return lambda: producer.publish(text(), routing_key="plain", content_type="application/json", delivery_mode=2)


class Nowhere(logging.Handler):
    """Takes a log record, and formats it as a file's would."""

    def emit(self, record):
        """Format the record."""
        self.format(record)


logging.getLogger("bench").addHandler(Nowhere())
logging.getLogger("bench").setLevel(logging.INFO)
timer = Timer(ours() if how == "ours" else globals()[f"hand_{handler}"]())
timer.timeit(1)  # the first one connects, and imports
print(min(timer.repeat(REPEATS, int(count))) / int(count))
