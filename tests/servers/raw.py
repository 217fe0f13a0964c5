"""Servers on 127.0.0.1 whose answers a test writes byte by byte, or that do not answer."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager


@contextmanager
def raw_server(serve):
    """Run a server that calls ``serve(connection, stopped)`` in a thread for each connection; yield its port.

    :param serve: handles a connection; `stopped` is a `threading.Event` that is set at the end of the test
    """
    listener = socket.create_server(("127.0.0.1", 0))
    stopped = threading.Event()
    connections = []

    def accept():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connections.append(connection)
            if stopped.is_set():
                return
            try:
                serve(connection, stopped)
            except OSError:
                pass

    thread = threading.Thread(target=accept)
    thread.start()
    port = listener.getsockname()[1]
    try:
        yield port
    finally:
        stopped.set()
        socket.create_connection(("127.0.0.1", port)).close()
        thread.join()
        listener.close()
        for connection in connections:
            connection.close()


@contextmanager
def raw_http_server(answer, tls=None):
    """Run a server that reads the head of one request and then calls ``answer(connection)``; yield its URL.

    :param tls: the SSLContext of an HTTPS server
    """

    def serve():
        connection, _ = server.accept()
        if tls:
            connection = tls.wrap_socket(connection, server_side=True)
        with connection:
            request = b""
            while not request.endswith(b"\r\n\r\n"):
                request += connection.recv(1 << 16)
            answer(connection)

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)  # for a test that fails before it sends a request
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http{'s' if tls else ''}://127.0.0.1:{server.getsockname()[1]}"
        finally:
            thread.join()


@contextmanager
def silent_server():
    """Run a server that never answers; yield its URL."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
