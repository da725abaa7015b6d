"""Stages: each reads what those before wrote into the cache, and writes its own."""
