"""check.svg: the real output of ``e3-event check`` in a terminal."""

from __future__ import annotations

import os
import shlex

import commands
import svg

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

COMMANDS = [
    "export E3_EVENT_OUTBOX=outbox",
    'export E3_EVENT_HANDLERS="file=events|otel=http://localhost:4318|\\\n'
    'smtp=Nightly,ci@corp.test,dev@corp.test,mail.corp.test|fil=copies"',
    "e3-event check",
]
PROMPTS = ("$ ", "> ")
SHOWN_DIRECTORY = "/srv/build"  # replaces the name of the temporary directory

COLUMNS = 86
SIZE, LINE = 13.0, 20
EDGE = (svg.WIDTH - COLUMNS * SIZE * svg.MONO_ADVANCE) / 2
TOP = 44  # the y of the text, below the window's bar
STYLE = f"""
    text {{ font-family: {svg.MONO}; font-size: {SIZE:g}px; fill: #c9d1d9; }}
    .card {{ fill: #0d1117; stroke: #3d4653; }}
    .bar {{ stroke: #30363d; }}
    .title {{ font-family: {svg.SANS}; font-size: 12px; fill: #9aa4b0; }}
    .dot {{ fill: #4b5563; }}
    .prompt {{ fill: #7ee787; font-weight: 600; }}
    .typed {{ fill: #ffffff; font-weight: 600; }}
"""


def make(directory: Path) -> str:
    """Run the session; return the picture."""
    return draw(session(directory))


def session(directory: Path) -> list[str]:
    """Run the commands in a directory whose outbox has waiting events; return the lines of the terminal."""
    fill_outbox(directory)
    script = "".join(f"printf '%s\\n' {shlex.quote(typed(command))}\n{command}\n" for command in COMMANDS)
    output = commands.run(["sh", "-c", script], directory, 1)
    return output.replace(os.path.realpath(directory), SHOWN_DIRECTORY).splitlines()


def fill_outbox(directory: Path) -> None:
    """Send two events to a directory that cannot exist, because its parent is a file."""
    (directory / "later").touch()
    for name in ("compile", "tests"):
        command = ["e3-event", "send", name, "--handler=file=later/events", "--outbox=outbox"]
        commands.run(command, directory, 0)


def typed(command: str) -> str:
    """Return a command as in a shell, with the second prompt before each further line."""
    return "$ " + command.replace("\n", "\n> ")


def wrapped(line: str, columns: int = COLUMNS) -> list[str]:
    """Return the parts of a line that a terminal of this width would wrap."""
    return [line[at : at + columns] for at in range(0, len(line), columns)] or [""]


def draw(lines: list[str]) -> str:
    """Return the picture of a terminal. Lines that begin with a prompt are the typed ones."""
    rows = [(piece, at == 0, line[:2] in PROMPTS) for line in lines for at, piece in enumerate(wrapped(line))]
    content = []
    for number, (piece, begins, is_typed) in enumerate(rows, 1):
        content += written(piece, TOP + LINE * number, prompt=begins and is_typed, class_="typed" if is_typed else "")
    height = TOP + LINE * len(rows) + 24
    return svg.picture(height, "A terminal: e3-event check", "\n".join(lines), STYLE, [*window(height), *content])


def written(piece: str, y: float, *, prompt: bool, class_: str) -> list[str]:
    """Return a line of the screen, with its prompt in another colour."""
    if not prompt:
        return [svg.fixed(EDGE, y, piece, SIZE, class_)]
    after = EDGE + 2 * SIZE * svg.MONO_ADVANCE
    return [svg.fixed(EDGE, y, piece[0], SIZE, "prompt"), svg.fixed(after, y, piece[2:], SIZE, class_)]


def window(height: float) -> list[str]:
    """Return the window around the text."""
    return [
        svg.card(height),
        *(svg.element("circle", class_="dot", cx=22 + 18 * number, cy=18, r=5.5) for number in range(3)),
        svg.text(svg.WIDTH / 2, 22, "e3-event check", "title", text_anchor="middle"),
        svg.element("line", class_="bar", x1=0.5, x2=svg.WIDTH - 0.5, y1=36, y2=36),
    ]
