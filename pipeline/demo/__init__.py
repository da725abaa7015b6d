"""The embedded default: a rendered world and small models trained on it."""
