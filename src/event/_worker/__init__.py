"""The worker: the child process in which handlers run.

A command (`send`, `run`, `deliver`, `relay`) parses its arguments, sends jobs to a worker, prints the worker's reports
and decides the exit status. The worker accesses the outbox, imports plugins and calls handlers. If it hangs or crashes,
the command kills or replaces it and continues.

==================  ===================================================================================
`Worker`            one worker process, as the command sees it
`receive`           wait for reports of one or several workers, until a deadline
`EventSender`       send one event after another; `send` and `run` use it
`Sent`              the result of sending one event
`Result`            the result of one handler for one event
`Supervisor`        keep a worker that delivers from an outbox; `deliver` uses it
`OpenEntry`         an outbox entry that a worker has begun to deliver
`WorkerSink`        deliver a broker's messages in a worker; `relay` uses it
`Reporter`          the connection to the command, as a job's function sees it
`ProtocolError`     received bytes are not a valid frame
==================  ===================================================================================

Protocol: a job is one frame, ``{"job": NAME, …}``. The worker calls the job's function, which calls
``reporter.report(KIND, …)`` any number of times. Each call sends one frame, ``{"report": KIND, …}``. When the function
returns, the worker reports ``done``. Frames of one worker arrive in order.

To add a job, write a function with the parameters ``(job, blob, reporter)`` and add it to `child.JOB_MODULES`. The
function runs in the worker's main thread. It may start threads, and each thread may call `Reporter.report`. While the
function runs, the worker reports ``alive`` about once a second. If the reports stop, the command knows that the worker
hangs.

A job that needs several frames, such as ``relay`` with its batches, reads them with ``reporter.next_job()``.
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
        # Imported on first use: the worker does not need the command's modules, nor the command the worker's.
        if name in _PLACES:
            module = __import__(f"{__name__}.{_PLACES[name]}", fromlist=[name])
            return getattr(module, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
