"""A Redis on 127.0.0.1 that writes to disk before it answers."""

from __future__ import annotations

import socket

from servers.process import Server, find_program, running_server

CONFIGURATION = """\
bind 127.0.0.1
port {port}
requirepass {password}
appendonly yes
appendfsync always
save ""
"""


class Redis(Server):
    """A Redis server."""

    def __init__(self, directory):
        self.command = [find_program("redis-server"), "redis.conf"]
        super().__init__(directory)
        self.url = f"redis://:{self.password}@127.0.0.1:{self.port}/0"
        # Everyone can read the command line, so the password is in a file.
        (directory / "redis.conf").write_text(CONFIGURATION.format(port=self.port, password=self.password))

    def ping(self):
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(f"AUTH {self.password}\r\nPING\r\n".encode())
            with connection.makefile("rb") as answer:
                if [answer.readline(), answer.readline()] != [b"+OK\r\n", b"+PONG\r\n"]:
                    raise ConnectionError("the server is loading its data, or it is another one")


def redis_server(directory):
    """Run a server with its files in a directory, a Path; yield its `Redis`."""
    return running_server(Redis(directory))
