"""What finding a plugin costs by hand; by_hand.py follows in the same file."""

from importlib.metadata import entry_points

[point] = entry_points(group="e3.event.handler", name="bench")
