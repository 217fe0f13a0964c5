"""What is made once for all processes of a run."""

from __future__ import annotations

import os

from filelock import FileLock


def once_a_run(tmp_path_factory, name, make):
    """Have the first of xdist's processes make a directory, and the others wait for it; return its path."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    with FileLock(root / f"{name}.lock"):
        if not (root / f"{name}.made").exists():
            make(root / name)
            (root / f"{name}.made").touch()
    return root / name
