"""Fixtures for all tests: a clean environment, servers, markers. A skipped test fails in CI."""

from __future__ import annotations

import gc
import itertools
import os
import signal

import pytest
from hypothesis import settings

import event

_IN_CI = bool(os.environ.get("CI"))
_CLEARED_VARIABLES = ("E3_EVENT_", "E3_ENABLE_", "AWS_", "SSL_CERT_", "NETRC", "OTEL_", "TRACEPARENT", "TRACESTATE")


# Coverage measures child processes only for the tests in these places, since their children run code that nothing else
# runs. Measuring a child takes 0.2 s of processor time, ten times as long as its start. A child that is killed while
# coverage writes its SQLite file at exit leaves a damaged file ("SQLITE_CORRUPT: database disk image is malformed"). A
# test here that kills children at random moments uses the fixture `unmeasured_children`.
MEASURED = ("cli/", "worker/")
_COVERAGE = "COVERAGE_PROCESS_CONFIG"  # coverage's `patch = subprocess` sets it
_measuring = pytest.StashKey()


_PROCESSES_PER_CORE = 3  # the tests wait more than they compute


def pytest_xdist_auto_num_workers(config):
    """Run directories of tests in several processes. Run named files in one process, which starts faster."""
    return _PROCESSES_PER_CORE * (os.cpu_count() or 1) if all(map(os.path.isdir, config.args)) else 0


@pytest.hookimpl(wrapper=True)
def pytest_collection(session):
    """Unset coverage's variable before the first fixture, and run the garbage collector only once.

    During collection, the garbage collector takes a quarter of the time and finds almost nothing. Later it would scan
    the collected tests again and again, for a fifth of the time of the tests, so they are frozen.
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
    place = request.path.relative_to(os.path.dirname(__file__)).as_posix()
    value = request.config.stash.get(_measuring, None)
    if value and place.startswith(MEASURED):
        monkeypatch.setenv(_COVERAGE, value)


def reset_signals():
    """Restore the default signal handlers. Child processes would inherit ignored signals."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in ("SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    ignored_by_python = {getattr(signal, name, 0) for name in ("SIGPIPE", "SIGXFSZ")}
    for number in signal.valid_signals() - ignored_by_python:
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def pytest_configure():
    """Restore signals that `nohup` or the shell's `&` ignores, before the first server starts."""
    reset_signals()


@pytest.fixture(autouse=True)
def default_signals():
    """Restore signals that the previous test ignored by calling `run` in this process."""
    reset_signals()


@pytest.fixture
def unmeasured_children(measured_children, monkeypatch):
    monkeypatch.delenv(_COVERAGE, raising=False)


# Hypothesis: by default, few examples that are the same in each run; in `tox -m full`, more of them, at random.
settings.register_profile("quick", max_examples=25, derandomize=True, deadline=None)
settings.register_profile("thorough", max_examples=100, deadline=None)
settings.load_profile("quick")


@pytest.fixture(scope="session")
def homes(tmp_path_factory):
    """Return an iterator over paths for home directories. Creating one is fifty times faster than `tmp_path`."""
    root = tmp_path_factory.mktemp("homes")
    return (root / str(number) for number in itertools.count())


