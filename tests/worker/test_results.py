"""The result of a handler, as the command reads it from a report."""

from __future__ import annotations

from event._worker import Result


def test_report_with_wrong_types_counts_as_a_failure():
    invalid = {"ok": 1, "error": 2, "said": None, "seconds": "x", "permanent": "yes", "loaded": 0, "done": [1]}
    assert Result("h", invalid).as_dict() == {
        "done": [],
        "handler": "h",
        "ok": False,
        "error": "",
        "said": "",
        "seconds": 0.0,
        "permanent": False,
        "loaded": True,
        "skipped": False,
        "timed_out": False,
    }
    assert Result("h", {"done": "no list"}).done == []
    assert Result("h", {"done": ["ann", None]}).done == ["ann"]


def test_repr_of_a_result_has_the_handler_and_whether_it_delivered():
    assert repr(Result("h", {"ok": False})) == "<Result h: not delivered>"
    assert repr(Result("h", {"ok": True})) == "<Result h: delivered>"
