"""The protocol for the reports of a delivery pool. Only type checkers need this module."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Protocol

    from event._outbox.claim import Claim
    from event._outbox.lanes import Lane
    from event._outcome import Delivery

    class Reports(Protocol):
        """Receives the reports of a pool. Several threads call it."""

        def begin(self, lane: Lane, claims: Sequence[Claim]) -> None:
            """Report that a handler is about to get these entries. It may crash the process."""

        def result(self, claim: Claim, delivery: Delivery) -> None:
            """Report the result of a handler for an entry."""

        def end(self, claim: Claim, where: str) -> None:
            """Report the new state of an entry after all its handlers have a result; see `Claim.release`."""

        def log(self, text: str) -> None:
            """Report a warning that does not belong to a single delivery."""
