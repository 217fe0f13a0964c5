"""The configuration of the http handler."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

import event
from event._formats import cloudevents
from event._net.http import Target
from event.handler.http import HTTPHandler
from helpers.attributes import public_attributes
from helpers.webhooks import SECRET, TOKEN


@pytest.mark.parametrize(
    ("config", "arguments"),
    [
        pytest.param("https://h/p", {"url": "https://h/p"}, id="url"),
        pytest.param("https://h/p,,", {"url": "https://h/p"}, id="empty-is-default"),
        pytest.param("env:HOOK,json,env:KEY", {"url": "env:HOOK", "format": "json", "secret": "env:KEY"}, id="three"),
        pytest.param("https://h/p,,,source=/a=b", {"url": "https://h/p", "source": "/a=b"}, id="equals-in-a-value"),
        pytest.param(
            "https://h/?a%2Cb,cdevents,,cdevents=0.4.1,timeout=5",
            {"url": "https://h/?a,b", "format": "cdevents", "cdevents": "0.4.1", "timeout": "5"},
            id="options",
        ),
    ],
)
def test_configuration_is_parsed(config, arguments):
    assert HTTPHandler.decode_config(config) == arguments
    HTTPHandler(**arguments)


@pytest.mark.parametrize("field", [SECRET, "colour=blue", "=", ""])
def test_configuration_with_extra_fields_is_refused_and_not_shown(field):
    with pytest.raises(event.EventError, match=r"value 5 of the configuration is not understood; expected") as error:
        HTTPHandler.decode_config(f"https://h/p,json,env:KEY,timeout=3,{field}")
    assert SECRET not in str(error.value)


REFERENCES = st.sampled_from(["env:", "file:"]).flatmap(lambda kind: st.text().map(lambda name: kind + name))


@given(
    url=REFERENCES | st.just("https://h/a,b|c?%2C"),
    kind=st.sampled_from(["cloudevents", "cdevents", "json"]),
    secret=REFERENCES | st.just(""),
    source=st.from_regex(r"\A[A-Za-z0-9/,%=:?-]*\Z"),
    type=st.text(),
    cdevents=st.sampled_from(cloudevents.CDEVENTS_VERSIONS),
    timeout=st.floats(0, exclude_min=True, allow_infinity=False),
)
def test_configuration_round_trips(url, kind, secret, **more):
    handler = HTTPHandler(url, kind, secret, **more)
    config = handler.encode_config()
    assert "|" not in config
    decoded = HTTPHandler(**HTTPHandler.decode_config(config))
    assert public_attributes(decoded) == public_attributes(handler)


def test_configuration_is_minimal():
    assert HTTPHandler("https://h/p").encode_config() == "https://h/p,cloudevents"
    assert HTTPHandler("https://h/p", timeout=5).encode_config() == "https://h/p,cloudevents,,timeout=5.0"


def test_outbox_configuration_has_absolute_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    handler = HTTPHandler("file:hook", "json", "file:~/key")
    home = os.path.expanduser("~")
    expected = f"file:{os.path.abspath('hook')},json,file:{os.path.join(home, 'key')}"
    assert handler.config_for_outbox() == expected
    assert HTTPHandler("https://h/file:p", "json", "env:KEY").config_for_outbox() == "https://h/file:p,json,env:KEY"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        pytest.param({"url": ""}, "the URL is not a valid http", id="empty"),
        pytest.param({"url": f"ftp://h/{TOKEN}"}, "the URL is not a valid http", id="scheme"),
        pytest.param({"url": f"https:///{TOKEN}"}, "the URL is not a valid http", id="no-host"),
        pytest.param({"url": f"https://h/{TOKEN} x"}, "the URL is not a valid http", id="space"),
        pytest.param({"url": f"https://h/{TOKEN}\nx"}, "the URL is not a valid http", id="line-break"),
        pytest.param({"url": f"https://h:{TOKEN}/"}, "the URL is not a valid http", id="port"),
        pytest.param({"format": "xml"}, "the format is unknown; expected one of cloudevents,", id="format"),
        pytest.param({"secret": f"{TOKEN}!"}, "the signing secret is malformed; expected whsec_ and 24", id="secret"),
        pytest.param(
            {"secret": "whsec_AA=="},
            "the signing secret is malformed; expected whsec_ and 24",
            id="short-key",
        ),
        pytest.param({"secret": "password"}, "the signing secret is malformed; expected whsec_ and 24", id="password"),
        pytest.param({"secret": "A" * 88}, "the signing secret is malformed; expected whsec_ and 24", id="long-key"),
        pytest.param({"secret": "whsec_"}, "the signing secret is malformed; expected whsec_ and 24", id="empty-key"),
        pytest.param(
            {"secret": "whsec_ä"},
            "the signing secret is malformed; expected whsec_ and 24",
            id="secret-not-ascii",
        ),
        pytest.param({"format": SECRET}, "the format is unknown; expected", id="secret-for-a-format"),
        pytest.param({"source": "a b"}, "the source is 'a b'; expected a URI reference", id="source"),
        pytest.param({"cdevents": "9"}, "the version in cdevents= is unknown; expected one of", id="cdevents"),
        pytest.param({"timeout": "soon"}, "the timeout is 'soon'; expected a positive number", id="timeout"),
        pytest.param({"timeout": 0}, "the timeout is 0; expected a positive number", id="zero-timeout"),
        pytest.param({"timeout": float("nan")}, "the timeout is nan; expected a positive number", id="nan"),
        pytest.param({"timeout": None}, "the timeout is None; expected a positive number", id="none"),
    ],
)
def test_invalid_argument_is_an_error_without_secrets(arguments, reason):
    with pytest.raises(event.EventError, match=re.escape(f"http: {reason}")) as error:
        HTTPHandler(**{"url": "https://h/", **arguments})
    assert TOKEN not in str(error.value)
    assert SECRET not in str(error.value)
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__ or error.value.__context__ is None


def test_host_can_be_an_ipv6_address():
    target = Target.parse("http://u@[::1]:8080/x?y#z", "http: the URL")
    assert (target.shown, target.path) == ("http://[::1]:8080", "/x?y")


def test_loading_the_module_loads_no_library():
    code = "import sys, event.handler.http; print([m for m in ('urllib3', 'smtplib', 'ssl') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, check=True).stdout == b"[]" + (
        os.linesep.encode()
    )
