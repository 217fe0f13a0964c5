"""Upload and download objects with `event._net.s3`, in the bucket "events" of a test's server."""

from __future__ import annotations

import hashlib

from servers.s3 import SECRET

URL = "s3://events/a/b"

HELLO = b"hello"

MIB = 1 << 20


def sha1(content):
    return hashlib.sha1(content).hexdigest()


def download(store, directory, content=HELLO, url=URL):
    """Download an object whose reference has the size and the SHA-1 of `content`; return the downloaded content."""
    path = directory / "downloaded"
    store.download(url, str(path), len(content), sha1(content))
    return path.read_bytes()


def use_endpoint(endpoint, monkeypatch, **more):
    """Set the variables of AWS: the endpoint, credentials, a single attempt, and `more` without their prefix."""
    settings = {"ACCESS_KEY_ID": "AKIATESTS", "SECRET_ACCESS_KEY": SECRET, "EC2_METADATA_DISABLED": "true"}
    for name, value in {**settings, "MAX_ATTEMPTS": "1", "ENDPOINT_URL": endpoint, **more}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
