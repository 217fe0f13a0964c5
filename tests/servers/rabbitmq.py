"""A RabbitMQ on 127.0.0.1, without plugins and without epmd, the name server that all Erlang programs share."""

from __future__ import annotations

import os

import pika

from servers.process import Server, find_program, running_server

USER = "tests"
LARGEST = 8_000_000  # bytes of the largest message; the default limit would make tests of it slow
CONFIGURATION = """\
listeners.tcp.1 = 127.0.0.1:{port}
default_user = {user}
default_pass = {password}
disk_free_limit.absolute = 1MB
max_message_size = {largest}
"""  # by default, RabbitMQ blocks senders if less than 50 MB are free

# Resolve names from this file only; Erlang would start a process for DNS.
NAMES = """\
{lookup, [file]}.
{host, {127,0,0,1}, ["localhost"]}.
"""

# The node does not listen for other nodes, and does not use epmd. So several servers can have the same node name. The
# port has no meaning, but RabbitMQ requires one.
ALONE = "-start_epmd false -dist_listen false -erl_epmd_port 1"


class RabbitMQ(Server):
    """A RabbitMQ server.

    A confirmed message is on disk, but a new queue may not be: RabbitMQ confirms the declaration before it has written
    the queue completely. A kill within the next two seconds can delete the queue with its messages. So a test that
    kills the server first declares its queues and restarts the server.
    """

    def __init__(self, directory):
        # The command of Debian and Fedora switches to the user rabbitmq, and then runs this one of RabbitMQ.
        self.command = [
            find_program("rabbitmq-server", "/usr/lib/rabbitmq/bin"),
            *("-noinput", "-sname", "rabbit@localhost"),
        ]
        super().__init__(directory)
        self.url = f"amqp://{USER}:{self.password}@127.0.0.1:{self.port}/"
        self.environment = _environment(directory)
        (directory / "rabbitmq.conf").write_text(
            CONFIGURATION.format(port=self.port, user=USER, password=self.password, largest=LARGEST)
        )
        (directory / "enabled_plugins").write_text("[].\n")
        (directory / "names").write_text(NAMES)

    def ping(self):
        parameters = pika.URLParameters(
            f"{self.url}%2F?socket_timeout=5&stack_timeout=5&blocked_connection_timeout=5&connection_attempts=1"
        )
        try:
            pika.BlockingConnection(parameters).close()
        except pika.exceptions.AMQPError as error:
            raise ConnectionError("the server is not ready") from error


def _environment(directory):
    """Return the variables that make the server use a directory instead of /etc and /var."""
    return {
        "ERL_FLAGS": ALONE,
        "ERL_INETRC": str(directory / "names"),
        "ERL_CRASH_DUMP_SECONDS": "0",  # the log is sufficient
        # The script replaces itself with the server instead of starting it, so signals reach the server.
        "RABBITMQ_ALLOW_INPUT": "1",
        "RABBITMQ_NODENAME": "rabbit@localhost",
        "RABBITMQ_CONF_ENV_FILE": os.devnull,
        "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
        "RABBITMQ_CONFIG_FILES": str(directory / "conf.d"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(directory / "advanced.config"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(directory / "data"),
        "RABBITMQ_LOG_BASE": str(directory),
        "RABBITMQ_LOGS": "-",
    }


def rabbitmq_server(directory):
    """Run a server with its files in a directory, a Path; yield its `RabbitMQ`. It takes about 5 s to start."""
    return running_server(RabbitMQ(directory))
