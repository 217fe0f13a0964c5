"""Virtual environments for the tests. Only one of them has its own pip, and the others use that one.

`python -m venv` needs six seconds of processor time to install pip, and only a tenth of a second without pip.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
# Without this, pip takes half as long again, to compile all modules. Python compiles the imported ones itself.
QUICK_PIP = {"PIP_NO_COMPILE": "1"}
# Build a package with the installed build tools, so that pip downloads nothing. The value "no" of pip's first variable
# means: no isolation.
BUILDING = {"PIP_NO_BUILD_ISOLATION": "no", "PIP_NO_INDEX": "1", **QUICK_PIP}
_PTH = "other-environments.pth"


def create_with_pip(directory):
    """Create an environment that has pip. conftest.py creates one for all tests of a run."""
    venv.create(directory, with_pip=True)


def create_with_package(programs, directory):
    """Create an environment with the installed package, pytest, and the tools to build a plugin's wheel.

    This takes seconds, so conftest.py creates one for all tests of a run.

    :param programs: the directory of the programs of an environment with pip
    """
    own = create_layer(programs, directory)
    pip(own, "install", "hatchling", "pytest", "setuptools>=70.1")
    pip(own, "install", "--no-build-isolation", str(CHECKOUT))


def create_layer(programs, directory):
    """Create an environment that can import the packages of another one. Packages are installed only into the new one.

    :param programs: the directory of the programs of the other environment
    :return: the directory of the programs of the new environment
    """
    venv.create(directory, with_pip=False, symlinks=True)
    other, own = (next(Path(path).glob("lib/python*/site-packages")) for path in (programs.parent, directory))
    inherited = (other / _PTH).read_text("utf-8") if (other / _PTH).exists() else ""
    (own / _PTH).write_text(f"{other}\n{inherited}", encoding="utf-8")
    for name, module in (("pip", "pip"), ("e3-event", "event")):
        if (programs / name).exists():
            program = directory / "bin" / name
            program.write_text(f'#!/bin/sh\nexec "{directory}/bin/python" -m {module} "$@"\n', encoding="utf-8")
            program.chmod(0o755)
    return directory / "bin"


def pip(programs, *arguments, **environ):
    """Run pip in an environment. If it fails, show its output."""
    command = [str(programs / "python"), "-m", "pip", "--disable-pip-version-check", *arguments]
    env = {**os.environ, **QUICK_PIP, **environ}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"


if __name__ == "__main__":  # replaces `python3 -m venv` on the machines of helpers.recipes
    create_layer(Path(sys.argv[1]), Path(sys.argv[2]).absolute())
