"""Find the proxy for a URL. All handlers that use our HTTP client share this rule.

The variables are ``https_proxy``, ``http_proxy``, ``all_proxy`` and ``no_proxy``, in lower or upper case; lower
case has precedence. If none is set, the standard library reads the settings of macOS or Windows.
"""

from __future__ import annotations

import os
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

_PORTS = {"http": 80, "https": 443}
_VARIABLES = tuple(
    name for proxy in ("http", "https", "all", "no") for name in (f"{proxy}_proxy", f"{proxy.upper()}_PROXY")
)


def proxy_variables() -> tuple[str | None, ...]:
    """Return the values of the variables that `proxy_for` depends on, as a cache key."""
    return tuple(map(os.environ.get, _VARIABLES))


def proxies_for(url: str) -> dict[str, str]:
    """Return ``{scheme: proxy}`` for a URL, as `requests` and botocore expect it; empty if there is no proxy."""
    parts = urlsplit(url)
    proxy = proxy_for(parts.scheme, parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0))
    return {parts.scheme: proxy} if proxy else {}


def proxy_for(scheme: str, host: str, port: int) -> str | None:
    """Return the URL of the proxy for a server; None if there is none."""
    proxies = getproxies()  # reads the system's settings only if no variable is set
    proxy = proxies.get(scheme) or proxies.get("all")
    if not proxy:
        return None
    if any(proxy_variables()):
        return None if bypasses(proxies.get("no", ""), host, port) else proxy
    return None if proxy_bypass(host) else proxy  # pragma: no cover  # platform: only macOS and Windows have settings


def bypasses(no_proxy: str, host: str, port: int) -> bool:
    """Return whether a server must be reached without a proxy, according to ``NO_PROXY``.

    Its entries are separated by commas. Each is one of

    - ``*``: every host
    - ``example.com`` or ``.example.com``: that host and those below it
    - an IP address, IPv6 with or without brackets
    - a network, ``10.0.0.0/8``
    - a host or an address with ``:PORT``, an IPv6 address in brackets: only that port
    """
    host = host.lower().rstrip(".")
    return any(_covers(entry.strip().lower(), host, port) for entry in no_proxy.split(",") if entry.strip())


def _covers(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    name, wanted = _split_port(entry)
    if wanted and wanted != str(port):
        return False
    if _is_address(host):
        return _in_network(host, name)
    name = name.removeprefix("*").strip(".")
    return bool(name) and (host == name or host.endswith(f".{name}"))


def _split_port(entry: str) -> tuple[str, str]:
    """Return an entry's host and port; the port is empty if there is none. A bare IPv6 address has none."""
    if entry.startswith("["):
        host, _, rest = entry[1:].partition("]")
        return host, rest.removeprefix(":")
    if entry.count(":") == 1:
        host, _, port = entry.partition(":")
        return host, port
    return entry, ""


def _is_address(host: str) -> bool:
    return _in_network(host, host)


def _in_network(host: str, network: str) -> bool:
    """Return whether both are valid, and the network, which may be a single address, contains the host's address."""
    try:
        return ip_address(host.partition("%")[0]) in ip_network(network.partition("%")[0], strict=False)
    except ValueError:
        return False
