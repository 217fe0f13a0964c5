"""Virtual environments: one has pip, and the others take it from there.

`python -m venv` takes six seconds of processor time to install pip. An environment without it takes a tenth of one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
# Python compiles what it imports. pip would compile all, for a third of its time.
QUICK_PIP = {"PIP_NO_COMPILE": "1"}
# A package is built with what is installed, so that pip downloads nothing. pip's first variable has the meaning of the
# option's opposite: "no" is without isolation.
BUILDING = {"PIP_NO_BUILD_ISOLATION": "no", "PIP_NO_INDEX": "1", **QUICK_PIP}
_BELOW = "below.pth"


def with_pip(directory):
    """Make an environment that has pip. conftest.py makes one for all tests of a run."""
    venv.create(directory, with_pip=True)


def with_package(programs, directory):
    """Make an environment with this package as a user gets it, pytest, and what builds a plugin's wheel.

    It takes seconds: conftest.py makes it once for all tests of a run.

    :param programs: the directory of programs of an environment with pip
    """
    own = layer(programs, directory)
    pip(own, "install", "hatchling", "pytest", "setuptools>=70.1")
    pip(own, "install", "--no-build-isolation", str(CHECKOUT))


def layer(programs, directory):
    """Make an environment that has what another one has, and can be installed into.

    :param programs: the directory of programs of the other environment
    :return: the directory of its programs
    """
    venv.create(directory, with_pip=False, symlinks=True)
    below, own = (next(Path(path).glob("lib/python*/site-packages")) for path in (programs.parent, directory))
    further = (below / _BELOW).read_text("utf-8") if (below / _BELOW).exists() else ""
    (own / _BELOW).write_text(f"{below}\n{further}", encoding="utf-8")
    for name, module in (("pip", "pip"), ("e3-event", "event")):
        if (programs / name).exists():
            program = directory / "bin" / name
            program.write_text(f'#!/bin/sh\nexec "{directory}/bin/python" -m {module} "$@"\n', encoding="utf-8")
            program.chmod(0o755)
    return directory / "bin"


def pip(programs, *arguments, **environ):
    """Run pip in an environment; its output is shown where it fails."""
    command = [str(programs / "python"), "-m", "pip", "--disable-pip-version-check", *arguments]
    env = {**os.environ, **QUICK_PIP, **environ}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"


if __name__ == "__main__":  # in place of `python3 -m venv` on the machines of helpers.recipes
    layer(Path(sys.argv[1]), Path(sys.argv[2]).absolute())
