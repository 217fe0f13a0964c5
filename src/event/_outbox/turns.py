"""Track which entries were already tried in the current pass through an outbox."""

from __future__ import annotations

import time

from event._outbox import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from event._outbox.layout import Candidate, Layout

_SLACK = 2.0  # seconds that the clocks of this machine and of the file server may drift apart in a pass
_CLOCK_GRANULARITY = 0.1  # seconds; the coarsest resolution of a file's date that is supported


class Turns:
    """Detect, by the dates of their files, which entries were already tried in the current pass.

    Listing a directory may include entries that are added meanwhile. Without this check, a pass might never end.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._start: float | None = None
        self._began = 0.0
        self._first: set[str] = set()  # the ids that were tried within the first tick of the file server's clock

    def begin(self) -> float:
        """Start the pass at the first call; return its start by the file server's clock."""
        if self._start is None:
            self._start, self._began = self._layout.server_time(), time.monotonic()
        return self._start

    def has_had_turn(self, candidate: Candidate) -> bool:
        """Return whether an entry was already tried in this pass; if not, the caller may try it now.

        If the entry's date is in the future, a clock was set back, and the entry counts as not tried.
        """
        since = files.last_touched(self._layout.path(candidate.name)) - self.begin()
        elapsed = time.monotonic() - self._began
        if 0 < since <= elapsed + _SLACK or (since == 0 and candidate.id in self._first):
            return True
        if elapsed < _CLOCK_GRANULARITY:
            self._first.add(candidate.id)
        return False
