"""Kills relays, their workers, producers and the broker itself, and writes down what each one did. A script:

    DIRECTORY BROKER random ROUNDS KILLS    kills ROUNDS processes, and the broker KILLS times
    DIRECTORY BROKER one ROUNDS KILLS       the same, with relays that have one handler
    DIRECTORY BROKER steps                  kills one process before each of its steps

It forks from one warm process, as killing.py does. The journal that all processes append to, one os.write a line, holds

    A - UID PID           the producer's outbox has the event: it is accepted
    P SENDING - PID       publishing begins
    Q SENDING - PID       the broker has confirmed it
    X SENDING - PID       it has failed
    R SENDING - PID       the producer has that on record
    T SENDING - PID       a relay has taken the message
    Z SENDING - PID       and has acknowledged it
    B SENDING UID PID     the tally handler begins with a sending
    D SENDING UID PID     it has the event, whole
    E SENDING - PID       and that is on record
    C - - PID             a relay has reached the broker
    L - - PID             and has lost it
    F - RELAY PID         a relay's worker has begun
    W SENDING - PID       it has a message
    V SENDING - PID       and has reported what is to become of it
    H - - PID             the relay was held still for longer than its lease
    G - - PID             its worker puts events of a batch into the outbox that share a file
    O - - PID             it goes on
    K - - PID             the process was killed
    S - - -               the broker was killed, and started again

and after it two times in seconds: when it began and when it was over. They differ for what this script does to others.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import logging
import os
import random
import re
import signal
import socket
import sys
import time
from pathlib import Path

import pika
import redis

import event
from event import _cli, _registry
from event._broker import BrokerURL
from event._broker import amqp as amqp_adapter
from event._broker import redis as redis_adapter
from event._broker import relay as relay_loop
from event._broker.queue import connect_consumer
from event._outbox import Claim, Outbox
from event._worker import child, relay_job, spawning

sys.path.insert(0, str(Path(__file__).parents[1]))  # `tests`, as pytest sets it
from helpers.delivering import deliver as deliver_from
from servers.rabbitmq import rabbitmq_server
from servers.redis import redis_server

SERVERS = {"rabbitmq": rabbitmq_server, "redis": redis_server}
QUEUE = "e3-event"
CONTENT = b"0123456789abcdef" * 1024
TEXT = "x" * 2000
LEASE = 4.0  # seconds
SECONDS = 120  # in which something happens, as long as a condition is waited for
RELAYS = ("one", "two", "none")  # the last one has no outbox
PRODUCERS = ("p1", "p2")
KINDS = ("send", "relay", "relay-worker", "give", "give-worker")
# What changes something, on the disk or at the broker; killing.py has the others too. Of several receipts in a row, the
# first: what it brings is lost.
STEPS = ("write", "sendfile", "replace", "rename", "mkdir", "rmdir", "unlink")
SENDING = ("send", "sendall")
RECEIVING = ("recv", "recv_into")


class Journal:
    """What all processes append to."""

    fd = -1

    @classmethod
    def open(cls, directory):
        cls.fd = os.open(os.path.join(directory, "journal"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def note(what, sending="-", uid="-", pid=None, since=None):
    now = time.monotonic()
    os.write(Journal.fd, f"{what} {sending} {uid} {pid or os.getpid()} {since or now:.6f} {now:.6f}\n".encode())


class Tally:
    """Appends the id of each sending to the journal; some deliveries fail while there are kills."""

    fails = 0.0

    def __init__(self, directory):
        self.directory = directory

    @classmethod
    def decode_config(cls, config_str):
        return {"directory": config_str}

    def encode_config(self):
        return self.directory

    def send_event(self, e):
        note("B", event.sending_id(e), e.uid)
        for path, digest in e.get_attachments().values():
            with open(path, "rb") as file:
                assert hashlib.sha1(file.read()).hexdigest() == digest
        if random.random() < self.fails and not os.path.exists(os.path.join(self.directory, "mended")):
            return False
        note("D", event.sending_id(e), e.uid)
        return True


# What is watched.


def sending_of(body):
    """Return the id in a message's body."""
    return re.search(rb'"id": "([^"]+)"', body if isinstance(body, bytes) else body.encode())[1].decode()


