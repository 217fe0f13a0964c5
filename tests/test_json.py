"""The JSON encoder accepts any event data, except for a cycle or too deep a nesting."""

from __future__ import annotations

import collections
import collections.abc
import dataclasses
import datetime
import decimal
import enum
import fractions
import inspect
import ipaddress
import json
import pathlib
import re
import sys
import threading
import types
import typing
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from event import EventError, _json

UNTIMED = settings(deadline=None)
LAYOUTS = pytest.mark.parametrize("layout", [{}, {"indent": 2, "sort_keys": True}], ids=["one line", "indented"])


class Colour(enum.Enum):
    RED = "red"
    PATH = pathlib.PurePosixPath("a/b")
    ONE = 1


class Text(str, enum.Enum):  # unlike a StrEnum, its str() differs from its value
    A = "a"


class Number(enum.IntEnum):
    ONE = 1


@dataclasses.dataclass
class Point:
    x: int
    where: pathlib.PurePosixPath
    lock: object = None


@dataclasses.dataclass(init=False)
class Unset:
    never: int


class Opaque:
    def __repr__(self):
        return "<opaque>"


class Broken:
    def __repr__(self):
        raise RuntimeError("no repr")


class BrokenDate:
    def isoformat(self):
        raise RuntimeError("no date")

    def __repr__(self):
        return "<broken date>"


class Fields(collections.abc.Mapping):
    def __getitem__(self, key):
        return {"a": 1}[key]

    def __iter__(self):
        return iter(["a"])

    def __len__(self):
        return 1


class Pair(typing.NamedTuple):
    a: int
    b: object


NATURAL = [
    pytest.param({3, 1, 2}, [1, 2, 3], id="set"),
    pytest.param(frozenset({"b", "a"}), ["a", "b"], id="frozenset"),
    pytest.param({"b": 1, "a": 2}.keys(), ["a", "b"], id="dict keys"),
    pytest.param({"b": 1}.values(), [1], id="dict values"),
    pytest.param(collections.deque([1, {2}]), [1, [2]], id="deque"),
    pytest.param(range(3), [0, 1, 2], id="range"),
    pytest.param(Pair(1, {2}), [1, [2]], id="namedtuple"),
    pytest.param(types.MappingProxyType({"a": {1}}), {"a": [1]}, id="mapping proxy"),
    pytest.param(Fields(), {"a": 1}, id="mapping"),
    pytest.param(collections.UserDict(a=1), {"a": 1}, id="UserDict"),
    pytest.param(collections.UserList([1]), [1], id="UserList"),
    pytest.param(collections.UserString("text"), "text", id="UserString"),
    pytest.param(Point(1, pathlib.PurePosixPath("p")), {"x": 1, "where": "p", "lock": None}, id="dataclass"),
    pytest.param(Unset(), {}, id="dataclass without its values"),
    pytest.param(Point, repr(Point), id="class"),
    pytest.param(Colour.RED, "red", id="Enum"),
    pytest.param(Colour.PATH, "a/b", id="Enum of a path"),
    pytest.param(Text.A, "a", id="Enum of str"),
    pytest.param(Number.ONE, 1, id="IntEnum"),
    pytest.param(pathlib.PurePosixPath("a/b"), "a/b", id="path"),
    pytest.param(b"caf\xc3\xa9", "café", id="bytes, UTF-8"),
    pytest.param(bytearray(b"a\xff"), r"a\xff", id="bytes, not UTF-8"),
    pytest.param(memoryview(b"ab"), "ab", id="memoryview"),
    pytest.param(datetime.datetime(2026, 1, 2, 3, 4, 5), "2026-01-02T03:04:05", id="datetime"),  # noqa: DTZ001
    pytest.param(
        datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc), "2026-01-02T00:00:00+00:00", id="datetime in UTC"
    ),
    pytest.param(datetime.date(2026, 1, 2), "2026-01-02", id="date"),
    pytest.param(datetime.time(1, 2), "01:02:00", id="time"),
    pytest.param(datetime.timedelta(minutes=1), 60.0, id="timedelta"),
    pytest.param(decimal.Decimal("1.10"), "1.10", id="Decimal"),
    pytest.param(fractions.Fraction(1, 3), "1/3", id="Fraction"),
    pytest.param(uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001", id="UUID"),
    pytest.param(ipaddress.ip_address("::1"), "::1", id="IP address"),
    pytest.param(ValueError("bad"), "ValueError: bad", id="exception"),
    pytest.param(KeyError("k"), "KeyError: 'k'", id="KeyError"),
    pytest.param(ValueError(), "ValueError", id="exception without a text"),
    pytest.param(EventError("m", "o"), "EventError: o: m", id="EventError"),
    pytest.param(Opaque(), "<opaque>", id="unknown object"),
    pytest.param(BrokenDate(), "<broken date>", id="a value whose own code fails"),
    pytest.param(1 + 2j, "(1+2j)", id="complex"),
    pytest.param(float("nan"), None, id="NaN"),
    pytest.param(float("inf"), None, id="infinity"),
    pytest.param(float("-inf"), None, id="minus infinity"),
    pytest.param(10**400, 10**400, id="huge int"),
    pytest.param("\ud800", "\ud800", id="lone surrogate"),
    pytest.param((1, (2,)), [1, [2]], id="tuple"),
]


