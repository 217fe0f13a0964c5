"""An OTLP/HTTP receiver on 127.0.0.1. It decodes the requests with OpenTelemetry's own protobuf classes."""

from __future__ import annotations

import gzip
import zlib
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from servers.http import serving

DECODERS = {None: bytes, "gzip": gzip.decompress, "deflate": zlib.decompress}
PROTOBUF = "application/x-protobuf"
LOST = 0  # instead of a status: accept the spans, and close the connection without an answer


class Span:
    """A received span.

    :ivar pb: the protobuf message
    :ivar trace_id: in hex, as are the other ids
    :ivar times: begin and end in nanoseconds
    :ivar attributes: name -> value, as in `resource`
    """

    def __init__(self, resource, schema, scope, pb):
        self.pb = pb
        self.name = pb.name
        self.trace_id = pb.trace_id.hex()
        self.span_id = pb.span_id.hex()
        self.parent_id = pb.parent_span_id.hex()
        self.times = (pb.start_time_unix_nano, pb.end_time_unix_nano)
        self.attributes = attributes_of(pb)
        self.resource = attributes_of(resource)
        self.schema = schema
        self.scope = scope.name


def attributes_of(message):
    return {pair.key: plain_value(pair.value) for pair in message.attributes}


def plain_value(any_value):
    """Convert an AnyValue to the Python value that it contains."""
    kind = any_value.WhichOneof("value")
    if kind == "array_value":
        return [plain_value(item) for item in any_value.array_value.values]
    return getattr(any_value, kind)


class Receiver:
    """A running receiver.

    :ivar endpoint: the URL without a path
    :ivar spans: the received spans
    :ivar requests: (path, headers) of each request
    :ivar answers: the next answers, each a status or (status, headers, body); after them, status 200 with an empty body
    :ivar echo: whether to refuse each request with status 400 and a body that contains its path and its headers
    """

    def __init__(self, endpoint):
        self.endpoint = endpoint
        self.spans = []
        self.requests = []
        self.answers = []
        self.echo = False

    def receive(self, path, headers, body):
        """Record a request; return the status, the headers and the body of the answer."""
        self.requests.append((path, headers))
        answer = self.answers.pop(0) if self.answers else 200
        if self.echo:
            answer = (400, {"Content-Type": "text/plain"}, f"{path} {headers}".encode())
        status, more, content = (answer, {}, b"") if isinstance(answer, int) else answer
        if status in {200, LOST}:
            self.spans += decode_spans(DECODERS[headers.get("Content-Encoding")](body))
        return status, {"Content-Type": PROTOBUF, "Content-Length": str(len(content)), **more}, content


def decode_spans(body):
    return [
        Span(of_resource.resource, of_resource.schema_url, of_scope.scope, span)
        for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for of_scope in of_resource.scope_spans
        for span in of_scope.spans
    ]


class _RequestHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status, headers, content = self.server.receiver.receive(self.path, self.headers, body)
        if status == LOST:
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


class _ThreadingServer(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        """Ignore the error: a client that does not trust the certificate closes the connection."""


@contextmanager
def otlp_receiver(tls=None):
    """Run a receiver; yield its `Receiver`.

    :param tls: the SSLContext of an HTTPS server
    """
    with _ThreadingServer(("127.0.0.1", 0), _RequestHandler) as server:
        if tls:
            server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        server.receiver = Receiver(f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}")
        with serving(server):
            yield server.receiver


def partial_success(rejected, message):
    """Return the answer of a receiver that has rejected some spans, or none and has a warning."""
    response = ExportTraceServiceResponse()
    response.partial_success.rejected_spans = rejected
    response.partial_success.error_message = message
    return 200, {}, response.SerializeToString()
