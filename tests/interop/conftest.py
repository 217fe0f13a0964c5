"""Tests with e3-core and with an OpenTelemetry collector. `tox -e interop` installs both from PyPI.

The tests of a package that is not installed are not collected. They compare e3-core only from outside: its source is
GPL, and nobody reads it.
"""

from __future__ import annotations

from importlib.util import find_spec

import pytest

collect_ignore = [] if find_spec("rotel") else ["test_collector.py"]
try:
    import e3.event
except ImportError:
    collect_ignore += ["test_errors.py", "test_formats.py", "test_handlers.py"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Set a cache directory for stevedore, with which e3-core finds its handlers."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def e3_manager():
    return e3.event.EventManager()