@LAYOUTS
@pytest.mark.parametrize("other", [pytest.param(None, id="alone"), pytest.param(float("nan"), id="with a NaN")])
@pytest.mark.parametrize(("value", "form"), NATURAL)
def test_a_value_takes_its_natural_form(value, form, other, layout):
    # A NaN selects the slow encoder, which must write each value in the same form.
    text = _json.dumps({"value": value, "in": [value], "other": other}, **layout)
    assert json.loads(text) == {"value": form, "in": [form], "other": None}
    assert text.isascii()


class RealNumber:
    """Number that is not a float but converts to one, like numpy's."""

    def __float__(self):
        return 1.5


class IntegralNumber(RealNumber):
    def __index__(self):
        return 3


def test_foreign_numbers_are_numbers():
    assert json.loads(_json.dumps([RealNumber(), IntegralNumber()])) == [1.5, 3]


class Endless(collections.abc.Sequence):
    def __len__(self):
        return 3

    def __getitem__(self, position):
        return position


class NoClass:
    @property
    def __class__(self):
        raise RuntimeError("class")


class NoItems(dict):
    def items(self):
        raise RuntimeError("items")


class NoRepr:
    def __repr__(self):
        raise SystemExit(3)


@LAYOUTS
@pytest.mark.parametrize(
    ("value", "form"),
    [
        pytest.param(Endless(), r"\[0, 1, 2\]", id="an endless sequence"),
        pytest.param(NoClass(), r".*NoClass object at .*", id="an object that hides its class"),
        pytest.param(NoItems(a=1), r".*", id="a dict without items"),
        pytest.param(NoRepr(), r".*NoRepr object at .*", id="an object without a repr"),
        pytest.param({10**5000: 1}, r"\{'0x[0-9a-f]+': 1\}", id="a huge int as a key"),
    ],
)
def test_unusual_value_does_not_lose_the_others(value, form, layout):
    content = json.loads(_json.dumps({"odd": value, "other": 1}, **layout))
    assert content["other"] == 1
    assert re.fullmatch(form, str(content["odd"]), re.DOTALL)


def test_elements_that_have_no_order_are_kept():
    assert sorted(json.loads(_json.dumps({1, "a"})), key=str) == [1, "a"]


def test_object_without_a_working_repr_does_not_stop_the_event():
    assert "Broken object at" in json.loads(_json.dumps([Broken()]))[0]


def test_dataclass_with_an_unserializable_field_is_shown():
    assert "lock" in json.loads(_json.dumps(Point(1, pathlib.PurePosixPath("p"), threading.Lock())))["lock"]


