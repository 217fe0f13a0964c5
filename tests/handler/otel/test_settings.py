"""The configuration and the OTEL_ variables: endpoint, headers, compression, timeout, certificates."""

from __future__ import annotations

import pickle
import re
import sys

import pytest

import event
from event.handler.otel import OTelHandler
from helpers.attributes import public_attributes
from helpers.events import closed_event
from helpers.spans import TOKEN
from servers.otlp import otlp_receiver
from servers.tls import Authority

# Endpoint and headers


@pytest.mark.parametrize(
    ("environ", "path"),
    [
        pytest.param({"OTEL_EXPORTER_OTLP_ENDPOINT": "{}"}, "/v1/traces", id="base"),
        pytest.param({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "{}/mine"}, "/mine", id="traces"),
    ],
)
def test_endpoint_is_set_by_environment_variables(receiver, monkeypatch, environ, path):
    for name, value in environ.items():
        monkeypatch.setenv(name, value.format(receiver.endpoint))
    assert OTelHandler().send_event(closed_event())
    assert receiver.requests[0][0] == path


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        pytest.param("", "/v1/traces", id="base"),
        pytest.param("/", "/v1/traces", id="slash"),
        pytest.param("/otlp/v1/traces", "/otlp/v1/traces", id="full-path"),
        pytest.param("?key=1", "/v1/traces?key=1", id="query"),
    ],
)
def test_endpoint_without_a_path_gets_the_default_path(receiver, path, expected):
    assert OTelHandler(receiver.endpoint + path).send_event(closed_event())
    assert receiver.requests[0][0] == expected


def test_endpoint_can_be_a_secret_reference(receiver, monkeypatch, caplog):
    monkeypatch.setenv("COLLECTOR", f"{receiver.endpoint}/{TOKEN}")
    handler = OTelHandler("env:COLLECTOR")
    assert handler.send_event(closed_event())
    assert receiver.requests[0][0] == f"/{TOKEN}"
    monkeypatch.setenv("COLLECTOR", f"gopher://{TOKEN}")
    assert not handler.send_event(closed_event())
    assert "the endpoint is not a valid http:// or https:// URL" in caplog.text
    assert TOKEN not in caplog.text


def test_headers_are_read_from_a_file_and_the_environment(receiver, monkeypatch, tmp_path, caplog):
    (tmp_path / "headers").write_text(f"Authorization=Bearer%20{TOKEN}, x-tenant=a%2Cb\n")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-more=1")
    assert OTelHandler(receiver.endpoint, headers=f"file:{tmp_path}/headers").send_event(closed_event())
    headers = receiver.requests[0][1]
    assert (headers["authorization"], headers["x-tenant"]) == (f"Bearer {TOKEN}", "a,b")
    assert OTelHandler(receiver.endpoint).send_event(closed_event())
    assert receiver.requests[1][1]["x-more"] == "1"
    assert caplog.text == ""


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(TOKEN, id="no-value"),
        pytest.param(f"a b={TOKEN}", id="no-name"),
        pytest.param(f"a={TOKEN}%0d%0aX: y", id="line-break"),
        pytest.param(f"a=é{TOKEN}", id="not-ascii"),
    ],
)
def test_malformed_headers_are_not_sent_and_not_shown(receiver, monkeypatch, caplog, text):
    monkeypatch.setenv("HEADERS", text)
    assert not OTelHandler(receiver.endpoint, headers="env:HEADERS").send_event(closed_event())
    assert "the headers are malformed" in caplog.text
    assert TOKEN not in caplog.text
    assert receiver.requests == []


def test_malformed_header_in_the_environment_is_not_shown(receiver, monkeypatch, caplog):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"authorization {TOKEN}")
    OTelHandler(receiver.endpoint).send_event(closed_event())
    assert TOKEN not in caplog.text


def test_invalid_header_in_the_environment_is_a_failure(receiver, monkeypatch, caplog):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"authorization={TOKEN}%0D%0Ax")
    assert not OTelHandler(receiver.endpoint).send_event(closed_event())
    assert "otel: the headers are malformed" in caplog.text
    assert TOKEN not in caplog.text


def test_unresolved_reference_is_a_failure_with_its_name(receiver, caplog):
    assert not OTelHandler(receiver.endpoint, headers="env:NOT_THERE").send_event(closed_event())
    assert "otel: the headers: env:NOT_THERE is not set" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        pytest.param({"headers": f"authorization={TOKEN}"}, "the headers' content", id="headers"),
        pytest.param({"endpoint": f"https://u:{TOKEN}@h"}, "the endpoint's password", id="password"),
        pytest.param({"endpoint": f"http://h?k={TOKEN}"}, "the endpoint's password or token", id="token"),
    ],
)
def test_plain_secret_is_a_warning_that_hides_it(caplog, arguments, what):
    OTelHandler(**arguments)
    assert what in caplog.text
    assert "use env:NAME or file:PATH" in caplog.text
    assert TOKEN not in caplog.text


# Other variables


@pytest.mark.parametrize(("name", "encoding"), [("gzip", "gzip"), ("deflate", "deflate"), ("none", None)])
def test_compression_is_set_by_environment_variables(receiver, monkeypatch, name, encoding):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", name)
    assert OTelHandler(receiver.endpoint).send_event(closed_event())
    assert receiver.requests[0][1]["Content-Encoding"] == encoding
    assert len(receiver.spans) == 1


