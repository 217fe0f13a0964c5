"""A real RabbitMQ on 127.0.0.1, without plugins, and without the name server that Erlang's programs share."""

from __future__ import annotations

import os

import pika

from servers.process import Server, find_program, running_server

USER = "tests"
LARGEST = 8_000_000  # bytes that it takes in one message; a test of what is more is quicker than at the usual limit
CONFIGURATION = """\
listeners.tcp.1 = 127.0.0.1:{port}
default_user = {user}
default_pass = {password}
disk_free_limit.absolute = 1MB
max_message_size = {largest}
"""  # at the usual limit, 50 MB, a full disk blocks the senders

# No name is looked up elsewhere, and no process is needed that looks them up.
NAMES = """\
{lookup, [file]}.
{host, {127,0,0,1}, ["localhost"]}.
"""

# Nobody connects to the node but with AMQP: it does not listen for other nodes, nor does it start epmd or register with
# it. So it may have the name that all have. It asks for its own port nevertheless, and is told this one.
ALONE = "-start_epmd false -dist_listen false -erl_epmd_port 1"


class RabbitMQ(Server):
    """What a test sees of the server: its `url`, `port` and `password`; start, kill, stop, pause and resume.

    A confirmed message is on the disk, but the queue that it is in need not be: RabbitMQ answers a declaration before
    it has written that it is valid, and a kill within the next two seconds can take the queue away, with all that is
    in it. So a test declares its queues, stops and starts the server, and then sends and kills.
    """

    def __init__(self, directory):
        # Debian's and Fedora's command becomes the user rabbitmq; behind it is RabbitMQ's own.
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

    def ask(self):
        parameters = pika.URLParameters(
            f"{self.url}%2F?socket_timeout=5&stack_timeout=5&blocked_connection_timeout=5&connection_attempts=1"
        )
        try:
            pika.BlockingConnection(parameters).close()
        except pika.exceptions.AMQPError as error:
            raise ConnectionError("it is not ready") from error


def _environment(directory):
    """Return the variables that keep a server within a directory: all that it would find in /etc and /var."""
    return {
        "ERL_FLAGS": ALONE,
        "ERL_INETRC": str(directory / "names"),
        "ERL_CRASH_DUMP_SECONDS": "0",  # the log tells enough
        # The script becomes the server, where otherwise it starts the server, and waits: a signal finds the server.
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
    """Run a server with its files in a directory, a pathlib.Path; give its RabbitMQ. It takes some 5 s to start."""
    return running_server(RabbitMQ(directory))
