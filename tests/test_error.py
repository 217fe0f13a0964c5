"""The errors: what they gather, how they read, and that they travel between processes."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import pytest

import event
from event.error import E3Error, EventError, PermanentError, one_line, shown

BOTH = pytest.mark.parametrize("kind", [E3Error, EventError, PermanentError])


@BOTH
@pytest.mark.parametrize(
    ("message", "origin", "messages", "text"),
    [
        pytest.param("m", None, ["m"], "m", id="one message"),
        pytest.param(["a", "b"], None, ["a", "b"], "b", id="several: the last one is shown"),
        pytest.param([], None, [], None, id="none: the class's name"),
        pytest.param(None, None, [], None, id="None"),
        pytest.param("m", "o", ["m"], "o: m\n", id="with an origin"),
        pytest.param(["a", "b"], "o", ["a", "b"], "o: b\n", id="several with an origin"),
        pytest.param("m", "", ["m"], "m", id="an empty origin"),
    ],
)
def test_an_error_reads_as_its_last_message_after_its_origin(kind, message, origin, messages, text):
    error = kind(message, origin=origin)
    assert error.messages == messages
    assert error.origin == origin
    assert str(error) == (kind.__name__ if text is None else text)


@BOTH
def test_origin_without_a_message_precedes_the_class_name(kind):
    assert str(kind([], "o")) == f"o: {kind.__name__}\n"


@BOTH
def test_the_message_is_required(kind):
    with pytest.raises(TypeError):
        kind()


@BOTH
def test_messages_and_errors_can_be_added(kind):
    error = same = kind("m", "here")
    error += "n"
    error += ["o", "p"]
    error += E3Error(["q", "r"], "elsewhere")
    assert error is same
    assert error.messages == ["m", "n", "o", "p", "q", "r"]
    assert (error.origin, str(error)) == ("here", "here: r\n")


def test_adding_does_not_change_the_added_error_or_list():
    given, other = ["a"], E3Error("b")
    error = EventError(given)
    error += other
    error += "c"
    assert (given, other.messages) == (["a"], ["b"])


def test_event_error_is_caught_as_e3_error_and_shows_the_public_name():
    with pytest.raises(E3Error, match="m"):
        raise EventError("m")
    import event

    assert event.EventError is EventError
    assert EventError.__module__ == "event"


@BOTH
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_error_pickles_with_messages_added_later_and_its_attributes(kind, protocol):
    error = kind(["a", "b"], "o")
    error += "c"
    error.extra = 1
    again = pickle.loads(pickle.dumps(error, protocol))
    assert type(again) is kind
    assert (again.messages, again.origin, again.extra, str(again)) == (["a", "b", "c"], "o", 1, str(error))


@BOTH
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_copied_error_is_independent(kind, duplicate):
    error = kind("a")
    other = duplicate(error)
    other += "b"
    assert (error.messages, other.messages) == (["a"], ["a", "b"])


class WithoutText(Exception):  # noqa: N818  # it fails, and is no more
    def __str__(self):
        raise ValueError

    __repr__ = __str__


def test_a_permanent_error_is_an_event_error_with_the_public_name():
    import event

    assert event.PermanentError is PermanentError
    assert issubclass(PermanentError, EventError)
    assert PermanentError.__module__ == "event"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)])
def test_value_whose_repr_fails_is_shown_as_its_type(error):
    class Odd:
        def __repr__(self):
            raise error

    assert shown(["a"]) == "['a']"
    if isinstance(error, KeyboardInterrupt):
        with pytest.raises(KeyboardInterrupt):
            shown(Odd())
    else:
        assert ".Odd object at 0x" in shown(Odd())


@pytest.mark.parametrize(
    ("error", "line"),
    [
        pytest.param(EventError(["a", "b\n c"], "o"), "a; b c", id="ours: all messages"),
        pytest.param(EventError([]), "EventError", id="ours without a message"),
        pytest.param(ValueError("x\ny"), "ValueError: x y", id="another"),
        pytest.param(ValueError(), "ValueError", id="another without a text"),
        pytest.param(WithoutText(), "WithoutText", id="another whose text fails"),
    ],
)
def test_one_line_joins_all_messages(error, line):
    assert one_line(error) == line


def test_base_class_is_that_of_e3_core_if_installed(tmp_path):
    package = tmp_path / "e3"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "error.py").write_text("class E3Error(Exception):\n    def __init__(self, message, origin=None): ...\n")
    script = (
        "import e3.error, event.error; assert event.error.E3Error is e3.error.E3Error is event.EventError.__mro__[1]"
    )
    import event.error

    src = event.error.__file__.rpartition("event")[0]
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {src!r}]; import event; {script}"
    subprocess.run([sys.executable, "-c", code], check=True)


# The parts of a delivery.


@pytest.mark.parametrize("kind", [event.PartialDeliveryError, PermanentError])
@pytest.mark.parametrize("duplicate", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
def test_error_keeps_the_finished_parts(kind, duplicate):
    error = duplicate(kind("bob is missing", done=["ann", "ann"]))

    assert error.done == frozenset({"ann"})
    assert str(error) == "bob is missing"


def test_partial_delivery_lists_the_rest_and_is_not_permanent():
    error = pickle.loads(pickle.dumps(event.PartialDeliveryError("bob is missing", remaining=["bob"])))

    assert (error.done, error.remaining) == (frozenset(), ("bob",))
    assert isinstance(error, EventError)
    assert not isinstance(error, PermanentError)
