"""Compare objects by their attributes."""

from __future__ import annotations


def public_attributes(instance):
    """Return the public attributes of an object as a dict."""
    return {name: value for name, value in vars(instance).items() if not name.startswith("_")}
