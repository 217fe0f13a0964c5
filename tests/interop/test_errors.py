"""EventError derives from e3-core's E3Error, so that `except E3Error` in a script catches it."""

from __future__ import annotations

import ast
import copy
import pickle
import subprocess
import sys

import e3.error
import e3.event
import pytest

import event
import event.error


def test_base_class_is_the_one_of_e3():
    assert event.error.E3Error is e3.error.E3Error
    assert issubclass(event.EventError, e3.error.E3Error)


@pytest.mark.parametrize(
    "fail",
    [
        pytest.param(lambda: event.add_handler("nosuch"), id="unknown handler"),
        pytest.param(lambda: event.add_handler("file", ""), id="wrong configuration"),
        pytest.param(lambda: event.Event("compile").attach_file("nosuch"), id="missing file"),
    ],
)
def test_errors_of_event_are_caught_as_e3_errors(fail):
    caught = None
    try:
        fail()
    except e3.error.E3Error as error:
        caught = error
    assert type(caught) is event.EventError
    assert caught.messages == [str(caught)]


CASES = [("a", None), ("a", "o"), (["a", "b"], None), (["a", "b"], "o"), ([], None), ("", None), ("a\nb", "o")]


@pytest.mark.parametrize(("message", "origin"), CASES)
@pytest.mark.parametrize("added", [None, "c", ["c", "d"], e3.error.E3Error("e"), event.EventError(["f", "g"])])
def test_error_of_event_has_the_same_text_and_can_be_copied(message, origin, added):
    error, e3_error = event.EventError(message, origin), e3.error.E3Error(message, origin)
    if added is not None:
        error += added
        e3_error += added
    assert type(error) is event.EventError
    assert error.messages == e3_error.messages
    assert error.origin == e3_error.origin
    assert str(error).replace("EventError", "E3Error") == str(e3_error)
    for copied in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(copied) is event.EventError
        assert (copied.messages, copied.origin, str(copied)) == (error.messages, error.origin, str(error))


def test_error_of_event_can_be_added_to_an_e3_error():
    error = e3.error.E3Error("a")
    error += event.EventError(["b", "c"])
    assert error.messages == ["a", "b", "c"]


SCRIPT = """
import pickle
def results(kind):
    for message, origin in CASES:
        for added in (None, "c", ["c", "d"], kind(["e", "f"], "p")):
            error = kind(message, origin)
            if added is not None:
                error += added
            yield str(error), error.messages, error.origin, str(kind.__name__)
"""


def test_base_class_without_e3_behaves_like_the_one_of_e3():
    script = "import sys; sys.modules['e3.error'] = None; from event.error import E3Error; import event\n"
    script += f"CASES = {CASES!r}\n{SCRIPT}\nassert E3Error.__module__ == 'event.error'\nprint(list(results(E3Error)))"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    scope = {"CASES": CASES}
    exec(SCRIPT, scope)
    assert ast.literal_eval(done.stdout) == list(scope["results"](e3.error.E3Error))
