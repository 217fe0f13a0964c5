"""Start a worker as a new interpreter: where fork is not to be had, and for each worker that takes another's place."""

from __future__ import annotations

import os
import sys
from subprocess import DEVNULL, Popen

from event._worker.system import make_pipes

# The same path, so that the worker finds what the command has found; and this package, whatever the path holds.
_CODE = (
    "import sys; sys.path[:] = [{own!r}, *{path!r}]; import event; del sys.path[0]; "
    "from event._worker import child; child.main({jobs}, {reports}, {command})"
)
_OWN = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # where this package is


def spawn() -> tuple[int, int, int, Popen[bytes]]:
    """Return the process id of a new worker, the descriptors for its jobs and its reports, and the process.

    :raises OSError: it could not be started
    """
    pipes = jobs, to_worker, from_worker, reports = make_pipes()
    try:
        process = _start(jobs, reports)
    except BaseException:
        for fd in pipes:
            os.close(fd)
        raise
    os.close(jobs)
    os.close(reports)
    return process.pid, to_worker, from_worker, process


def _worker_command(jobs: int, reports: int) -> list[str]:
    flags = [flag for flag, is_set in (("-I", sys.flags.isolated), ("-S", sys.flags.no_site)) if is_set]
    code = _CODE.format(own=_OWN, path=sys.path, jobs=jobs, reports=reports, command=os.getpid())
    return [sys.executable, *flags, "-c", code]


if sys.platform == "win32":  # pragma: no cover  # platform: Windows

    def _start(jobs: int, reports: int) -> Popen[bytes]:
        import msvcrt

        handles = []
        for fd in (jobs, reports):
            os.set_inheritable(fd, True)
            handles.append(msvcrt.get_osfhandle(fd))
        code = f"import msvcrt; jobs, reports = (msvcrt.open_osfhandle(h, 0) for h in {handles}); "
        *command, last = _worker_command(jobs, reports)
        last = last.replace("child.main(", f"{code}child.main(").replace(f"({jobs}, {reports}, ", "(jobs, reports, ")
        return Popen([*command, last], stdin=DEVNULL, close_fds=False)  # noqa: S603  # ourselves

else:

    def _start(jobs: int, reports: int) -> Popen[bytes]:
        # A session of its own: a terminal's Ctrl-C is the command's to answer, and its group can be killed.
        return Popen(  # noqa: S603  # ourselves
            _worker_command(jobs, reports), stdin=DEVNULL, pass_fds=(jobs, reports), start_new_session=True
        )