def watch():  # noqa: C901  # one function for each thing that is watched
    """Have what the library does tell the journal when it returns."""
    put, record, release, connect = Outbox.put, Claim.record, Claim.release, relay_loop.connect_consumer
    put_many = Outbox.put_many

    def told_put(self, e, handlers, **more):
        claim = put(self, e, handlers, **more)
        if "broker" in handlers:
            note("A", "-", e.uid)
        return claim

    def told_put_many(self, new, *, together=False):
        if together and len(new) > 1:
            note("G")
        return put_many(self, new, together=together)

    done = {}  # claim -> the handlers that have the event; on record once the entry is settled

    def told_record(self, delivery):
        record(self, delivery)
        if delivery.ok and delivery.handler in {"broker", "tally"}:
            done.setdefault(id(self), []).append(delivery.handler)

    def told_release(self):
        where = release(self)
        for handler in done.pop(id(self), ()):
            note("R" if handler == "broker" else "E", self.entry.id)
        return where

    def telling(publish):
        def told_publish(self, queue, message, timeout):
            with publishing(sending_of(message.body)):
                publish(self, queue, message, timeout)

        return told_publish

    def told_connect(*args, **kwargs):
        consumer = Spy(connect(*args, **kwargs))
        note("C")
        return consumer

    Outbox.put_many = told_put_many
    Outbox.put, Claim.record, Claim.release = told_put, told_record, told_release
    for publisher in (amqp_adapter.AMQPPublisher, redis_adapter.RedisPublisher):
        publisher.publish = telling(publisher.publish)
    relay_loop.connect_consumer = told_connect


@contextlib.contextmanager
def publishing(sending):
    """Tell the journal that a message is published within the block."""
    note("P", sending)
    Death.connected = True
    try:
        yield
    except Exception:
        note("X", sending)
        raise
    note("Q", sending)


class Spy:
    """A consumer that tells the journal."""

    begins = staticmethod(lambda: None)
    done = staticmethod(lambda: None)  # called when a message is, and has not gone back

    def __init__(self, consumer):
        self._consumer = consumer
        self.poll_interval = consumer.poll_interval
        self.begins()

    def __getattr__(self, name):
        return getattr(self._consumer, name)

    def receive(self, limit, wait):
        messages = self._told(self._consumer.receive, limit, wait)
        for message in messages:
            note("T", sending_of(message.body))
        return messages

    def acknowledge(self, messages):
        self._told(self._consumer.acknowledge, messages)
        for message in messages:
            note("Z", sending_of(message.body))
            self.done()

    def requeue(self, message, *args):
        self._move(self._consumer.requeue, message, *args)

    def dead_letter(self, message, *args):
        self._move(self._consumer.dead_letter, message, *args)
        self.done()

    def _move(self, move, message, *args):
        sending = sending_of(message.body)
        # Redis publishes by the same connection; AMQP by one that tells so itself.
        told = (
            publishing(sending) if isinstance(self._consumer, redis_adapter.RedisConsumer) else contextlib.nullcontext()
        )
        with told:
            self._told(move, message, *args)
        note("Z", sending)

    def _told(self, call, *args):
        try:
            return call(*args)
        except OSError:
            note("L")
            raise


def quicken():
    """Have what takes a minute take a moment."""
    redis_adapter.MESSAGE_LEASE = LEASE
    redis_adapter.CONSUMER_LIFETIME = 2 * LEASE
    redis_adapter._CLAIM_PAUSE = 0.2
    relay_loop._FIRST_DELAY = 0.02


# The processes.


