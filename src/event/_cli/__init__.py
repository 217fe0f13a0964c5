"""The command line, ``e3-event`` and ``python -m event``, for build scripts that are not Python."""

from __future__ import annotations

import sys
from _thread import interrupt_main, start_new_thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from event._worker import Worker

_WITH_WORKER = frozenset({"send", "run", "deliver"})  # these give their first job to a copy of this process
_WITH_FAST_PARSER = frozenset({"send", "run", "check"})  # argparse reads only their unusual arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    :param argv: the arguments, without the program's name; those of this process if it is None
    :return: the exit status
    """
    words = [*(sys.argv[1:] if argv is None else argv)]
    if words in (["--version"], ["-V"]):
        return _show_version()
    if words in (["--help"], ["-h"]):
        return _show_help()
    if argv is None:
        sys.unraisablehook = interrupt_again
    worker = None
    if argv is None and sys.platform == "linux" and words and words[0] in _WITH_WORKER:
        worker, is_over = _fork_worker(words[0])
        if is_over:
            return 0
    try:
        return _run(words, worker)
    except KeyboardInterrupt:
        return 130  # as a shell reports a process that SIGINT ended
    finally:
        if worker:
            worker.kill()


def _fork_worker(command: str) -> tuple[Worker | None, bool]:
    """Start the worker, before any thread runs: both processes go on side by side.

    :return: the worker, and whether this is the worker and its work is done
    """
    from event._worker.parent import Worker

    # `signal` takes long to import. A signal ends `send`, and its worker; the other commands need it on both sides.
    ignores_signals = command != "send"
    if ignores_signals:
        import signal  # noqa: F401
    try:
        worker = Worker.fork(ignores_signals=ignores_signals)
    except OSError:  # there may be no more processes; the command tries again when it needs one
        return None, False
    return worker, worker is None


def interrupt_again(unraisable: sys.UnraisableHookArgs) -> None:
    """Raise a KeyboardInterrupt again that Python ignores because it came in a callback, as at the end of an import."""
    if unraisable.exc_type is KeyboardInterrupt:
        start_new_thread(interrupt_main, ())  # by another thread, so that it comes after this function
    else:
        sys.__unraisablehook__(unraisable)


def _run(words: list[str], worker: Worker | None) -> int:
    from event._cli._support import terminal

    command = "e3-event"
    try:
        args = _parse_arguments(words)
        command = args.parser.prog
        args.worker = worker
        module = __import__(f"event._cli.{args.command}", fromlist=["run"])
        status = int(module.run(args))
    except SystemExit as stop:  # argparse's way to end
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


def _show_help() -> int:
    from event._cli._support import help_text, terminal

    terminal.print_out(help_text.text())
    return terminal.flush_out()


def _show_version() -> int:
    from event._cli._support import terminal
    from event._version import VERSION

    terminal.print_out(f"e3-event {VERSION}")
    return terminal.flush_out()
