"""Run a scenario; print its result as JSON. See `helpers.relay_crash`."""

from __future__ import annotations

import gc
import json
import logging
import os
import sys
from pathlib import Path

from event import _registry
from event._dispatch import dispatch  # noqa: F401  # so that the forked processes need not import it
from helpers.relay_crash import processes, recording, tally
from helpers.relay_crash.brokers import RabbitMQBroker, RedisBroker
from helpers.relay_crash.random_kills import RandomKills
from helpers.relay_crash.step_kills import TARGETS, StepKills
from servers.rabbitmq import rabbitmq_server
from servers.redis import redis_server

BROKERS = {"rabbitmq": (rabbitmq_server, RabbitMQBroker), "redis": (redis_server, RedisBroker)}


def main(directory, broker_kind, scenario, *numbers):
    tally.register()
    recording.record_outbox()
    recording.record_publishers()
    recording.record_consumers()
    processes.shorten_pauses()
    logging.getLogger("event").addHandler(logging.NullHandler())
    logging.getLogger("event").propagate = False
    handlers, *amounts = map(int, numbers or [3])
    workspace = processes.Workspace(directory, handlers)
    run_server, make_broker = BROKERS[broker_kind]
    with run_server(Path(directory)) as server:
        os.environ["BROKER"] = server.url
        broker = make_broker(server)
        import_everything(workspace, broker)
        if scenario == "random":
            result = {"dead letters": RandomKills(workspace, broker).run(*amounts)}
        else:
            result = {target: StepKills(workspace, broker, target).run() for target in TARGETS}
        for log in workspace.directory.glob("relay-*.log"):
            assert server.password not in log.read_text(), f"{log.name} contains the broker's password"
    print(json.dumps(result))


def import_everything(workspace, broker):
    """Import once what each process would import, and search for plugins once."""
    for name in ("file", "broker", "tally"):
        _registry.get_handler(name)
    plugins = _registry.plugins()
    _registry.plugins = lambda: plugins
    workspace.manager("unused")
    broker.waiting()
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    main(*sys.argv[1:])
