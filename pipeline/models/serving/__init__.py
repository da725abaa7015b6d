"""Served models: clients of their servers, and vLLM started from here."""
