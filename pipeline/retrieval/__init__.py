"""Retrieval: from what is known about queries to rankings of the gallery."""
