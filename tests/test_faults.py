"""The fault table names a test for every fault, and each test exists."""

from __future__ import annotations

import re

import pytest

from helpers.pages import CHECKOUT

PAGE = (CHECKOUT / "docs" / "explanation" / "faults.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| fault |")]
NAMED = re.findall(r"`([\w/]+\.py)::(test_\w+)`", PAGE)


def test_every_fault_names_a_test():
    assert len(ROWS) > 40
    assert [row for row in ROWS if not re.search(r"`[\w/]+\.py::test_\w+` \|$", row)] == []


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_the_test_that_shows_a_fault_exists(path, name):
    source = (CHECKOUT / "tests" / path).read_text(encoding="utf-8")
    assert re.search(rf"^def {name}\(", source, re.MULTILINE)
