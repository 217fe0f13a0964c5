"""The program ``e3-event``: run the command line of the package `event` in the same directory.

PYTHONPATH may contain a module of the build with the name ``event``, or with the name of a standard module. The command
must run nevertheless. So this package has another name, and imports `event` from its own directory.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def main() -> int:
    """Run the command line; return the exit status."""
    try:
        run = _import_program()
    except Exception as error:
        return _run_without_event(error)
    status = run()
    if sys.flags.inspect:  # PYTHONINSPECT: the interpreter would wait for input, and end with another status
        os._exit(status)
    return status


def _import_program() -> Callable[[], int]:
    library = os.path.dirname(os.__file__)
    own = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    # The standard library first; the build's modules keep their order among themselves.
    sys.path.sort(key=lambda path: path not in {library, os.path.join(library, "lib-dynload")})
    sys.path.insert(0, own)
    try:
        from event._cli import program
    finally:
        sys.path.remove(own)
    return program


def _run_without_event(error: Exception) -> int:
    """Replace this process by the command of ``e3-event run``; report any other command as failed."""
    reason = f"{type(error).__name__}: {error}"
    _, *words = sys.argv
    command = words[words.index("--") + 1 :] if "--" in words else []
    if words[:1] != ["run"] or not command:
        sys.stderr.write(f"e3-event: {reason}\n")
        return 1
    sys.stderr.write(f"e3-event run: the command runs without an event: {reason}\n")
    if sys.platform == "win32":  # pragma: no cover  # platform: there, exec returns before the command ends
        from subprocess import call

        return call(command)  # noqa: S603  # what the user asks for
    try:
        os.execvp(command[0], command)  # noqa: S606  # what the user asks for
    except OSError as failure:
        sys.stderr.write(f"e3-event run: {command[0]}: {failure.strerror}\n")
        return 127 if isinstance(failure, FileNotFoundError) else 126
