"""Command line, environment, file and default: which one counts, and what is wrong in them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pounce.config import OPTIONS, ResolvedConfig, ServerConfig, resolve_config
from pounce.config.sources import read_cli, read_environment, read_fallbacks, read_file
from pounce.errors import ConfigError
from tests.config.test_server_config import NOT_DEFAULT


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, so that no file of the developer is read."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def resolve(
    cli: Mapping[str, object] | None = None,
    env: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> ResolvedConfig:
    return resolve_config(cli, env=env or {}, file=file, by_flag=True)


def faults(
    cli: Mapping[str, object] | None = None,
    env: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        resolve(cli, env, file)
    return str(caught.value).splitlines()


def test_nothing_set_anywhere_gives_the_defaults() -> None:
    resolved = resolve()
    assert resolved.config == ServerConfig()
    assert resolved.sources == {}
    assert resolved.warnings == ()


def test_each_source_counts_before_the_next(directory: Path) -> None:
    (directory / "pounce.toml").write_text(
        'host = "file"\nport = 1\nbacklog = 2\nlog_level = "error"\nworkers = 3\n'
    )
    resolved = resolve(
        {"host": "cli"},
        {"POUNCE_HOST": "env", "POUNCE_PORT": "4", "WEB_CONCURRENCY": "9"},
    )
    config = resolved.config
    assert (config.host, config.port, config.backlog) == ("cli", 4, 2)
    assert (config.log_level, config.workers) == ("error", 3)
    assert resolved.sources == {
        "host": "--host",
        "port": "POUNCE_PORT",
        "backlog": "pounce.toml",
        "log_level": "pounce.toml",
        "workers": "pounce.toml",
    }


@given(
    st.sets(st.sampled_from(["cli", "env", "file", "fallback"])),
    st.permutations([1, 2, 3, 4]),
)
def test_the_first_source_that_sets_an_option_wins(present: set[str], values: list[int]) -> None:
    value = dict(zip(["cli", "env", "file", "fallback"], values, strict=True))
    settings = {
        "cli": read_cli(OPTIONS, {"workers": value["cli"]}, by_flag=True),
        "env": read_environment(OPTIONS, {"POUNCE_WORKERS": str(value["env"])}),
        "fallback": read_fallbacks(
            [OPTIONS["workers"]], {"WEB_CONCURRENCY": str(value["fallback"])}
        ),
    }
    for name, layer in settings.items():
        assert layer.values == {"workers": value[name]}
    file = Path("given.toml")
    file.write_text(f"workers = {value['file']}\n" if "file" in present else "")
    env = {}
    if "env" in present:
        env["POUNCE_WORKERS"] = str(value["env"])
    if "fallback" in present:
        env["WEB_CONCURRENCY"] = str(value["fallback"])
    cli = {"workers": value["cli"]} if "cli" in present else {}
    winner = next((name for name in value if name in present), None)
    assert resolve(cli, env, file).config.workers == (value[winner] if winner else 1)


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_is_read_from_its_variable(name: str) -> None:
    option = OPTIONS[name]
    layer = read_environment(OPTIONS, {f"POUNCE_{name.upper()}": NOT_DEFAULT[name]})
    assert layer.values == {name: option.parse(NOT_DEFAULT[name], label=name)}
    assert not layer.errors
    assert not layer.warnings


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_is_read_from_its_key_with_underscores_or_dashes(
    name: str, directory: Path
) -> None:
    expected = OPTIONS[name].parse(NOT_DEFAULT[name], label=name)
    for key in (name, name.replace("_", "-")):
        file = directory / f"{key}.toml"
        file.write_text(f"{key} = '''{NOT_DEFAULT[name]}'''\n")
        layer = read_file(OPTIONS, file)
        assert layer.values == {name: expected}
        assert layer.origins == {name: str(file)}


def test_values_of_a_file_keep_their_types(directory: Path) -> None:
    file = directory / "all.toml"
    file.write_text(
        """
        port = 8_443
        workers = 2
        reload = true
        reload-dirs = ["a", "b"]
        timeout_keep_alive = 2.5
        limit_request_body = 0
        ssl_minimum_version = 1.3
        ssl_cert_reqs = 0
        headers = { X-A = "1", X-B = "2" }
        """
    )
    config = resolve(file=file).config
    assert (config.port, config.workers, config.reload) == (8443, 2, True)
    assert (config.reload_dirs, config.timeout_keep_alive) == (("a", "b"), 2.5)
    assert (config.limit_request_body, config.ssl_minimum_version) == (0, "1.3")
    assert config.headers == (("X-A", "1"), ("X-B", "2"))


def test_own_file_counts_and_the_project_file_is_not_looked_at(directory: Path) -> None:
    (directory / "pyproject.toml").write_text("[tool.pounce]\nport = 1\nbacklog = 5\n")
    assert resolve().config.port == 1
    assert resolve().sources["port"] == "pyproject.toml [tool.pounce]"
    (directory / "pounce.toml").write_text("port = 2\n")
    assert (resolve().config.port, resolve().config.backlog) == (2, 2048)


@pytest.mark.parametrize("content", ["", "[tool.black]\n", "[project]\nname = 'x'\n", "tool = 3\n"])
def test_project_file_without_a_table_for_us_says_nothing(directory: Path, content: str) -> None:
    (directory / "pyproject.toml").write_text(content)
    assert resolve().config == ServerConfig()


def test_named_file_counts_in_place_of_those_in_the_directory(directory: Path) -> None:
    (directory / "pounce.toml").write_text("port = 1\nbacklog = 5\n")
    (directory / "other.toml").write_text("port = 2\n")
    (directory / "third.toml").write_text("port = 3\n")
    env = {"POUNCE_CONFIG": "other.toml"}
    assert resolve(env=env).config == ServerConfig(port=2)
    assert not resolve(env=env).warnings
    assert resolve(env=env, file=directory / "third.toml").config.port == 3
    assert resolve(env={"POUNCE_CONFIG": ""}).config.port == 1


def test_named_project_file_must_have_our_table(directory: Path) -> None:
    file = directory / "sub" / "pyproject.toml"
    file.parent.mkdir()
    file.write_text("[tool.pounce]\nport = 7\n")
    assert resolve(file=file).config.port == 7
    for content in ("[project]\nname = 'x'\n", "[tool]\npounce = 1\n"):
        file.write_text(content)
        assert faults(file=file) == [f"{file}: has no table [tool.pounce]"]


def test_project_file_whose_entry_for_us_is_no_table_is_a_fault(directory: Path) -> None:
    (directory / "pyproject.toml").write_text("[tool]\npounce = 1\n")
    assert faults() == ["pyproject.toml: has no table [tool.pounce]"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"port 1", "not valid TOML: Expected '=' after a key"),
        (b"port = 1\nport = 2\n", "not valid TOML: Cannot overwrite a value"),
        (b"\xff", "not valid TOML: 'utf-8' codec can't decode"),
        (b"a = " + b"[" * 100_000, "not valid TOML: nested too deeply"),
    ],
)
def test_file_that_is_not_toml_is_a_fault(directory: Path, content: bytes, message: str) -> None:
    file = directory / "broken.toml"
    file.write_bytes(content)
    (fault,) = faults(file=file)
    assert fault.startswith(f"{file}: {message}")


def test_file_that_cannot_be_read_is_a_fault(directory: Path) -> None:
    assert faults(file=Path("missing.toml")) == ["missing.toml: no such file or directory"]
    assert faults(env={"POUNCE_CONFIG": "gone.toml"}) == ["gone.toml: no such file or directory"]
    assert faults(file=directory) == [f"{directory}: is a directory"]


def test_unknown_keys_are_faults_with_a_suggestion(directory: Path) -> None:
    file = directory / "pounce.toml"
    file.write_text("prot = 1\nreload-dir = 'x'\nqwertyuiop = 1\n[server]\nport = 1\n")
    assert faults() == [
        "pounce.toml: unknown key 'prot'; did you mean port?",
        "pounce.toml: unknown key 'reload-dir'; did you mean reload_dirs?",
        "pounce.toml: unknown key 'qwertyuiop'",
        "pounce.toml: unknown key 'server'",
    ]


def test_key_in_both_spellings_is_a_fault(directory: Path) -> None:
    (directory / "pounce.toml").write_text("log_level = 'info'\nlog-level = 'debug'\n")
    assert faults() == ["pounce.toml: 'log-level' is there twice, with a dash and an underscore"]


def test_unknown_variable_is_a_warning_with_a_suggestion() -> None:
    resolved = resolve(env={"POUNCE_PROT": "1", "POUNCE_QWERTYUIOP": "x", "OTHER_PORT": "2"})
    assert resolved.config == ServerConfig()
    assert resolved.warnings == (
        "POUNCE_PROT names no option; did you mean POUNCE_PORT?",
        "POUNCE_QWERTYUIOP names no option",
    )


def test_unknown_option_of_a_call_is_a_fault_with_a_suggestion() -> None:
    assert faults({"prot": 1}) == ["unknown option 'prot'; did you mean port?"]


def test_every_fault_of_every_source_is_told_with_what_the_user_wrote(directory: Path) -> None:
    (directory / "pounce.toml").write_text("backlog = 0\nuds_permissions = 440\n")
    assert faults({"port": "x", "reload_dirs": ("",)}, {"POUNCE_LOOP": "trio"}) == [
        "--port: expected a whole number from 0 to 65535, got 'x'",
        "--reload-dir: expected text that is not empty, got ('',)",
        "POUNCE_LOOP: expected auto, uvloop or asyncio, got 'trio'",
        "pounce.toml: backlog: expected a whole number from 1, got 0",
        'pounce.toml: uds_permissions: expected an octal file mode as text, such as "660", got 440',
    ]


def test_a_call_is_told_its_faults_by_the_name_of_the_option() -> None:
    with pytest.raises(ConfigError, match=r"^port: expected a whole number"):
        ServerConfig.load({"port": "x"}, env={})


def test_empty_variable_counts_as_not_set() -> None:
    env = {"POUNCE_PORT": "", "WEB_CONCURRENCY": "", "POUNCE_CONFIG": "", "POUNCE_APP": "a:b"}
    resolved = resolve(env=env)
    assert resolved.config == ServerConfig()
    assert not resolved.warnings


@pytest.mark.parametrize(
    ("name", "variable", "value", "expected"),
    [
        ("workers", "WEB_CONCURRENCY", "4", 4),
        ("forwarded_allow_ips", "FORWARDED_ALLOW_IPS", "*", "*"),
    ],
)
def test_variables_of_other_servers_are_read_last(
    name: str, variable: str, value: str, expected: object
) -> None:
    resolved = resolve(env={variable: value})
    assert getattr(resolved.config, name) == expected
    assert resolved.sources == {name: variable}
    own = {f"POUNCE_{name.upper()}": NOT_DEFAULT[name], variable: "malformed but not looked at"}
    assert resolve(env=own).sources == {name: f"POUNCE_{name.upper()}"}
    (fault,) = faults(env={variable: "malformed"})
    assert fault.startswith(f"{variable}: expected ")


def test_contradictions_between_sources_are_faults() -> None:
    assert faults({"uds": "/s"}, {"POUNCE_FD": "3"}) == ["uds and fd exclude each other"]


def test_environment_of_the_process_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POUNCE_BACKLOG", "77")
    assert resolve_config().config.backlog == 77
    assert resolve_config(env={}).config.backlog == 2048
