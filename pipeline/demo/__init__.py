"""The embedded default: a rendered world and small models trained on it."""

WORLD = "world.json"
"""The file that marks the folder of a rendered world."""
