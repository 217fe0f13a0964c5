"""What becomes of a message, by what relays remember about it and what a sink or a broker has just reported."""

from __future__ import annotations

from event._broker.sink import Disposition, SinkResult
from event._text import on_one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from event._broker.queue import ReceivedMessage
    from event._broker.state import RelayState

MOST_CRASHES = 8
SUSPECT = 2  # crashes; once is usual, since a relay that ends or loses its connection gives back what it holds
_LONGEST_REASON = 1000  # characters


def came_back(message: ReceivedMessage, state: RelayState) -> bool:
    """Return whether a message came back so often that it may be to blame for crashes.

    Of a suspect only the crash of its trial counts. A broker that does not count has each time counted by the state.
    """
    if state.crash_count >= SUSPECT:
        return state.on_trial and message.redelivered > 0
    return message.redelivered > 0 and (not message.counted or message.redelivered + state.crash_count >= SUSPECT)


def after_crash(state: RelayState, reason: str) -> SinkResult:
    """Count the crash of a worker; return what is to become of the message."""
    if not state.on_trial:  # else it is counted already
        state.crash_count += 1
    state.on_trial = False
    if state.crash_count >= MOST_CRASHES:
        return SinkResult(Disposition.DEAD_LETTER, crashes(state))
    return SinkResult(Disposition.REQUEUE, reason)


def crashes(state: RelayState) -> str:
    """Return why a message is dead-lettered that crashes relays."""
    return f"{state.crash_count} relays or workers have crashed with it"


def given_up(state: RelayState, reason: str) -> SinkResult:
    """Return what becomes of a message whose lifetime is over."""
    return SinkResult(Disposition.DEAD_LETTER, f"given up after {state.attempts} attempts: {reason}")


def left_over(state: RelayState) -> str:
    """Return why a message is dead-lettered although none of our handlers is to get it again."""
    parts = []
    if state.pending_handlers:
        parts.append(f"it is pending for {', '.join(state.pending_handlers)}, which this relay does not have")
    if state.refused:
        parts.append(f"refused for good: {'; '.join(f'{name}: {why}' for name, why in state.refused.items())}")
    return "; ".join(parts)


def printable(reason: str) -> str:
    """Return a reason that fits into a header: on one line, not too long, without lone surrogates."""
    return on_one_line(reason)[:_LONGEST_REASON]
