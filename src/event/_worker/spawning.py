"""Start a worker in a new Python interpreter: on platforms without fork, and to replace or add a worker."""

from __future__ import annotations

import os
import sys
from subprocess import DEVNULL, Popen

from event._worker.system import make_pipes

# The worker has the command's sys.path. This package's own directory comes first during `import event`, so that the
# path can't lead to another module of that name.
_CODE = (
    "import sys; sys.path[:] = [{own!r}, *{path!r}]; import event; del sys.path[0]; "
    "from event._worker import child; child.main({jobs}, {reports}, {command})"
)
_OWN = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # this package's directory


def spawn() -> tuple[int, int, int, Popen[bytes]]:
    """Start a worker; return its process id, the file descriptors of its jobs and its reports, and the process.

    :raises OSError: the process can't be started
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


def _worker_command(jobs: object, reports: object) -> list[str]:
    """Return the command; the arguments are formatted as the expressions that yield the file descriptors."""
    flags = [flag for flag, is_set in (("-I", sys.flags.isolated), ("-S", sys.flags.no_site)) if is_set]
    code = _CODE.format(own=_OWN, path=sys.path, jobs=jobs, reports=reports, command=os.getpid())
    return [sys.executable, *flags, "-c", code]


if sys.platform == "win32":  # pragma: no cover  # platform: Windows

    def _start(jobs: int, reports: int) -> Popen[bytes]:
        import msvcrt

        handles = []
        for fd in (jobs, reports):
            os.set_inheritable(fd, True)
            handles.append(f"__import__('msvcrt').open_osfhandle({msvcrt.get_osfhandle(fd)}, 0)")
        return Popen(_worker_command(*handles), stdin=DEVNULL, close_fds=False)  # noqa: S603  # ourselves

else:

    def _start(jobs: int, reports: int) -> Popen[bytes]:
        # In its own session, the worker does not get the terminal's Ctrl-C, and its process group can be killed.
        return Popen(  # noqa: S603  # ourselves
            _worker_command(jobs, reports), stdin=DEVNULL, pass_fds=(jobs, reports), start_new_session=True
        )
