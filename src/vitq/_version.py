"""The version of vitq: here alone; the build, the command line and artifacts read it."""

__version__ = "0.1.0"
