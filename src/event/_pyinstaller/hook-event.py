"""What PyInstaller must add to a program that imports `event`: its handlers, which are imported by name."""

from __future__ import annotations

from pkgutil import walk_packages

import event

hiddenimports = [module.name for module in walk_packages(event.__path__, "event.")]
