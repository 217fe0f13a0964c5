"""The help of the whole command line, which names the commands without importing them."""

from __future__ import annotations

COMMANDS = {
    "send": "send an event",
    "run": "run a command, and send an event about it",
    "deliver": "deliver the events that wait in an outbox",
    "outbox": "show, retry or drop the events in an outbox",
    "relay": "take events from a broker, and deliver them",
    "check": "show which handlers work and where events would go",
    "completion": "print a completion script for a shell",
}
"""What each command does; `e3-event COMMAND --help` has more."""

DESCRIPTION = "Tell the outside world what happened in a build."

EPILOG = """\
exit status:
  0  success
  1  an event was not delivered, or something is broken
  2  the command line is wrong; nothing was done

examples:
  E3_EVENT_HANDLERS='file=events|smtp=Nightly,ci@example.com,dev@example.com,mail.example.com'
  export E3_EVENT_HANDLERS
  e3-event check
  e3-event send compile target=arm errors:=0 --attach build.log

"e3-event COMMAND --help" shows the options of a command. "python -m event" runs it too.
"""


def text() -> str:
    """Return the help."""
    commands = "\n".join(f"    {name:<12}{summary}" for name, summary in COMMANDS.items())
    return f"""\
usage: e3-event [-h] [-V] COMMAND ...

{DESCRIPTION}

options:
  -h, --help    show this help message and exit
  -V, --version show the version and exit

commands:
  COMMAND
{commands}

{EPILOG.rstrip()}"""
