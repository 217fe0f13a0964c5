"""A real OTLP/HTTP receiver on 127.0.0.1, which decodes what it gets with OpenTelemetry's own protobuf classes."""

from __future__ import annotations

import gzip
import threading
import zlib
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

DECODERS = {None: bytes, "gzip": gzip.decompress, "deflate": zlib.decompress}
PROTOBUF = "application/x-protobuf"
LOST = 0  # instead of a status: take the spans, and close the connection without an answer


class Span:
    """A span as it arrived: `pb` is the message; its ids are in hex, its attributes and its resource's plain."""

    def __init__(self, resource, schema, scope, pb):
        self.pb = pb
        self.name = pb.name
        self.trace_id = pb.trace_id.hex()
        self.span_id = pb.span_id.hex()
        self.parent_id = pb.parent_span_id.hex()
        self.times = (pb.start_time_unix_nano, pb.end_time_unix_nano)
        self.attributes = plain(pb.attributes)
        self.resource = plain(resource.attributes)
        self.schema = schema
        self.scope = scope.name


def plain(pairs):
    """Return the dict that a message's attributes are."""
    return {pair.key: value(pair.value) for pair in pairs}


def value(any_value):
    kind = any_value.WhichOneof("value")
    if kind == "array_value":
        return [value(item) for item in any_value.array_value.values]
    return getattr(any_value, kind)


class Receiver:
    """What arrived: `spans`, and the `requests` as (path, headers). What the next ones are answered: `answers`.

    An answer is a status, or a status, headers and a body; where none is left it is 200 and an empty response message.
    With `echo`, each request is refused with 400, and its headers and its path are the body.
    """

    def __init__(self):
        self.spans = []
        self.requests = []
        self.answers = []
        self.echo = False

    def take(self, path, headers, body):
        self.requests.append((path, headers))
        answer = self.answers.pop(0) if self.answers else 200
        if self.echo:
            answer = (400, {"Content-Type": "text/plain"}, f"{path} {headers}".encode())
        status, more, text = (answer, {}, b"") if isinstance(answer, int) else answer
        if status in {200, LOST}:
            message = ExportTraceServiceRequest.FromString(DECODERS[headers.get("Content-Encoding")](body))
            self.spans += [
                Span(of_resource.resource, of_resource.schema_url, of_scope.scope, span)
                for of_resource in message.resource_spans
                for of_scope in of_resource.scope_spans
                for span in of_scope.spans
            ]
        return status, {"Content-Type": PROTOBUF, "Content-Length": str(len(text)), **more}, text


@contextmanager
def otlp_receiver(tls=None):
    """Run a receiver; give a Receiver, which has its `endpoint` too.

    :param tls: the server's context, where it speaks TLS
    """
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, headers, text = receiver.take(self.path, self.headers, body)
            if status == LOST:
                self.close_connection = True
                return
            self.send_response(status)
            for name, content in headers.items():
                self.send_header(name, content)
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *args):
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request, client_address):
            pass  # a client that does not trust our certificate hangs up

    with Server(("127.0.0.1", 0), Handler) as server:
        if tls:
            server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        receiver.endpoint = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()


def partial_success(rejected, message):
    """Return the answer of a receiver that rejects spans, or that warns."""
    response = ExportTraceServiceResponse()
    response.partial_success.rejected_spans = rejected
    response.partial_success.error_message = message
    return 200, {}, response.SerializeToString()
