"""What every test gets: a fresh default manager, a clean environment, and no silent skip in CI."""

from __future__ import annotations

import os
import signal

import pytest

import event

_OURS = ("E3_EVENT_", "E3_ENABLE_", "AWS_", "SSL_CERT_", "NETRC", "OTEL_", "TRACEPARENT", "TRACESTATE")


def pytest_configure():
    """Take back what nohup, or a shell's "&", has had ignored: the processes of the tests would ignore it too."""
    for name in ("SIGINT", "SIGHUP", "SIGQUIT"):
        if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) == signal.SIG_IGN:
            default = signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL
            signal.signal(getattr(signal, name), default)


@pytest.fixture(autouse=True)
def clean_surroundings(monkeypatch, tmp_path):
    monkeypatch.setattr(event, "default_manager", event.EventManager())
    for name in [name for name in os.environ if name.startswith(_OURS) or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """In CI a skipped test is a failure, unless its reason is the platform: "platform: …"."""
    report = yield
    if report.skipped and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if "platform: " not in reason:
            report.outcome = "failed"
            report.longrepr = f"skipped in CI: {reason}"
    return report


# Brokers, one server of each kind for all tests that do not stop it. What they need is imported only there.


@pytest.fixture(scope="session")
def rabbitmq(tmp_path_factory):
    from servers.rabbitmq import rabbitmq_server

    with rabbitmq_server(tmp_path_factory.mktemp("rabbitmq")) as running:
        yield running


@pytest.fixture(scope="session")
def redis(tmp_path_factory):
    from servers.redis import redis_server

    with redis_server(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture(scope="session")
def moto():
    from servers.s3 import s3_server

    with s3_server() as running:
        yield running


@pytest.fixture
def rabbit(rabbitmq):
    """A queue of RabbitMQ."""
    from brokers import RabbitQueue

    made = RabbitQueue(rabbitmq)
    yield made
    made.close()


@pytest.fixture
def stream(redis):
    """A queue of Redis."""
    from brokers import RedisQueue

    made = RedisQueue(redis)
    yield made
    made.close()


@pytest.fixture
def sqs(moto, monkeypatch):
    """A queue of SQS."""
    from brokers import SQSQueue

    for name, value in moto.environment.items():
        monkeypatch.setenv(name, value)
    made = SQSQueue(moto)
    yield made
    made.close()


@pytest.fixture(params=["rabbit", "stream"], ids=["rabbitmq", "redis"])
def queue(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(params=["rabbit", "stream", "sqs"], ids=["rabbitmq", "redis", "sqs"])
def any_queue(request):
    return request.getfixturevalue(request.param)
