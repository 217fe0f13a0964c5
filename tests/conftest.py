"""A clean start for each test; the markers; the servers; no silent skip in CI."""

from __future__ import annotations

import gc
import itertools
import os
import signal

import pytest
from hypothesis import settings

import event

_IN_CI = bool(os.environ.get("CI"))
_OURS = ("E3_EVENT_", "E3_ENABLE_", "AWS_", "SSL_CERT_", "NETRC", "OTEL_", "TRACEPARENT", "TRACESTATE")


# Coverage measures the child processes of those tests alone whose children run what nothing else runs. To measure one
# takes 0.2 s of processor time, ten times what its start takes. And coverage writes its SQLite file when the process
# ends, without a journal: a kill meanwhile leaves a file that is no database ("SQLITE_CORRUPT: database disk image is
# malformed"), after 25 of the 44 writes that one such file takes. So a test that kills at random moments asks for
# `unmeasured_children`, if it is in one of these places.
MEASURED = ("cli/", "test_process.py", "worker/")
_COVERAGE = "COVERAGE_PROCESS_CONFIG"  # coverage's `patch = subprocess` sets it
_measuring = pytest.StashKey()


@pytest.hookimpl(wrapper=True)
def pytest_collection(session):
    """Take the variable away before the first test, and before the first fixture of a session or a module.

    Run the garbage collector only once, at the end: it takes a quarter of the collection's time, and finds almost
    nothing. From then on it ignores the collected tests, which would take a fifth of the time of the tests.
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
    """Set the usual handlers. Child processes inherit ignored signals."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in ("SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)


def pytest_configure():
    """Reset the signals that nohup, or a shell's "&", ignores, before the first server starts."""
    reset_signals()


@pytest.fixture(autouse=True)
def usual_signals():
    """Reset the signals, since a test that calls `run` in this process leaves some ignored."""
    reset_signals()


@pytest.fixture
def unmeasured_children(measured_children, monkeypatch):
    monkeypatch.delenv(_COVERAGE, raising=False)


# Hypothesis: by default, few examples, and the same in each run. The envs of `tox -m full` draw more, at random.
settings.register_profile("quick", max_examples=25, derandomize=True, deadline=None)
settings.register_profile("thorough", max_examples=100, deadline=None)
settings.load_profile("quick")


@pytest.fixture(scope="session")
def homes(tmp_path_factory):
    """Return the paths of new home directories. To make one takes a fiftieth of what `tmp_path` takes."""
    root = tmp_path_factory.mktemp("homes")
    return (root / str(number) for number in itertools.count())


@pytest.fixture
def home(homes):
    """Return the home directory of the test. It is empty."""
    path = next(homes)
    path.mkdir()
    return path


@pytest.fixture(autouse=True)
def clean_surroundings(monkeypatch, home):
    monkeypatch.setattr(event, "default_manager", event.EventManager())
    for name in [name for name in os.environ if name.startswith(_OURS) or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("CI", raising=False)  # a page's `when = "CI"` must hold the same everywhere
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("E3_EVENT_OUTBOX", "none")  # a test that wants an outbox chooses it


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """In CI a skipped test is a failure, unless its reason is the platform: "platform: …"."""
    report = yield
    if report.skipped and _IN_CI and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if "platform: " not in reason:
            report.outcome = "failed"
            report.longrepr = f"skipped in CI: {reason}"
    return report


# Markers. `pytest -m "not server"` is the loop of a minute: it leaves out what starts a server or takes seconds. `long`
# runs only where it is asked for by name.

# A test is marked `server` by the names of its fixtures, or of those that a parameter of it names. One that starts a
# program in another way marks itself.
RABBITMQ_FIXTURES = {"rabbitmq", "rabbit"}
SERVER_FIXTURES = {*RABBITMQ_FIXTURES, "redis", "listed", "stream", "moto", "running", "sqs", "programs", "postfix"}


@pytest.hookimpl(tryfirst=True)  # before what `-m` leaves out
def pytest_collection_modifyitems(config, items):
    for item in items:
        if SERVER_FIXTURES & named_fixtures(item):
            item.add_marker("server")
    if "long" not in config.option.markexpr:
        chosen = [item for item in items if not item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("long")])
        items[:] = chosen
    # The first tests are those of one process of xdist: it alone starts RabbitMQ, for six seconds of processor time.
    items.sort(key=lambda item: not RABBITMQ_FIXTURES & named_fixtures(item))


def named_fixtures(item):
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    return {*getattr(item, "fixturenames", ()), *(name for name in parameters if type(name) is str)}


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Have servers.process refuse to start a server for a test, or for a process of it, that is not marked."""
    if item.get_closest_marker("server"):
        os.environ.pop("E3_TESTS_NO_SERVER", None)
    else:
        os.environ["E3_TESTS_NO_SERVER"] = item.nodeid


# Servers. Each process of xdist starts its own when a test first asks for it, and ends it with the run. A test may
# kill, stop or pause it, and leaves it running. It gives its queues and keys names of its own. What a server needs is
# imported when it is started.


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
    """Run moto's server in a thread; give its Store. A test empties it: `moto.reset("bucket")`."""
    from servers.s3 import s3_server

    with s3_server() as store:
        yield store


# Environments.


@pytest.fixture(scope="session")
def bare_programs(tmp_path_factory):
    """Return the programs of an environment that has pip alone; it is made once for all tests of a run."""
    from helpers import environments
    from helpers.once import once_a_run

    if os.name == "nt":
        pytest.skip("platform: the sessions of the pages are those of a POSIX shell")
    return once_a_run(tmp_path_factory, "bare", environments.with_pip) / "bin"


@pytest.fixture(scope="session")
def programs(bare_programs, tmp_path_factory):
    """Return the programs of an environment that has this package; it is made once for all tests of a run."""
    from helpers import environments
    from helpers.once import once_a_run

    def make(directory):
        environments.with_package(bare_programs, directory)

    return once_a_run(tmp_path_factory, "environment", make) / "bin"


@pytest.fixture
def own_programs(programs, tmp_path, monkeypatch):
    """Return the programs of an environment of the test's own, which it may install into."""
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
