"""A real Redis on 127.0.0.1, which has on the disk what it has answered."""

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
    """What a test sees of the server: its `url`, `port` and `password`; start, kill, stop, pause and resume."""

    def __init__(self, directory):
        self.command = [find_program("redis-server"), "redis.conf"]
        super().__init__(directory)
        self.url = f"redis://:{self.password}@127.0.0.1:{self.port}/0"
        # A file: the command line of a process is for all to see. Its data are in the directory that it starts in.
        (directory / "redis.conf").write_text(CONFIGURATION.format(port=self.port, password=self.password))

    def ask(self):
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(f"AUTH {self.password}\r\nPING\r\n".encode())
            with connection.makefile("rb") as answer:
                if [answer.readline(), answer.readline()] != [b"+OK\r\n", b"+PONG\r\n"]:
                    raise ConnectionError("it is not ready")  # it reads its data, or it is not ours


def redis_server(directory):
    """Run a server with its files in a directory, a pathlib.Path; give its Redis."""
    return running_server(Redis(directory))