def test_unknown_compression_is_a_failure(receiver, monkeypatch, caplog):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd")
    assert not OTelHandler(receiver.endpoint).send_event(closed_event())
    assert "OTEL_EXPORTER_OTLP_COMPRESSION is unknown; expected gzip, deflate or none" in caplog.text


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        pytest.param("OTEL_EXPORTER_OTLP_TIMEOUT", "", 10, id="unset"),
        pytest.param("OTEL_EXPORTER_OTLP_TIMEOUT", "3000", 3, id="milliseconds"),
        pytest.param("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "1500", 1.5, id="traces"),
        pytest.param("OTEL_EXPORTER_OTLP_TIMEOUT", "3000000", 60, id="longest"),
    ],
)
def test_timeout_is_in_milliseconds_and_limited(monkeypatch, name, text, expected):
    from event._net.otlp import Settings

    monkeypatch.setenv(name, text)
    assert Settings.read("", "", None).timeout == expected
    assert Settings.read("", "", 2.0).timeout == 2


def test_timeout_that_is_not_a_number_is_a_failure(receiver, monkeypatch, caplog):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "10s")
    assert not OTelHandler(receiver.endpoint).send_event(closed_event())
    assert "OTEL_EXPORTER_OTLP_TIMEOUT is not a number; expected milliseconds" in caplog.text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("OTEL_SDK_DISABLED", "True", id="disabled"),
        pytest.param("OTEL_TRACES_EXPORTER", "none", id="no-exporter"),
        pytest.param("OTEL_TRACES_SAMPLER", "always_off", id="sampled-out"),
    ],
)
def test_environment_variables_can_disable_the_export(receiver, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    handler = OTelHandler(receiver.endpoint)
    assert handler.send_event(closed_event())
    assert handler.send_events([closed_event(), closed_event()]) == [True, True]
    assert receiver.requests == []


def test_proxy_in_the_environment_is_used(receiver, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", receiver.endpoint)
    assert OTelHandler("http://collector.test").send_event(closed_event())
    assert receiver.requests[0][0] == "http://collector.test/v1/traces"


# Certificates


def test_private_certificate_authority_is_trusted_if_configured(monkeypatch, tmp_path, caplog):
    authority = Authority(tmp_path)
    with otlp_receiver(authority.context("127.0.0.1")) as receiver:
        assert not OTelHandler(receiver.endpoint).send_event(closed_event())
        assert "certificate verify failed" in caplog.text
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", authority.path)
        assert OTelHandler(receiver.endpoint).send_event(closed_event())
        assert len(receiver.spans) == 1


def test_certificate_for_another_host_is_not_trusted(monkeypatch, tmp_path, caplog):
    authority = Authority(tmp_path)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", authority.path)
    with otlp_receiver(authority.context("elsewhere.test")) as receiver:
        assert not OTelHandler(receiver.endpoint).send_event(closed_event())
        assert receiver.requests == []
    assert "IP address mismatch" in caplog.text


def test_missing_certificate_is_a_failure(receiver, monkeypatch, caplog):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", "not/there")
    assert not OTelHandler(receiver.endpoint.replace("http:", "https:")).send_event(closed_event())
    assert re.search(r": the certificates cannot be loaded .*not/there", caplog.text)


# Configuration


@pytest.mark.parametrize(
    ("config", "arguments"),
    [
        pytest.param("", {}, id="empty"),
        pytest.param("http://h:4318", {"endpoint": "http://h:4318"}, id="endpoint"),
        pytest.param(",nightly", {"service": "nightly"}, id="service"),
        pytest.param("http://h,a%2Cb%7C", {"endpoint": "http://h", "service": "a,b|"}, id="escapes"),
        pytest.param(
            "http://h,s,file:/a,b", {"endpoint": "http://h", "service": "s", "headers": "file:/a,b"}, id="all"
        ),
        pytest.param(",,env:H", {"headers": "env:H"}, id="headers"),
    ],
)
def test_configuration_round_trips(config, arguments):
    handler = OTelHandler(**arguments)
    assert handler.encode_config() == config
    for copy in OTelHandler(**OTelHandler.decode_config(config)), pickle.loads(pickle.dumps(handler)):
        assert public_attributes(copy) == public_attributes(handler)


def test_outbox_configuration_has_absolute_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    handler = OTelHandler("file:collector", headers="env:H")
    assert handler.config_for_outbox() == f"file:{tmp_path / 'collector'},,env:H"


@pytest.mark.parametrize(
    "endpoint",
    [
        pytest.param("localhost:4318", id="no-scheme"),
        pytest.param("grpc://localhost:4317", id="grpc"),
        pytest.param("http://", id="no-host"),
        pytest.param("http://h:0", id="port-0"),
        pytest.param("http://h:x", id="invalid-port"),
        pytest.param("http://[::1", id="invalid-address"),
    ],
)
def test_invalid_endpoint_is_refused(endpoint):
    with pytest.raises(event.EventError, match="otel: the endpoint is not a valid http:// or https:// URL"):
        OTelHandler(endpoint)


def test_missing_extra_is_reported_when_the_handler_is_added(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk", None)
    with pytest.raises(event.EventError, match=r'pip install "e3-event\[otel\]"'):
        OTelHandler()
