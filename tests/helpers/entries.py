"""Put, read and damage the entries of an outbox."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from event import Delivery, Event
from event._outbox import NewEntry, current_owner

STATES = ("tmp", "waiting", "claimed", "failed", "corrupt")
POSIX = pytest.mark.skipif(os.name == "nt", reason="platform: POSIX alone has it")
ROOT = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="platform: only root gives files to another user"
)
ELSEWHERE = "0123456789abcdef-1-1"  # an owner on another machine
LEASE = 3600


def place(box, *names):
    return os.path.join(box.path, *names)


def names(box, state):
    """Return the names in a state; those of waiting entries without their bucket."""
    top = place(box, state)
    if state == "waiting":
        return sorted(name for bucket in os.listdir(top) for name in os.listdir(os.path.join(top, bucket)))
    return sorted(os.listdir(top))


def names_by_state(box):
    """Return state -> names, of the states that hold something."""
    return {state: found for state in STATES if (found := names(box, state))}


def candidates(box, state):
    return [candidate for candidate, _ in box.entries(state)]


def path_of(box, entry_id):
    """Return where an entry is."""
    (candidate,) = box.find(entry_id)
    return place(box, candidate.name)


def text_of(path):
    """Return the file that holds an entry's text."""
    return Path(path, "entry") if os.path.isdir(path) else Path(path)


def lines_of(path):
    return [json.loads(line) for line in text_of(path).read_bytes().splitlines() if line]


def put(box, e=None, **handlers):
    return box.put(e or Event("build"), handlers or {"file": "d"})


def put_in_span(box, e, handlers, span):
    (claim,) = box.put_many([NewEntry(e, handlers, span=span)])
    return claim


def put_waiting(box, due=1, e=None, **handlers):
    """Put an event that waits; return its id and its path."""
    claim = put(box, e, **handlers)
    claim.postpone(due)
    return claim.entry.id, path_of(box, claim.entry.id)


def not_due_yet():
    """Return when an entry is due that is not due."""
    return time.time() + 1000


def make_delivery(handler, *, ok=True, error=None):
    return Delivery(handler, ok=ok, error=error, seconds=0.12345)


def claim_each(box, **kwargs):
    """Claim what can be claimed, one entry after another."""
    for candidate in box.candidates(**kwargs):
        if claim := box.claim(candidate):
            yield claim


def claimed_ids(box, **kwargs):
    """Deliver to nobody: return the ids that come, each given back unchanged."""
    ids = []
    for claim in claim_each(box, **kwargs):
        ids.append(claim.entry.id)
        claim.postpone(not_due_yet())
    return ids


def abandon(box, claim, owner=ELSEWHERE, *, age=0.0):
    """Give a claim to another owner, untouched for a while; return its path."""
    path = place(box, "claimed", f"{claim.entry.id}.{owner}-0")
    os.rename(claim.path, path)
    touch(path, age)
    return path


def touch(path, age):
    os.utime(path, (time.time() - age,) * 2)


def dead_owner():
    """Return the owner string of a process that has ended."""
    code = "from event._outbox import current_owner; print(current_owner())"
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def snapshot(directory):
    """Return path -> content of all below a directory."""
    return {
        os.path.join(top, name): Path(top, name).read_bytes() for top, _, found in os.walk(directory) for name in found
    }


def candidate_of(box, entry_id, state="waiting"):
    (found,) = (c for c in candidates(box, state) if c.id == entry_id)
    return found


def current():
    return current_owner()
