"""The command line, by families of commands: see ``main``."""

from pipeline.cli.main import main

__all__ = ["main"]
