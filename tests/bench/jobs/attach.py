"""Attach a file: python attach.py LIBRARY FILE. Print the seconds and the peak memory in bytes.

For comparison, LIBRARY may be hashlib, which only hashes the file.
"""

import importlib
import sys
import time
import tracemalloc

library, path = sys.argv[1:]
module = importlib.import_module(library)


def attach():
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
