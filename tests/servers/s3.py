"""An S3 and SQS server on 127.0.0.1: moto."""

from __future__ import annotations

import functools
from contextlib import contextmanager
from urllib.request import Request, urlopen

import botocore.session
from moto.server import ThreadedMotoServer

# Each client would read its service's description, a megabyte of JSON. This takes six times as long as everything else
# that creates a client. Here, only the first client of a process reads it.
botocore.session.create_loader = functools.cache(botocore.session.create_loader)

SECRET = "s3cr3t/of+the/tests"


class Store:
    """A running server.

    :ivar endpoint: its URL
    :ivar environment: the environment variables with which a client uses it
    """

    def __init__(self, port):
        import boto3

        self.endpoint = f"http://127.0.0.1:{port}"
        self.environment = {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "AKIATESTS",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        # Without these variables, so that a test can unset them for the handler.
        self.client = boto3.Session("AKIATESTS", SECRET, region_name="us-east-1").client(
            "s3", endpoint_url=self.endpoint
        )

    def reset(self, *buckets):
        """Delete everything, and create empty buckets."""
        with urlopen(Request(f"{self.endpoint}/moto-api/reset", method="POST")):
            pass
        for bucket in buckets:
            self.client.create_bucket(Bucket=bucket)

    def keys(self, bucket):
        """Return the keys in a bucket, sorted."""
        return [item["Key"] for item in self.client.list_objects_v2(Bucket=bucket).get("Contents", [])]

    def get(self, bucket, key):
        """Return the result of `get_object`, with the body as bytes."""
        found = self.client.get_object(Bucket=bucket, Key=key)
        with found["Body"] as body:
            return {**found, "Body": body.read()}

    def close(self):
        """Close the connections."""
        self.client.close()


@contextmanager
def s3_server():
    """Run a server; yield its `Store`."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    store = Store(server.get_host_and_port()[1])
    try:
        yield store
    finally:
        store.close()
        server.stop()
        server._server.server_close()  # stop() leaves the socket open
