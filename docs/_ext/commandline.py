"""The directive ``command-line``: a section for each command, with what its ``--help`` prints at this very build."""

from __future__ import annotations

import os
import subprocess
import sys

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.add_directive("command-line", CommandLine)
    return {"parallel_read_safe": True}


class CommandLine(SphinxDirective):
    """Show the help of e3-event, then that of each of its commands, which are read from its parser."""

    def run(self) -> list[nodes.Node]:
        """Return the help text of the whole, and the commands' sections."""
        from event._cli import build_parser

        return [literal(help_of()), *(self.section(*command) for command in commands(build_parser()))]

    def section(self, *command: str) -> nodes.section:
        """Return a command's section."""
        title = " ".join(("e3-event", *command))
        section = nodes.section(
            "", nodes.title(title, "", nodes.literal("", title)), ids=["-".join(("e3-event", *command))]
        )
        self.state.document.note_implicit_target(section)
        section += literal(help_of(*command))
        return section


def commands(parser: argparse.ArgumentParser, above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return the commands that a parser knows, each followed by its own ones."""
    found = []
    for action in parser._actions:
        if isinstance(action.choices, dict):
            for name, command in action.choices.items():
                found += [(*above, name), *commands(command, (*above, name))]
    return found


def help_of(*command: str) -> str:
    """Return what ``e3-event COMMAND --help`` prints, as wide as the page and without colours."""
    env = {**os.environ, "COLUMNS": "88", "NO_COLOR": "1", "PYTHON_COLORS": "0"}
    line = [sys.executable, "-m", "event", *command, "--help"]
    return subprocess.run(line, env=env, check=True, capture_output=True, text=True).stdout.rstrip()


def literal(text: str) -> nodes.literal_block:
    """Return text as it is."""
    return nodes.literal_block(text, text, language="text")
