"""An HTTP server on 127.0.0.1 that records the requests and gives the answers that a test has chosen."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple


class Request(NamedTuple):
    """A received request.

    :ivar headers: lower-case name -> value
    :ivar connection: the number of the connection; the first one is 1
    """

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: int


class Answer(NamedTuple):
    """A response of the server."""

    status: int = 200
    headers: dict[str, str] = {}  # noqa: RUF012  # nobody changes it
    body: bytes = b""


class WebServer:
    """A running server.

    :ivar url: without a path
    :ivar requests: the received requests
    """

    def __init__(self, url, port):
        self.url = url
        self.port = port
        self.requests = []
        self._answers = []
        self._lock = threading.Lock()

    def set_answers(self, *answers):
        """Set the next answers, each a status or an `Answer`. The last one is repeated."""
        self._answers = [Answer(answer) if isinstance(answer, int) else answer for answer in answers]

    def answer(self, request):
        """Record a request; return the answer to it."""
        with self._lock:
            self.requests.append(request)
            return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]

    @property
    def json_bodies(self):
        """The decoded bodies of the requests."""
        return [json.loads(request.body) for request in self.requests]


class _RequestHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps the connection open, and answers "Expect: 100-continue"
    disable_nagle_algorithm = True  # otherwise, the second of the two writes of an answer would wait for 40 ms

    def setup(self):
        super().setup()
        self.server.connections.append(self.connection)
        self.number = len(self.server.connections)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.server.web_server.answer(Request(self.command, self.path, headers, body, self.number))
        self.send_response(answer.status)
        for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    do_GET = do_HEAD = do_PUT = do_POST  # noqa: N815  # the names that `http.server` calls

    def log_message(self, *args):
        pass


class _ThreadingServer(ThreadingHTTPServer):
    daemon_threads = False  # closing the server waits for the threads

    def handle_error(self, request, client_address):
        """Ignore the error: the client has closed the connection."""


@contextmanager
def http_server(*answers, tls=None):
    """Run a server; yield its `WebServer`.

    :param answers: see `WebServer.set_answers`; by default status 200
    :param tls: the SSLContext of an HTTPS server
    """
    with _ThreadingServer(("127.0.0.1", 0), _RequestHandler) as server:
        server.connections = []
        port = server.server_port
        server.web_server = WebServer(f"{'https' if tls else 'http'}://127.0.0.1:{port}", port)
        server.web_server.set_answers(*answers or [200])
        if tls:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        with serving(server):
            yield server.web_server
        for connection in server.connections:
            with suppress(OSError):  # the client has closed it
                connection.shutdown(socket.SHUT_RDWR)  # ends the thread that waits for the next request


@contextmanager
def serving(server):
    """Run a server of the module `http.server` in a thread."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
