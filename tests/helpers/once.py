"""Create a directory once for all processes of a test run."""

from __future__ import annotations

import os

from filelock import FileLock


def create_once(tmp_path_factory, name, create):
    """Return the path of a directory. The first of xdist's processes creates it, and the others wait for that.

    :param create: called with the path
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    with FileLock(root / f"{name}.lock"):
        if not (root / f"{name}.created").exists():
            create(root / name)
            (root / f"{name}.created").touch()
    return root / name
