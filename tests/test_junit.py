"""The summary of a command's JUnit reports."""

from __future__ import annotations

import os

import pytest

from event._process import junit

REPORT = """<?xml version="1.0" encoding="utf-8"?>
<testsuites><testsuite name="pytest" errors="9" failures="9" tests="99">
<testcase classname="tests.test_net" name="test_ok"/>
<testcase classname="tests.test_net" name="test_connect"><failure message="refused">x</failure></testcase>
<testcase name="test_alone"><error message="no"/><failure/><system-out>text</system-out></testcase>
<testcase classname="tests.test_net" name="test_later"><skipped/></testcase>
<testcase><failure/></testcase>
</testsuite></testsuites>
"""
COUNTS = {
    "tests": 5,
    "failures": 2,
    "errors": 1,
    "skipped": 1,
    "failing_tests": ["tests.test_net::test_connect", "test_alone", ""],
}


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Return a function that writes reports, and returns their summary and the remarks."""
    monkeypatch.chdir(tmp_path)

    def read(pattern, **reports):
        for name, text in reports.items():
            (tmp_path / f"{name}.xml").write_text(text)
        remarks = []
        return junit.summary(pattern, 0.0, remarks.append), remarks

    return read


def test_a_report_is_counted_by_its_cases(read):
    assert read("a.xml", a=REPORT) == (COUNTS, [])


def test_reports_are_added(read):
    data, remarks = read("*.xml", a=REPORT, b=REPORT, c="<testsuite/>")
    assert (data["tests"], data["failures"], remarks) == (10, 4, [])
    assert data["failing_tests"] == COUNTS["failing_tests"] * 2


def test_directories_are_searched(read, tmp_path):
    (tmp_path / "x" / "y").mkdir(parents=True)
    (tmp_path / "x" / "y" / "a.xml").write_text(REPORT)
    assert read("**/*.xml")[0]["tests"] == 5


def test_a_file_may_have_a_name_that_looks_like_a_pattern(read, tmp_path):
    (tmp_path / "a[1].xml").write_text(REPORT)
    assert read("a[1].xml") == (COUNTS, [])


def test_the_first_ten_names_are_kept(read):
    cases = "".join(f'<testcase name="t{number}"><failure/></testcase>' for number in range(20))
    data, _ = read("a.xml", a=f"<testsuite>{cases}</testsuite>")
    assert data["failing_tests"] == [f"t{number}" for number in range(10)]


def test_a_name_is_one_short_line(read):
    data, _ = read("a.xml", a=f'<testcase name="a&#10;{"x" * 999}"><failure/></testcase>')
    assert data["failing_tests"] == ["a " + "x" * 198]


def test_report_without_failures_has_no_names(read):
    assert read("a.xml", a='<testsuite><testcase name="t"/></testsuite>')[0] == {
        "tests": 1,
        "failures": 0,
        "errors": 0,
        "skipped": 0,
    }


LAUGHS = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><testsuite><testcase name="&b;"/></testsuite>'


@pytest.mark.parametrize(
    ("report", "reason"),
    [
        pytest.param(LAUGHS, "a document type is not accepted in a report", id="entities"),
        pytest.param('<!DOCTYPE x SYSTEM "file:///etc/passwd"><x/>', "a document type is not accepted", id="external"),
        pytest.param("<testsuite><testcase/>", "it is not XML: no element found", id="incomplete"),
        pytest.param("", "it is not XML: no element found", id="empty"),
        pytest.param("{}", "it is not XML: not well-formed", id="JSON"),
        pytest.param("<a>&b;</a>", "it is not XML: undefined entity", id="an unknown entity"),
    ],
)
def test_invalid_report_is_not_counted(read, report, reason):
    data, (remark,) = read("*.xml", a=report, b=REPORT)
    assert data == COUNTS
    assert remark.startswith(f"'a.xml': {reason}")


def test_missing_report_is_a_remark(read):
    assert read("a.xml") == ({}, ["'a.xml': no such report"])
    assert read("*.xml") == ({}, ["'*.xml': no such report"])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="platform: no FIFOs")
def test_fifo_is_not_read_as_a_report(read, tmp_path):
    os.mkfifo(tmp_path / "a.xml")
    data, (remark,) = read("a.xml")
    assert data == {}
    assert "regular" in remark


def test_an_older_report_does_not_count(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text(REPORT)
    remarks = []
    assert junit.summary(str(path), path.stat().st_mtime + 3, remarks.append) == {}
    assert remarks == [f"{str(path)!r}: it is older than the command"]
    assert junit.summary(str(path), path.stat().st_mtime + 1, remarks.append) == COUNTS


def test_size_of_a_report_is_limited(read, monkeypatch):
    monkeypatch.setattr(junit, "LARGEST", len(REPORT) + 10)
    data, remarks = read("*.xml", a=REPORT, b=REPORT)
    assert data == COUNTS
    assert remarks == ["'b.xml': the reports are larger than 0 MiB"]


def test_the_number_of_elements_is_limited(read, monkeypatch):
    monkeypatch.setattr(junit, "MOST_ELEMENTS", 6)
    assert read("a.xml", a=REPORT) == ({}, ["'a.xml': it has more than 6 elements"])


def test_the_number_of_reports_is_limited(read, monkeypatch):
    monkeypatch.setattr(junit, "MOST_FILES", 1)
    assert read("*.xml", a=REPORT, b=REPORT) == (COUNTS, ["2 reports; only the first 1 are read"])


def test_few_of_many_unreadable_reports_are_named(tmp_path):
    for number in range(9):
        (tmp_path / f"{number}.xml").write_text("x")
    remarks = []
    assert junit.summary_in_time(str(tmp_path / "*"), 0.0, remarks.append) == {}
    assert (len(remarks), remarks[-1]) == (6, "… and 4 more")
    for number in range(5, 9):
        (tmp_path / f"{number}.xml").unlink()
    remarks = []
    junit.summary_in_time(str(tmp_path / "*"), 0.0, remarks.append)
    assert [remark.partition(":")[0] for remark in remarks] == [repr(str(tmp_path / f"{n}.xml")) for n in range(5)]


def test_growing_report_is_read_with_its_size_at_the_start(read, tmp_path, monkeypatch):
    monkeypatch.setattr(junit, "_PIECE", 10)
    assert read("a.xml", a=REPORT) == (COUNTS, [])
