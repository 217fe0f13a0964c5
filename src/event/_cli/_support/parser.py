"""The parser of the command line.

Each command is a module with its texts for the help, ``add_options(parser)``, and ``run(args)``, which returns the exit
status. A module is imported only when its command is used.
"""

from __future__ import annotations

import argparse
from importlib import import_module

from event._cli._support import help_text, terminal
from event._cli._support.fast_parser import split_at_dashes
from event._version import VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """Reports an invalid command line on one line. Options cannot be abbreviated, so that new ones can be added."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)

    def error(self, message: str) -> NoReturn:
        terminal.print_err(f"{self.prog}: {message}; see {self.prog} --help")
        raise SystemExit(2)

    def print_help(self, file: object = None) -> None:  # noqa: ARG002  # argparse's signature
        """Print the help to stdout. It never fails, even if stdout is closed."""
        terminal.print_out(self.format_help().rstrip())


def build_parser(commands: Iterable[str] = help_text.COMMANDS) -> argparse.ArgumentParser:
    """Return the parser of the command line. The modules of its commands are imported."""
    parser = Parser(prog="e3-event", description=help_text.DESCRIPTION, epilog=help_text.EPILOG)
    parser.add_argument(
        "-V", "--version", action="version", version=f"e3-event {VERSION}", help="show the version and exit"
    )
    subparsers = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, title="commands", parser_class=Parser
    )
    for name in commands:
        module = import_module(f"event._cli.{name}")
        command = subparsers.add_parser(
            name,
            help=help_text.COMMANDS[name],
            description=module.DESCRIPTION,
            epilog=module.EPILOG,
            usage=getattr(module, "USAGE", None),
        )
        command.set_defaults(parser=command, run=module.run)
        module.add_options(command)
    return parser


def parse(argv: list[str]) -> argparse.Namespace:
    """Return the arguments. `args.words` has the positional ones, if the command takes any.

    Options and words may be mixed. After ``--``, every argument is a word. If a command defines `args.command_line`, it
    contains the words after ``--``, unchanged. (parse_intermixed_args of argparse does not support subcommands.)
    """
    head, tail = split_at_dashes(argv)
    parser = build_parser(head[:1] if head[:1] and head[0] in help_text.COMMANDS else help_text.COMMANDS)
    args, extra = parser.parse_known_args(head)
    unknown = [word for word in extra if word.startswith("-")]
    if not unknown and "command_line" in args:
        args.words, args.command_line = [*args.words, *extra], tail
    elif not unknown and "words" in args:
        args.words = [*args.words, *extra, *tail]
    elif unknown or extra or tail:
        hint = "; put the command after --" if "command_line" in args else ""
        shown = unknown[0].partition("=")[0] if unknown else [*extra, *tail][0]  # the value may be a secret
        args.parser.error(f"unrecognized argument {shown!r}{hint}")
    return args
