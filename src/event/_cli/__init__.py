"""The command line ``e3-event`` (also ``python -m event``), for build scripts that are not written in Python."""

from __future__ import annotations

import os
import sys
from _thread import allocate_lock, interrupt_main, start_new_thread
from time import sleep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType
    from typing import Any

    from event._worker import Worker

_EXIT_TIMEOUT = 2.0  # seconds for the interpreter to exit, so that the functions registered with `atexit` run
_WITH_WORKER = frozenset({"send", "run", "deliver"})  # these fork their first worker
_WITH_FAST_PARSER = frozenset({"send", "run", "check"})  # these use argparse only for unusual arguments


def program() -> int:
    """Run the command line as the whole program of this process.

    This ends the process at once, because the interpreter's own exit takes a tenth of the time of a short command. If
    somebody waits for that exit, return the exit status.
    """
    command = os.getpid()
    status = main()
    if os.getpid() == command and not _is_run_by_another_program():  # in the worker, a plugin may wait
        if _exit_only_frees_memory():
            from event._cli._support import terminal

            terminal.flush_out()
            os._exit(status)
        else:
            _limit_exit(status)
    return status


def _exit_only_frees_memory() -> bool:
    """Return whether the interpreter's exit does nothing else.

    Otherwise, it calls the functions registered with `atexit`, for example those of a coverage tool, and joins the
    threads of `threading`.
    """
    return {"atexit", "threading"}.isdisjoint(sys.modules)


def _is_run_by_another_program() -> bool:
    """Return whether a profiler or a debugger runs this program's module inside its own, and continues after it."""
    modules = 0
    frame: FrameType | None = sys._getframe()  # noqa: SLF001  # documented  # pyright: ignore[reportPrivateUsage]
    while frame:
        modules += frame.f_code.co_name == "<module>"
        frame = frame.f_back
    return modules > 1


def _limit_exit(status: int) -> None:
    """End the process after `_EXIT_TIMEOUT`: ``sitecustomize`` may have started a thread that never ends."""

    def end() -> None:  # pragma: no cover  # the process ends without a report to coverage
        started.release()
        sleep(_EXIT_TIMEOUT)
        os._exit(status)

    started = allocate_lock()
    started.acquire()
    try:
        start_new_thread(end, ())
    except RuntimeError:  # no more threads can be started
        os._exit(status)
    else:
        started.acquire()  # a thread that starts while the interpreter exits may crash it


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status. If `argv` is None, use the arguments of this process."""
    words = [*(sys.argv[1:] if argv is None else argv)]
    if words[:1] in (["--version"], ["-V"], ["--help"], ["-h"]):
        return _show(words[0])
    if argv is None:
        import gc

        gc.disable()  # until the command is imported; see `_collect_new_garbage`
        sys.unraisablehook = interrupt_again
    worker = None
    if argv is None and sys.platform == "linux" and words and words[0] in _WITH_WORKER:
        worker, is_over = _fork_worker()
        if is_over:
            return 0
    try:
        return _run(words, worker)
    except KeyboardInterrupt:
        return 130  # as a shell reports a process that SIGINT ended
    finally:
        if worker:
            worker.kill()


def _fork_worker() -> tuple[Worker | None, bool]:
    """Fork the worker before any thread starts. In the worker, return when its work is done.

    If ``sitecustomize`` has started a thread, do not fork: in the child, a lock of that thread is never released.
    `faulthandler` waits for such a lock. The command then starts a worker in a new interpreter when it needs one.

    :return: the worker (None if there is none), and whether this process is the worker
    """
    if _has_other_threads():
        return None, False
    # Both processes need these: import them once.
    from event import _fast_signal, _files, _handler_config, _trace_context  # noqa: F401
    from event._worker.parent import Worker

    try:
        worker = Worker.fork()
    except OSError:  # the process limit is reached; the command tries again when it needs a worker
        return None, False
    return worker, worker is None


def _has_other_threads() -> bool:
    """Return whether this process has several threads, including those that `threading` does not know.

    Only Linux can tell: there, the directory of the threads has a link for each of them, and two of its own.
    """
    try:
        return os.stat("/proc/self/task").st_nlink > 3
    except OSError:
        return False  # /proc is not mounted


def _collect_new_garbage() -> None:
    """Enable the garbage collection again, without the objects that were imported.

    Those exist until the process ends. Searching them for garbage would take a tenth of the time of a short command.
    """
    import gc

    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def interrupt_again(unraisable: sys.UnraisableHookArgs) -> None:
    """Raise a KeyboardInterrupt again if Python ignored it, because it came in a callback."""
    if unraisable.exc_type is KeyboardInterrupt:
        start_new_thread(interrupt_main, ())  # in another thread, so that it is raised after this function
    else:
        sys.__unraisablehook__(unraisable)


def _run(words: list[str], worker: Worker | None) -> int:
    from event._cli._support import terminal

    command = "e3-event"
    try:
        args = _parse_arguments(words)
        command = args.parser.prog
        args.worker = worker
        _collect_new_garbage()
        status = int(args.run(args))
    except SystemExit as stop:  # raised by argparse
        status = int(stop.code or 0)
    except Exception as error:
        from event.error import one_line

        terminal.print_err(f"{command}: {one_line(error)}")
        status = 1
    return terminal.flush_out() or status


def _parse_arguments(words: list[str]) -> Any:
    if words and words[0] in _WITH_FAST_PARSER:
        from event._cli._support import fast_parser

        if args := fast_parser.parse_fast(words):
            return args
    from event._cli._support.parser import parse

    return parse(words)


def _show(option: str) -> int:
    """Print the version or the help, without argparse."""
    from event._cli._support import terminal

    if option.endswith(("V", "version")):
        from event._version import VERSION

        terminal.print_out(f"e3-event {VERSION}")
    else:
        from event._cli._support import help_text

        terminal.print_out(help_text.text())
    return terminal.flush_out()
