"""Decide what to do with a message after crashes and failures."""

from __future__ import annotations

from event._broker.sink import Disposition, SinkResult

TYPE_CHECKING = False
if TYPE_CHECKING:
    from event._broker.queue import ReceivedMessage
    from event._broker.state import RelayState

MAX_CRASHES = 8
SUSPECT_CRASHES = 2  # one redelivery is normal, for example after a relay has lost its connection
_TRIAL_LIMITS = {SUSPECT_CRASHES: 100, SUSPECT_CRASHES + 1: 10}  # after more crashes, one


def is_back_from_crash(message: ReceivedMessage, state: RelayState) -> bool:
    """Return whether a message was redelivered so often that it may be the cause of crashes.

    For a suspect, only a redelivery during its trial counts. If the broker does not count redeliveries, the relays
    count each of them in the message's state.
    """
    if state.crash_count >= SUSPECT_CRASHES:
        return state.on_trial and message.redelivered > 0
    return message.redelivered > 0 and (
        not message.counted or message.redelivered + state.crash_count >= SUSPECT_CRASHES
    )


def trial_limit(crash_count: int) -> int:
    """Return how many suspects of a batch may be on trial at the same time.

    After a relay has crashed twice for another reason, all messages that it held are suspects. A single trial for each
    batch would take minutes for a few hundred of them.
    """
    return _TRIAL_LIMITS.get(crash_count, 1)


def after_crash(state: RelayState, reason: str) -> SinkResult:
    """Count the crash of a worker; return the result for the message."""
    if not state.on_trial:  # otherwise the crash was counted in advance
        state.crash_count += 1
    state.on_trial = False
    if state.crash_count >= MAX_CRASHES:
        return SinkResult(Disposition.DEAD_LETTER, crashes(state))
    return SinkResult(Disposition.REQUEUE, reason)


def crashes(state: RelayState) -> str:
    """Return the reason for dead-lettering a message after `MAX_CRASHES` crashes."""
    return f"{state.crash_count} relays or workers crashed while they processed it"


def expired(state: RelayState, reason: str) -> SinkResult:
    """Return the result for a message that is older than `relay.MESSAGE_LIFETIME`."""
    return SinkResult(Disposition.DEAD_LETTER, f"given up after {state.attempts} attempts: {reason}")


def remaining_failures(state: RelayState) -> str:
    """Return why to dead-letter a message that all handlers of this relay have processed; empty to acknowledge it."""
    parts = []
    if state.pending_handlers:
        parts.append(f"it is pending for {', '.join(state.pending_handlers)}, which this relay does not have")
    if state.refused:
        parts.append(f"refused for good: {'; '.join(f'{name}: {why}' for name, why in state.refused.items())}")
    return "; ".join(parts)
