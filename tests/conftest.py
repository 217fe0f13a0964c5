"""Shared fixtures: a clean environment, servers and queues. Markers, and the ban on skipped tests in CI."""

from __future__ import annotations

import gc
import itertools
import os
import signal

import pytest
from hypothesis import settings

import event

_IN_CI = bool(os.environ.get("CI"))
_CLEARED = ("E3_EVENT_", "E3_ENABLE_", "AWS_", "SSL_CERT_", "NETRC", "OTEL_", "TRACEPARENT", "TRACESTATE")


# Coverage measures the child processes of these tests only: their children run code that nothing else runs. Measuring a
# process takes 0.2 s of CPU time, ten times its start. Coverage writes its SQLite file without a journal when the
# process ends, and a kill during most of these writes leaves a corrupt file ("SQLITE_CORRUPT: database disk image is
# malformed"). So a test here that kills at random moments uses the fixture `unmeasured_children`.
MEASURED = ("cli/", "test_process.py", "worker/")
_COVERAGE = "COVERAGE_PROCESS_CONFIG"  # coverage's `patch = subprocess` sets it
_measuring = pytest.StashKey()


@pytest.hookimpl(wrapper=True)
def pytest_collection(session):
    """Remove coverage's variable from the environment before the first fixture runs.

    Collect garbage only once, at the end: it takes a quarter of the collection's time and frees almost nothing. Then
    freeze the collected tests: the garbage collector would spend a fifth of the test run on them.
    """
    session.config.stash[_measuring] = os.environ.pop(_COVERAGE, None)
    gc.disable()
    result = yield
    gc.collect()
    gc.freeze()
    gc.enable()
    return result


@pytest.fixture(autouse=True)
def measured_children(request, monkeypatch):
    path = request.path.relative_to(os.path.dirname(__file__)).as_posix()
    value = request.config.stash.get(_measuring, None)
    if value and path.startswith(MEASURED):
        monkeypatch.setenv(_COVERAGE, value)


def reset_signals():
    """Set the default signal handlers, since child processes inherit ignored signals."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in ("SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)


def pytest_configure():
    """Reset the signals that `nohup` or a shell's `&` ignores, before the first server starts."""
    reset_signals()


@pytest.fixture(autouse=True)
def default_signals():
    """Reset the signals: a test that calls `run` in this process leaves some ignored."""
    reset_signals()


@pytest.fixture
def unmeasured_children(measured_children, monkeypatch):
    monkeypatch.delenv(_COVERAGE, raising=False)


# By default Hypothesis tries few examples, the same in each run. `tox -m full` tries more, at random.
settings.register_profile("quick", max_examples=25, derandomize=True, deadline=None)
settings.register_profile("thorough", max_examples=100, deadline=None)
settings.load_profile("quick")


@pytest.fixture(scope="session")
def homes(tmp_path_factory):
    """Return an iterator of unused paths for home directories. It is fifty times as fast as `tmp_path`."""
    root = tmp_path_factory.mktemp("homes")
    return (root / str(number) for number in itertools.count())


@pytest.fixture
def home(homes):
    """Return an empty home directory for the test."""
    path = next(homes)
    path.mkdir()
    return path


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, home):
    monkeypatch.setattr(event, "default_manager", event.EventManager())
    for name in [name for name in os.environ if name.startswith(_CLEARED) or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("CI", raising=False)  # so that `when = "CI"` on a page has the same result everywhere
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("E3_EVENT_OUTBOX", "none")  # a test that needs an outbox sets it


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """In CI, fail a skipped test unless its reason contains "platform: "."""
    report = yield
    if report.skipped and _IN_CI and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if "platform: " not in reason:
            report.outcome = "failed"
            report.longrepr = f"skipped in CI: {reason}"
    return report


# Markers. `pytest -m "not server"` takes a minute: it omits tests that start a server or take seconds. Tests marked
# `long` run only if `-m` names that marker.

# A test gets the marker `server` if it uses one of these fixtures, or if a parameter names one. A test that starts a
# program in another way marks itself.
RABBITMQ_FIXTURES = {"rabbitmq", "rabbit"}
SERVER_FIXTURES = {*RABBITMQ_FIXTURES, "redis", "listed", "stream", "moto", "running", "sqs", "programs", "postfix"}


@pytest.hookimpl(tryfirst=True)  # before `-m` deselects
def pytest_collection_modifyitems(config, items):
    for item in items:
        if SERVER_FIXTURES & named_fixtures(item):
            item.add_marker("server")
    if "long" not in config.option.markexpr:
        chosen = [item for item in items if not item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("long")])
        items[:] = chosen
    # xdist runs the first tests in one process. Only that process starts RabbitMQ, which takes six seconds of CPU time.
    items.sort(key=lambda item: not RABBITMQ_FIXTURES & named_fixtures(item))


def named_fixtures(item):
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    return {*getattr(item, "fixturenames", ()), *(name for name in parameters if type(name) is str)}


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Forbid a test without the marker, and its child processes, to start a server; servers.process checks it."""
    if item.get_closest_marker("server"):
        os.environ.pop("E3_TESTS_NO_SERVER", None)
    else:
        os.environ["E3_TESTS_NO_SERVER"] = item.nodeid


# Servers. Each xdist process starts its own server when a test first needs it, and stops it after the last test. A test
# may kill, stop or pause the server, but must leave it running. Its queues and keys have unique names. The fixtures
# import a server's modules when they start it.


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
    """Run moto's server in a thread, and return its Store. A test empties it with `moto.reset("bucket")`."""
    from servers.s3 import s3_server

    with s3_server() as store:
        yield store


# Environments.


@pytest.fixture(scope="session")
def bare_programs(tmp_path_factory):
    """Return the `bin` directory of an environment that has only pip. It is created once per run."""
    from helpers import environments
    from helpers.once import once_a_run

    if os.name == "nt":
        pytest.skip("platform: the pages use a POSIX shell")
    return once_a_run(tmp_path_factory, "bare", environments.with_pip) / "bin"


@pytest.fixture(scope="session")
def programs(bare_programs, tmp_path_factory):
    """Return the `bin` directory of an environment that has this package. It is created once per run."""
    from helpers import environments
    from helpers.once import once_a_run

    def make(directory):
        environments.with_package(bare_programs, directory)

    return once_a_run(tmp_path_factory, "environment", make) / "bin"


@pytest.fixture
def own_programs(programs, tmp_path, monkeypatch):
    """Return the `bin` directory of the test's own environment, into which it may install packages."""
    from helpers import environments

    for name, value in environments.BUILDING.items():
        monkeypatch.setenv(name, value)
    return environments.layer(programs, tmp_path / "environment")


# Queues.


@pytest.fixture
def rabbit(rabbitmq):
    """A queue of RabbitMQ."""
    from helpers.brokers import RabbitQueue

    made = RabbitQueue(rabbitmq)
    yield made
    made.close()


@pytest.fixture
def stream(redis):
    """A queue of Redis."""
    from helpers.brokers import RedisQueue

    made = RedisQueue(redis)
    yield made
    made.close()


@pytest.fixture
def sqs(moto, monkeypatch):
    """A queue of SQS."""
    from helpers.brokers import SQSQueue

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
