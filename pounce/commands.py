"""The commands that take the options of the server: flags to a `ServerConfig`, and a start.

Flags are generated from the declaration of the configuration. Values are checked there as well,
so that a flag, a variable and a key of the file get the same message.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

import click
from click.core import ParameterSource

from pounce import __version__
from pounce.check import load_or_explain, print_check
from pounce.config import OPTIONS, ResolvedConfig, resolve_config
from pounce.config.kinds import Choice
from pounce.config.options import Group, Option
from pounce.config.sources import APP_ENV, CONFIG_ENV
from pounce.runtime import worker_mode
from pounce.supervisor.takeover import report_failure

PROGRAM: Final = "pounce"


class _Flag(click.Option):
    """The flag of one option."""

    def __init__(self, option: Option) -> None:
        self.group = option.group
        kind = option.kind
        words = kind.words if isinstance(kind, Choice) else ()
        super().__init__(
            ["/".join(option.flags), option.name],
            default=None,
            is_flag=option.is_switch,
            multiple=option.is_repeated,
            metavar=None if option.is_switch else kind.metavar,
            help=option.help + _default_note(option),
            shell_complete=lambda context, parameter, incomplete: [
                word for word in words if word.startswith(incomplete)
            ],
        )


def _default_note(option: Option) -> str:
    if option.default in (None, "", (), False):
        return ""
    return f"  [default: {'on' if option.default is True else option.format(option.default)}]"


class _Command(click.Command):
    """A command whose help shows the options by their groups."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {"Options": [], **{g: [] for g in Group}}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            # Recent versions of click have a record of arguments, too.
            if record is not None and isinstance(parameter, click.Option):
                section = parameter.group if isinstance(parameter, _Flag) else "Options"
                sections[section].append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def _command(name: str, callback: Any, help: str, epilog: str | None = None) -> click.Command:
    version = click.version_option(
        __version__,
        message=f"%(prog)s %(version)s ({platform.python_implementation()} "
        f"{platform.python_version()}, {platform.system()}, worker mode {worker_mode()})",
        prog_name=PROGRAM,
    )
    command = _Command(
        name,
        callback=callback,
        help=help,
        epilog=epilog,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        params=[
            click.Argument(["app"], envvar=APP_ENV),
            click.Option(
                ["--config", "config_file"],
                type=click.Path(path_type=Path),
                metavar="FILE",
                help="TOML file with options; a pyproject.toml has them in [tool.pounce].",
            ),
            *(_Flag(option) for option in OPTIONS.values()),
        ],
    )
    return version(command)


# Parsing only tells what to do. It is done outside of click, which has its own ideas about
# KeyboardInterrupt and about OSError.
_Action: TypeAlias = Callable[[], int]


@click.pass_context
def _serve(context: click.Context, /, app: str, config_file: Path | None, **_: object) -> _Action:
    given = _given(context)
    read = partial(_resolve, given, config_file)
    return lambda: _run_server(app, read(), read)


@click.pass_context
def _check(context: click.Context, /, app: str, config_file: Path | None, **_: object) -> _Action:
    given = _given(context)
    return lambda: print_check(_resolve(given, config_file), app)


def _given(context: click.Context) -> dict[str, object]:
    """The options that the command line has, by name, as they are written there."""
    return {
        name: value
        for name, value in context.params.items()
        if name in OPTIONS and context.get_parameter_source(name) == ParameterSource.COMMANDLINE
    }


def _resolve(given: dict[str, object], config_file: Path | None) -> ResolvedConfig:
    resolved = resolve_config(given, file=config_file, by_flag=True)
    for warning in resolved.warnings:
        click.echo(f"{PROGRAM}: warning: {warning}", err=True)
    return resolved


def _run_server(
    app_path: str, resolved: ResolvedConfig, read_again: Callable[[], ResolvedConfig]
) -> int:
    # Imported here, so that `check` and `--help` work even where serving cannot.
    from pounce.server import Server

    config = resolved.config
    app = None
    # Where code is watched, the watcher must outlive an application that does not load; a master
    # never imports one.
    if not config.reload and not config.is_supervised:
        app = load_or_explain(app_path, config)
        if app is None:
            report_failure(f'application "{app_path}" could not be loaded, see the log')
            click.echo(
                f'{PROGRAM}: error: application "{app_path}" could not be loaded, see above',
                err=True,
            )
            return 1
    server = Server(config, app, app_path=app_path, reload_config=lambda: read_again().config)
    try:
        server.run()
    except SystemExit as error:
        server.end_process_if_overdue(error.code if isinstance(error.code, int) else 1)
        raise
    server.end_process_if_overdue()
    return 0


_SERVE_HELP = f"""Serve the ASGI application APP, an import string such as `main:app` or
`main:create_app()`.

`{PROGRAM} check APP [OPTIONS]` tries everything a start needs, shows the resolved configuration
and does not serve.

Durations and sizes take units: 30s, 5m, 1h30m, 500ms; 16KiB, 1MB. Every option can also be set by
a variable (--log-level: POUNCE_LOG_LEVEL; APP: {APP_ENV}) or in a file (log_level = "debug"): the
one that --config or {CONFIG_ENV} names, else pounce.toml or [tool.pounce] of pyproject.toml in the
working directory. Flags come before variables, variables before the file.
"""

_CHECK_HELP = """Try everything that a start with the same options needs: load the application and
the certificates, bind every address and close it again. Print the resolved configuration with
what set each value; secrets are hidden. The exit status is not 0 when there is a fault.
"""

check: Final = _command("check", _check, _CHECK_HELP)
serve: Final = _command(PROGRAM, _serve, _SERVE_HELP)
