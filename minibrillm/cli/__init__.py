"""The command line."""

from minibrillm.cli.app import main

__all__ = ["main"]
