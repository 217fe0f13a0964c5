"""Which entries have had their turn in a pass through an outbox."""

from __future__ import annotations

import time

from event._outbox import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from event._outbox.layout import Candidate, Layout

_SLACK = 2.0  # seconds that the clocks of this machine and of the file server may drift apart in a pass
_CLOCK_GRANULARITY = 0.1  # seconds; no clock that dates files is coarser than that, or an entry may come twice


class Turns:
    """Finds out which entries have had their turn since a pass began, by the clock that dates the files.

    A directory may show a name that comes while it is read. Without this, a pass might not end.
    """

    def __init__(self, place: Layout) -> None:
        self._layout = place
        self._start: float | None = None
        self._began = 0.0
        self._first: set[str] = set()  # the ids within the first tick of that clock

    def begin(self) -> float:
        """Return when the pass began: at the first call."""
        if self._start is None:
            self._start, self._began = self._layout.server_time(), time.monotonic()
        return self._start

    def has_had(self, candidate: Candidate) -> bool:
        """Return whether an entry has had its turn. If not, this is its turn.

        If its date is in the future, a clock was set back, and it has not.
        """
        since = files.last_touched(self._layout.place(candidate.name)) - self.begin()
        elapsed = time.monotonic() - self._began
        if 0 < since <= elapsed + _SLACK or (since == 0 and candidate.id in self._first):
            return True
        if elapsed < _CLOCK_GRANULARITY:
            self._first.add(candidate.id)
        return False