class Place:
    """A directory with outboxes, attachments, and what the handlers make."""

    def __init__(self, directory, *, has_one_handler=False):
        self.directory = directory
        self.has_one_handler = has_one_handler
        self.attachment = os.path.join(directory, "attachment")
        self.mended = os.path.join(directory, "mended")
        os.makedirs(os.path.join(directory, "temporary"), exist_ok=True)
        if not os.path.exists(self.attachment):
            Path(self.attachment).write_bytes(CONTENT)
        Journal.open(directory)

    def outbox(self, name):
        return os.path.join(self.directory, f"outbox-{name}")

    def handlers(self):
        """Return the options that name the relays' handlers.

        With one handler, small events of a batch share a file in the outbox.
        """
        if self.has_one_handler:
            return ["--handler", f"tally={self.directory}"]
        return [
            *("--handler", f"file:a={self.directory}/a", "--handler", f"tally={self.directory}"),
            *("--handler", f"file:b={self.directory}/b"),
        ]

    def relay(self, name, queue=QUEUE):
        """Relay until a signal comes."""
        log = os.open(os.path.join(self.directory, f"relay-{name}.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 2)
        os.environ["TMPDIR"] = os.path.join(self.directory, "temporary")
        outbox = [] if name == "none" else ["--outbox", self.outbox(name)]
        spawning._worker_command = self._worker
        status = _cli.main(["relay", "env:BROKER", "--queue", queue, "--timeout", "30", *outbox, *self.handlers()])
        assert status == 0, status

    def producer(self, name, queue=QUEUE):
        """Return the manager of a producer."""
        manager = event.EventManager(outbox=self.outbox(name))
        manager.add_handler("broker", "env:BROKER", queue, timeout=10.0)
        return manager

    def send(self, manager, *, attachments):
        with event.Event("build", text=TEXT, attached=2 * attachments) as e:
            for name in ("log", "b/../log")[: e.attached]:
                e.attach_file(self.attachment, name)
        return manager.send_event(e)

    def produce(self, name):
        """Bring what is left, and go on with more."""
        self.deliver(name)
        manager = self.producer(name)
        while True:
            self.send(manager, attachments=random.random() < 0.3)
            time.sleep(random.uniform(0, 0.03))  # so that the relays keep pace

    def deliver(self, name):
        deliver_from(Outbox(self.outbox(name)), everything=True)

    def finish(self, name):
        """Deliver until an outbox is empty."""
        for _ in range(20):
            self.deliver(name)
            if not any(Outbox(self.outbox(name)).entries("waiting", "claimed")):
                return
        raise AssertionError(f"the outbox {name} does not become empty")

    def _worker(self, jobs, reports):
        """Return the command of a relay's worker as it is, but for what we watch, and for where the first one dies."""
        step, Death.of_worker = Death.of_worker, 0
        words = [self.directory, "-", "worker", jobs, reports, os.getpid(), step]
        return [sys.executable, __file__, *map(str, words)]


_journal_sizes = {}  # pid -> the size of the journal when the process began


def forked(act):
    """Do something in a process of its own; return its number."""
    size = os.fstat(Journal.fd).st_size
    pid = os.fork()
    if pid:
        _journal_sizes[pid] = size
        return pid
    try:
        random.seed()
        act()
    except BaseException:
        logging.getLogger("relaying").exception("failed")
        os._exit(1)
    os._exit(0)


def done(pid):
    """Wait for a process that is to succeed."""
    assert os.waitpid(pid, 0)[1] == 0, "it has failed"


def stop(place, pid):
    """Have a relay end, once it has begun."""
    since = _journal_sizes[pid]  # another process may have had this number before
    eventually(lambda: any(line.startswith(f"C - - {pid} ") for line in lines(place, since)), "the relay is there")
    os.kill(pid, signal.SIGTERM)


def eventually(condition, what):
    """Wait for a condition as long as the journal grows: a slow machine needs more time, and goes on all the same."""
    size, end = -1, 0.0
    while not (value := condition()):
        if (grown := os.fstat(Journal.fd).st_size) != size:
            size, end = grown, time.monotonic() + SECONDS
        assert time.monotonic() < end, f"nothing has happened for {SECONDS} s: {what}"
        time.sleep(0.02)
    return value


class Broker:
    """What is in a broker."""

    def __init__(self, kind, server):
        self.kind = kind
        self.server = server
        os.environ["BROKER"] = server.url

    @contextlib.contextmanager
    def channel(self):
        with pika.BlockingConnection(pika.URLParameters(f"{self.server.url}%2F")) as connection:
            yield connection.channel()

    @contextlib.contextmanager
    def client(self):
        with redis.Redis.from_url(self.server.url) as client:
            yield client

    def make_queues(self):
        """Have RabbitMQ write its queues to the disk: a kill a moment after their declaration damages them."""
        if self.kind == "rabbitmq":
            connect_consumer(BrokerURL(self.server.url), QUEUE, prefetch=1).close()
            self.server.stop()
            self.server.start()

    def waiting(self, queue=QUEUE):
        """Return how many messages wait, and how many processes receive."""
        if self.kind == "redis":
            with self.client() as client:
                return client.xlen(queue), 0
        with self.channel() as channel:
            try:
                found = channel.queue_declare(queue, passive=True).method
            except pika.exceptions.ChannelClosedByBroker:
                return 0, 0
            return found.message_count, found.consumer_count

    def left(self, queue=QUEUE):
        """Return how many messages wait when nobody receives any more; what a consumer had is there again by then."""
        eventually(lambda: not self.waiting(queue)[1], "nobody receives")
        return self.waiting(queue)[0]

    def bury(self, queue):
        """Let the lease of those that have been killed end."""
        if self.kind != "redis":
            return
        with self.client() as client, contextlib.suppress(redis.exceptions.ResponseError):
            for entry in client.xpending_range(queue, redis_adapter.GROUP, "-", "+", 10_000):
                client.xclaim(
                    queue, redis_adapter.GROUP, entry["consumer"], 0, [entry["message_id"]], idle=10**9, justid=True,
                    retrycount=entry["times_delivered"],
                )  # fmt: skip

    def consumers(self):
        """Return the names of the consumers of Redis."""
        with self.client() as client:
            return {entry["name"].decode() for entry in client.xinfo_consumers(QUEUE, redis_adapter.GROUP)}

    def pending(self):
        with self.client() as client:
            return client.xpending(QUEUE, redis_adapter.GROUP)["pending"]


# At random moments.


class Storm:
    """Processes that are killed and started again."""

    def __init__(self, place, broker):
        self.place = place
        self.broker = broker
        self.running = {}  # name -> pid
        for name in (*PRODUCERS, *RELAYS):
            self.start(name)

    def start(self, name):
        act = self.place.produce if name in PRODUCERS else self.place.relay
        self.running[name] = forked(lambda: act(name))

    def kill(self, name):
        pid = self.running.pop(name)
        when = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        assert os.WIFSIGNALED(status), f"{name} ended before it was killed"
        note("K", pid=pid, since=when)

    def kill_a_worker(self):
        """Kill the youngest one, whose relay starts another."""
        pid = next((int(line.split()[3]) for line in reversed(lines(self.place)) if line.startswith("F")), None)
        if pid is not None and is_ours(self.place, pid):
            when = time.monotonic()
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                eventually(lambda: not is_ours(self.place, pid), "the worker is dead")
                note("K", pid=pid, since=when)

    def kill_the_broker(self):
        when = time.monotonic()
        self.broker.server.kill()
        self.broker.server.start()
        note("S", pid="-", since=when)

    def hold_the_broker(self):
        """Hold the broker still for a moment."""
        self.broker.server.pause()
        time.sleep(0.5)
        self.broker.server.resume()

    def hold(self, name):
        """Hold a relay still until its lease is over."""
        pid = self.running[name]
        note("H", pid=pid)
        os.kill(pid, signal.SIGSTOP)
        time.sleep(1.5 * LEASE)
        note("O", pid=pid)
        os.kill(pid, signal.SIGCONT)

    def accepted(self):
        return sum(line.startswith("A") for line in lines(self.place))

    def rage(self, rounds, kills):
        """Kill so many processes, and the broker so often."""
        when = {(number + 1) * rounds // (kills + 1) for number in range(kills)}
        for number in range(rounds):
            if number in when:
                self.kill_the_broker()
            elif number % 10 == 5:
                self.hold_the_broker()
            accepted = self.accepted()
            eventually(lambda accepted=accepted: self.accepted() > accepted, "another event is accepted")
            time.sleep(random.uniform(0, 0.4))  # the random moment itself
            name = random.choice((*PRODUCERS, *RELAYS, *RELAYS, "worker"))
            if name == "worker":
                self.kill_a_worker()
            elif number % 15 == 10:
                self.hold(random.choice(RELAYS))
            else:
                self.kill(name)
                self.start(name)

    def calm(self):
        """Let everything finish."""
        for name in PRODUCERS:
            self.kill(name)
        Path(self.place.mended).touch()
        for name in PRODUCERS:
            done(forked(lambda name=name: self.place.finish(name)))
        rounds = 0
        while True:
            # What a relay of RabbitMQ has been sent, nobody else sees. It is given back where that is misjudged: then a
            # longer silence is waited for, since messages that come back again and again are held for longer.
            eventually(
                lambda rounds=rounds: not self.broker.waiting()[0] and self.is_quiet(2.0**rounds), "the queue is empty"
            )
            for name in RELAYS:
                stop(self.place, self.running[name])
            for name in RELAYS:
                done(self.running.pop(name))
            if not self.broker.left():
                break
            rounds += 1
            assert rounds < 7, "the queue does not become empty"
            for name in RELAYS:
                self.start(name)
        for name in RELAYS[:-1]:
            done(forked(lambda name=name: self.place.finish(name)))

    def is_quiet(self, seconds):
        """Tell whether nothing has happened for so many seconds."""
        return time.monotonic() - float(lines(self.place)[-1].split()[5]) > seconds

    def end(self):
        for name in [*self.running]:
            self.kill(name)


def lines(place, since=0):
    with open(os.path.join(place.directory, "journal"), encoding="ascii") as file:
        file.seek(since)
        return file.read().splitlines()


def is_ours(place, pid):
    """Tell whether a process is one of this storm: its number may be another's by now."""
    try:
        return os.fsencode(place.directory) in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def at_random(place, broker, rounds, kills):
    Tally.fails = 0.1
    broker.make_queues()
    storm = Storm(place, broker)
    try:
        storm.rage(rounds, kills)
        storm.calm()
    finally:
        storm.end()
    dead = broker.left(f"{QUEUE}.dead")
    rounds = 0
    while broker.left(f"{QUEUE}.dead"):  # messages that too many relays have crashed with
        assert rounds < 7, "the dead letters are not delivered"
        pid = forked(lambda: place.relay("none", f"{QUEUE}.dead"))
        # What RabbitMQ has sent to the relay does not count as waiting; what is not done then comes back.
        eventually(
            lambda rounds=rounds: not broker.waiting(f"{QUEUE}.dead")[0] and storm.is_quiet(2.0**rounds),
            "the dead letters are delivered",
        )
        stop(place, pid)
        done(pid)
        rounds += 1
    if broker.kind == "redis":
        pid = forked(lambda: place.relay("none"))  # it finds that the others are gone
        eventually(lambda: len(broker.consumers() - {redis_adapter.RETURNED}) <= 1, "those that are gone are forgotten")
        stop(place, pid)
        done(pid)
        assert broker.pending() == 0
    print(json.dumps({"dead": dead}))


# Before each step.


class Death:
    """Counts steps, and kills this process before one of them, in the middle of a write; 0 counts none."""

    step = 0
    count = 0
    last = ""
    of_worker = 0  # the step before which the next worker dies
    tells = False  # whether this process must tell of its death itself, since nobody knows its number
    connected = False  # what a connection takes changes nothing

    @classmethod
    def comes(cls, name, partial):
        if name in SENDING + RECEIVING and not cls.connected:
            return
        if cls.step and not (name in RECEIVING and cls.last in RECEIVING):
            cls.count += 1
            if cls.count == cls.step:
                partial()
                if cls.tells:
                    note("K")
                os.kill(os.getpid(), signal.SIGKILL)
        cls.last = name


def count_steps():
    """Have each step of this process be counted."""

    def wrap(name, call):
        def wrapped(*args, **kwargs):
            half = name == "write" and args[0] != Journal.fd
            Death.comes(name, (lambda: call(args[0], args[1][: len(args[1]) // 2])) if half else nothing)
            return call(*args, **kwargs)

        return wrapped

    def wrap_socket(name, call):
        def wrapped(self, *args, **kwargs):
            half = name in SENDING
            Death.comes(name, (lambda: call(self, memoryview(args[0])[: len(args[0]) // 2])) if half else nothing)
            return call(self, *args, **kwargs)

        return wrapped

    for name in STEPS:
        setattr(os, name, wrap(name, getattr(os, name)))
    for name in SENDING + RECEIVING:
        setattr(socket.socket, name, wrap_socket(name, getattr(socket.socket, name)))


def nothing(*_args):
    pass


class Steps:
    """A relay with an outbox, one without, the worker of either, or a producer, that dies before each of its steps.

    Each one has a queue of its own.
    """

    def __init__(self, place, broker, kind):
        self.place = place
        self.broker = broker
        self.kind = kind
        self.name = {"relay": "one", "relay-worker": "one", "give": "none", "give-worker": "none", "send": "p1"}[kind]

    def run(self):
        step = 0
        while self.survives(step := step + 1):
            pass
        if self.kind == "send":
            done(forked(lambda: self.place.finish("p1")))
            self.name = "two"
        done(forked(lambda: self.take_the_rest(step)))
        if self.name != "none":
            done(forked(lambda: self.place.finish(self.name)))
        return step

    def survives(self, step):
        """Have one die before a step; return whether it has."""
        if self.kind != "send" and step % 20 == 1:
            done(forked(lambda: self.publish(range(step, step + 20))))
        if self.kind.endswith("worker"):
            before = self.deaths()
            done(forked(lambda: self.lose_worker(step)))
            return self.deaths() > before
        pid = forked(lambda: self.die(step))
        status = os.waitpid(pid, 0)[1]
        if not os.WIFSIGNALED(status):
            assert status == 0
            return False
        note("K", pid=pid)  # after all that it began, and before any other process begins
        return True

    def publish(self, steps):
        manager = self.place.producer("p2")
        for step in steps:
            manager.handlers["broker"].queue = self.queue(step)
            assert self.place.send(manager, attachments=True)

    def die(self, step):
        count_steps()
        if self.kind == "send":
            manager = self.place.producer("p1", self.queue(step))
            Death.step = step
            self.place.send(manager, attachments=True)
        else:
            Spy.begins = staticmethod(lambda: self.begin(step))
            self.relay(step)

    def lose_worker(self, step):
        """Relay with a worker that dies before a step; another one takes its place."""
        Death.of_worker = step
        self.relay(step)

    def deaths(self):
        return sum(line.startswith("K") for line in lines(self.place))

    def begin(self, step):
        Death.step, Death.connected = step, True

    def relay(self, step):
        """Relay until a message has been acknowledged for good."""
        Spy.done = staticmethod(lambda: os.kill(os.getpid(), signal.SIGTERM))
        self.place.relay(self.name, self.queue(step))

    def queue(self, step):
        return f"{self.kind}-{step}"

    def take_the_rest(self, last):
        """Have another relay take what the dead ones have left."""
        for step in range(1, (last - 1) // 20 * 20 + 21):
            rounds = 0
            self.broker.bury(self.queue(step))
            while self.broker.left(self.queue(step)):
                rounds += 1
                assert rounds < 10, f"{self.queue(step)} does not become empty"
                self.relay(step)


def work(jobs, reports, command, step):
    """Be the worker of a relay."""
    note("F", uid=command)
    batch = []
    split = relay_job._split_batch

    def told_split(job, blob):
        found = split(job, blob)
        batch[:] = [sending_of(incoming.body) for incoming in found]
        for sending in batch:
            note("W", sending)
        Death.step, Death.connected = step, True
        return found

    def telling(finish):
        def told_finish(self):
            for sending in batch:
                note("V", sending)
            finish(self)

        return told_finish

    relay_job._split_batch = told_split
    for kind in (relay_job._OutboxTarget, relay_job._HandlerTarget):
        kind.finish = telling(kind.finish)
    if step:
        Death.tells = True
        count_steps()
    child.main(jobs, reports, command)


def warm_up(place, broker):
    """Import once what each process would import."""
    from event import _dispatch  # noqa: F401

    for name in ("file", "broker", "tally"):
        _registry.get_handler(name)
    plugins = _registry.plugins()
    _registry.plugins = lambda: plugins  # there are none, which takes a while to find out
    place.producer("warm")
    broker.waiting()
    gc.collect()
    gc.freeze()


def run(directory, server_kind, how, *amounts):
    place = Place(directory, has_one_handler=how == "one")
    _registry.BUILTINS = {**_registry.BUILTINS, "tally": ("relaying", "Tally")}
    watch()
    if how == "worker":
        Tally.fails = 0.1 if os.environ.get("RELAYING_FAILS") else 0.0
        work(*map(int, amounts))
        return
    quicken()
    logging.getLogger("event").addHandler(logging.NullHandler())
    logging.getLogger("event").propagate = False
    with SERVERS[server_kind](Path(directory)) as server:
        broker = Broker(server_kind, server)
        warm_up(place, broker)
        if how in {"random", "one"}:
            os.environ["RELAYING_FAILS"] = "1"
            at_random(place, broker, *map(int, amounts))
        else:
            print(json.dumps({kind: Steps(place, broker, kind).run() for kind in KINDS}))


if __name__ == "__main__":
    sys.modules["relaying"] = sys.modules["__main__"]
    run(*sys.argv[1:])