@pytest.fixture
def home(homes):
    """Return the test's empty home directory."""
    path = next(homes)
    path.mkdir()
    return path


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, home):
    monkeypatch.setattr(event, "default_manager", event.EventManager())
    for name in [name for name in os.environ if name.startswith(_CLEARED_VARIABLES) or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("CI", raising=False)  # a page's `when = "CI"` must hold the same everywhere
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("E3_EVENT_OUTBOX", "none")  # a test that wants an outbox chooses it


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """In CI, fail a skipped test unless its reason is the platform ("platform: …")."""
    report = yield
    if report.skipped and _IN_CI and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if "platform: " not in reason:
            report.outcome = "failed"
            report.longrepr = f"skipped in CI: {reason}"
    return report


# Markers. `pytest -m "not server"` is the one-minute test loop: it omits tests that start a server or take seconds. A
# test marked `long` runs only if `-m` names that marker.

# A test is marked `server` if it uses one of these fixtures, directly or through a parameter with the fixture's name. A
# test that starts a program in another way sets the marker itself.
RABBITMQ_FIXTURES = {"rabbitmq", "rabbit"}
SERVER_FIXTURES = {*RABBITMQ_FIXTURES, "redis", "stream", "moto", "sqs", "programs", "postfix"}


@pytest.hookimpl(tryfirst=True)  # before pytest applies `-m`
def pytest_collection_modifyitems(config, items):
    for item in items:
        if SERVER_FIXTURES & named_fixtures(item):
            item.add_marker("server")
    if "long" not in config.option.markexpr:
        chosen = [item for item in items if not item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("long")])
        items[:] = chosen
    # Run these tests first: xdist gives them all to one process, so that only one RabbitMQ starts (six seconds of CPU).
    items.sort(key=lambda item: not RABBITMQ_FIXTURES & named_fixtures(item))


def named_fixtures(item):
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    return {*getattr(item, "fixturenames", ()), *(name for name in parameters if type(name) is str)}


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Make servers.process refuse to start a server unless the test has the marker."""
    if item.get_closest_marker("server"):
        os.environ.pop("E3_TESTS_NO_SERVER", None)
    else:
        os.environ["E3_TESTS_NO_SERVER"] = item.nodeid


# Servers. Each process of xdist starts its own when a test first needs it, and ends it with the run. A test may kill,
# stop or pause a server, but must leave it running, and uses unique names for queues and keys. Only the fixtures import
# the servers, which takes a while.


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
    """Run moto's server in a thread; yield its Store. Each test empties it: `moto.reset("bucket")`."""
    from servers.s3 import s3_server

    with s3_server() as store:
        yield store


# Environments.


@pytest.fixture(scope="session")
def bare_programs(tmp_path_factory):
    """Return the directory of programs of an environment that has only pip. It is created once for all tests."""
    from helpers import environments
    from helpers.once import create_once

    if os.name == "nt":
        pytest.skip("platform: the shell sessions of the pages need a POSIX shell")
    return create_once(tmp_path_factory, "bare", environments.create_with_pip) / "bin"


@pytest.fixture(scope="session")
def programs(bare_programs, tmp_path_factory):
    """Return the directory of programs of an environment that has this package. It is created once for all tests."""
    from helpers import environments
    from helpers.once import create_once

    def create(directory):
        environments.create_with_package(bare_programs, directory)

    return create_once(tmp_path_factory, "environment", create) / "bin"


@pytest.fixture
def own_programs(programs, tmp_path, monkeypatch):
    """Return the directory of programs of an environment into which this test may install packages."""
    from helpers import environments

    for name, value in environments.BUILDING.items():
        monkeypatch.setenv(name, value)
    return environments.create_layer(programs, tmp_path / "environment")


# Queues.


@pytest.fixture
def rabbit(rabbitmq):
    from helpers.brokers import RabbitQueue

    queue = RabbitQueue(rabbitmq)
    yield queue
    queue.close()


@pytest.fixture
def stream(redis):
    from helpers.brokers import RedisQueue

    queue = RedisQueue(redis)
    yield queue
    queue.close()


@pytest.fixture
def sqs(moto, monkeypatch):
    from helpers.brokers import SQSQueue

    for name, value in moto.environment.items():
        monkeypatch.setenv(name, value)
    queue = SQSQueue(moto)
    yield queue
    queue.close()


@pytest.fixture(params=["rabbit", "stream"], ids=["rabbitmq", "redis"])
def queue(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(params=["rabbit", "stream", "sqs"], ids=["rabbitmq", "redis", "sqs"])
def any_queue(request):
    return request.getfixturevalue(request.param)
