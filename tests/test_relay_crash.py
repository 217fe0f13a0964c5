"""Producers, relays, deliverers and the broker itself killed: what was accepted reaches the handlers, whole.

The long form kills E3_RELAY_ROUNDS processes, and the broker E3_RELAY_KILLS times; the short one is part of each run.
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
    """A directory in memory, where there is such a thing: what a kill loses does not depend on the disk."""
    memory = Path("/dev/shm")
    path = Path(tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else tmp_path))
    yield path
    shutil.rmtree(path)


def run(directory, broker, *how):
    find_program(PROGRAMS[broker], "/usr/lib/rabbitmq/bin")
    # Without coverage, whose own steps would be among those that are counted.
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
    """Hold the journal and the directories against what is promised; return how often each thing happened.

    :param handlers: those that write files
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

    :ivar when: the time of what it tells, or when that began
    :ivar span: when it began and when it was over; a machine with other work takes its time between the two
    """

    def __init__(self, text):
        self.what, self.sending, self.uid, self.pid, since, until = text.split()
        self.when = float(since)
        self.span = float(since), float(until)

    def __repr__(self):
        return f"{self.what} {self.pid} {self.when}"


def check_sendings(lines, lazy):
    """Follow each sending through the journal; return how many deliveries there were beyond the first.

    Before each is a step of that sending that was begun and not finished, by a process that was killed, or while the
    broker was.

    :param lazy: whether the broker is told of what is done, and does not answer: then a kill undoes the last of it
    """
    killed = times_of_kills(lines)
    outages = [line.span for line in lines if line.what == "S"]
    failures = [line for line in lines if line.what in {"L", "X"}]
    assert outages or not failures, "the broker was lost though nobody killed it"
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
        # The broker may have been dead already when it was told: nobody notices at once.
        return lazy and is_lost([*outages, *killed[line.pid]], since, line.when + SOON)

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
    """Return when each process was killed; more than once if the system gives its number to another one."""
    killed = defaultdict(list)
    for line in lines:
        if line.what == "K":
            killed[line.pid].append(line.span)
    for line in lines:
        if line.what == "F":  # a worker ends when its relay is killed
            killed[line.pid] += [span for span in killed[line.uid] if span[1] > line.when]
    return killed


# What begins a step, and what ends it: publishing, until a producer has it on record; what a relay does with a message;
# what its worker does, until it has reported; a delivery, until it is on record, or reported if there is no outbox.
BEGINS = {"P": "publishing", "T": "message", "W": "batch", "D": "delivery"}
ENDS = {"R": ("publishing",), "X": ("publishing",), "Z": ("message", "publishing"), "E": ("delivery",)}
ENDS["V"] = ("batch", "delivery")
SOON = 5.0  # seconds, in which RabbitMQ has on the disk what it was told


def count_causes(history, lost, undone):
    """Return how many steps of a sending were not finished before it was delivered for the last time."""
    causes, begun, taken = 0, {}, {}
    last = max(index for index, line in enumerate(history) if line.what == "D")
    for line in history[:last]:
        causes += line.what == "X" or (line.what == "Z" and undone(line, taken.get(line.pid, line.when)))
        if line.what == "T":
            # It was held with the message in its hands, say, and another relay has taken it meanwhile.
            others = [when for pid, when in taken.items() if pid != line.pid]
            causes += any(is_lost(lost[line.pid], history[0].when, when) for when in others)
            taken[line.pid] = line.when
        if line.what in BEGINS:
            before = begun.pop((line.pid, BEGINS[line.what]), None)
            causes += before is not None and is_lost(lost[line.pid], before.when, line.when)
            begun[line.pid, BEGINS[line.what]] = line
        for step in ENDS.get(line.what, ()):
            before = begun.pop((line.pid, step), None)
            # It was held still, say, and another relay has taken the message meanwhile.
            causes += step == "message" and before is not None and is_lost(lost[line.pid], before.when, line.when)
    end = history[last].when
    return causes + sum(is_lost(lost[line.pid], line.when, end) for line in begun.values())


def is_lost(disturbances, begin, end):
    return any(first <= end and begin <= last for first, last in disturbances)


def check_files(directory, sendings):
    """Find each event in a directory, whole and there once, under its sending's id."""
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
    assert 0 < counted["repeated"] < 60, "a kill between a step and its record repeats it, and no other does"


def test_check_detects_lost_events_and_damage():
    def count(text, *, lazy=False):
        lines = []
        for number, line in enumerate(text.split("; ")):
            began = "" if len(line.split()) == 5 else f" {number}"  # else the line says when
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
    # A broker or process was still at work after its killer had looked at the clock.
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