@pytest.mark.skipif(not hasattr(sys, "get_int_max_str_digits"), reason="platform: this Python writes any int")
def test_an_int_of_too_many_digits_is_written_in_hex():
    value = 1 << 20_000
    assert json.loads(_json.dumps([value])) == [hex(value)]


@LAYOUTS
@pytest.mark.parametrize(
    ("key", "written"),
    [
        pytest.param(1, "1", id="int"),
        pytest.param(1.5, "1.5", id="float"),
        pytest.param(True, "true", id="bool"),
        pytest.param(None, "null", id="None"),
        pytest.param(pathlib.PurePosixPath("a/b"), "a/b", id="path"),
        pytest.param(b"k", "k", id="bytes"),
        pytest.param((1, "a"), "[1, 'a']", id="tuple"),
        pytest.param(Colour.RED, "red", id="Enum"),
        pytest.param(Colour.ONE, "1", id="Enum of int"),
        pytest.param(Text.A, "a", id="Enum of str"),
        pytest.param(datetime.date(2026, 1, 2), "2026-01-02", id="date"),
    ],
)
def test_key_is_written_as_its_text(key, written, layout):
    # Keys of different types cannot be sorted unchanged.
    assert json.loads(_json.dumps({"k": {key: {1}, "z": 1}}, **layout)) == {"k": {written: [1], "z": 1}}


def cycle_in_a_dict():
    inner = {}
    inner["b"] = inner
    return inner


def cycle_in_a_list():
    inner = []
    inner.append([inner])
    return inner


def cycle_in_a_dataclass():
    inner = Point(1, pathlib.PurePosixPath("p"))
    inner.lock = {"l": [inner]}
    return inner


def cycle_in_a_deque():
    inner = collections.deque()
    inner.append(inner)
    return inner


@LAYOUTS
@pytest.mark.parametrize("make", [cycle_in_a_dict, cycle_in_a_list, cycle_in_a_dataclass, cycle_in_a_deque])
def test_a_cycle_is_an_error_that_names_the_key(make, layout):
    with pytest.raises(EventError, match=r"'outer.*contains itself"):
        _json.dumps({"fine": 1, "outer": make()}, **layout)


@LAYOUTS
def test_the_same_value_twice_is_no_cycle(layout):
    shared = {"s": {1}}
    value = {"a": shared, "b": [shared, shared], "nan": float("nan")}
    assert json.loads(_json.dumps(value, **layout))["b"] == [{"s": [1]}, {"s": [1]}]


def nested(depth, wrap):
    value = 1
    for _ in range(depth):
        value = wrap(value)
    return value


