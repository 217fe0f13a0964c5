"""Run a test server until stdin ends: python serve.py TESTS KIND DIRECTORY. Print its URL.

Each function returns a context manager that runs the server, and a function that returns its URL.
"""

import contextlib
import logging
import pathlib
import sys

tests, kind, directory = sys.argv[1:]
sys.path.insert(0, tests)
logging.disable()


def smtp():
    from servers.smtp import smtp_server

    return smtp_server(), lambda server: f"127.0.0.1:{server.port}"


def s3():
    from servers.s3 import s3_server

    def url(store):
        store.reset("bench")
        return store.endpoint

    return s3_server(), url


def http():
    from servers.http import http_server

    return http_server(), lambda server: server.url


def otlp():
    from servers.otlp import otlp_receiver

    return otlp_receiver(), lambda server: server.endpoint


def rabbitmq():
    from servers.rabbitmq import rabbitmq_server

    return rabbitmq_server(pathlib.Path(directory)), lambda server: server.url


def redis():
    from servers.redis import redis_server

    return redis_server(pathlib.Path(directory)), lambda server: server.url


with contextlib.ExitStack() as stack:
    manager, url_of = globals()[kind]()
    print(url_of(stack.enter_context(manager)), flush=True)
    sys.stdin.read()
