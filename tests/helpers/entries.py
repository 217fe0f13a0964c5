"""Store, read and damage entries of an outbox."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from event import Delivery, Event
from event._outbox import NewEntry

STATES = ("tmp", "waiting", "claimed", "failed", "corrupt")
POSIX = pytest.mark.skipif(os.name == "nt", reason="platform: POSIX only")
ROOT = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="platform: only root can change the owner of a file"
)
OTHER_MACHINE = "0123456789abcdef-1-1"  # the owner string of a process on another machine
LEASE = 3600


def path_in(box, *names):
    """Return the path of a file in an outbox."""
    return os.path.join(box.path, *names)


def names(box, state):
    """Return the sorted file names in the directory of a state, without the buckets of waiting entries."""
    top = path_in(box, state)
    if state == "waiting":
        return sorted(name for bucket in os.listdir(top) for name in os.listdir(os.path.join(top, bucket)))
    return sorted(os.listdir(top))


def names_by_state(box):
    """Return state -> file names, without the empty states."""
    return {state: found for state in STATES if (found := names(box, state))}


def count_by_state(box):
    """Return state -> number of entries, without the empty states."""
    return {state: len(found) for state, found in names_by_state(box).items()}


def candidates(box, state):
    return [candidate for candidate, _ in box.entries(state)]


def path_of(box, entry_id):
    """Return the path of an entry."""
    (candidate,) = box.find(entry_id)
    return path_in(box, candidate.name)


def journal_of(path):
    """Return the file with an entry's event and journal."""
    return Path(path, "entry") if os.path.isdir(path) else Path(path)


def lines_of(path):
    """Return the decoded lines of an entry."""
    return [json.loads(line) for line in journal_of(path).read_bytes().splitlines() if line]


def put(box, e=None, **handlers):
    return box.put(e or Event("build"), handlers or {"file": "d"})


def put_in_span(box, e, handlers, span):
    (claim,) = box.put_many([NewEntry(e, handlers, span=span)])
    return claim


def put_waiting(box, due=1, e=None, **handlers):
    """Store a waiting entry; return its id and its path."""
    claim = put(box, e, **handlers)
    claim.postpone(due)
    return claim.entry.id, path_of(box, claim.entry.id)


def not_due_yet():
    """Return a time in the future."""
    return time.time() + 1000


def make_delivery(handler, *, ok=True, error=None):
    return Delivery(handler, ok=ok, error=error, seconds=0.12345)


def claim_each(box, **kwargs):
    """Claim one entry after another."""
    for candidate in box.candidates(**kwargs):
        if claim := box.claim(candidate):
            yield claim


def claimed_ids(box, **kwargs):
    """Return the ids of the entries that can be claimed. Release each claim unchanged."""
    ids = []
    for claim in claim_each(box, **kwargs):
        ids.append(claim.entry.id)
        claim.postpone(not_due_yet())
    return ids


def abandon(box, claim, owner=OTHER_MACHINE, *, age=0.0):
    """Change the owner and the age of a claim; return its path."""
    path = path_in(box, "claimed", f"{claim.entry.id}.{owner}-0")
    os.rename(claim.path, path)
    touch(path, age)
    return path


def touch(path, age):
    """Set the time of a file to an age in seconds."""
    os.utime(path, (time.time() - age,) * 2)


def dead_owner():
    """Return the owner string of a process that has ended."""
    code = "from event._outbox import current_owner; print(current_owner())"
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def snapshot(directory):
    """Return path -> content of all files in a directory and its subdirectories."""
    return {
        os.path.join(top, name): Path(top, name).read_bytes() for top, _, found in os.walk(directory) for name in found
    }


def candidate_of(box, entry_id, state="waiting"):
    (found,) = (c for c in candidates(box, state) if c.id == entry_id)
    return found
