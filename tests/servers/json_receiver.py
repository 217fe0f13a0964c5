"""An HTTP server that takes what Apprise's json://, form:// and their like post."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Receiver:
    """What a server got, in `posts`: (path, headers, body); and what it answers: `status`."""

    def __init__(self, status):
        self.posts = []
        self.status = status
        self.port = 0

    @property
    def messages(self):
        """The bodies, read as JSON."""
        return [json.loads(body) for _, _, body in self.posts]


@contextmanager
def json_receiver(status=200):
    """Run a server on 127.0.0.1; give its Receiver."""
    receiver = Receiver(status)

    class Talk(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.posts.append((self.path, self.headers, body))
            self.send_response(receiver.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format, *args):  # noqa: A002
            """Say nothing: the tests read what ours says."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Talk)
    receiver.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
