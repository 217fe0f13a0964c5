"""Trace ids and a token for the tests of the otel handler."""

from __future__ import annotations

TRACE, SPAN, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", "b7ad6b7169203331"

TOKEN = "s3cr3t-of-the-tests"
