"""The worker: the child process in which handlers run, so that a command can always end them.

A command (`send`, `run`, `deliver`, `relay`) parses its arguments, gives jobs to a worker, prints what the worker
reports and decides the exit status. The worker touches the outbox's disk, imports plugins and calls handlers. It may
hang, crash or be killed; the command goes on.

==================  ===================================================================================
`Worker`            the command's side of one worker: `Worker.fork`, `Worker.spawn`, `Worker.send`,
                    `Worker.kill`, `Worker.finish`
`receive`           wait for reports of one or several workers, until a deadline
`EventSender`       gives one event after another to handlers, whatever their code does; `send` and `run` use it
`Sent`, `Result`    what became of one event, and what one handler did with it
`Reporter`          the worker's side of the connection, for a job's function
`ProtocolError`     bytes that are not a frame
==================  ===================================================================================

How reports flow: a job is one frame, ``{"job": NAME, …}``. The worker runs the job's function, which calls
``reporter.report(KIND, …)`` as often as it likes; each call is one frame, ``{"report": KIND, …}``. When the function
has returned, the worker reports ``done``. Frames of one worker arrive in order.

How to add a job: write a module with a function ``run(job, blob, reporter)`` and enter it in `child.JOB_MODULES`. The
function runs in the worker's main thread. It may start threads; `Reporter.report` may be called from any of them. While
it runs, the worker reports ``alive`` about once a second. A command that no longer receives reports knows that the
worker hangs.

A job that takes several frames, such as a relay's batches, reads the further ones with ``reporter.next_job()``.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from event._worker.parent import Worker as Worker
    from event._worker.parent import receive as receive
    from event._worker.protocol import ProtocolError as ProtocolError
    from event._worker.quarantine import OpenEntry as OpenEntry
    from event._worker.reporter import Reporter as Reporter
    from event._worker.results import Result as Result
    from event._worker.results import Sent as Sent
    from event._worker.sending import EventSender as EventSender
    from event._worker.supervisor import Supervisor as Supervisor
    from event._worker.worker_sink import WorkerSink as WorkerSink

_PLACES = {
    "OpenEntry": "quarantine",
    "Supervisor": "supervisor",
    "WorkerSink": "worker_sink",
    "Worker": "parent",
    "receive": "parent",
    "ProtocolError": "protocol",
    "Reporter": "reporter",
    "EventSender": "sending",
    "Result": "results",
    "Sent": "results",
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        # The worker's side needs none of the command's side, nor the other way round.
        if name in _PLACES:
            module = __import__(f"{__name__}.{_PLACES[name]}", fromlist=[name])
            return getattr(module, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
