"""A real S3 server, moto's, and some that fail, on 127.0.0.1."""

from __future__ import annotations

import functools
import socket
import ssl
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.request import Request, urlopen

import botocore.session
from moto.server import ThreadedMotoServer

# Each client reads its service's description, a megabyte of JSON: six times the work of all else that makes a client.
# Here the first one in a process reads it for all.
botocore.session.create_loader = functools.cache(botocore.session.create_loader)

SECRET = "s3cr3t/of+the/tests"


class Store:
    """What a test sees of the server: its endpoint, the environment that leads there, and what it holds."""

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
        # Its own credentials and endpoint, so that a test may take the environment away from the handler.
        self.client = boto3.Session("AKIATESTS", SECRET, region_name="us-east-1").client(
            "s3", endpoint_url=self.endpoint
        )

    def reset(self, *buckets):
        """Drop everything, and make empty buckets."""
        with urlopen(Request(f"{self.endpoint}/moto-api/reset", method="POST")):
            pass
        for bucket in buckets:
            self.client.create_bucket(Bucket=bucket)

    def keys(self, bucket):
        """Return the keys of a bucket, in order."""
        return [item["Key"] for item in self.client.list_objects_v2(Bucket=bucket).get("Contents", [])]

    def get(self, bucket, key):
        """Return what get_object does, its body as bytes."""
        found = self.client.get_object(Bucket=bucket, Key=key)
        with found["Body"] as body:
            return {**found, "Body": body.read()}

    def close(self):
        """Close the connections."""
        self.client.close()


@contextmanager
def s3_server():
    """Run a server; give a Store."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    store = Store(server.get_host_and_port()[1])
    try:
        yield store
    finally:
        store.close()
        server.stop()
        server._server.server_close()  # stop() leaves the socket open


@contextmanager
def fixed_answer_server(status, body=b""):
    """Run a server that gives the same answer to everything; give its URL and a list of what it was asked."""
    requests = []

    class Answer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # answers the client's "Expect: 100-continue"

        def do_PUT(self):
            requests.append((self.command, dict(self.headers)))
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self):
            self.do_PUT()

        def do_HEAD(self):
            self.do_PUT()

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", requests
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def silent_server():
    """Run a server that never answers; give its URL."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def raw_http_server(talk, authority=None):
    """Run a server that takes one request and then leaves the connection to talk; give its URL.

    :param talk: called with the socket
    :param authority: a trustme.CA, for https
    """

    def serve():
        connection, _ = server.accept()
        if authority:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert("127.0.0.1").configure_cert(context)
            connection = context.wrap_socket(connection, server_side=True)
        with connection:
            request = b""
            while not request.endswith(b"\r\n\r\n"):
                request += connection.recv(1 << 16)
            talk(connection)

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)  # for a test that fails before it asks
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http{'s' if authority else ''}://127.0.0.1:{server.getsockname()[1]}"
        finally:
            thread.join()
