"""The attributes of an object."""

from __future__ import annotations


def public_attributes(thing):
    return {name: value for name, value in vars(thing).items() if not name.startswith("_")}
