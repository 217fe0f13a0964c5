"""Rotel, an OpenTelemetry collector, on 127.0.0.1. It decodes each span, encodes it again and forwards it."""

from __future__ import annotations

import importlib.util
import os
import socket
import sysconfig
from contextlib import contextmanager

from servers.process import Server, free_port, running_server


class Rotel(Server):
    """A collector with an HTTP endpoint and a gRPC port."""

    def __init__(self, directory, forward_to, grpc_port):
        super().__init__(directory)
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.grpc_port = grpc_port
        (package,) = importlib.util.find_spec("rotel").submodule_search_locations
        self.command = [
            *(os.path.join(package, "rotel-agent"), "start", "--disable-batching"),
            *("--otlp-http-endpoint", f"127.0.0.1:{self.port}", "--otlp-grpc-endpoint", f"127.0.0.1:{grpc_port}"),
            *("--exporter", "otlp", "--otlp-exporter-protocol", "http", "--otlp-exporter-endpoint", forward_to),
        ]
        self.environment = {"LD_LIBRARY_PATH": sysconfig.get_config_var("LIBDIR")}  # it is linked to libpython

    def ping(self):
        for port in (self.port, self.grpc_port):
            socket.create_connection(("127.0.0.1", port), timeout=5).close()


@contextmanager
def rotel_collector(directory, forward_to):
    """Run a collector with its log in a directory; yield its `Rotel`.

    :param forward_to: the URL of an OTLP/HTTP receiver for the spans
    """
    holder, port = free_port()
    with holder, running_server(Rotel(directory, forward_to, port)) as server:
        yield server
