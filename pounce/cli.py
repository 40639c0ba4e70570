"""The command `pounce`: finds out which of its commands is meant, and runs it.

Commands are imported when they are meant: `ctl` answers without loading the server.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Final

import click

from pounce.errors import PounceError

PROGRAM: Final = "pounce"
_INTERRUPTED: Final = 130
"""Exit status that shells give to what SIGINT ended."""

COMMANDS: Final = {"check": "pounce.commands", "ctl": "pounce.ctl"}
"""Where each command is, under its own name. Any other first word is an application."""


def main(args: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status. `args` are those of the process when None."""
    arguments = list(sys.argv[1:] if args is None else args)
    # An import string has a colon, so that the name of a command is never one.
    module, name, program = "pounce.commands", "serve", PROGRAM
    if arguments and arguments[0] in COMMANDS:
        name = arguments.pop(0)
        module, program = COMMANDS[name], f"{PROGRAM} {name}"
    command: click.Command = getattr(importlib.import_module(module), name)
    try:
        action = command.main(arguments, prog_name=program, standalone_mode=False)
        # --help and --version end with a status in place of an action.
        return action() if callable(action) else int(action)
    except PounceError as error:
        from pounce.supervisor.takeover import report_failure

        report_failure(str(error))
        for line in str(error).splitlines():
            click.echo(f"{PROGRAM}: error: {line}", err=True)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return _INTERRUPTED
