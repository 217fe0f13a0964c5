"""Jobs for workers, and the results of sending an event."""

from __future__ import annotations

from event import Event
from event._event import raw_content
from event._worker import child


def content():
    """Return the content of an event."""
    event = Event("n", uid="u", a=1)
    event.close()
    return raw_content(event)


def send_job(**values):
    """Return a job `send` for the file handler, with other values if given."""
    defaults = {
        "job": "send",
        "event": content(),
        "handlers": [["file", "events"]],
        "sending": "s",
        "timeout": 60,
        "deadline": 1e9,
    }
    return {**defaults, **values}


def run(connection, job):
    """Run a job in this process; return its reports."""
    child.run_job(job, b"", connection.reporter)
    return connection.receive()


def kinds(reports):
    return [kind for kind, _ in reports]


def results(reports):
    """Return the reports `result` by handler."""
    return {values["handler"]: values for kind, values in reports if kind == "result"}


def send(sender, **values):
    """Send an event with an `EventSender`."""
    return sender.send(content(), **{"sending": "s", **values})


def summary(sent):
    """Return the handler of each result, whether it has delivered the event, and its error."""
    return [(result.handler, result.ok, result.error) for result in sent.results]
