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

from servers.process import find_program

relaying = Path(__file__).with_name("helpers") / "relaying.py"
CONTENT = b"0123456789abcdef" * 1024
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


def run(directory, broker, *how):
    find_program(PROGRAMS[broker], "/usr/lib/rabbitmq/bin")
    # Without coverage, whose own system calls would count as steps.
    env = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    command = [sys.executable, str(relaying), str(directory), broker, *map(str, how)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    logs = "".join(path.read_text() for path in directory.glob("*.log"))
    assert done.returncode == 0, done.stderr + logs
    assert done.stderr == ""
    assert "Traceback" not in logs, logs[logs.index("Traceback") :][:3000]
    assert "hunter2" not in logs
    return json.loads(done.stdout)


def check(directory, broker, handlers=("a", "b")):
    """Check the journal and the directories, and count the kills, events and deliveries.

    :param handlers: the handlers that write files
    """
    lines = [Line(text) for text in (directory / "journal").read_text().splitlines()]
    accepted = {line.uid for line in lines if line.what == "A"}
    sendings = defaultdict(set)
    for line in lines:
        if line.what == "D":
            sendings[line.uid].add(line.sending)
    assert all(len(ids) == 1 for ids in sendings.values()), "a repeated delivery has another id"
    assert accepted <= sendings.keys()
    repeated = check_sendings(lines, lazy=broker == "rabbitmq")
    for handler in handlers:
        check_files(directory / handler, sendings)
    for outbox in directory.glob("outbox-*"):
        assert [str(path) for path in outbox.rglob("*") if path.is_file()] == []
    count = Counter(line.what for line in lines)
    return {
        "killed": count["K"],
        "broker killed": count["S"],
        "accepted": len(accepted),
        "delivered": len(sendings),
        "repeated": repeated,
        "shared": count["G"],
    }


class Line:
    """A line of the journal.

    :ivar when: the time at which the recorded action began
    :ivar span: the times at which it began and ended, which are far apart on a busy machine
    """

    def __init__(self, text):
        self.what, self.sending, self.uid, self.pid, since, until = text.split()
        self.when = float(since)
        self.span = float(since), float(until)

    def __repr__(self):
        return f"{self.what} {self.pid} {self.when}"


def check_sendings(lines, lazy):
    """Check the deliveries of each sending in the journal; return how many were repeated.

    Each repeated delivery must have a cause: an earlier step of that sending was not finished because its process or
    the broker was killed.

    :param lazy: whether the broker does not confirm an acknowledgement; a kill then loses the last ones
    """
    killed = times_of_kills(lines)
    outages = [line.span for line in lines if line.what == "S"]
    failures = [line for line in lines if line.what in {"L", "X"}]
    assert outages or not failures, "the broker was lost although it was not killed"
    of = defaultdict(list)
    for line in lines:
        if line.sending != "-":
            of[line.sending].append(line)
    lost = defaultdict(list, {pid: [*spans] for pid, spans in killed.items()})
    for number, line in enumerate(lines):
        if line.what in {"L", "X"}:
            lost[line.pid].append(line.span)
        elif line.what == "H":
            ends = (later.when for later in lines[number:] if (later.what, later.pid) == ("O", line.pid))
            lost[line.pid].append((line.when, next(ends, line.when)))

    def undone(line, since):
        # The broker may have been dead before the acknowledgement: the relay does not notice at once.
        return lazy and is_lost([*outages, *killed[line.pid]], since, line.when + STORE_TIME)

    repeated = 0
    for sending, history in of.items():
        more = max(sum(line.what == "D" for line in history) - 1, 0)
        if more:
            causes = count_causes(history, lost, undone)
            disturbed = {line.pid: lost[line.pid] for line in history if lost[line.pid]}
            text = f"{sending} was delivered {more + 1} times for {causes} causes: {history}, {disturbed}"
            assert more <= causes, text
        repeated += more
    return repeated


def times_of_kills(lines):
    """Return the times of the kills by process ID; several times if the system used the ID again."""
    killed = defaultdict(list)
    for line in lines:
        if line.what == "K":
            killed[line.pid].append(line.span)
    for line in lines:
        if line.what == "F":  # a worker ends when its relay is killed
            killed[line.pid] += [span for span in killed[line.uid] if span[1] > line.when]
    return killed


# The lines that begin and end a step. Steps are: publishing, until the producer has recorded it; a message in a relay;
# a batch in its worker, until the worker reports; a delivery, until it is recorded, or reported if there is no outbox.
BEGINS = {"P": "publishing", "T": "message", "W": "batch", "D": "delivery"}
ENDS = {"R": ("publishing",), "X": ("publishing",), "Z": ("message", "publishing"), "E": ("delivery",)}
ENDS["V"] = ("batch", "delivery")
STORE_TIME = 5.0  # seconds within which RabbitMQ stores an acknowledgement on disk


def count_causes(history, lost, undone):
    """Return how many steps of a sending were not finished before its last delivery."""
    causes, begun, received = 0, {}, {}
    last = max(index for index, line in enumerate(history) if line.what == "D")
    for line in history[:last]:
        causes += line.what == "X" or (line.what == "Z" and undone(line, received.get(line.pid, line.when)))
        if line.what == "T":
            # For example, a relay was paused with a message, and another relay received it meanwhile.
            others = [when for pid, when in received.items() if pid != line.pid]
            causes += any(is_lost(lost[line.pid], history[0].when, when) for when in others)
            received[line.pid] = line.when
        if line.what in BEGINS:
            before = begun.pop((line.pid, BEGINS[line.what]), None)
            causes += before is not None and is_lost(lost[line.pid], before.when, line.when)
            begun[line.pid, BEGINS[line.what]] = line
        for step in ENDS.get(line.what, ()):
            before = begun.pop((line.pid, step), None)
            # For example, the relay was still paused, and another relay received the message meanwhile.
            causes += step == "message" and before is not None and is_lost(lost[line.pid], before.when, line.when)
    end = history[last].when
    return causes + sum(is_lost(lost[line.pid], line.when, end) for line in begun.values())


def is_lost(disturbances, begin, end):
    return any(first <= end and begin <= last for first, last in disturbances)


def check_files(directory, sendings):
    """Check that the directory contains each event once, complete and with its sending ID."""
    found = set()
    for path in directory.glob("*.json"):
        if path.name.startswith("."):
            continue
        data = json.loads(path.read_bytes())
        uid = data["uid"]
        assert data["text"] == "x" * 2000
        assert uid not in found
        found.add(uid)
        assert path.name == f"build-{uid}-{min(sendings[uid])}.json"
        copies = [copy for copy in (directory / f"build-{uid}").iterdir() if not copy.name.endswith(".tmp")]
        assert len(copies) == data["attached"]
        assert all(copy.read_bytes() == CONTENT for copy in copies)
    assert found == sendings.keys()


@pytest.mark.timeout(1800)  # the long form takes minutes
@pytest.mark.parametrize(
    ("broker", "how", "amounts"),
    [
        pytest.param("redis", "one", SHORT, id="redis-one-handler-short"),
        pytest.param("rabbitmq", "random", SHORT, id="rabbitmq-three-handlers-short"),
        *(
            pytest.param(broker, how, LONG, marks=pytest.mark.long, id=f"{broker}-{words}-long")
            for broker in ("redis", "rabbitmq")
            for how, words in (("random", "three-handlers"), ("one", "one-handler"))
        ),
    ],
)
def test_accepted_events_reach_every_handler_after_random_kills(directory, record_property, broker, how, amounts):
    rounds, kills = amounts["rounds"], int(os.environ.get("E3_RELAY_KILLS", amounts[broker]))
    report = run(directory, broker, how, rounds, kills)
    counted = check(directory, broker, handlers=("a", "b") if how == "random" else ())
    for name, number in counted.items():
        record_property(name, number)
    print(broker, counted, report)
    assert (counted["shared"] > 0) == (how == "one")
    assert counted["killed"] > rounds / 2
    assert counted["broker killed"] == kills
    assert counted["accepted"] >= rounds


@pytest.mark.long
@pytest.mark.timeout(1800)  # some hundred kills
@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_accepted_events_reach_every_handler_after_a_kill_at_each_step(directory, broker):
    steps = run(directory, broker, "steps")
    counted = check(directory, broker)
    print(broker, counted, steps)
    assert min(steps.values()) > 15
    assert counted["killed"] == sum(number - 1 for number in steps.values())
    assert 0 < counted["repeated"] < 60, "only a kill between a step and its record repeats it"


def test_check_detects_lost_events_and_damage():
    def count(text, *, lazy=False):
        lines = []
        for number, line in enumerate(text.split("; ")):
            began = "" if len(line.split()) == 5 else f" {number}"  # otherwise the line has a time
            lines.append(Line(f"{line}{began} {number}"))
        return check_sendings(lines, lazy)

    good = "P s - 1; Q s - 1; R s - 1; T s - 2; W s - 4; D s u 4; V s - 4; Z s - 2"
    assert count(good) == 0
    assert count("P s - 1; K - - 1; P s - 3; Q s - 3; R s - 3; D s u 2; E s - 2; D s u 2; E s - 2") == 1
    assert count("T s - 1; D s u 1; K - - 1; T s - 2; D s u 2; Z s - 2") == 1
    assert count("T s - 1; W s - 3; K - - 3; D s u 2; D s u 2; V s - 2; Z s - 1") == 1
    held = "T s - 1; H - - 1; T s - 2; W s - 3; V s - 3; Z s - 2; W s - 4; D s u 4; V s - 4; Z s - 1; D s u 3; E s - 3"
    assert count(held) == 1
    assert count("P s - 1; Q s - 1; H - - 2; T s - 3; D s u 3; Z s - 3; T s - 2; D s u 2; Z s - 2") == 1
    assert count("H - - 2; P s - 1; Q s - 1; T s - 3; D s u 3; Z s - 3; O - - 2; T s - 2; D s u 2; Z s - 2") == 1
    assert count("S - - -; T s - 1; D s u 1; L - - 1; T s - 2; D s u 2; Z s - 2") == 1
    assert count("S - - -; P s - 1; X s - 1; P s - 1; Q s - 1; D s u 2; E s - 2; D s u 2") == 1
    assert count(f"{good}; K - - 2; T s - 3; D s u 3; Z s - 3", lazy=True) == 1
    assert count("T s - 1; K - - 1; T s - 2; D s u 2; Z s - 2; D s u 3; E s - 3; K - - 1") == 1
    assert count("F - 1 3; W s - 3; D s u 3; K - - 1; D s u 2; E s - 2; F - 1 3; K - - 1") == 1
    assert count(f"{good}; S - - -; T s - 2; D s u 2; Z s - 2", lazy=True) == 1
    assert count("P s - 1; T s - 2; D s u 2; S - - -; Z s - 2; T s - 3; D s u 3; Z s - 3", lazy=True) == 1
    # A broker or process still worked after the recorded time of its kill.
    assert count("T s - 1; D s u 2; V s - 2; Z s - 1; S - - - -1; T s - 3; D s u 3", lazy=True) == 1
    assert count("T s - 1; D s u 1; K - - 1 -1; T s - 2; D s u 2; Z s - 2") == 1
    for text in (
        f"{good}; D s u 2",
        f"{good}; K - - 3; D s u 2",
        f"{good}; K - - 2; T s - 3; D s u 3; Z s - 3",
        f"{good}; S - - -; T s - 2; D s u 2; Z s - 2",
        f"{good}; K - - 2; D s u 2",
        f"{good}; K - - 4; D s u 2",
        f"{good}; L - - 2",
        f"{good}; T s - 2; D s u 2; D s u 2; K - - 2",
        f"{good}; P s - 1; X s - 1",
        "H - - 3; O - - 3; P s - 1; T s - 2; D s u 2; Z s - 2; T s - 3; D s u 3; Z s - 3",
        f"{good}; H - - 3; T s - 3; D s u 3; Z s - 3",
    ):
        with pytest.raises(AssertionError):
            count(text)
