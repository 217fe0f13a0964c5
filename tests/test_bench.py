"""The benchmark runs, and the pages show all its rows. No test asserts a time, since the machine may be busy."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BENCH = ROOT / "tests" / "bench"
PAGE = ROOT / "docs" / "explanation" / "speed.md"
SCALE = ROOT / "docs" / "explanation" / "scale.md"


def bench(*arguments, cwd):
    done = subprocess.run(
        [sys.executable, str(BENCH), *arguments],
        cwd=cwd,
        check=False,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    return done.returncode, done.stdout, done.stderr


def table_of(page):
    """Return the text between the markers of a page, which contains the benchmark's table."""
    return page.read_text(encoding="utf-8").partition("<!-- the table: ")[2].partition("<!-- the table's end -->")[0]


def rows(text):
    """Return the first column of the Markdown table in `text`, without its header."""
    return [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")][2:]


# Measuring all rows, even with tiny amounts, starts every server and about twenty relays.
def all_rows(test):
    return pytest.mark.timeout(1800)(pytest.mark.server(pytest.mark.long(test)))


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """Measure all rows once with tiny amounts, without the other libraries, and write a copy of the page."""
    if sys.version_info < (3, 11):
        pytest.skip("platform: a row uses hashlib.file_digest, which requires Python 3.11")
    page = tmp_path_factory.mktemp("bench") / "speed.md"
    page.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    status, output, errors = bench("--smoke", "--write", str(page), cwd=page.parent)
    assert status == 0, errors
    return output, page.read_text(encoding="utf-8")


@all_rows
def test_tiny_benchmark_run_measures_every_row(smoke):
    output, _ = smoke
    assert rows(output)
    for line in output.splitlines():
        if line.startswith("| ") and not line.startswith(("| what", "| --")):
            assert re.search(r"\d+(\.\d+)? (ms|us|s|/s|B|MiB)\b|not available", line.split("|")[2]), line


@all_rows
def test_table_is_written_only_between_the_markers(smoke):
    output, page = smoke
    before = PAGE.read_text(encoding="utf-8")
    assert output.strip() in page
    assert page.partition("<!-- the table: ")[0] == before.partition("<!-- the table: ")[0]
    assert page.partition("<!-- the table's end -->")[2] == before.partition("<!-- the table's end -->")[2]


@all_rows
def test_the_pages_show_every_row_that_the_benchmark_measures(smoke):
    output, _ = smoke
    sizes = re.compile(r"\d[\d ]*[KMG]?i?B?")  # the tiny run attaches a smaller file and stores fewer entries
    shown = [row for page in (PAGE, SCALE) for row in rows(table_of(page))]
    assert [sizes.sub("", row) for row in shown] == [sizes.sub("", row) for row in rows(output)]


def test_page_without_markers_is_refused_and_unchanged(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("no table here\n", encoding="utf-8")
    status, _, errors = bench("memory", "--smoke", "--write", str(page), cwd=tmp_path)
    assert status == 1
    assert "markers" in errors.splitlines()[-1]
    assert page.read_text(encoding="utf-8") == "no table here\n"


def test_an_unknown_row_is_a_usage_error_that_names_the_rows(tmp_path):
    status, _, errors = bench("memry", "--smoke", cwd=tmp_path)
    assert status == 2
    assert "no such row: memry" in errors
    assert "memory" in errors


def test_single_row_is_measured_without_leftover_files(tmp_path, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    status, output, errors = bench("memory", "--smoke", cwd=tmp_path)
    assert status == 0, errors
    assert rows(output) == ["memory of an event with 3 values"]
    assert set(rows(output)) <= set(rows(table_of(PAGE)))
    assert os.listdir(temporary) == []
