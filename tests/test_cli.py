"""The command: from arguments to a running server, and every way not to get there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import click
import pytest

import pounce
from pounce import ctl
from pounce.cli import main
from pounce.commands import serve
from pounce.config import OPTIONS, ServerConfig
from pounce.config.options import Group
from pounce.errors import BindError, ConfigError, LifespanError, PounceError, TLSError
from tests.config.test_server_config import NOT_DEFAULT


class RecordingServer:
    """Stands in for the server: keeps what it was given, and ends as it is told to."""

    made: ClassVar[list[RecordingServer]] = []
    outcome: ClassVar[BaseException | None] = None

    def __init__(
        self,
        config: ServerConfig,
        app: Any,
        *,
        app_path: str,
        reload_config: Callable[[], ServerConfig],
    ) -> None:
        self.reload_config = reload_config
        self.config = config
        self.app = app
        self.app_path = app_path
        self.runs = 0
        self.made.append(self)

    def run(self) -> None:
        self.runs += 1
        if self.outcome is not None:
            raise self.outcome

    def end_process_if_overdue(self) -> None:
        assert self.runs


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with an application, in which no server is really started."""
    (tmp_path / "site_of_cli.py").write_text(
        "async def app(scope, receive, send): ...\ndef create(): return app\n"
    )
    (tmp_path / "broken_of_cli.py").write_text("import not_there_at_all\n")
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("POUNCE_") or name in ("WEB_CONCURRENCY", "FORWARDED_ALLOW_IPS"):
            monkeypatch.delenv(name)
    monkeypatch.setattr("pounce.server.Server", RecordingServer)
    monkeypatch.setattr(RecordingServer, "made", [])
    monkeypatch.setattr(RecordingServer, "outcome", None)
    path = sys.path[:]
    yield tmp_path
    sys.path[:] = path
    for name in ("site_of_cli", "broken_of_cli"):
        sys.modules.pop(name, None)


APP = "site_of_cli:app"


def started(*arguments: str) -> RecordingServer:
    """The server that the command made and ran."""
    assert main(arguments) == 0
    (server,) = RecordingServer.made
    RecordingServer.made.clear()
    assert server.runs == 1
    return server


def test_application_is_loaded_and_served() -> None:
    server = started(APP)
    assert server.config == ServerConfig()
    assert server.app is sys.modules["site_of_cli"].app
    assert server.app_path == APP


def test_options_may_stand_on_both_sides_of_the_application() -> None:
    config = started("--port", "1", APP, "--host=::1", "--no-access-log").config
    assert (config.port, config.host, config.access_log) == (1, "::1", False)


@pytest.mark.parametrize(
    "arguments", [["site_of_cli:create()"], ["site_of_cli:create", "--factory"]]
)
def test_factory_is_called(arguments: list[str]) -> None:
    server = started(*arguments)
    assert server.app is sys.modules["site_of_cli"].app
    assert server.app_path == arguments[0]


@pytest.mark.parametrize("app", [APP, "broken_of_cli:app", "nowhere:app"])
def test_with_reload_the_application_is_left_to_the_watcher(app: str) -> None:
    server = started(app, "--reload")
    assert server.app is None
    assert server.app_path == app
    assert server.config.reload
    assert "broken_of_cli" not in sys.modules


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_has_its_flag(name: str) -> None:
    option = OPTIONS[name]
    text = NOT_DEFAULT[name]
    needed: Mapping[str, list[str]] = {"ssl_cert_reqs": ["--ssl-ca-certs", "ca.pem"]}
    arguments = list(needed.get(name, []))
    if name.startswith("ssl_") and name != "ssl_certfile":
        arguments += ["--ssl-certfile", "cert.pem"]
    if option.is_switch:
        arguments.append(option.flags[text == "false"])
    elif option.is_repeated:
        for part in text.replace("\n", ",").split(",") if name != "ssl_sni_certs" else ["a=b"]:
            arguments += [option.flag, part]
    else:
        arguments += [option.flag, text]
    # What would have to be loaded from elsewhere is none of this test's business.
    if name in ("app_dir", "factory"):
        arguments.append("--reload")
    expected = ("a=b",) if name == "ssl_sni_certs" else option.parse(text, label=name)
    assert getattr(started(APP, *arguments).config, name) == expected


