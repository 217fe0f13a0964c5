"""Next to e3-core and to a collector for OpenTelemetry. `tox -e interop` installs both from PyPI.

A test whose counterpart is not installed is not collected. e3-core is looked at from outside alone: nobody reads its
source.
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
    """Give stevedore, with which e3-core finds its handlers, a cache directory of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def e3_manager():
    return e3.event.EventManager()
