"""`--reload`: the server in a child process that is replaced when a source file changes."""

from pounce.reload.reloader import Reloader

__all__ = ["Reloader"]
