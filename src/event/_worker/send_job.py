"""The worker's job ``send``: store one event in the outbox and give it to handlers.

Fields of the job:

===============  =================================================================================================
``event``        ``data``, ``attachments`` (name -> [path, SHA-1]) and ``closed``, as in a dump; dates are numbers
``attach``       [name, path] of each file to attach
``sending``      the id of the sending, the same for each attempt
``handlers``     [name, configuration] of each handler
``outbox``       the outbox's directory, or null
``timeout``      the timeout that error messages name, in seconds
``deadline``     when the handlers must be done, by the system's monotonic clock
``redact``       further secrets to replace in the data, see `event._redact`; null to replace none at all
``first``        whether to evaluate the handlers' conditions, see `event._conditions`
``backlog``      whether to deliver earlier events from the outbox afterwards, if a handler has delivered this one
``alone``        whether to call the handlers in the main thread, so that only the command enforces the deadline
===============  =================================================================================================

Reports, in order:

================  ================================================================================================
``taken``         the worker has started the job
``not_attached``  the ``name`` of a file that could not be attached, and the reason as ``text``; empty if it was logged
``kept``          the event is stored in the outbox: ``entry``, ``claim``
``not_kept``      the event can't be stored in the outbox and is sent without: ``reason``
``begin``         the handlers get the event now
``result``        the result of a handler, see `report_result`
``end``           the claim was released: ``where``, as returned by `Claim.release`, or ``lost``
``backlogging``   all results are reported; earlier events are now delivered for at most ``seconds``
``backlog``       how many earlier events each handler has delivered: ``delivered``
``log``           at any point: a warning that does not belong to a delivery
================  ================================================================================================
"""

from __future__ import annotations

import sys
import time

from event import _dispatch, _log, _registry
from event._event import Event, decode_event, raw_data
from event._event_copies import with_sending, without_attachments
from event._lazy_handler import LazyHandler
from event._redact import redact_data, redact_keys, redact_text, without_secrets
from event.error import EventError, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from event._outbox import Claim
    from event._outcome import Delivery
    from event._worker.reporter import Reporter

_MAX_ERROR_LENGTH = 1500  # characters of an error in a report


def run_send_job(job: dict[str, Any], _blob: bytes, reporter: Reporter) -> None:
    """Run the job ``send``."""
    reporter.report("taken")
    configs: dict[str, str] = dict(job["handlers"])
    reporter.exits_at_once = reporter.exits_at_once is not False and is_plain(configs)
    if any(not config and _registry.kind(name) == "logging" for name, config in configs.items()):
        _show_logged_events()
    with Log(reporter, configs):
        event = _event_from_job(job, reporter)
        handlers = _wanted_handlers(event, job, reporter)
        claim = _keep(event, handlers, job, reporter) if job.get("outbox") and handlers else None
        reporter.report("begin", heartbeat=reporter.has_heartbeat)
        event = claim.first_attempt(event) if claim else with_sending(event, job["sending"])
        deliveries = send_to_handlers(handlers, event, job, reporter, claim)
        if claim and job.get("backlog"):
            working = {each.handler: handlers[each.handler] for each in deliveries if each.ok}
            _deliver_backlog(working, deliveries, job, claim, reporter)


def store(job: dict[str, Any], reporter: Reporter) -> None:
    """Store the event in the outbox, for its handlers to get it later; used if no worker can be started."""
    event = _event_from_job(job, reporter)
    handlers = _wanted_handlers(event, job, reporter)
    claim = _keep(event, handlers, job, reporter) if handlers else None
    if claim:
        claim.release()


def _show_logged_events() -> None:
    """Unless logging is configured, print the events of the handler ``logging`` to stderr."""
    import logging

    root = logging.getLogger()
    if not root.handlers:
        shown = logging.StreamHandler(sys.stderr)
        shown.addFilter(lambda record: hasattr(record, "event") or record.levelno >= logging.WARNING)
        root.addHandler(shown)
        root.setLevel(logging.DEBUG)


