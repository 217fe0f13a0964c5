"""Beside e3-core: `tox -e interop` installs it from PyPI; nothing here is collected where it is not installed.

e3-core is looked at from outside alone: nobody reads its source.
"""

from __future__ import annotations

import pytest

try:
    import e3.event
except ImportError:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Give stevedore, with which e3-core finds its handlers, a cache directory of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def e3_manager():
    return e3.event.EventManager()
