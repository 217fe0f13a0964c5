"""The help of ``e3-event``. It lists the commands without importing their modules."""

from __future__ import annotations

COMMANDS = {
    "send": "send an event",
    "run": "run a command and send an event with its result",
    "deliver": "deliver the events that are waiting in an outbox",
    "outbox": "list, show, retry or delete the entries of an outbox",
    "relay": "receive events from a broker and deliver them",
    "check": "check the installed handlers and your configuration",
    "completion": "print a completion script for a shell",
}
"""What each command does; `e3-event COMMAND --help` has more."""

DESCRIPTION = "Report what happens in a build: send events to files, mail, chat, HTTP servers and more."

EPILOG = """\
exit status:
  0  success
  1  the command failed, for example because an event was lost
  2  the command line is wrong; nothing was done

examples:
  E3_EVENT_HANDLERS='file=events|smtp=Nightly,ci@example.com,dev@example.com,mail.example.com'
  export E3_EVENT_HANDLERS
  e3-event check
  e3-event send compile target=arm errors:=0 --attach build.log

"e3-event COMMAND --help" shows the options of a command. "python -m event" is the same command.
"""


def text() -> str:
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