def prepare(job: dict[str, Any], _blob: bytes, _reporter: Reporter) -> None:
    """Run the job ``prepare``: import what the event will need, since the build's command may remove this package.

    Built-in handlers are imported, plugins are not.

    :param job: ``handlers`` are the handlers' names; ``outbox`` is whether an outbox is used
    """
    from event import _conditions  # noqa: F401

    if not is_plain(job["handlers"]):
        from event._worker import capture  # noqa: F401
    if job["outbox"]:
        from event._outbox import backlog, store  # noqa: F401
    for name in job["handlers"]:
        if _registry.kind(name) in _registry.BUILTINS:
            try:
                _registry.get_handler(name)
            except Exception:  # noqa: S110  # the error is reported when the handler gets its event
                pass


def send_to_handlers(
    handlers: Mapping[str, LazyHandler],
    event: Event,
    job: Mapping[str, Any],
    reporter: Reporter,
    claim: Claim | None = None,
) -> list[Delivery]:
    """Give an event to handlers, report and journal the results, then release the claim.

    If a handler could not be tried, the claim is kept: the command starts another worker for that handler.

    :param job: uses ``deadline``, ``timeout``, ``alone``, and ``hold`` (whether to keep the claim until every handler
        has delivered the event)
    :param claim: the claim on the event's outbox entry; None if the event is not in an outbox
    """
    timeout = None if job.get("alone") else max(0.0, job.get("deadline", 0.0) - time.monotonic())
    untried, where = bool(job.get("hold")), ""
    results: list[Delivery] = []
    try:
        for delivery in _dispatch.deliveries(handlers, event, timeout):
            retry = isinstance(delivery.error, _dispatch.NotStartedError)
            untried = untried or retry
            if delivery.timed_out:
                delivery.error = TimeoutError(f"not done within {job['timeout']:g} s")
            # Report before journaling: if another handler ends the process now, the command journals the result.
            report_result(delivery, handlers[delivery.handler], reporter, retry=retry)
            if claim and not retry:
                claim.record(delivery)
            results.append(delivery)
    finally:
        if claim and (not untried or claim.entry.is_delivered):
            where = claim.release()
            if where == "claimed" and not claim.exists():
                where = "lost"  # for example, the outbox was deleted
    if where:
        reporter.report("end", where=where)
    return results


def _deliver_backlog(
    handlers: Mapping[str, LazyHandler],
    deliveries: Sequence[Delivery],
    job: Mapping[str, Any],
    claim: Claim,
    reporter: Reporter,
) -> None:
    """Deliver earlier events from the outbox, if every handler has been tried with this event.

    :param handlers: the handlers that have delivered this event
    :param deliveries: the results of all handlers for this event
    """
    if not handlers or any(isinstance(delivery.error, _dispatch.NotStartedError) for delivery in deliveries):
        return
    from event._outbox import Outbox
    from event._outbox.backlog import LONGEST, Backlog

    slowest = max(delivery.seconds for delivery in deliveries if delivery.ok)
    backlog = Backlog(Outbox(job["outbox"]), handlers, claim.entry.handlers, slowest)
    reporter.report("backlogging", seconds=LONGEST)
    try:
        backlog.deliver(min(job["deadline"], time.monotonic() + LONGEST))
    except OSError as error:
        reporter.report("log", text=f"the outbox {job['outbox']} cannot be read: {one_line(error)}")
    if backlog.delivered:
        reporter.report("backlog", delivered=backlog.delivered)


def report_result(delivery: Delivery, handler: LazyHandler, reporter: Reporter, *, retry: bool = False) -> None:
    """Report the ``result`` of a handler, without secrets.

    :param retry: whether no thread could be started for the handler, so that a worker of its own should try it
    """
    reporter.report(
        "result",
        **result_fields(delivery, handler.config),
        done=sorted(delivery.done),
        timed_out=delivery.timed_out,
        loaded=not handler.load_error,
        retry=retry,
    )


