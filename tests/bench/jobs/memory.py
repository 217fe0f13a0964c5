"""Measure the memory of an event with three values: python memory.py LIBRARY COUNT. Print bytes per event."""

import importlib
import sys
import tracemalloc

library, count = sys.argv[1:]
module = importlib.import_module(library)
module.Event("warm-up")
events = [None] * int(count)
tracemalloc.start()
before, _ = tracemalloc.get_traced_memory()
for number in range(int(count)):
    events[number] = module.Event("compile", target="arm", status="ok", count=3)
after, _ = tracemalloc.get_traced_memory()
print((after - before) / int(count))
