"""The errors: their messages, text, copies and pickles."""

from __future__ import annotations

import copy
import pickle
import ssl
import subprocess
import sys

import pytest

import event
from event.error import LONGEST_TEXT, E3Error, EventError, PermanentError, one_line, root_cause, shown

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
def test_text_of_an_error_is_its_origin_and_last_message(kind, message, origin, messages, text):
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


class WithoutText(Exception):  # noqa: N818
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


def tls_error(reason, detail=None):
    error = ssl.SSLError(1, f"[SSL: {reason}] some text (_ssl.c:1006)")
    error.reason = reason
    if detail:
        error.verify_message = detail
    return error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        pytest.param(EventError(["a", "b\n c"], "o"), "a; b c", id="EventError: all messages"),
        pytest.param(EventError([]), "EventError", id="EventError without a message"),
        pytest.param(ValueError("x\ny"), "ValueError: x y", id="other error"),
        pytest.param(ValueError(), "ValueError", id="other error without a text"),
        pytest.param(WithoutText(), "WithoutText", id="other error whose str() fails"),
        pytest.param(ConnectionRefusedError(111, "Connection refused"), "connection refused", id="system error"),
        pytest.param(
            FileNotFoundError(2, "No such file", "a\nb"), r"no such file: 'a\nb'", id="system error, with a file"
        ),
        pytest.param(
            OSError(18, "Cross-device", "a", None, "b"), "cross-device: 'a' -> 'b'", id="system error, with two files"
        ),
        pytest.param(OSError(5, "I/O error"), "I/O error", id="system error, with an abbreviation"),
        pytest.param(OSError(5, None), "[Errno 5] None", id="system error, without a message"),
        pytest.param(OSError("the disk is full"), "the disk is full", id="OSError with only a text"),
        pytest.param(TimeoutError(), "timed out", id="a timeout without a text"),
        pytest.param(ConnectionAbortedError(), "ConnectionAbortedError", id="system error, without a text"),
        pytest.param(tls_error("WRONG_VERSION_NUMBER"), "TLS: wrong version number", id="TLS"),
        pytest.param(
            tls_error("CERTIFICATE_VERIFY_FAILED", "self-signed certificate"),
            "TLS: certificate verify failed: self-signed certificate",
            id="a certificate",
        ),
    ],
)
def test_one_line_shows_an_error_in_plain_words(error, line):
    assert one_line(error) == line


def raised_from(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        pytest.param(raised_from(ValueError("Error 111"), OSError(111, "Refused")), "refused", id="system error"),
        pytest.param(raised_from(ValueError("waited"), TimeoutError("timed out")), "timed out", id="a timeout"),
        pytest.param(
            raised_from(ValueError("It broke."), OSError("of a library")), "It broke", id="error of a library"
        ),
        pytest.param(EventError("no room"), "no room", id="EventError"),
    ],
)
def test_root_cause_is_the_error_of_the_system(error, line):
    assert root_cause(error) == line


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


# Partial deliveries.


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


def test_error_that_quotes_all_that_it_has_read_is_cut():
    for kind in (EventError, OSError, ValueError):
        assert len(one_line(kind("x" * 1_000_000))) == LONGEST_TEXT
