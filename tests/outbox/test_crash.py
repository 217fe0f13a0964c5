"""Senders and deliverers are killed: each accepted event reaches every handler, complete.

An event is delivered again only if a kill separates its delivery from the record of it.
"""

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
    # When the script forks, its pool still has idle threads. Python 3.12 and newer warn of that.
    command = [sys.executable, "-W", "ignore:This process:DeprecationWarning", killing.__file__, directory, kind]
    command.append(str(rounds))
    # Without coverage, since its system calls would count.
    env = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def check(directory):
    """Check the history, the handlers' files and the outbox; return how often each thing happened."""
    lines = [line.split() for line in (directory / "history").read_text().splitlines()]
    accepted = {uid for what, _, uid, _ in lines if what == "accepted"}
    killed = {process for what, _, _, process in lines if what == "killed"}
    repeated = check_deliveries(lines, killed)
    ids = defaultdict(set)
    for what, sending_id, uid, _ in lines:
        if what == "delivered":
            ids[uid].add(sending_id)
    assert all(len(found) == 1 for found in ids.values()), "a repeated delivery has another id"
    assert accepted <= ids.keys()
    for handler in ("a", "b"):
        assert check_files(directory / handler, ids) == ids.keys()
    for state in ("tmp", "waiting", "claimed", "failed", "corrupt"):
        outbox = directory / "outbox" / state
        assert not outbox.exists() or os.listdir(outbox) == []
    return {"accepted": len(accepted), "killed": len(killed), "repeated": repeated}


def check_deliveries(lines, killed):
    """Check the deliveries in a history; return how many of them are repeated.

    A journaled delivery is not repeated. A delivery is repeated only if the process that made it was killed. Two
    processes never deliver an entry at the same time.
    """
    process_of, delivered_by, journaled, repeated = {}, {}, set(), 0
    for what, sending_id, _, process in lines:
        if what == "called":
            assert sending_id not in journaled, "delivered again although the delivery was journaled"
            process_of[sending_id] = process
        elif what == "delivered":
            assert process_of[sending_id] == process, "two processes delivered the entry at the same time"
            if sending_id in delivered_by:
                assert delivered_by[sending_id] in killed, "delivered again although the process was not killed"
                repeated += 1
            delivered_by[sending_id] = process
        elif what == "journaled":
            journaled.add(sending_id)
    return repeated


def check_files(directory, ids):
    """Check that a file handler has written each event once, complete; return the uids of the events."""
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
def test_accepted_events_reach_every_handler_after_kills_at_random_moments(tmp_path, record_property, rounds):
    run(tmp_path, "random", rounds)
    counts = check(tmp_path)
    for name, number in counts.items():
        record_property(name, number)
    print(counts)
    assert counts["killed"] == 4 * rounds
    assert counts["accepted"] > rounds / 10


def kill_at_each_system_call(tmp_path, kind):
    """Return what happened for each number of the system call before which the process was killed."""
    numbers = int(run(tmp_path, kind))
    counts = [check(tmp_path / str(number)) for number in range(1, numbers + 1)]
    assert [count["killed"] for count in counts] == [1] * (numbers - 1) + [0]
    return counts


@pytest.mark.server
@pytest.mark.parametrize(("kind", "accepted"), [("send", {0, 1}), ("deliver", {1})], ids=["send", "deliver"])
def test_accepted_events_reach_every_handler_after_a_kill_at_each_system_call(tmp_path, kind, accepted):
    counts = kill_at_each_system_call(tmp_path, kind)
    assert len(counts) > 50
    assert {count["accepted"] for count in counts} == accepted


@pytest.mark.server
@pytest.mark.parametrize("kind", ["send", "deliver"])
def test_only_a_kill_between_a_delivery_and_its_record_repeats_the_delivery(tmp_path, kind):
    # Other threads would take a share of the kills that depends on the machine's speed, so they do not count.
    counts = kill_at_each_system_call(tmp_path, f"{kind}-record")
    assert counts[0]["repeated"] == 1
    assert sum(count["repeated"] for count in counts) < 12


def test_check_detects_lost_events_and_damage():
    good = ["called s u 1", "delivered s u 1", "called s u 2", "delivered s u 2", "journaled s u 2"]
    assert check_deliveries([line.split() for line in good], killed={"1"}) == 1
    for lines, killed in (
        (good, set()),
        ([*good, "called s u 3"], {"1", "2"}),
        (["called s u 1", "called s u 2", "delivered s u 1"], set()),
    ):
        with pytest.raises(AssertionError):
            check_deliveries([line.split() for line in lines], killed)
