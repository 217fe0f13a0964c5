"""Select the events of a handler by the conditions after ``@`` in its name, as in ``smtp@failure+fixed``.

=============  ==========================================================================================
``always``     every event; the same as no condition
``failure``    an event whose ``outcome`` is ``failure``; ``success`` and ``cancel`` work in the same way
``fixed``      a success, if the previous event of the same name and branch was a failure
``changed``    a success after a failure, or a failure after a success; also a failure that is the first event
=============  ==========================================================================================

An event without an outcome, such as an open one, meets only ``always``. ``fixed`` and ``changed`` ignore cancelled
events, which do not show whether the code works.
"""

from __future__ import annotations

import os

from event._handler_config import MET_BY_CHANGE, split_conditions
from event.error import EventError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

_WITH_MEMORY = frozenset({"fixed", "changed"})
_DIRECTORY = "outcomes"  # in the outbox


def require_memory(name: str, outbox: str | None) -> None:
    """Raise EventError if a handler's conditions are invalid, or if they need an outbox and there is none."""
    _, conditions = split_conditions(name)
    if outbox is None and (needed := sorted(conditions & _WITH_MEMORY)):
        raise EventError(f"{needed[0]!r} needs an outbox, which keeps the last outcome; set E3_EVENT_OUTBOX")


def skipped(names: Iterable[str], data: Mapping[str, Any], outbox: str | None) -> set[str]:
    """Return the handlers whose conditions an event does not meet. Save its outcome if a condition depends on it.

    :param data: the event's data
    :param outbox: the directory in which the last outcomes are saved; None if there is no outbox
    """
    conditions = {name: found for name in names if "@" in name and (found := _known_conditions(name))}
    if not conditions:
        return set()
    outcome = str(data.get("outcome") or "")
    met = {"always", outcome}
    if outbox is not None and outcome in MET_BY_CHANGE and any(found & _WITH_MEMORY for found in conditions.values()):
        met |= _met_by_change(outcome, data, outbox)
    return {name for name, found in conditions.items() if not found & met}


def _known_conditions(name: str) -> frozenset[str]:
    """Return a handler's conditions; an empty set if its name is invalid."""
    try:
        return split_conditions(name)[1]
    except EventError:
        return frozenset()


def _met_by_change(outcome: str, data: Mapping[str, Any], outbox: str) -> frozenset[str]:
    path = os.path.join(outbox, _DIRECTORY, _key(data))
    last = _last_outcome(path)
    if last != outcome:
        _remember(path, outcome)
    is_change = last == "failure" if outcome == "success" else last != "failure"
    return MET_BY_CHANGE[outcome] if is_change else frozenset()


def _key(data: Mapping[str, Any]) -> str:
    """Return the file name for an event's name and branch."""
    from hashlib import sha256

    ci = data.get("ci")
    branch = data.get("branch") or (ci.get("branch") if isinstance(ci, dict) else "") or ""
    return sha256(f"{data.get('name')}\0{branch}".encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _last_outcome(path: str) -> str:
    from event import _files

    try:
        return _files.read_regular(path, follow=False).decode("ascii", "replace").strip()
    except OSError:
        return ""


def _remember(path: str, outcome: str) -> None:
    from event import _files, _log
    from event._outbox import Outbox

    directory = os.path.dirname(path)
    try:
        Outbox(os.path.dirname(directory)).prepare()
        _files.make_directory(directory, 0o700)
        _files.write_atomically(path, f"{outcome}\n".encode("ascii"), mode=0o600)
    except OSError as error:
        _log.warning("the outcome, which 'fixed' and 'changed' need, cannot be saved in %s: %s", path, error)
