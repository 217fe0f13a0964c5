"""Plugins for the tests: installed distributions in a directory on sys.path."""

from __future__ import annotations

import importlib
import os
import sys

E3_GROUP = "e3.event.handler"
OWN_GROUP = "event.handler"

# A minimal plugin. The name of the parameter of decode_config varies between plugins.
HANDLER = """
class Handler:
    def __init__(self, where="nowhere"):
        self.where = where
        self.events = []

    def send_event(self, event):
        self.events.append(event)
        return True

    @classmethod
    def decode_config(cls, {parameter}):
        return {{"where": {parameter}}}

    def encode_config(self):
        return self.where
"""
DUCK = HANDLER.format(parameter="config_str")


class Site:
    """A directory of installed distributions. During the test, it is the first one on sys.path."""

    def __init__(self, directory, monkeypatch):
        self.directory = str(directory)
        os.makedirs(self.directory, exist_ok=True)
        self._monkeypatch = monkeypatch
        monkeypatch.setattr(sys, "path", [self.directory, *sys.path])

    def module(self, name, source):
        """Write a module. At the end of the test, it is removed from sys.modules."""
        self._monkeypatch.setitem(sys.modules, name, None)
        del sys.modules[name]
        self._write(f"{name}.py", source)

    def distribution(self, name, *points):
        """Install a distribution with some entry points, each (group, name, value)."""
        info = f"{name.replace('-', '_')}-1.0.dist-info"
        groups = {group: "" for group, _, _ in points}
        for group, point, value in points:
            groups[group] += f"{point} = {value}\n"
        self._write(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        self._write(f"{info}/entry_points.txt", "".join(f"[{group}]\n{lines}\n" for group, lines in groups.items()))

    def plugin(self, name, source=DUCK, *, distribution=None, attribute="Handler", groups=(E3_GROUP,)):
        """Install a distribution with one module and the entry points of one handler.

        :param name: the name of the handler
        :param attribute: the handler's class in the module
        """
        distribution = distribution or f"{name}-plugin"
        module = distribution.replace("-", "_")
        self.module(module, source)
        self.distribution(distribution, *((group, name, f"{module}:{attribute}") for group in groups))

    def _write(self, path, text):
        path = os.path.join(self.directory, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        importlib.invalidate_caches()
