"""The job ``send``, in the worker: keep one event in the outbox, and give it to handlers.

The job:

==============  ==================================================================================================
``event``       ``data``, ``attachments`` (name -> [path, SHA-1]) and ``closed``, as in a dump; dates are numbers
``attach``      [name, path] of each file that is still to be attached
``must_attach`` whether nothing is sent if one of these cannot be attached
``sending``     the id of the sending, the same for each attempt
``handlers``    [name, configuration] of each handler
``outbox``      the outbox's directory, or null
``timeout``     what errors name as the timeout, in seconds
``deadline``    when the handlers must be done, by the system's monotonic clock
``redact``      secrets to replace in the data beside the usual ones, see `event._redact`; null to replace nothing
``first``       whether the handlers' conditions are still to be looked at, see `event._conditions`
``backlog``     whether to deliver afterwards what waits in the outbox for the handlers that have taken the event
``alone``       whether to call the handlers in the main thread: the command watches over the deadline alone
==============  ==================================================================================================

The reports, in order:

==============  ==================================================================================================
``taken``       the worker has begun
``refused``     with ``must_attach``: why nothing is sent; nothing else follows
``kept``        the outbox has the event: ``entry``, ``claim``
``not_kept``    the outbox cannot take it: ``reason``; it is sent without
``begin``       the handlers get the event now
``result``      one for each handler, see `report_result`
``end``         the entry is out of the worker's hands: ``where``, as `Claim.release` returns it, or ``lost``
``backlogging``  what waits is delivered now, for so many ``seconds``; all results have been reported
``backlog``     how many waiting events each handler has taken: ``delivered``
``not_attached`` without ``must_attach``: why a file is missing from the event, as ``text``
``log``         at any point: a warning that is none of one handler
==============  ==================================================================================================
"""

from __future__ import annotations

import sys
import time

from event import _dispatch, _log, _registry
from event._event import Event, decode_event, raw_data
from event._event_copies import with_sending
from event._lazy_handler import LazyHandler
from event._redact import redact_data, without_secrets
from event.error import EventError, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from event._outbox import Claim
    from event._outcome import Delivery
    from event._worker.reporter import Reporter


def run_send_job(job: dict[str, Any], _blob: bytes, reporter: Reporter) -> None:
    """Run the job."""
    reporter.report("taken")
    configs: dict[str, str] = dict(job["handlers"])
    reporter.exits_at_once = reporter.exits_at_once is not False and is_plain(configs)
    if any(not config and _registry.kind(name) == "logging" for name, config in configs.items()):
        _show_logged_events()
    with Log(reporter, configs):
        event = _event_from_job(job, reporter)
        if event is None:
            return
        handlers = {name: LazyHandler(name, config) for name, config in configs.items()}
        for name in _skipped(handlers, event, job):
            del handlers[name]
            reporter.report("result", handler=name, ok=True, skipped=True)
        claim = _keep(event, handlers, job, reporter) if job.get("outbox") and handlers else None
        reporter.report("begin", heartbeat=reporter.beating)
        given = send_to_handlers(
            handlers, with_sending(event, claim.entry.id if claim else job["sending"]), job, reporter, claim
        )
        if claim and job.get("backlog"):
            _deliver_backlog({d.handler: handlers[d.handler] for d in given if d.ok}, given, job, claim, reporter)


def _show_logged_events() -> None:
    """Print to stderr what the handler ``logging`` logs, since nobody has configured logging in this process."""
    import logging

    root = logging.getLogger()
    if not root.handlers:
        shown = logging.StreamHandler(sys.stderr)
        shown.addFilter(lambda record: hasattr(record, "event") or record.levelno >= logging.WARNING)
        root.addHandler(shown)
        root.setLevel(logging.DEBUG)


def prepare(job: dict[str, Any], _blob: bytes, _reporter: Reporter) -> None:
    """Run the job ``prepare``: import built-in handlers ahead of the event. No plugin's code runs.

    :param job: ``handlers``, their names, and ``outbox``, whether one is used
    """
    if job["outbox"]:
        import event._outbox.store  # noqa: F401  # loaded ahead on purpose
    for name in job["handlers"]:
        if _registry.kind(name) in _registry.BUILTINS:
            try:
                _registry.get_handler(name)
            except Exception:  # noqa: S110  # it is reported when the handler gets its event
                pass


