"""Install this package and its test dependencies, with the lowest versions of the package's own dependencies.

``tox -e lowest`` runs this script. pip chooses the versions of indirect dependencies and of those that only tests need.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest installs it for Python 3.10

CHECKOUT = Path(__file__).parents[1]


def project():
    """Return the table [project] of pyproject.toml."""
    return tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def constraints(project):
    """Return a line "NAME==VERSION" for each requirement "NAME>=VERSION" of the package and of its extras."""
    extras = project["optional-dependencies"]
    lines = {*project["dependencies"], *(line for name in extras if name != "all" for line in extras[name])}
    return sorted(re.sub(r"(\[.*\])?>=", "==", line) for line in lines)


def main():
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "lowest.txt"
        file.write_text("\n".join(constraints(project())), encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "--constraint", str(file), f"{CHECKOUT}[all]"]
        subprocess.run([*command, "--group", f"{CHECKOUT}/pyproject.toml:test"], check=True)


if __name__ == "__main__":
    main()
