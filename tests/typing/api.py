"""A typed script of a user. The type checkers check it in strict mode; it is never run.

Each wrong call has a comment `type: ignore`. If the type checker accepts the call, mypy reports the unused comment.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import assert_type

import event
from event import (
    Delivery,
    Event,
    EventError,
    EventHandler,
    EventManager,
    Outcome,
    PermanentError,
    add_handler,
    child_environment,
    default_manager,
    handler_config_as_env,
    load_handlers_from_config,
    load_handlers_from_env,
    logger,
    send_event,
    send_event_from_file,
    sending_id,
    track,
    unique_id,
    use_outbox,
)
from event.error import E3Error
from event.handler.file import FileHandler
from event.handler.logging import LoggingHandler
from event.handler.s3 import S3Handler
from event.handler.smtp import SMTPHandler
from event.testing import RecordedEvent, RecordingHandler, recording

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator


class Build(Event):
    """A subclass of Event. Declared data has its declared type, and all other data is Any."""

    status: str

    def fail(self) -> None:
        self.status = "failed"


class Board(EventHandler):
    """A handler of a plugin."""

    def __init__(self, url: str, retries: int = 3) -> None:
        self.url = url
        self.retries = retries

    def send_event(self, event: Event) -> bool:
        for name, (path, digest) in event.get_attachments().items():
            assert_type((name, path, digest), tuple[str, str, str])
        return bool(event.as_dict())

    @classmethod
    def decode_config(cls, _config_str: str) -> dict[str, Any]:
        return {"url": _config_str}

    def encode_config(self) -> str:
        return self.url


class Untyped:
    """A handler that does not derive from EventHandler."""

    def send_event(self, event):  # type: ignore[no-untyped-def]  # pyright: ignore[reportMissingParameterType]
        return True


def to_upper_case(key: str, value: Any) -> dict[str, Any]:
    return {key: str(value).upper()}


def use_events(path: Path) -> None:
    with Event("compile", target="arm", count=1) as e:
        assert_type(e, Event)
        e.status = "ok"
        e.sources = {Path("a.c"), Path("b.c")}
        assert_type(e.target, Any)
        del e.status
        e.set_formatter("target", to_upper_case)
        e.set_formatter("count", lambda key, value: {key: value + 1})
        e.attach_file("build.log")
        e.attach_file(path, name="errors")
        e.attach_file(path, "warnings")
    assert_type(e.get_attachments(), dict[str, tuple[str, str]])
    assert_type(e.as_dict(), dict[str, Any])
    assert_type(e.format_date("begin_time", 0.0), dict[str, Any])
    assert_type(e.dump(path), str)
    assert_type(Event.load(e.dump("events")), Event)
    assert_type(e.close(), None)
    assert_type(unique_id(), str)
    Event("compile", None)
    Event("compile", "1")
    Event(name="compile", uid=unique_id(), begin_time=0.0)

    Event()  # type: ignore[call-arg]
    Event("compile", 1)  # type: ignore[arg-type]
    e.attach_file(1)  # type: ignore[arg-type]
    e.dump(None)  # type: ignore[arg-type]
    e.set_formatter("target", 1)  # type: ignore[arg-type]


def subclass_of_event(path: Path) -> None:
    with Build("compile", status="running") as build:
        assert_type(build, Build)
        build.fail()
    assert_type(build.status, str)
    assert_type(Build.load(path), Build)
    assert_type(send_event(build), bool)
    build.status = 1  # type: ignore[assignment]


def use_the_default_manager(e: Event, path: Path) -> None:
    assert_type(default_manager, EventManager)
    assert_type(logger, logging.Logger)
    assert_type(event.logger, logging.Logger)
    add_handler("file", "events")
    add_handler("file:nightly", log_dir=path)
    add_handler("smtp", "subject", "ci@example.com", ["dev@example.com"], smtp_servers=["mail.example.com"])
    load_handlers_from_env()
    load_handlers_from_config()
    load_handlers_from_config(Path("e3-event.toml"))
    use_outbox()
    use_outbox("outbox")
    assert_type(event.__version__, str)
    load_handlers_from_env("OTHER")
    load_handlers_from_env(var_name="OTHER")
    handler_config_as_env()
    handler_config_as_env("OTHER")
    handler_config_as_env(var_name="OTHER")
    assert_type(send_event(e), bool)
    assert_type(send_event(event=e), bool)
    assert_type(send_event_from_file("event.json"), bool)
    assert_type(send_event_from_file(filename=path), bool)
    event.default_manager = EventManager()

    send_event("compile")  # type: ignore[arg-type]
    send_event_from_file(1)  # type: ignore[arg-type]
    add_handler(Board)  # type: ignore[arg-type]
    load_handlers_from_env(1)  # type: ignore[arg-type]
    event.send_evnt(e)  # type: ignore[attr-defined]


def use_a_manager(e: Event, path: os.PathLike[str]) -> Iterator[str]:
    manager = EventManager()
    assert_type(manager.handlers, dict[str, EventHandler])
    manager.handlers["board"] = Board("https://board.example.com", retries=1)
    manager.handlers["board"] = Untyped()  # type: ignore[assignment]
    manager.add_handler("file", "events")
    manager.get_handler("file")("events").send_event(e)
    manager.load_handlers_from_env()
    manager.handler_config_as_env()
    assert_type(manager.send_event(e), bool)
    assert_type(manager.send_event_from_file(path), bool)

    outcome = manager.dispatch(e)
    assert_type(outcome, Outcome)
    assert_type(outcome.deliveries, tuple[Delivery, ...])
    assert_type(len(outcome), int)
    for delivery in outcome:
        assert_type(delivery, Delivery)
        assert_type(delivery.ok, bool)
        assert_type(delivery.error, BaseException | None)
        assert_type(delivery.seconds, float)
        yield delivery.handler
    if not outcome:
        yield str(outcome)


def handle_errors() -> str:
    try:
        add_handler("nosuch")
    except EventError as error:
        error += "one more"
        error += ["and", "more"]
        assert_type(str(error), str)
    try:
        raise EventError(["a", "b"], origin="compile")
    except E3Error as error:
        return str(error)
    raise EventError("a")


def use_built_in_handlers(e: Event) -> list[bool]:
    file = FileHandler("events")
    log = LoggingHandler("builds", logging.INFO)
    mail = SMTPHandler("subject", "ci@example.com", "dev@example.com", "mail.example.com")
    store = S3Handler("s3://bucket/events", "s3://bucket/logs", sse="aws:kms", profile=None)
    assert_type(file.log_dir, str)
    assert_type((log.logger_name, log.level, log.log), tuple[str, int, logging.Logger])
    assert_type((mail.default_subject, mail.subject, mail.from_addr), tuple[str, str, str])
    assert_type(mail.smtp_servers, list[str])
    assert_type((store.event_s3_url, store.log_s3_url), tuple[str, str])
    assert_type(store.s3_prefix(e), str)
    handlers: list[EventHandler] = [file, log, mail, store, RecordingHandler(), Board.__new__(Board)]
    assert_type(Board.decode_config("a"), dict[str, Any])
    EventHandler()  # type: ignore[abstract]
    return [handler.send_event(e) and bool(handler.encode_config()) for handler in handlers]


@track("deploy", target="arm")
def deploy(where: Path, *, fast: bool = False) -> int:
    return len(str(where)) + fast


@event.track("fetch")
async def fetch(url: str) -> bytes:
    return url.encode()


async def use_tracking(path: Path) -> None:
    with track("compile", target="arm") as e:
        assert_type(e, Event)
        e.warnings = 1
        assert_type(child_environment(), dict[str, str])
    assert_type(deploy(path, fast=True), int)
    assert_type(await fetch("u"), bytes)
    deploy("here")  # type: ignore[arg-type]
    track()  # type: ignore[call-arg]


def use_an_outbox(e: Event, path: Path) -> str:
    assert_type(EventManager(outbox=path, timeout=2.5).send_event(e), bool)
    manager = EventManager(outbox="outbox", timeout=3)
    assert_type(manager.outbox, str | None)
    assert_type(manager.timeout, float | None)
    for delivery in manager.dispatch(e):
        assert_type((delivery.reason, delivery.said, delivery.permanent), tuple[str, str, bool])
    assert_type(sending_id(e), str)
    EventManager(path)  # type: ignore[call-arg]
    EventManager(timeout="3")  # type: ignore[arg-type]
    raise PermanentError("no such mailbox")


def use_recording(e: Event) -> RecordedEvent:
    with recording() as recorder:
        send_event(e)
    assert_type(recorder, RecordingHandler)
    return recorder.events[0]
