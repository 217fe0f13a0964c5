"""The directive ``command-line``: a table of the commands, and a section with tables of options for each of them.

Everything is read from the parsers of e3-event when the page is built. A text of a parser consists of blocks, which are
separated by blank lines. A block whose lines are indented after the first one becomes a table of the lines that have
two columns, or a code block if it shows examples or configurations. Any other block becomes a paragraph.
"""

from __future__ import annotations

import os
import re
from textwrap import dedent
from unittest import mock

from docutils import nodes
from sphinx import addnodes
from sphinx.util.docutils import SphinxDirective

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable
    from typing import Any

    from sphinx.application import Sphinx

# The parts of a parser's text that are shown as code: options, quoted commands, variables, references, data.
_CODE = re.compile(
    r'"(e3-event [^"]*|python -m event|[^" ]+)"|(--[a-z][a-z-]*|E3_EVENT_\w+|TRACE(?:PARENT|STATE)|'
    r"\bbegin_time:=SECONDS|\bEvent\.dump\b|\bSIG[A-Z]+[12]?\b|\b(?:env:[A-Z_]+|file:PATH|key:?=(?:value|json)|file:nightly=DIR)|"
    r"\bNAME=CONFIG(?:\|NAME=CONFIG)*|\bNAME(?:\[?=PATH\]?)|\b(?:failed|corrupt)/)"
)
_COLUMNS = re.compile(r"(\S.*?)\s{2,}(\S.*)")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.add_directive("command-line", CommandLine)
    return {"parallel_read_safe": True}


class CommandLine(SphinxDirective):
    """Shows the commands of e3-event and their options, from the texts of the parsers."""

    def run(self) -> list[nodes.Node]:
        """Return the table of the commands, the exit statuses that they share, and a section for each."""
        from event._cli._support.parser import build_parser

        self.env.note_dependency(__file__)
        parser = build_parser()
        shared = [node for block in blocks(parser.epilog) if is_status(block) for node in rendered(block)]
        return [summary(parser), *shared, *(self.section(*found) for found in commands(parser))]

    def section(self, parser: argparse.ArgumentParser, text: str) -> nodes.section:
        """Return the section of a command, including the sections of its subcommands."""
        section = nodes.section(
            "", nodes.title(text, "", nodes.literal("", parser.prog)), ids=[parser.prog.replace(" ", "-")]
        )
        self.state.document.note_implicit_target(section)
        section += usage(parser)
        for block in blocks(parser.description):
            section += rendered(block)
        for title, actions in groups(parser):
            section += nodes.rubric("", title)
            section += table([option(action, parser) for action in actions])
        if below := commands(parser):
            section += summary(parser)
        for block in blocks(parser.epilog):
            section += rendered(block)
        section += [self.section(*found) for found in below]
        return section


# The parsers.


def commands(parser: argparse.ArgumentParser) -> list[tuple[argparse.ArgumentParser, str]]:
    """Return the parser and the help of each subcommand of a parser."""
    return [
        (action.choices[choice.dest], choice.help)
        for action in parser._actions
        if isinstance(action.choices, dict)
        for choice in action._choices_actions
    ]


def groups(parser: argparse.ArgumentParser) -> Iterable[tuple[str, list[argparse.Action]]]:
    """Return the title and the actions of each group of options, without --help."""
    for group in parser._action_groups:
        actions = [a for a in group._group_actions if a.dest != "help" and not isinstance(a.choices, dict)]
        if actions:
            title = {"positional arguments": "arguments"}.get(group.title, group.title)
            yield title.capitalize(), actions


def option(action: argparse.Action, parser: argparse.ArgumentParser) -> tuple[list[nodes.Node], list[nodes.Node]]:
    """Return the syntax and the help of an option."""
    value = "" if action.nargs == 0 else action.metavar or action.dest.upper()
    if action.option_strings and action.nargs == "+":
        value += "..."
    written = " ".join(filter(None, (", ".join(action.option_strings), value)))
    return [nodes.literal("", written)], inline(sentence(parser._get_formatter()._expand_help(action)))


def usage(parser: argparse.ArgumentParser) -> nodes.literal_block:
    """Return the syntax of a command."""
    with mock.patch.dict(os.environ, COLUMNS="80", NO_COLOR="1", PYTHON_COLORS="0"):
        text = dedent(parser.format_usage().removeprefix("usage: ").replace("\n       ", "\n"))
    return literal(text, classes=["usage"])


