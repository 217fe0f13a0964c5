"""Run the examples of a Markdown page in order, in one directory.

The examples are fenced blocks:

- A block whose first line is ``# PATH/NAME.EXT`` is written to that file, unless the path is absolute.
- A ``python`` block is executed. All blocks of a page share a namespace.
- A ``console`` block is a shell session. Each line after ``$ `` is run, and must print the lines below it to stdout or
  stderr. Exported variables are kept for the next session of the page. ``…`` matches any text in a line; on a line of
  its own, it matches any lines.

Blocks of other languages, such as ``sh`` or ``text``, are not run.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import textwrap

import event
from helpers.environments import CHECKOUT

__all__ = ["CHECKOUT", "blocks", "run"]
_FENCE = re.compile(r"^(?P<indent> *)```(?P<kind>\w+)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# (\w[\w./-]*\.\w+)\n")
_END = "@@@ end of command "
_VARIABLES = "python -c 'import json, os; print(json.dumps(dict(os.environ)))'"


def run(page, directory, programs, substitutes=()):
    """Run a page's examples.

    :param page: the path of the Markdown file
    :param directory: the current directory, in which they run
    :param programs: the directory of python, pip and e3-event
    :param substitutes: pairs of a text on the page and its replacement
    :return: the number of executed examples
    """
    namespace = {"__name__": "__main__", "event": event}
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    environ = {**os.environ, "PATH": path, "COLUMNS": "120", "NO_COLOR": "1", "LC_ALL": "C", "PYTHONUTF8": "1"}
    count = 0
    for kind, shown, line in blocks(page):
        text = shown
        for before, after in substitutes:
            text = text.replace(before, after)
        if named := _FILE.match(text):
            file = directory / named[1]
            file.parent.mkdir(exist_ok=True)
            file.write_text(text, encoding="utf-8")
        elif kind == "python":
            # With the blank lines, the line numbers of a traceback are those of the page.
            exec(compile("\n" * line + text, str(page), "exec"), namespace)
            count += 1
        elif kind == "console":
            environ = session(text, f"{page}:{line}", directory, environ)
            count += 1
    return count


def blocks(page):
    """Return (kind, text, line) of each fenced block."""
    source = page.read_text(encoding="utf-8")
    return [
        (found["kind"], textwrap.dedent(found["text"]), source.count("\n", 0, found.start()) + 1)
        for found in _FENCE.finditer(source)
    ]


def session(text, where, directory, environ):
    """Run a shell session and compare its output with the page; return its environment variables."""
    commands, expected = [], []
    for line in text.splitlines():
        if line.startswith("$ "):
            commands.append(line[2:])
            expected.append([])
        else:
            expected[-1].append(line)
    # Pass each exit status on, so that the next command can use $?.
    script = "".join(f'{command}\nstatus=$?; echo "{_END}$status"; (exit $status)\n' for command in commands)
    stdout = _output(["sh", "-c", f"{script}{_VARIABLES}"], directory, environ)
    *printed, variables = re.split(rf"{_END}(\d+)\n", stdout)
    for command, shown, output, status in zip(commands, expected, printed[::2], printed[1::2], strict=False):
        assert matches(shown, output), f"{where}: $ {command}\nshown:\n{chr(10).join(shown)}\nprinted:\n{output}"
        assert status == "0", f"{where}: $ {command}\nends with status {status} and prints:\n{output}"
    assert len(printed) == 2 * len(commands), f"{where}: the shell ended early:\n{stdout}"
    return json.loads(variables)


def _output(command, directory, environ):
    """Run a command; return its output and the output of its child processes."""
    with subprocess.Popen(
        command,
        cwd=directory,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        start_new_session=True,
    ) as process:
        try:
            return process.communicate()[0]
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)  # the background processes of a failed session
            except ProcessLookupError:
                pass


def matches(shown, output):
    """Return whether an output matches the lines on the page."""
    pattern = "".join(
        "(?:.*\n)*" if line == "…" else ".*".join(map(re.escape, line.split("…"))) + "\n" for line in shown
    )
    if output and not output.endswith("\n"):
        output += "\n"
    return re.fullmatch(pattern, output) is not None
