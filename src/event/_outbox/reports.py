"""What a delivery pool reports. This is for type checkers alone."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Protocol

    from event._outbox.claim import Claim
    from event._outbox.lanes import Lane
    from event._outcome import Delivery

    class Reports(Protocol):
        """Takes reports of a pool, from several threads."""

        def begin(self, lane: Lane, claims: Sequence[Claim]) -> None:
            """Take note that a handler is about to be given these entries; it may bring down the process."""

        def result(self, claim: Claim, delivery: Delivery) -> None:
            """Take what a handler did, or that it is given up."""

        def end(self, claim: Claim, where: str) -> None:
            """Take note that all handlers of an entry have reported; `where` is where it went."""

        def log(self, text: str) -> None:
            """Take a warning that is not about a single delivery."""