@pytest.mark.parametrize("name", [name for name, o in OPTIONS.items() if o.is_switch])
def test_switches_have_both_forms(name: str) -> None:
    # With --reload the value of --factory does not matter to loading.
    for value, flag in zip((True, False), OPTIONS[name].flags, strict=True):
        other = [] if name == "reload" else ["--reload"]
        assert getattr(started(APP, flag, *other).config, name) is value


def test_flags_come_before_variables_and_file(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "pounce.toml").write_text("port = 1\nbacklog = 2\nworkers = 3\n")
    monkeypatch.setenv("POUNCE_PORT", "4")
    monkeypatch.setenv("POUNCE_BACKLOG", "5")
    config = started(APP, "--port", "6").config
    assert (config.port, config.backlog, config.workers) == (6, 5, 3)


def test_switch_that_is_not_given_does_not_hide_the_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("POUNCE_ACCESS_LOG", "off")
    monkeypatch.setenv("POUNCE_RELOAD_DIRS", "a,b")
    config = started(APP).config
    assert config.access_log is False
    assert config.reload_dirs == ("a", "b")


def test_file_can_be_named(project: Path) -> None:
    (project / "pounce.toml").write_text("port = 1\n")
    (project / "other.toml").write_text("backlog = 2\n")
    config = started(APP, "--config", "other.toml").config
    assert (config.port, config.backlog) == (8000, 2)


def test_application_can_be_named_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POUNCE_APP", APP)
    assert started("--port", "1").app_path == APP
    assert started("site_of_cli:create()").app_path == "site_of_cli:create()"


UVICORN = [
    (["--host", "0.0.0.0"], {"host": "0.0.0.0"}),
    (["--port", "80"], {"port": 80}),
    (["--uds", "/run/x.sock"], {"uds": "/run/x.sock"}),
    (["--fd", "3"], {"fd": 3}),
    (["--reload"], {"reload": True}),
    (["--reload-dir", "a", "--reload-dir", "b"], {"reload_dirs": ("a", "b")}),
    (["--reload-include", "*.html"], {"reload_includes": ("*.html",)}),
    (["--reload-exclude", "*.log"], {"reload_excludes": ("*.log",)}),
    (["--reload-delay", "0.5"], {"reload_delay": 0.5}),
    (["--workers", "2"], {"workers": 2}),
    (["--loop", "uvloop"], {"loop": "uvloop"}),
    (["--loop", "asyncio"], {"loop": "asyncio"}),
    (["--lifespan", "on"], {"lifespan": "on"}),
    (["--log-config", "log.json"], {"log_config": "log.json"}),
    (["--log-level", "trace"], {"log_level": "trace"}),
    (["--access-log"], {"access_log": True}),
    (["--no-access-log"], {"access_log": False}),
    (["--use-colors"], {"use_colors": True}),
    (["--no-use-colors"], {"use_colors": False}),
    (["--proxy-headers"], {"proxy_headers": True}),
    (["--no-proxy-headers"], {"proxy_headers": False}),
    (["--no-server-header"], {"server_header": False}),
    (["--no-date-header"], {"date_header": False}),
    (["--forwarded-allow-ips", "*"], {"forwarded_allow_ips": "*"}),
    (["--forwarded-allow-ips", "10.0.0.1,::1"], {"forwarded_allow_ips": "10.0.0.1,::1"}),
    (["--root-path", "/api"], {"root_path": "/api"}),
    (["--limit-concurrency", "100"], {"limit_concurrency": 100}),
    (["--backlog", "128"], {"backlog": 128}),
    (["--timeout-keep-alive", "5"], {"timeout_keep_alive": 5.0}),
    (["--timeout-graceful-shutdown", "10"], {"timeout_graceful_shutdown": 10.0}),
    (
        ["--ssl-keyfile", "k", "--ssl-certfile", "c", "--ssl-keyfile-password", "p"],
        {"ssl_keyfile": "k", "ssl_certfile": "c", "ssl_keyfile_password": "p"},
    ),
    (
        ["--ssl-certfile", "c", "--ssl-ca-certs", "a", "--ssl-cert-reqs", "2"],
        {"ssl_ca_certs": "a", "ssl_cert_reqs": "required"},
    ),
    (["--ssl-certfile", "c", "--ssl-ciphers", "ECDHE"], {"ssl_ciphers": "ECDHE"}),
    (
        ["--header", "X-A:1", "--header", "X-B: 2"],
        {"headers": (("X-A", "1"), ("X-B", "2"))},
    ),
    (["--app-dir", "."], {"app_dir": "."}),
    (["--ws", "auto"], {"ws": "auto"}),
    (["--ws", "none"], {"ws": "none"}),
    (["--ws", "websockets-sansio"], {"ws": "on"}),
    (["--ws-max-size", "16777216"], {"ws_max_size": 16777216}),
    (["--ws-max-queue", "32"], {"ws_max_queue": 32}),
    (["--ws-ping-interval", "20.0"], {"ws_ping_interval": 20.0}),
    (["--ws-ping-timeout", "20.0"], {"ws_ping_timeout": 20.0}),
]


