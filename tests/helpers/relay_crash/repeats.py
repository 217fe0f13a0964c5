"""Check in the journal that each repeated delivery has a cause.

A delivery may be repeated if an earlier step of the same sending was not finished because its process or the broker was
killed or paused. The steps are:

==============  =====================================================================================================
``publishing``  until the producer has recorded it
``message``     a relay holds the message, until it acknowledges it
``batch``       the relay's worker has the message, until it reports the result
``delivery``    until it is recorded, or reported if there is no outbox
==============  =====================================================================================================
"""

from __future__ import annotations

from collections import defaultdict

STEP_BEGINS = {
    "publishing": "publishing",
    "received": "message",
    "worker-received": "batch",
    "delivered": "delivery",
}
STEP_ENDS = {
    "publish-recorded": ("publishing",),
    "publish-failed": ("publishing",),
    "acknowledged": ("message", "publishing"),
    "worker-reported": ("batch", "delivery"),
    "delivery-recorded": ("delivery",),
}
STORE_TIME = 5.0  # seconds within which RabbitMQ stores an acknowledgement on disk


def count_repeats(lines, *, acks_may_be_lost):
    """Check the deliveries of each sending; return how many were repeated.

    :param lines: the lines of the journal
    :param acks_may_be_lost: whether a kill may lose the last acknowledgements, because the broker does not confirm them
    :raises AssertionError: a sending was delivered again without a cause
    """
    disturbances = Disturbances(lines, acks_may_be_lost=acks_may_be_lost)
    sendings = defaultdict(list)
    for line in lines:
        if line.sending != "-":
            sendings[line.sending].append(line)
    total = 0
    for sending, history in sendings.items():
        repeats = sum(line.kind == "delivered" for line in history) - 1
        if repeats > 0:
            causes = SendingHistory(history, disturbances).count_causes()
            text = f"{sending} was delivered {repeats + 1} times for {causes} causes"
            assert repeats <= causes, f"{text}: {history}, {disturbances.of_processes_in(history)}"
            total += repeats
    return total


class Disturbances:
    """The times at which processes and the broker were killed, paused or disconnected.

    :ivar by_pid: process id -> the times at which the process was disturbed; the system may use an id again
    """

    def __init__(self, lines, *, acks_may_be_lost):
        self.by_pid = defaultdict(list)
        self._acks_may_be_lost = acks_may_be_lost
        self._outages = [line.span for line in lines if line.kind == "broker-killed"]
        self._kills = _kills(lines)
        for pid, spans in self._kills.items():
            self.by_pid[pid] += spans
        for number, line in enumerate(lines):
            if line.kind in {"connection-lost", "publish-failed"}:
                assert self._outages, "the broker was lost although it was not killed"
                self.by_pid[line.pid].append(line.span)
            elif line.kind == "paused":
                resumed = [later.begin for later in lines[number:] if (later.kind, later.pid) == ("resumed", line.pid)]
                self.by_pid[line.pid].append((line.begin, resumed[0] if resumed else line.begin))

    def of_processes_in(self, lines):
        return {line.pid: self.by_pid[line.pid] for line in lines if line.pid in self.by_pid}

    def in_process(self, pid, begin, end):
        """Return whether a process was disturbed between two times."""
        return _overlaps(self.by_pid.get(pid, ()), begin, end)

    def may_lose_ack(self, line, received):
        """Return whether an acknowledgement may be lost. The broker may have died before it: relays notice that late.

        :param received: the time at which the relay received the message
        """
        kills = [*self._outages, *self._kills.get(line.pid, ())]
        return self._acks_may_be_lost and _overlaps(kills, received, line.begin + STORE_TIME)


def _kills(lines):
    """Return the times of the kills by process id."""
    kills = defaultdict(list)
    for line in lines:
        if line.kind == "killed":
            kills[line.pid].append(line.span)
    for line in lines:
        if line.kind == "worker-started":  # a worker ends when its relay is killed
            kills[line.pid] += kills[line.uid]
    return kills


def _overlaps(spans, begin, end):
    return any(first <= end and begin <= last for first, last in spans)


class SendingHistory:
    """The lines of a sending, to count the causes of its repeated deliveries."""

    def __init__(self, lines, disturbances):
        self._lines = lines
        self._disturbances = disturbances
        self._open_steps = {}  # (process id, step) -> the line that began it
        self._received = {}  # process id of a relay -> when it received the message
        self._causes = 0

    def count_causes(self):
        """Return how many steps were not finished before the last delivery."""
        last = max(number for number, line in enumerate(self._lines) if line.kind == "delivered")
        for line in self._lines[:last]:
            self._add(line)
        for line in self._open_steps.values():
            self._count_if(self._is_interrupted(line, self._lines[last]))
        return self._causes

    def _count_if(self, is_cause):
        if is_cause:
            self._causes += 1

    def _is_interrupted(self, begin, end):
        """Return whether a step began and its process was disturbed until another line."""
        return begin is not None and self._disturbances.in_process(begin.pid, begin.begin, end.begin)

    def _add(self, line):
        self._count_if(line.kind == "publish-failed")
        if line.kind == "acknowledged":
            received = self._received.get(line.pid, line.begin)
            self._count_if(self._disturbances.may_lose_ack(line, received))
        if line.kind == "received":
            self._receive(line)
        if step := STEP_BEGINS.get(line.kind):
            self._count_if(self._is_interrupted(self._open_steps.get((line.pid, step)), line))
            self._open_steps[line.pid, step] = line
        for step in STEP_ENDS.get(line.kind, ()):
            begin = self._open_steps.pop((line.pid, step), None)
            # A relay was paused with the message, and another relay received it meanwhile.
            self._count_if(step == "message" and self._is_interrupted(begin, line))

    def _receive(self, line):
        # Another relay received the message before this one, which was disturbed.
        others = [time for pid, time in self._received.items() if pid != line.pid]
        first = self._lines[0].begin
        self._count_if(any(self._disturbances.in_process(line.pid, first, time) for time in others))
        self._received[line.pid] = line.begin
