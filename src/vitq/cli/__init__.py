"""The command line: the verbs of the Python interface, with the same words."""

from vitq.cli.app import app, main

__all__ = ["app", "main"]
