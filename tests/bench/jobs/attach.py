"""Attach a file: python attach.py LIBRARY FILE; prints seconds, and the most bytes that were held meanwhile.

The library may be hashlib: its own way to hash a file, to compare with.
"""

import importlib
import sys
import time
import tracemalloc

library, path = sys.argv[1:]
module = importlib.import_module(library)


def attach():
    """Hash the file."""
    if library == "hashlib":
        with open(path, "rb") as file:
            return module.file_digest(file, "sha1").hexdigest()
    event = module.Event("compile")
    return event.attach_file(path)


start = time.perf_counter()
attach()
seconds = time.perf_counter() - start
tracemalloc.start()
attach()
_, peak = tracemalloc.get_traced_memory()
print(seconds, peak)