@pytest.mark.parametrize(("arguments", "expected"), UVICORN)
def test_flags_of_uvicorn_mean_the_same(arguments: list[str], expected: dict[str, object]) -> None:
    config = started(APP, *arguments).config
    assert {name: getattr(config, name) for name in expected} == expected


def test_flag_of_uvicorn_for_a_factory_means_the_same() -> None:
    assert started("site_of_cli:create", "--factory").config.factory


def test_every_flag_of_the_installed_uvicorn_is_taken_or_known_not_to_be() -> None:
    uvicorn_main = pytest.importorskip("uvicorn.main")
    theirs = {flag for p in uvicorn_main.main.params for flag in (*p.opts, *p.secondary_opts)}
    ours = {flag for p in serve.params for flag in (*p.opts, *p.secondary_opts)}
    other_meaning_or_none = {
        *("app", "--http", "--http2", "--interface", "--env-file", "--ssl-version"),
        *("--ws-per-message-deflate", "--h11-max-incomplete-event-size", "--reset-contextvars"),
        *("--limit-max-requests", "--limit-max-requests-jitter", "--timeout-worker-healthcheck"),
    }
    assert theirs - ours - other_meaning_or_none == set()


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


def test_unknown_option_gets_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([APP, "--timeout-keepalive", "5"]) == 2
    *_, last = lines_of(capsys)
    assert "--timeout-keepalive" in last
    assert "--timeout-keep-alive" in last
    assert not RecordingServer.made


@pytest.mark.parametrize("arguments", [[], ["check"], ["--port", "1"]])
def test_missing_application_is_a_usage_error(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert "Missing argument 'APP'" in lines_of(capsys)[-1]


def test_every_fault_of_the_configuration_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([APP, "--port", "x", "--log-level", "loud"]) == 2
    assert lines_of(capsys) == [
        "pounce: error: --port: expected a whole number from 0 to 65535, got 'x'",
        "pounce: error: --log-level: expected critical, error, warning, info, debug or trace, "
        "got 'loud'",
    ]


def test_unknown_variable_is_a_warning(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POUNCE_PROT", "1")
    started(APP)
    assert lines_of(capsys) == [
        "pounce: warning: POUNCE_PROT names no option; did you mean POUNCE_PORT?"
    ]


def test_wrong_import_string_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["site_of_cli:ap"]) == 1
    assert lines_of(capsys) == [
        'pounce: error: module "site_of_cli" has no attribute "ap"; did you mean "app"?'
    ]


def test_error_of_the_application_is_shown_with_its_traceback(
    capsys: pytest.CaptureFixture[str], project: Path
) -> None:
    assert main(["broken_of_cli:app"]) == 1
    lines = lines_of(capsys)
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1] == f'  File "{project}/broken_of_cli.py", line 1, in <module>'
    assert "ModuleNotFoundError: No module named 'not_there_at_all'" in lines
    assert lines[-1] == (
        'pounce: error: application "broken_of_cli:app" could not be loaded, see above'
    )
    assert not RecordingServer.made


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ConfigError("no"), 2),
        (BindError("port 80 on ::1 is in use"), 1),
        (TLSError("no"), 1),
        (LifespanError("no"), 3),
    ],
)
def test_error_of_the_server_is_one_line_and_its_exit_status(
    error: PounceError,
    status: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(RecordingServer, "outcome", error)
    assert main([APP]) == status
    assert lines_of(capsys) == [f"pounce: error: {error}"]


def test_interrupt_ends_without_a_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RecordingServer, "outcome", KeyboardInterrupt())
    assert main([APP]) == 130
    assert lines_of(capsys) == []


