"""The configuration of the broker handler."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import event
from event.handler.broker import BrokerHandler
from helpers.attributes import public_attributes


@pytest.mark.parametrize(
    ("config", "arguments"),
    [
        pytest.param("amqp://h", {"url": "amqp://h"}, id="url"),
        pytest.param("amqp://h,", {"url": "amqp://h"}, id="empty-is-default"),
        pytest.param("env:B,ci", {"url": "env:B", "queue": "ci"}, id="queue"),
        pytest.param("amqp://h/a%2Cb,,timeout=5", {"url": "amqp://h/a,b", "timeout": "5"}, id="comma"),
        pytest.param("env:B,,limit=0,s3=s3://b/p=q", {"url": "env:B", "limit": "0", "s3": "s3://b/p=q"}, id="s3"),
        pytest.param("env:B,,profile=ci,sse=aws:kms", {"url": "env:B", "profile": "ci", "sse": "aws:kms"}, id="aws"),
        pytest.param("env:B,ci,sse=", {"url": "env:B", "queue": "ci", "sse": ""}, id="no-encryption"),
    ],
)  # fmt: skip
def test_configuration_is_parsed(config, arguments):
    assert BrokerHandler.decode_config(config) == arguments
    BrokerHandler(**arguments)


@pytest.mark.parametrize("field", ["t0psecret", "t0psecret=1", "=", "", "Limit=1"])
def test_configuration_with_extra_fields_is_refused_and_not_shown(field):
    with pytest.raises(event.EventError, match=r"broker: value 4 of the configuration is not understood; exp") as error:
        BrokerHandler.decode_config(f"env:B,ci,timeout=3,{field}")
    assert "t0psecret" not in str(error.value)


REFERENCES = st.sampled_from(["env:", "file:"]).flatmap(lambda kind: st.text().map(lambda name: kind + name))

QUEUES = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=50)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    url=REFERENCES | st.just("amqp://h/a,b|c%252C"),
    queue=QUEUES,
    limit=st.none() | st.integers(0, 1 << 40),
    s3=st.just("") | st.text(st.sampled_from("ab,|%2C="), min_size=1).map("s3://b/{}".format),
    profile=st.none() | st.text(min_size=1),
    sse=st.none() | st.text(),
    timeout=st.floats(0.001, 1e9),
)
def test_configuration_round_trips(url, queue, **more):
    handler = BrokerHandler(url, queue, **more)
    config = handler.encode_config()
    assert "|" not in config
    other = BrokerHandler(**BrokerHandler.decode_config(config))
    assert public_attributes(other) == public_attributes(handler)


def test_configuration_is_minimal():
    assert BrokerHandler("amqp://h").encode_config() == "amqp://h,e3-event"
    assert BrokerHandler("amqp://h", "ci", timeout=5, limit=0).encode_config() == "amqp://h,ci,limit=0,timeout=5.0"


def test_outbox_configuration_has_absolute_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert BrokerHandler("file:url").config_for_outbox() == f"file:{os.path.abspath('url')},e3-event"
    assert BrokerHandler("file:~/url").config_for_outbox() == f"file:{os.path.expanduser('~')}/url,e3-event"
    assert BrokerHandler("env:URL").config_for_outbox() == "env:URL,e3-event"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        pytest.param({"url": ""}, "this is not a broker's URL", id="empty-url"),
        pytest.param({"url": "t0psecret"}, "this is not a broker's URL", id="no-scheme"),
        pytest.param({"url": "amqp://ci:t0p/secret@h/"}, "this is not a broker's URL", id="slash-in-the-password"),
        pytest.param({"queue": ""}, "the queue name must be at most 240 bytes", id="no-queue"),
        pytest.param({"queue": "t0psecret\n@h"}, "the queue name must be at most 240 bytes", id="line-break"),
        pytest.param({"queue": "t0p" * 100}, "the queue name must be at most 240 bytes", id="long-queue"),
        pytest.param({"queue": "t0psecret\ud800"}, "240 bytes of printable characters", id="lone-surrogate"),
        pytest.param({"limit": "much"}, "limit is 'much'; expected a number, 0 or more", id="limit"),
        pytest.param({"limit": -1}, "limit is -1; expected a number, 0 or more", id="negative-limit"),
        pytest.param({"s3": "builds"}, "the URL is 'builds'; expected s3://BUCKET/PREFIX", id="s3"),
        pytest.param({"timeout": "soon"}, "timeout is 'soon'; expected a positive number", id="timeout"),
        pytest.param({"timeout": 0}, "timeout is 0; expected a positive number", id="zero-timeout"),
        pytest.param({"timeout": float("nan")}, "timeout is nan; expected a positive number", id="nan"),
        pytest.param({"timeout": float("inf")}, "timeout is inf; expected a positive number", id="infinity"),
        pytest.param({"timeout": None}, "timeout is None; expected a positive number", id="none"),
    ],
)
def test_invalid_argument_is_an_error_without_secrets(arguments, reason):
    with pytest.raises(event.EventError, match=re.escape(reason)) as error:
        BrokerHandler(**{"url": "amqp://127.0.0.1/", **arguments})
    assert "t0p" not in str(error.value)
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__ or error.value.__context__ is None


def test_missing_library_is_an_error_with_the_pip_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "pika", None)
    with pytest.raises(event.EventError, match=r'pip install "e3-event\[broker\]"'):
        BrokerHandler("amqp://h/")


def test_s3_url_requires_boto3(monkeypatch):
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(event.EventError, match=r'pip install "e3-event\[s3\]"'):
        BrokerHandler("amqp://h/", s3="s3://builds")


def test_loading_the_module_loads_no_library():
    code = "import sys, event.handler.broker; print([m for m in ('pika', 'redis', 'ssl', 'boto3') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, check=True)
    assert done.stdout.strip() == b"[]"
