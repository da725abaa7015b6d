"""Prompts: how models are asked, as YAML files."""