def result_fields(delivery: Delivery, config: str) -> dict[str, Any]:
    """Return the fields that all reports of a handler's result have, without the secrets of its configuration."""
    configs = {delivery.handler: config}
    return {
        "handler": delivery.handler,
        "ok": delivery.ok,
        "seconds": delivery.seconds,
        "error": without_secrets(delivery.reason, configs)[:_MAX_ERROR_LENGTH],
        "said": without_secrets(delivery.said, configs)[:_MAX_ERROR_LENGTH],
        "permanent": delivery.permanent,
    }


class Log:
    """Report log messages that do not belong to a delivery as ``log``, inside a ``with`` block.

    :param configs: the handler configurations whose secrets are removed from the messages
    """

    def __init__(self, reporter: Reporter, configs: Mapping[str, str]) -> None:
        self._reporter = reporter
        self._configs = configs
        self._capture: Any = None

    def __enter__(self) -> None:
        """Start capturing. Import `logging` only when something is logged or if a plugin may log."""
        _log.before_first_use = self._start
        if "logging" in sys.modules or not is_plain(self._configs):
            self._start()

    def __exit__(self, *_args: object) -> None:
        _log.before_first_use = None
        if self._capture:
            self._capture.__exit__()

    def _start(self) -> None:
        _log.before_first_use = None
        from event._worker.capture import Capture

        self._capture = Capture(self._report)
        self._capture.__enter__()

    def _report(self, text: str) -> None:
        self._reporter.report("log", text=without_secrets(text, self._configs))


def is_plain(names: Iterable[str]) -> bool:
    """Return whether these handlers and their libraries log nothing and need no normal exit of the interpreter."""
    return all(_registry.kind(name) in {"file", "smtp"} for name in names)


def _event_from_job(job: dict[str, Any], reporter: Reporter) -> Event:
    """Return the event with its files attached. The names of files that can't be attached are in ``not_attached``."""
    content, files, references = job["event"], dict(job.get("attach", ())), job.get("redact", ())
    if references is not None:
        data, attachments = redact_data(content["data"], references), redact_keys(content["attachments"], references)
        content, files = {**content, "data": data, "attachments": attachments}, redact_keys(files, references)
    event = decode_event({**content, "closed": False}, Event)
    missing: list[str] = []
    for name, path in files.items():
        try:
            event.attach_file(path, name)
        except EventError as error:
            missing.append(name)
            reporter.report("not_attached", name=name, text=redact_text(one_line(error), references or ()))
    attached = {name: [*value] for name, value in event.get_attachments().items()}
    event = decode_event({**content, "attachments": attached}, Event)
    return without_attachments(event, missing) if missing else event


def _wanted_handlers(event: Event, job: Mapping[str, Any], reporter: Reporter) -> dict[str, LazyHandler]:
    """Return the handlers whose conditions the event meets; report the others as skipped."""
    handlers = {name: LazyHandler(name, config) for name, config in job["handlers"]}
    if job.get("first") and any("@" in name for name in handlers):
        from event._conditions import skipped

        for name in skipped(handlers, raw_data(event), job.get("outbox")):
            del handlers[name]
            reporter.report("result", handler=name, ok=True, skipped=True)
    return handlers


def _keep(event: Event, handlers: Mapping[str, LazyHandler], job: dict[str, Any], reporter: Reporter) -> Claim | None:
    from event._outbox import Outbox

    try:
        configs = {name: handler.encode_config() for name, handler in handlers.items()}
        claim = Outbox(job["outbox"]).put(event, configs, sending=job["sending"])
    except Exception as error:  # from the disk, or from a formatter or a value of the event
        reporter.report("not_kept", reason=one_line(error))
        return None
    reporter.report("kept", entry=claim.entry.id, claim=claim.name)
    for name in claim.omitted(event):
        reporter.report("not_attached", name=name, text="")
    return claim
