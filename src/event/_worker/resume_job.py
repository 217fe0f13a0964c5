"""The worker's job ``resume``: continue with an outbox entry whose worker has died.

Fields of the job:

==============  ==================================================================================================
``outbox``      the outbox's directory
``claim``       the name of the dead worker's claim, from its report ``kept`` or ``begin``
``results``     results to add to the entry's journal: ``handler``, ``ok``, ``error``, ``seconds``, ``said``,
                ``permanent`` and ``done`` of each
``handler``     the name of a pending handler to call now, in the main thread. The claim is then kept for another
                ``resume``, unless every handler has delivered the event. Without it, the claim is released
==============  ==================================================================================================

Reports: ``begin`` with the name of the new ``claim``, the ``result`` of ``handler``, and ``end`` if the claim is
released. If the handler is no longer pending, its result is the one in the journal. If the dead worker's claim no
longer exists, there is only ``not_adopted``, with the entry's state as ``where``.
"""

from __future__ import annotations

from event import _trace_context
from event._lazy_handler import LazyHandler
from event._outbox import Outbox
from event._outcome import Delivery
from event._redact import without_secrets
from event._worker.send_job import Log, send_to_handlers
from event.error import PartialDeliveryError, PermanentError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from event._outbox import Entry
    from event._worker.reporter import Reporter


def resume(job: dict[str, Any], _blob: bytes, reporter: Reporter) -> None:
    """Run the job ``resume``."""
    with Log(reporter, {}):
        outbox = Outbox(job["outbox"])
        claim = outbox.adopt(job["claim"])
        if claim is None:
            reporter.report("not_adopted", where=state_of(outbox, job["claim"].partition(".")[0]))
            return
    name, pending = job.get("handler", ""), claim.entry.pending
    handlers = {name: LazyHandler(name, pending[name])} if name in pending else {}
    with Log(reporter, claim.entry.handlers):
        for result in job.get("results", ()):
            if result["handler"] in claim.entry.pending:
                claim.record(_delivery_from_report(result))
        reporter.report("begin", claim=claim.name)
        if name not in pending:
            _report_from_journal(name, claim.entry, reporter)
        token = _trace_context.active_span.set(claim.entry.span)
        try:
            send_to_handlers(handlers, claim.event(name), {"alone": True, "hold": bool(name)}, reporter, claim)
        finally:
            _trace_context.active_span.reset(token)


def _report_from_journal(name: str, entry: Entry, reporter: Reporter) -> None:
    """Report the result of a handler whose worker died after it had journaled the result and before its report."""
    for record in entry.journal:
        if record.handler == name and (record.ok or record.permanent):
            error = without_secrets(record.error, entry.handlers)
            reporter.report("result", handler=name, ok=record.ok, error=error, permanent=record.permanent)


def state_of(outbox: Outbox, entry_id: str) -> str:
    """Return the state of an entry, such as ``waiting`` or ``delivered``; see `Claim.release`."""
    found = outbox.find(entry_id)
    return found[0].state if found else "delivered"


def _delivery_from_report(result: dict[str, Any]) -> Delivery:
    """Return a `Delivery` with the fields of a result from another worker or the command."""
    kind = PermanentError if result["permanent"] else PartialDeliveryError
    error = None if result["ok"] else kind(result["error"], done=result.get("done", ()))
    return Delivery(result["handler"], result["ok"], error, result["seconds"], result["said"])
