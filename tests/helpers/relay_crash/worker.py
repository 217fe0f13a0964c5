"""The worker of a relay, with a journal: ``DIRECTORY JOBS REPORTS RELAY STEP``.

JOBS and REPORTS are file descriptors, and RELAY is the relay's process id. The worker is killed before system call
number STEP after its first batch; 0 means never.
"""

from __future__ import annotations

import sys

from event._worker import child
from helpers.relay_crash import journal, kill_point, recording, tally


def main(directory, jobs, reports, relay, step):
    journal.open_in(directory)
    journal.record("worker-started", uid=relay)
    tally.register()
    recording.record_outbox()
    recording.record_worker(lambda: kill_point.kill_point.arm(step))
    if step:
        kill_point.kill_point.records_kill = True
        kill_point.install()
    child.main(jobs, reports, relay)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