def send_to_handlers(
    handlers: Mapping[str, LazyHandler],
    event: Event,
    job: Mapping[str, Any],
    reporter: Reporter,
    claim: Claim | None = None,
) -> list[Delivery]:
    """Give an event to handlers; report and journal what each one did, and hand the entry back unless told to hold it.

    It is not handed back if a handler was not tried: the command has another worker try it, and settle the entry.

    :param job: its ``deadline``, ``timeout``, ``alone`` and ``hold`` count
    """
    timeout = None if job.get("alone") else max(0.0, job.get("deadline", 0.0) - time.monotonic())
    untried, where = bool(job.get("hold")), ""
    given: list[Delivery] = []
    try:
        for delivery in _dispatch.deliveries(handlers, event, timeout):
            retry = isinstance(delivery.error, _dispatch.NotStartedError)
            untried = untried or retry
            if delivery.timed_out:
                delivery.error = TimeoutError(f"not done within {job['timeout']:g} s")
            # Reported first: if another handler now ends the process, the command journals it.
            report_result(delivery, handlers[delivery.handler], reporter, retry=retry)
            if claim and not retry:
                claim.record(delivery)
            given.append(delivery)
    finally:
        if claim and not untried:
            where = claim.release()
            if where == "claimed" and not claim.exists():
                where = "lost"  # the outbox was removed, say
    if where:
        reporter.report("end", where=where)
    return given


def _deliver_backlog(
    handlers: Mapping[str, LazyHandler],
    given: Sequence[Delivery],
    job: Mapping[str, Any],
    claim: Claim,
    reporter: Reporter,
) -> None:
    """Deliver what waits for the handlers that have taken the event, if all have been tried."""
    if not handlers or any(isinstance(delivery.error, _dispatch.NotStartedError) for delivery in given):
        return
    from event._outbox import Outbox
    from event._outbox.backlog import LONGEST, Backlog

    backlog = Backlog(Outbox(job["outbox"]), handlers, claim.entry.handlers, max(d.seconds for d in given if d.ok))
    reporter.report("backlogging", seconds=LONGEST)
    try:
        backlog.deliver(min(job["deadline"], time.monotonic() + LONGEST))
    except OSError as error:
        reporter.report("log", text=f"the outbox {job['outbox']} cannot be read: {one_line(error)}")
    if backlog.delivered:
        reporter.report("backlog", delivered=backlog.delivered)


def report_result(delivery: Delivery, handler: LazyHandler, reporter: Reporter, *, retry: bool = False) -> None:
    """Report ``result``: what a handler did, in texts without secrets.

    :param retry: whether the handler did not get the event for want of a thread, and can have a worker of its own
    """
    config = {delivery.handler: handler.config}
    reporter.report(
        "result",
        handler=delivery.handler,
        ok=delivery.ok,
        seconds=delivery.seconds,
        error=without_secrets(delivery.reason, config),
        said=without_secrets(delivery.said, config),
        permanent=delivery.permanent,
        done=sorted(delivery.done),
        timed_out=delivery.timed_out,
        loaded=not handler.load_error,
        retry=retry,
    )


class Log:
    """Inside a ``with`` block, what is logged outside of a delivery becomes reports ``log``.

    :param configs: the configurations whose secrets are left out
    """

    def __init__(self, reporter: Reporter, configs: Mapping[str, str]) -> None:
        self._reporter = reporter
        self._configs = configs
        self._capture: Any = None

    def __enter__(self) -> None:
        """Begin. Logging is not imported before anything is logged, or a plugin is."""
        _log.before_first_use = self._start
        if "logging" in sys.modules or not is_plain(self._configs):
            self._start()

    def __exit__(self, *_args: object) -> None:
        """Leave everything as it was."""
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
    """Return whether these handlers, and what they import, log nothing and leave nothing to the interpreter's end."""
    return all(_registry.kind(name) in {"file", "smtp"} for name in names)


def _event_from_job(job: dict[str, Any], reporter: Reporter) -> Event | None:
    """Return the event with its files attached; None if it must not be sent without them."""
    content = job["event"]
    if (references := job.get("redact", ())) is not None:
        content = {**content, "data": redact_data(content["data"], references)}
    event = decode_event({**content, "closed": False}, Event)
    for name, path in job.get("attach", ()):
        try:
            event.attach_file(path, name)
        except EventError as error:
            if job.get("must_attach"):
                reporter.report("refused", text=one_line(error))
                return None
            reporter.report("not_attached", text=one_line(error))
    return decode_event({**content, "attachments": _listed(event)}, Event)


def _skipped(names: Iterable[str], event: Event, job: Mapping[str, Any]) -> set[str]:
    """Return the handlers whose conditions the event does not meet; none on a further attempt, as `job` says."""
    if not job.get("first") or not any("@" in name for name in names):
        return set()
    from event._conditions import skipped

    return skipped(names, raw_data(event), job.get("outbox"))


def _listed(event: Event) -> dict[str, list[str]]:
    return {name: [*value] for name, value in event.get_attachments().items()}


def _keep(event: Event, handlers: Mapping[str, LazyHandler], job: dict[str, Any], reporter: Reporter) -> Claim | None:
    from event._outbox import Outbox

    try:
        configs = {name: handler.encode_config() for name, handler in handlers.items()}
        claim = Outbox(job["outbox"]).put(event, configs, sending=job["sending"])
    except Exception as error:  # of the operating system, or of a formatter or a value of the event
        reporter.report("not_kept", reason=one_line(error))
        return None
    reporter.report("kept", entry=claim.entry.id, claim=claim.name)
    return claim
