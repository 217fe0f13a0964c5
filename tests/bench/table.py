"""Format the speed table, and describe the machine that measured it."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import textwrap
from pathlib import Path

BEGIN = "<!-- the table: written by python tests/bench --write -->"
END = "<!-- the table's end -->"
HEAD = ("what", "e3-event", "compared with", "e3.event")
DISTRIBUTIONS = {
    "event": "e3-event",
    "e3.event": "e3-core",
    "blinker": "blinker",
    "pluggy": "pluggy",
    "handlers": "kombu",
}


def markdown(lines):
    """Return the table in Markdown."""
    cells = [HEAD] + [(n.what, n.result, n.compared_with, n.e3) for n in lines]
    filled = [column for column in zip(*cells, strict=True) if any(column[1:])]
    cells = [*zip(*filled, strict=True)]
    widths = [max(map(len, column)) for column in filled]
    rule = tuple("-" * width for width in widths)
    return "".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |\n"
        for row in (cells[0], rule, *cells[1:])
    )


def missed_targets(lines):
    """Return a line of text for each row that misses its target."""
    return [
        f"target missed: {n.what}: {n.result}, {n.compared_with}; target {n.target}"
        for n in lines
        if n.target_met is False
    ]


def circumstances(place):
    """Return a sentence with the machine and the versions."""
    versions = [
        f"{name} {place.run(place.python(library, '-c', _version(name))).strip()}"
        for library, name in DISTRIBUTIONS.items()
        if place.has(library)
    ]
    python = f"{platform.python_implementation()} {platform.python_version()}"
    machine = f"{platform.system()} on {os.cpu_count()} processors {_processor()}"
    return textwrap.fill(f"Measured with {python}, {machine}; {', '.join(versions)}.", 116)


def _version(name):
    return f"from importlib.metadata import version; print(version({name!r}))"


def _processor():
    """Return the name of the processor's model."""
    if sys.platform == "linux":
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
        return found[1] if found else platform.machine()
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    return platform.processor()


def write(page, text):
    """Replace the text between the markers of a page.

    :raises SystemExit: the page has no markers
    """
    path = Path(page)
    old = path.read_text(encoding="utf-8")
    head, begin, rest = old.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        sys.exit(f"{page}: the markers {BEGIN!r} and {END!r} are missing")
    path.write_text(f"{head}{BEGIN}\n\n{text}\n{END}{tail}", encoding="utf-8")
