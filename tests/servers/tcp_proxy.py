"""A proxy between a client and a server on 127.0.0.1, which can replace the server's answers."""

from __future__ import annotations

import select
import socket
import threading


class Proxy:
    """A proxy, which runs inside a ``with`` block.

    :param server: has a `url` with 127.0.0.1, and its `port`
    :param context: the TLS context of the proxy; None for no TLS
    :ivar port: the port of the proxy
    :ivar replacement: an iterator of the data that replaces the server's answers; None to forward the answers
    :ivar count: the number of connections
    """

    def __init__(self, server, context=None):
        self.server = server
        self.context = context
        self.replacement = None
        self.count = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.stopped = threading.Event()
        self.threads = [threading.Thread(target=self.accept)]

    def __enter__(self):
        self.threads[0].start()
        return self

    def __exit__(self, *_error):
        self.stopped.set()
        for thread in self.threads:
            thread.join()
        self.listener.close()

    def url(self, scheme="", host="127.0.0.1"):
        """Return the server's URL with the port of the proxy."""
        own, _, rest = self.server.url.partition("://")
        return f"{scheme or own}://{rest.replace('127.0.0.1', host).replace(str(self.server.port), str(self.port))}"

    def wait(self):
        """Wait until all clients have disconnected and the server has their data."""
        for thread in self.threads[1:]:
            thread.join()

    def accept(self):
        while not self.stopped.is_set():
            if select.select([self.listener], [], [], 0.01)[0]:
                self.count += 1
                self.threads.append(threading.Thread(target=self.serve, args=[self.listener.accept()[0]]))
                self.threads[-1].start()

    def serve(self, client):
        with client, socket.create_connection(("127.0.0.1", self.server.port)) as server:
            client.settimeout(5)
            try:
                if self.context is None:
                    self.forward(client, server)
                else:
                    with self.context.wrap_socket(client, server_side=True) as secured:
                        self.forward(secured, server)
            except OSError:
                pass  # the client or the server has disconnected

    def forward(self, client, server):
        while not self.stopped.is_set():
            ready = select.select([client, server], [], [], 0.01)[0]
            if client in ready or (self.context and client.pending()):
                if not (data := client.recv(1 << 16)):
                    return
                server.sendall(data)
            if server in ready:
                if not (data := server.recv(1 << 16)):
                    return
                if self.replacement is None:
                    client.sendall(data)
            if self.replacement is not None:
                client.sendall(next(self.replacement))
