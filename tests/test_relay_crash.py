"""Accepted events reach every handler even if producers, relays, deliverers and the broker are killed.

The long form kills E3_RELAY_ROUNDS processes, and the broker E3_RELAY_KILLS times. The short form is part of each run.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from helpers.relay_crash import CONTENT, TEXT
from helpers.relay_crash.journal import Line
from helpers.relay_crash.repeats import count_repeats
from servers.process import find_program

PROGRAMS = {"redis": "redis-server", "rabbitmq": "rabbitmq-server"}
SHORT = {"rounds": 8, "redis": 1, "rabbitmq": 1}
LONG = {"rounds": int(os.environ.get("E3_RELAY_ROUNDS", "60")), "redis": 4, "rabbitmq": 2}
pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="platform: Windows has no fork"),
]


@pytest.fixture
def directory(tmp_path):
    """Return a directory in memory, if possible: a kill loses the same there as on a disk, and it is faster."""
    memory = Path("/dev/shm")
    path = Path(tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else tmp_path))
    yield path
    shutil.rmtree(path)


def run(directory, broker, *scenario):
    """Run a scenario of `helpers.relay_crash`; return its result."""
    find_program(PROGRAMS[broker], "/usr/lib/rabbitmq/bin")
    # Without coverage, whose own system calls would count as steps.
    env = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    env["PYTHONPATH"] = os.pathsep.join([os.path.dirname(__file__), *filter(None, [env.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "helpers.relay_crash", str(directory), broker, *map(str, scenario)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    logs = "".join(path.read_text() for path in directory.glob("*.log"))
    assert done.returncode == 0, done.stderr + logs
    assert done.stderr == ""
    assert "Traceback" not in logs, logs[logs.index("Traceback") :][:3000]
    return json.loads(done.stdout)


def check(directory, broker, handlers=("a", "b")):
    """Check the journal and the directories, and count the kills, events and deliveries.

    :param handlers: the handlers that write files
    """
    lines = [Line.parse(text) for text in (directory / "journal").read_text().splitlines()]
    accepted = {line.uid for line in lines if line.kind == "accepted"}
    sendings = defaultdict(set)
    for line in lines:
        if line.kind == "delivered":
            sendings[line.uid].add(line.sending)
    assert all(len(ids) == 1 for ids in sendings.values()), "a repeated delivery has another id"
    assert accepted <= sendings.keys()
    repeated = count_repeats(lines, acks_may_be_lost=broker == "rabbitmq")
    for handler in handlers:
        check_files(directory / handler, sendings)
    for outbox in directory.glob("outbox-*"):
        assert [str(path) for path in outbox.rglob("*") if path.is_file()] == []
    count = Counter(line.kind for line in lines)
    return {
        "killed": count["killed"],
        "broker killed": count["broker-killed"],
        "accepted": len(accepted),
        "delivered": len(sendings),
        "repeated": repeated,
        "shared": count["shared"],
    }


def check_files(directory, sendings):
    """Check that a handler has written each event once, complete and with its sending id."""
    found = set()
    for path in directory.glob("*.json"):
        if path.name.startswith("."):
            continue
        data = json.loads(path.read_bytes())
        uid = data["uid"]
        assert data["text"] == TEXT
        assert uid not in found
        found.add(uid)
        assert path.name == f"build-{uid}-{min(sendings[uid])}.json"
        copies = [copy for copy in (directory / f"build-{uid}").iterdir() if not copy.name.endswith(".tmp")]
        assert len(copies) == data["attached"]
        assert all(copy.read_bytes() == CONTENT for copy in copies)
    assert found == sendings.keys()


@pytest.mark.timeout(1800)  # the long form takes minutes
@pytest.mark.parametrize(
    ("broker", "handlers", "amounts"),
    [
        pytest.param("redis", 1, SHORT, id="redis-one-handler-short"),
        pytest.param("rabbitmq", 3, SHORT, id="rabbitmq-three-handlers-short"),
        pytest.param("redis", 3, LONG, marks=pytest.mark.long, id="redis-three-handlers-long"),
        pytest.param("redis", 1, LONG, marks=pytest.mark.long, id="redis-one-handler-long"),
        pytest.param("rabbitmq", 3, LONG, marks=pytest.mark.long, id="rabbitmq-three-handlers-long"),
        pytest.param("rabbitmq", 1, LONG, marks=pytest.mark.long, id="rabbitmq-one-handler-long"),
    ],
)
def test_accepted_events_reach_every_handler_after_random_kills(directory, record_property, broker, handlers, amounts):
    rounds, broker_kills = amounts["rounds"], int(os.environ.get("E3_RELAY_KILLS", amounts[broker]))
    result = run(directory, broker, "random", handlers, rounds, broker_kills)
    counted = check(directory, broker, handlers=("a", "b") if handlers == 3 else ())
    for name, number in counted.items():
        record_property(name, number)
    print(broker, counted, result)
    assert (counted["shared"] > 0) == (handlers == 1)
    assert counted["killed"] > rounds / 2
    assert counted["broker killed"] == broker_kills
    assert counted["accepted"] >= rounds


@pytest.mark.long
@pytest.mark.timeout(1800)  # several hundred kills
@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_accepted_events_reach_every_handler_after_a_kill_at_each_step(directory, broker):
    steps = run(directory, broker, "steps")
    counted = check(directory, broker)
    print(broker, counted, steps)
    assert min(steps.values()) > 15
    assert counted["killed"] == sum(number - 1 for number in steps.values())
    assert 0 < counted["repeated"] < 60, "only a kill between a step and its record repeats a delivery"