@pytest.mark.parametrize("error", [RuntimeError("a bug"), BrokenPipeError(32, "Broken pipe")])
def test_a_bug_is_not_hidden(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RecordingServer, "outcome", error)
    with pytest.raises(type(error)):
        main([APP])


@pytest.mark.parametrize("arguments", [["--version"], ["check", "--version"]])
def test_version_names_the_server_and_the_interpreter(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 0
    output = capsys.readouterr().out
    assert output.startswith(f"pounce {pounce.__version__} (")
    assert f" {sys.version_info.major}.{sys.version_info.minor}." in output
    assert output.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["check", "--help"]])
def test_help_has_every_flag_under_its_group(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 0
    output = capsys.readouterr().out
    group = ""
    found = set()
    for line in output.splitlines():
        if line.endswith(":") and not line.startswith(" "):
            group = line[:-1]
        found |= {(group, word) for word in line.split() if word.startswith("--")}
    for option in OPTIONS.values():
        for flag in option.flags:
            assert (option.group.value, flag) in found
    assert ("Options", "--config") in found
    assert [heading for heading in Group if f"\n{heading}:\n" not in output] == []


def test_help_tells_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    output = " ".join(capsys.readouterr().out.split())
    for default in ("[default: 127.0.0.1]", "[default: 64KiB]", "[default: 30s]", "[default: on]"):
        assert default in output


def test_words_of_a_choice_are_completed() -> None:
    parameter = next(p for p in serve.params if p.name == "log_level")
    context = click.Context(serve)
    assert [item.value for item in parameter.shell_complete(context, "e")] == ["error"]


# The working directory is that of the application, so that the package must be on the path.
ENVIRONMENT = {"PYTHONPATH": str(Path(pounce.__file__).parents[1]), "PYTHONUNBUFFERED": "1"}


def run_module(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pounce", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **ENVIRONMENT, **environment},
    )


def test_module_is_the_command() -> None:
    done = run_module("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("pounce ")


def test_exit_status_reaches_the_shell() -> None:
    done = run_module("nowhere:app")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        'pounce: error: module "nowhere" was not found (import string "nowhere:app")\n'
    )
    assert run_module("nowhere:app", "--port", "x").returncode == 2
    assert run_module("nowhere:app", POUNCE_PORT="x").returncode == 2


def test_interrupt_while_the_application_is_imported_ends_without_a_traceback(
    project: Path,
) -> None:
    (project / "slow_of_cli.py").write_text(
        "import signal, threading\n"
        # A shell starts programs in the background with SIGINT ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "print('importing')\n"
        "threading.Event().wait(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-m", "pounce", "slow_of_cli:app"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **ENVIRONMENT},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 130


def test_ctl_loads_neither_the_server_nor_its_configuration() -> None:
    """It is used in scripts that ask often."""
    code = "import sys, pounce.ctl; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    loaded = result.stdout.split()
    assert "pounce.supervisor.control_client" in loaded
    assert not {"pounce.server", "pounce.config", "uvloop", "h11"} & set(loaded)


def test_ctl_knows_the_variable_of_the_option() -> None:
    assert OPTIONS["control_socket"].env == ctl._SOCKET_ENV


def test_everything_that_the_package_offers_is_there() -> None:
    for name in pounce.__all__:
        assert getattr(pounce, name) is not None
    assert set(pounce.__all__) <= set(dir(pounce))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        pounce.nothing  # noqa: B018
