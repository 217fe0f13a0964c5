"""Send an event through an outbox in the current process. `event._outbox.pool` retries failed deliveries later."""

from __future__ import annotations

from event import _dispatch, _log
from event._event_copies import as_own_event
from event._outbox.store import Outbox
from event._outcome import Outcome
from event.error import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from event._event import Event
    from event._handler import EventHandler
    from event._outbox.claim import Claim
    from event._outcome import Delivery


def send_through_outbox(
    event: Event, handlers: Mapping[str, EventHandler], unloaded: dict[str, str], outbox: str, timeout: float | None
) -> Outcome:
    """Store an event in the outbox, give it to the handlers, and remove it when all of them have delivered it.

    If the outbox can't store the event, log an error and send the event without it.

    :param unloaded: the configuration of each handler that could not be loaded, by name; it gets the event on a retry
    :param outbox: the outbox's directory
    :param timeout: seconds for all handlers together; None for no timeout
    """
    event = as_own_event(event)
    claim = _put(event, {**unloaded, **_configurations(handlers)}, outbox)
    if claim is None:
        return _dispatch.dispatch(handlers, event, timeout)
    return _deliver_claim(claim, handlers, claim.first_attempt(event), timeout)


def _put(event: Event, configurations: dict[str, str], outbox: str) -> Claim | None:
    if not configurations:
        return None
    try:
        return Outbox(outbox).put(event, configurations)
    except Exception as error:  # from the disk, or from a formatter or a value of the event
        _log.error("%r cannot be kept in the outbox %s and is sent without it: %s", event, outbox, one_line(error))
        return None


def _configurations(handlers: Mapping[str, EventHandler]) -> dict[str, str]:
    """Return the configuration of each handler, for a retry in a later process.

    Log a warning for each handler that does not have one, and omit it.
    """
    configurations: dict[str, str] = {}
    for name, handler in handlers.items():
        try:
            config = getattr(handler, "config_for_outbox", handler.encode_config)()
            if not isinstance(config, str):
                raise TypeError(f"encode_config returned {type(config).__name__}, not str")
            configurations[name] = config
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            _log.warning("handler %s is not kept in the outbox: %s", name, one_line(error))
    return configurations


def _deliver_claim(
    claim: Claim, handlers: Mapping[str, _dispatch.Handler], event: Event, timeout: float | None
) -> Outcome:
    """Give an event to the handlers and journal the results; release the claim in any case."""
    results: dict[str, Delivery] = {}
    try:
        for delivery in _dispatch.deliveries(handlers, event, timeout):
            claim.record(delivery)
            results[delivery.handler] = delivery
    finally:
        claim.release()
    return Outcome(tuple(results[name] for name in handlers))
