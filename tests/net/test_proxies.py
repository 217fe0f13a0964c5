"""Which proxy applies to a server: HTTPS_PROXY, NO_PROXY and the other variables."""

from __future__ import annotations

import pytest

from event._net import proxies


@pytest.mark.parametrize(
    ("no_proxy", "host", "port", "expected"),
    [
        pytest.param("*", "a.test", 443, True, id="all"),
        pytest.param("a.test", "a.test", 443, True, id="host"),
        pytest.param("a.test", "A.Test.", 443, True, id="case-and-dot"),
        pytest.param("a.test", "b.a.test", 443, True, id="subdomain"),
        pytest.param(".a.test", "b.a.test", 443, True, id="subdomain-with-a-dot"),
        pytest.param("*.a.test", "b.a.test", 443, True, id="subdomain-with-a-star"),
        pytest.param("a.test", "ba.test", 443, False, id="same-suffix"),
        pytest.param("x, a.test ,", "a.test", 443, True, id="list-with-spaces"),
        pytest.param("", "a.test", 443, False, id="empty"),
        pytest.param(".", "a.test", 443, False, id="dot"),
        pytest.param("a.test:8443", "a.test", 8443, True, id="host-and-port"),
        pytest.param("a.test:8443", "a.test", 443, False, id="host-and-other-port"),
        pytest.param("10.0.0.1", "10.0.0.1", 80, True, id="address"),
        pytest.param("10.0.0.1", "110.0.0.1", 80, False, id="suffix-of-an-address"),
        pytest.param("0.1", "10.0.0.1", 80, False, id="part-of-an-address"),
        pytest.param("10.0.0.1:80", "10.0.0.1", 80, True, id="address-and-port"),
        pytest.param("10.0.0.1:81", "10.0.0.1", 80, False, id="address-and-other-port"),
        pytest.param("10.0.0.0/8", "10.200.0.1", 80, True, id="network"),
        pytest.param("10.1.2.3/8", "10.200.0.1", 80, True, id="network-by-one-of-its-addresses"),
        pytest.param("10.0.0.0/8", "11.0.0.1", 80, False, id="other-network"),
        pytest.param("10.0.0.0/8", "a.test", 80, False, id="network-and-name"),
        pytest.param("10.0.0.0/x", "10.0.0.1", 80, False, id="invalid-network"),
        pytest.param("::1", "::1", 80, True, id="ipv6"),
        pytest.param("0:0::1", "::1", 80, True, id="ipv6-in-another-form"),
        pytest.param("[::1]", "::1", 80, True, id="ipv6-in-brackets"),
        pytest.param("[::1]:80", "::1", 80, True, id="ipv6-and-port"),
        pytest.param("[::1]:81", "::1", 80, False, id="ipv6-and-other-port"),
        pytest.param("fe80::/10", "fe80::1%eth0", 80, True, id="ipv6-network-and-zone"),
        pytest.param("::1", "127.0.0.1", 80, False, id="ipv6-and-ipv4"),
    ],
)
def test_no_proxy_matches_the_server(no_proxy, host, port, expected):
    assert proxies.bypasses(no_proxy, host, port) == expected


@pytest.mark.parametrize(
    ("environ", "scheme", "expected"),
    [
        pytest.param({}, "http", None, id="none"),
        pytest.param({"http_proxy": "p:1"}, "http", "p:1", id="http"),
        pytest.param({"http_proxy": "p:1"}, "https", None, id="http-does-not-apply-to-https"),
        pytest.param({"HTTPS_PROXY": "p:1"}, "https", "p:1", id="upper-case"),
        pytest.param({"https_proxy": "p:1", "HTTPS_PROXY": "p:2"}, "https", "p:1", id="lower-case-is-preferred"),
        pytest.param({"ALL_PROXY": "p:1"}, "https", "p:1", id="all"),
        pytest.param({"ALL_PROXY": "p:1", "https_proxy": "p:2"}, "https", "p:2", id="the-scheme-is-preferred"),
        pytest.param({"https_proxy": "p:1", "no_proxy": "a.test"}, "https", None, id="bypassed"),
        pytest.param({"https_proxy": "p:1", "NO_PROXY": "a.test:80"}, "https", "p:1", id="other-port"),
    ],
)
def test_proxy_comes_from_the_environment(monkeypatch, environ, scheme, expected):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert proxies.proxy_for(scheme, "a.test", 443) == expected


def test_changed_environment_variables_are_noticed(monkeypatch):
    seen = {proxies.proxy_variables()}
    for name in ("http_proxy", "HTTPS_PROXY", "all_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "x")
        seen.add(proxies.proxy_variables())
    assert len(seen) == 5
