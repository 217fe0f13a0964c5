"""The outbox: a directory that keeps each event until every handler has delivered it.

Other packages use only these names:

=====================  ===============================================================================================
`Outbox`               the directory: put, claim, find, list, count, retry and drop entries
`Claim`                an entry that this process may deliver: begin an attempt, record results, release
`Entry`                the content of an entry: event, handlers and journal
`NewEntry`             an event to store with `Outbox.put_many`
`Candidate`            the name of an entry, for `Outbox.claim`, `read`, `retry` and `drop`
`BOUND`                the largest number of entries that `Outbox.summary` counts in a state
`NewerVersionError`    a newer release wrote the entry
`current_owner`        return the owner string of the current process, which is part of a claim's name
`owner_is_dead`        return whether the process with an owner string has ended
``delivery``           module: send an event through an outbox in the current process
``pool``               module: deliver many entries in threads
``lanes``              module: the queue of each handler in the pool
``backlog``            module: deliver earlier entries after a successful delivery
=====================  ===============================================================================================

Importing this package imports no submodule. A name is imported when it is first used.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from event._outbox.claim import Claim
    from event._outbox.entry import Entry, NewerVersionError
    from event._outbox.layout import Candidate
    from event._outbox.liveness import current_owner, owner_is_dead
    from event._outbox.store import BOUND, Outbox
    from event._outbox.writer import NewEntry

_MODULES = {
    "claim": ("Claim",),
    "entry": ("Entry", "NewerVersionError"),
    "layout": ("Candidate",),
    "liveness": ("current_owner", "owner_is_dead"),
    "store": ("BOUND", "Outbox"),
    "writer": ("NewEntry",),
}

__all__ = [
    "BOUND",
    "Candidate",
    "Claim",
    "Entry",
    "NewEntry",
    "NewerVersionError",
    "Outbox",
    "current_owner",
    "owner_is_dead",
]


def __getattr__(name: str) -> object:
    """Import a name on first use."""
    for module, names in _MODULES.items():
        if name in names:
            value = globals()[name] = getattr(__import__(f"{__name__}.{module}", fromlist=[name]), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
