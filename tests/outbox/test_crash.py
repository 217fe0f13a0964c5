"""Senders and deliverers killed: what was accepted reaches every handler, whole, and once but for the kill itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict

import pytest

from outbox import killing

ROUNDS = [60, pytest.param(520, marks=pytest.mark.long)]  # four processes are killed in each
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="platform: Windows has no fork")


def run(directory, kind, rounds=0):
    # Its pool's threads are idle when it forks; Python 3.12 and newer warn of any thread.
    command = [sys.executable, "-W", "ignore:This process:DeprecationWarning", killing.__file__, directory, kind]
    command.append(str(rounds))
    # Without coverage, whose own system calls would be among the steps.
    env = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def check(directory):
    """Hold the journal and the directories against what is promised; return how often each thing happened."""
    lines = [line.split() for line in (directory / "journal").read_text().splitlines()]
    accepted = {uid for what, _, uid, _ in lines if what == "A"}
    killed = {pid for what, _, _, pid in lines if what == "K"}
    repeated = check_sendings(lines, killed)
    ids = defaultdict(set)
    for what, sending, uid, _ in lines:
        if what == "D":
            ids[uid].add(sending)
    assert all(len(sendings) == 1 for sendings in ids.values()), "a repeated delivery has another id"
    assert accepted <= ids.keys()
    for handler in ("a", "b"):
        assert check_files(directory / handler, ids) == ids.keys()
    for state in ("tmp", "waiting", "claimed", "failed", "corrupt"):
        outbox = directory / "outbox" / state
        assert not outbox.exists() or os.listdir(outbox) == []
    return {"accepted": len(accepted), "killed": len(killed), "repeated": repeated}


def check_sendings(lines, killed):
    """Follow each sending through the journal; return how often one was delivered again.

    After a delivery that is on record there is none. Before another one, the process that made the last one was
    killed. No two have the entry at once.
    """
    holder, delivered, recorded, repeated = {}, {}, set(), 0
    for what, sending, _, pid in lines:
        if what == "B":
            assert sending not in recorded, "delivered again although it was on record"
            holder[sending] = pid
        elif what == "D":
            assert holder[sending] == pid, "two had the entry at once"
            if sending in delivered:
                assert delivered[sending] in killed, "delivered again although nobody was killed"
                repeated += 1
            delivered[sending] = pid
        elif what == "R":
            recorded.add(sending)
    return repeated


def check_files(directory, ids):
    """Return the uids of the events in a directory, each of which is whole and there once, under its sending's id."""
    found = set()
    for path in directory.glob("*.json"):
        if path.name.startswith("."):
            continue
        data = json.loads(path.read_bytes())
        uid = data["uid"]
        assert data["text"] == "x" * 5000
        assert uid not in found
        found.add(uid)
        assert path.name == f"build-{uid}-{min(ids[uid])}.json"
        copies = [copy for copy in (directory / f"build-{uid}").iterdir() if not copy.name.endswith(".tmp")]
        assert len(copies) == 2
        assert all(copy.read_bytes() == killing.CONTENT for copy in copies)
    return found


@pytest.mark.server
@pytest.mark.parametrize("rounds", ROUNDS)
def test_accepted_events_reach_every_handler_after_random_kills(tmp_path, record_property, rounds):
    run(tmp_path, "random", rounds)
    counted = check(tmp_path)
    for name, number in counted.items():
        record_property(name, number)
    print(counted)
    assert counted["killed"] == 4 * rounds
    assert counted["accepted"] > rounds / 10


@pytest.mark.server
@pytest.mark.parametrize("kind", ["send", "deliver"])
def test_accepted_events_reach_every_handler_after_a_kill_at_each_step(tmp_path, kind):
    steps = int(run(tmp_path, kind))
    assert steps > 50
    counted = [check(tmp_path / str(step)) for step in range(1, steps + 1)]
    assert [count["killed"] for count in counted] == [1] * (steps - 1) + [0]
    repeated = sum(count["repeated"] for count in counted)
    assert 0 < repeated < 12, "a kill between a delivery and its record repeats it, and no other does"
    if kind == "deliver":
        assert {count["accepted"] for count in counted} == {1}
    else:
        assert {count["accepted"] for count in counted} == {0, 1}


def test_check_detects_lost_events_and_damage():
    good = ["B s u 1", "D s u 1", "B s u 2", "D s u 2", "R s u 2"]
    assert check_sendings([line.split() for line in good], killed={"1"}) == 1
    for lines, killed in (
        (good, set()),
        ([*good, "B s u 3"], {"1", "2"}),
        (["B s u 1", "B s u 2", "D s u 1"], set()),
    ):
        with pytest.raises(AssertionError):
            check_sendings([line.split() for line in lines], killed)
