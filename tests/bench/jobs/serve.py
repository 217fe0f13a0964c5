"""Run a server of the tests until stdin ends: python serve.py TESTS KIND DIRECTORY; prints the URL that leads to it."""

import contextlib
import logging
import pathlib
import sys

tests, kind, directory = sys.argv[1:]
sys.path.insert(0, tests)
logging.disable()


def smtp():
    """Return a mail server, and what tells its URL."""
    from servers.smtp import smtp_server

    return smtp_server(), lambda server: f"127.0.0.1:{server.port}"


def s3():
    """Return an S3 server with a bucket, and what tells its URL."""
    from servers.s3 import s3_server

    def url(store):
        store.reset("bench")
        return store.endpoint

    return s3_server(), url


def http():
    """Return a web server, and what tells its URL."""
    from servers.http import site

    return site(), lambda server: server.url


def otlp():
    """Return an OTLP receiver, and what tells its URL."""
    from servers.otlp import otlp_receiver

    return otlp_receiver(), lambda server: server.endpoint


def rabbitmq():
    """Return a RabbitMQ, and what tells its URL."""
    from servers.rabbitmq import rabbitmq_server

    return rabbitmq_server(pathlib.Path(directory)), lambda server: server.url


def redis():
    """Return a Redis, and what tells its URL."""
    from servers.redis import redis_server

    return redis_server(pathlib.Path(directory)), lambda server: server.url


with contextlib.ExitStack() as stack:
    manager, url_of = globals()[kind]()
    print(url_of(stack.enter_context(manager)), flush=True)
    sys.stdin.read()