@pytest.fixture
def shallow():
    """Lower the recursion limit: the encoder fails in the same way at any limit, and indenting takes quadratic time."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 300)
    yield
    sys.setrecursionlimit(limit)


def is_written(data, layout):
    try:
        _json.dumps(data, **layout)
    except EventError as error:
        assert "nested too deeply" in str(error)  # noqa: PT017  # not every depth fails
        return False
    except RecursionError:
        pytest.fail("a RecursionError passed", pytrace=False)  # its traceback takes pytest half a minute
    return True


@LAYOUTS
@pytest.mark.parametrize("inner", [pytest.param(1, id="plain"), pytest.param({1}, id="with a set")])
@pytest.mark.parametrize(
    "wrap", [pytest.param(lambda v: [v], id="lists"), pytest.param(lambda v: {"k": v}, id="dicts")]
)
def test_at_every_depth_the_data_is_written_or_refused(wrap, inner, layout, shallow):
    def written(depth):
        return is_written({"deep": [inner, nested(depth, wrap)]}, layout)

    low = 50
    assert written(low)
    assert not written(100_000)
    while written(2 * low):
        low *= 2
    high = 2 * low
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if written(middle) else (low, middle)
    # Around the limit, the encoders fail at different depths.
    for depth in range(low - 6, low + 7):
        written(depth)


@LAYOUTS
def test_too_deep_a_nesting_names_its_key(layout):
    with pytest.raises(EventError, match=r"'deepest.* nested too deeply"):
        _json.dumps({"fine": 1, "deepest": nested(100_000, lambda v: [v])}, **layout)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("{", id="incomplete"),
        pytest.param(b"\xff\xfe\xfd", id="not text"),
        pytest.param("[" * 500_000, id="nested too deeply"),
    ],
)
def test_loads_raises_value_error_for_invalid_json(text):
    with pytest.raises(ValueError, match=r"."):
        _json.loads(text)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@UNTIMED
@given(PLAIN, st.sampled_from([{}, {"indent": 2, "sort_keys": True}]))
def test_json_values_round_trip(value, layout):
    assert _json.loads(_json.dumps(value, **layout)) == value


@UNTIMED
@given(PLAIN)
def test_slow_and_fast_encoder_agree(value):
    slow = _json.dumps([value, float("nan")])
    assert slow == json.dumps([value, None])


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param("caf\udce9.c", "caf\\udce9.c", id="alone"),
        pytest.param("\udce9\udce8", "\\udce9\\udce8", id="two-low-ones"),
        pytest.param("\ud83d", "\\ud83d", id="high-one-at-the-end"),
        pytest.param("\ud83dx", "\\ud83dx", id="high-one-before-text"),
        pytest.param("\U0001f600", "\U0001f600", id="a-pair-is-a-character"),
        pytest.param("\\ud800", "\\ud800", id="a-backslash-is-text"),
        pytest.param("\\\ud800", "\\\\ud800", id="a-backslash-before-one"),
    ],
)
def test_lone_surrogate_is_replaced_in_i_json(value, expected, indent):
    text = _json.dumps({"key": value, value: [value]}, indent=indent, i_json=True)
    assert json.loads(text) == {"key": expected, expected: [expected]}
    json.loads(text)["key"].encode()  # strict readers do not refuse it
    assert json.loads(_json.dumps(value, indent=indent)) == value


def test_many_escapes_are_searched_in_one_pass():
    for piece in ("\\", "\udce9", "\ud83d", "\\ud8"):
        value = piece * (100_000 // len(piece))
        assert json.loads(_json.dumps(value, i_json=True)) == value.encode("utf-8", "backslashreplace").decode()


@pytest.mark.parametrize("sort_keys", [False, True])
@pytest.mark.parametrize(
    "value",
    [
        pytest.param({"b": 1, "a": "x, y: \n", "c": None, "d": True, "e": 0.5}, id="flat"),
        pytest.param({}, id="empty"),
        pytest.param({"a": []}, id="nested"),
        pytest.param({1: 2, None: 3}, id="other-keys"),
        pytest.param([1, "a"], id="list"),
    ],
)
def test_indented_text_is_that_of_the_standard_library(value, sort_keys):
    if sort_keys and 1 in value and None in value:
        sort_keys = False
    assert _json.dumps(value, indent=2, sort_keys=sort_keys) == json.dumps(value, indent=2, sort_keys=sort_keys)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.text('ab "\\\n\x7f'),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('ab"'), inner, max_size=3),
)


@LAYOUTS
@given(PLAIN)
def test_a_process_without_json_writes_the_same_text(layout, value):
    expected = _json.dumps(value, **layout)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.delitem(sys.modules, "json")
        assert _json.dumps(value, **layout) == expected


def test_cycle_is_an_error_in_a_process_without_json(monkeypatch):
    monkeypatch.delitem(sys.modules, "json")
    value = {}
    value["again"] = value
    with pytest.raises(EventError, match=r"'again\.again' contains itself"):
        _json.dumps({"again": value})


@LAYOUTS
def test_unusual_value_is_written_in_a_process_without_json(layout, monkeypatch):
    value = {"set": {1}, "path": pathlib.PurePosixPath("a")}
    expected = _json.dumps(value, **layout)
    monkeypatch.delitem(sys.modules, "json")
    assert _json.dumps(value, **layout) == expected
