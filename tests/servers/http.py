"""A real web server on 127.0.0.1, which keeps what it gets and answers as the test has written."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple


class Request(NamedTuple):
    """What a client sent."""

    path: str
    headers: dict[str, str]  # by lower-case name
    body: bytes
    connection: int  # which one of the server's connections it came on


class Answer(NamedTuple):
    """What the server answers."""

    status: int = 200
    headers: dict[str, str] = {}  # noqa: RUF012  # nobody writes into it
    body: bytes = b"ok"


class Site:
    """What a test sees of a server: its `url`, and the `requests`, a list of Request."""

    def __init__(self, answers):
        self.answers = [Answer(answer) if isinstance(answer, int) else answer for answer in answers]
        self.requests = []
        self.sockets = []
        self.lock = threading.Lock()

    def take(self, request):
        """Keep a request; return the answer to it. The last one is given again and again."""
        with self.lock:
            self.requests.append(request)
            return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class _Talk(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps the connection
    disable_nagle_algorithm = True  # an answer is two writes, the second of which would wait for 40 ms

    def setup(self):
        super().setup()
        self.server.site.sockets.append(self.connection)
        self.number = len(self.server.site.sockets)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.server.site.take(Request(self.path, headers, body, self.number))
        self.send_response(answer.status)
        for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, *args):
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # the end of a test waits for them

    def handle_error(self, request, client_address):
        """Say nothing: a client that hangs up is no failure of a test."""


@contextmanager
def http_server(*answers, tls=None):
    """Run a server; give its Site.

    :param answers: a status or an Answer each, in turn; 200 where there are none
    :param tls: the context of a server that speaks TLS
    """
    running = Site(answers or [200])
    with _Server(("127.0.0.1", 0), _Talk) as server:
        server.site = running
        running.port = server.server_address[1]
        running.url = f"{'https' if tls else 'http'}://127.0.0.1:{running.port}"
        if tls:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield running
        finally:
            server.shutdown()
            thread.join()
            for sock in running.sockets:
                _hang_up(sock)


def _hang_up(sock):
    """End a connection that a client keeps, and with it the thread that waits for its next request."""
    try:
        sock.shutdown(2)
    except OSError:
        pass  # it has ended
