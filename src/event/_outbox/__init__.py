"""Keep events on disk until every handler has them.

Other rooms use these names, and no others:

=====================  ===============================================================================================
`Outbox`               the directory: put, candidates, claim, adopt, find, read, entries, summary, retry, drop
`Claim`                an entry in the hands of this process: event, begin, record, release, postpone
`Entry`, `Record`      what an entry holds; what one handler did
`NewEntry`             what `Outbox.put_many` takes
`Candidate`            the name of an entry, for `Outbox.claim`, `read`, `retry` and `drop`
`Summary`              how much an outbox holds, up to a bound
`NewerVersionError`    a newer release wrote an entry
`current_owner`        the current process, in the names of claims; `owner_is_dead` of one
`BOUND`                how far `Summary` counts
``delivery``           the module that sends through an outbox
=====================  ===============================================================================================

Importing this package loads none of them: a name is loaded when it is first used.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from event._outbox.claim import Claim
    from event._outbox.entry import Entry, NewerVersionError, Record
    from event._outbox.layout import Candidate
    from event._outbox.liveness import current_owner, owner_is_dead
    from event._outbox.store import BOUND, Outbox, Summary
    from event._outbox.writer import NewEntry

__all__ = [
    "BOUND",
    "Candidate",
    "Claim",
    "Entry",
    "NewEntry",
    "NewerVersionError",
    "Outbox",
    "Record",
    "Summary",
    "current_owner",
    "owner_is_dead",
]

_PLACES = {
    "BOUND": "store",
    "Candidate": "layout",
    "Claim": "claim",
    "Entry": "entry",
    "NewEntry": "writer",
    "NewerVersionError": "entry",
    "Outbox": "store",
    "Record": "entry",
    "Summary": "store",
    "current_owner": "liveness",
    "owner_is_dead": "liveness",
}


def __getattr__(name: str) -> object:
    """Load a name when it is first used."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(__import__(f"{__name__}.{_PLACES[name]}", fromlist=[name]), name)
    return value