def summary(parser: argparse.ArgumentParser) -> nodes.table:
    """Return a table of the subcommands of a parser."""
    return table([(link(below.prog), inline(sentence(text))) for below, text in commands(parser)])


# The texts.


def blocks(text: str | None) -> list[list[str]]:
    """Return the lines of each block of a text."""
    return [block.splitlines() for block in re.split(r"\n\s*\n", (text or "").strip("\n"))] if text else []


def is_status(block: list[str]) -> bool:
    """Return whether a block lists the values of the exit status."""
    return block[0] == "exit status:"


def rendered(block: list[str]) -> list[nodes.Node]:
    """Return a block as nodes: a paragraph, a table or a code block."""
    head, *rest = block
    if head.endswith(":") and rest and rest[0].startswith(" ") and not rest[-1].startswith(" "):
        return [*rendered(block[:-1]), nodes.paragraph("", "", *inline(rest[-1]))]
    if not rest or not all(line.startswith(" ") for line in rest):
        return [nodes.paragraph("", "", *inline(" ".join(block)))]
    kind = nodes.rubric if head.endswith(":") else nodes.paragraph
    title = kind("", "", *inline(f"{head[:1].upper()}{head[1:].removesuffix(':')}"))
    body = dedent("\n".join(rest)).splitlines()
    if head == "examples:" or "=" in body[0]:
        return [title, literal("\n".join(body), "sh" if head == "examples:" else "text")]
    return [title, *listing(body)]


def listing(lines: list[str]) -> list[nodes.Node]:
    """Return the lines with two columns as a table, and the lines before them as a paragraph."""
    rows: list[list[str]] = []
    words: list[str] = []
    width = next((len(line) - len(line.lstrip()) for line in lines if line.startswith(" ")), 0)
    for line in lines:
        if line.startswith(" ") and rows:
            rows[-1][1] += f" {line.strip()}"
        elif width and line[width - 1 : width] == " " and not rows == words == []:
            rows.append([line[:width].strip(), line[width:].strip()])
        elif found := _COLUMNS.fullmatch(line):
            rows.append([*found.groups()])
        else:
            words.append(line.strip())
    nodes_ = [nodes.paragraph("", "", *inline(sentence(" ".join(words))))] if words else []
    if rows:
        nodes_.append(table([([nodes.literal("", key)], inline(sentence(text))) for key, text in rows]))
    return nodes_


def sentence(text: str) -> str:
    """Return a text with a capital at its beginning and a full stop at its end."""
    text = " ".join(text.split())
    if re.match(r"[a-z]+([ ,;]|$)", text):
        text = text[:1].upper() + text[1:]
    return text if text.endswith((".", ")", ":", "/")) else f"{text}."


def inline(text: str) -> list[nodes.Node]:
    """Return a text as nodes, with its code parts as code."""
    found: list[nodes.Node] = []
    end = 0
    for match in _CODE.finditer(text):
        found += [nodes.Text(text[end : match.start()]), nodes.literal("", match[1] or match[2])]
        end = match.end()
    return [*found, nodes.Text(text[end:])]


# The nodes.


def literal(text: str, language: str = "text", **attributes: Any) -> nodes.literal_block:
    """Return a text unchanged, as a block."""
    return nodes.literal_block(text.rstrip(), text.rstrip(), language=language, **attributes)


def link(command: str) -> list[nodes.Node]:
    """Return a link to the section of a command."""
    return [nodes.reference("", "", nodes.literal("", command), refid=command.replace(" ", "-"), internal=True)]


def table(rows: list[tuple[list[nodes.Node], list[nodes.Node]]]) -> nodes.table:
    """Return a table of two columns."""
    group = nodes.tgroup("", nodes.colspec(colwidth=1), nodes.colspec(colwidth=2), cols=2)
    group += nodes.tbody("", *(nodes.row("", *map(cell, row)) for row in rows))
    return nodes.table("", group, classes=["options"])


def cell(content: list[nodes.Node]) -> nodes.entry:
    """Return a cell of a table."""
    return nodes.entry("", addnodes.compact_paragraph("", "", *content))
