"""ServerConfig: its values, their checks and what is made of them."""

from __future__ import annotations

import dataclasses
import logging
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import pounce.config.server_config
from pounce.config import OPTIONS, ServerConfig
from pounce.config.options import Group, grouped
from pounce.errors import ConfigError

NOT_DEFAULT: Mapping[str, str] = {
    "host": "::",
    "port": "8001",
    "uds": "/run/pounce.sock",
    "uds_permissions": "600",
    "uds_owner": "www-data:www-data",
    "fd": "3",
    "bind": "127.0.0.1:8001,unix:/run/pounce.sock",
    "backlog": "128",
    "factory": "true",
    "app_dir": "src",
    "root_path": "/api",
    "lifespan": "off",
    "workers": "auto",
    "worker_mode": "thread",
    "supervise": "true",
    "max_requests": "1000",
    "max_requests_jitter": "100",
    "max_lifetime": "1h",
    "max_lifetime_jitter": "5m",
    "max_concurrent_replacements": "2",
    "socket_strategy": "shared",
    "control_socket": "/run/pounce.ctl",
    "pidfile": "/run/pounce.pid",
    "user": "www-data",
    "group": "www-data",
    "umask": "027",
    "loop": "asyncio",
    "max_rss": "512MiB",
    "max_rss_growth": "256MiB",
    "rss_settle_time": "2m",
    "worker_stall_timeout": "10s",
    "max_error_rate": "20",
    "error_rate_window": "5m",
    "error_rate_min_requests": "10",
    "max_open_fds": "80",
    "max_stuck_threads": "4",
    "thread_stall_timeout": "5m",
    "max_health_recycles": "3",
    "reload": "true",
    "reload_dirs": "src,lib",
    "reload_includes": "*.html",
    "reload_excludes": "tmp*,*.log",
    "reload_delay": "1s",
    "debug": "true",
    "log_level": "trace",
    "log_format": "json",
    "log_config": "logging.json",
    "use_colors": "false",
    "access_log": "false",
    "access_log_file": "access.log",
    "access_log_format": "%(h)s %(s)s",
    "limit_request_line": "4KiB",
    "limit_request_fields": "50",
    "limit_request_head": "16KiB",
    "limit_request_body": "1MB",
    "limit_request_body_rate": "1KiB",
    "limit_concurrency": "none",
    "limit_keep_alive_requests": "0",
    "timeout_first_byte": "1s",
    "timeout_request_head": "2s",
    "timeout_request_body": "3s",
    "timeout_keep_alive": "4s",
    "timeout_write": "6s",
    "timeout_tls_handshake": "7s",
    "timeout_graceful_shutdown": "1m30s",
    "timeout_worker_boot": "2m",
    "shutdown_delay": "5s",
    "ssl_keyfile": "key.pem",
    "ssl_certfile": "cert.pem",
    "ssl_keyfile_password": "open sesame",
    "ssl_ca_certs": "ca.pem",
    "ssl_ciphers": "ECDHE+AESGCM",
    "ssl_cert_reqs": "required",
    "ssl_minimum_version": "1.3",
    "ssl_sni_certs": "a.example=a.pem\n*.b.example=b.pem,b.key",
    "ssl_refresh_interval": "0",
    "server_header": "false",
    "date_header": "false",
    "headers": "X-A: 1\nX-B: 2",
    "http2": "false",
    "http2_cleartext": "true",
    "http2_engine": "h2",
    "http2_max_concurrent_streams": "50",
    "http2_max_header_list_size": "16KiB",
    "http2_header_table_size": "8KiB",
    "http2_stream_window": "128KiB",
    "http2_connection_window": "4MiB",
    "http2_max_frame_size": "32KiB",
    "http2_max_resets": "50",
    "http2_max_control_frames": "100",
    "http2_max_empty_frames": "100",
    "http2_max_continuations": "4",
    "http2_rate_window": "1m",
    "http2_ping_interval": "20s",
    "ws": "on",
    "ws_max_size": "1MiB",
    "ws_max_frame_size": "64KiB",
    "ws_max_queue": "8",
    "ws_ping_interval": "1m",
    "ws_ping_timeout": "none",
    "ws_open_timeout": "5s",
    "ws_idle_timeout": "10m",
    "ws_close_timeout": "3s",
    "ws_per_message_deflate": "false",
    "ws_deflate_window_bits": "15",
    "ws_deflate_takeover": "false",
    "metrics": "true",
    "metrics_bind": "127.0.0.1:9100",
    "metrics_path": "/-/metrics",
    "metrics_allow": "*",
    "proxy_headers": "false",
    "forwarded_allow_ips": "10.0.0.0/8,unix",
}
"""For every option a text that stands for something other than its default."""

CONTRADICTING = frozenset({"fd", "bind", "user", "group", "metrics_bind"})
"""Not to be set together with all the others."""


def faults(**values: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        ServerConfig(**values)
    return str(caught.value).splitlines()


def test_the_examples_cover_every_option() -> None:
    assert list(NOT_DEFAULT) == list(OPTIONS)


def test_the_defaults_are_those_of_the_declaration_in_their_normal_form() -> None:
    config = ServerConfig()
    for name, option in OPTIONS.items():
        value = getattr(config, name)
        assert value == option.default, name
        assert type(value) is type(option.default), name
        assert option.parse(option.kind.format(value), label=name) == value, name


def test_every_option_is_documented_and_belongs_to_a_group() -> None:
    for option in OPTIONS.values():
        assert option.help.endswith("."), option.name
        assert option.help[0].isupper() or option.help.startswith("ASGI"), option.name
        assert option.kind.label, option.name
    assert list(grouped(OPTIONS)) == list(Group)
    assert sum(len(options) for options in grouped(OPTIONS).values()) == len(OPTIONS)


def test_names_of_options_are_unique() -> None:
    flags = [flag for option in OPTIONS.values() for flag in option.flags]
    assert len(set(flags)) == len(flags)
    assert len({option.env for option in OPTIONS.values()}) == len(OPTIONS)


@pytest.mark.parametrize("name", OPTIONS)
def test_text_is_read_for_every_option_and_its_value_is_stable(name: str) -> None:
    option = OPTIONS[name]
    value = option.parse(NOT_DEFAULT[name], label=name)
    assert value != option.default
    assert option.parse(value, label=name) == value
    assert option.parse(option.kind.format(value), label=name) == value


@pytest.mark.parametrize("name", OPTIONS)
def test_a_value_of_the_wrong_kind_is_one_fault_that_names_the_option(name: str) -> None:
    (fault,) = faults(**{name: object()})
    assert fault.startswith(f"{name}: expected ")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"port": 65536}, "port: expected a whole number from 0 to 65535, got 65536"),
        ({"port": "http"}, "port: expected a whole number from 0 to 65535, got 'http'"),
        ({"backlog": 0}, "backlog: expected a whole number from 1, got 0"),
        (
            {"workers": 0},
            "workers: expected a whole number from 1 to 1024, or auto, got 0",
        ),
        ({"loop": "trio"}, "loop: expected auto, uvloop or asyncio, got 'trio'"),
        (
            {"timeout_graceful_shutdown": 0},
            "timeout_graceful_shutdown: expected a duration such as 30s, 1h30m, 500ms or 2.5 "
            "(seconds), above 0, got 0",
        ),
        (
            {"limit_request_body": "10M"},
            "limit_request_body: expected a size such as 16KiB, 1MB or 8190 (bytes), got '10M'",
        ),
        ({"root_path": "api"}, "root_path: expected a path that begins with a slash, got 'api'"),
        ({"app_dir": " "}, "app_dir: expected text that is not empty, got ' '"),
        (
            {"host": ""},
            "host: expected a name or an address ('0.0.0.0' or '::' for all), got ''",
        ),
        (
            {"host": "localhost:8000"},
            "host: expected a name or an address without a port, which has its own option, "
            "got 'localhost:8000'",
        ),
        (
            {"forwarded_allow_ips": "10.0.0.0/8,proxy"},
            "forwarded_allow_ips: expected a comma-separated list of addresses, networks "
            "(10.0.0.0/8), 'unix' and '*', but 'proxy' is none of them, got '10.0.0.0/8,proxy'",
        ),
    ],
)
def test_fault_says_what_is_accepted_and_what_was_given(
    values: dict[str, Any], expected: str
) -> None:
    assert faults(**values) == [expected]


def test_wrong_format_of_the_access_log_is_a_fault_that_names_the_atom() -> None:
    (fault,) = faults(access_log_format="%(h)s %(nope)s")
    assert fault.startswith("access_log_format: ")
    assert "%(nope)s" in fault


def test_every_fault_has_its_line() -> None:
    assert [fault.partition(":")[0] for fault in faults(port=-1, loop="x", backlog=0)] == [
        "port",
        "backlog",
        "loop",
    ]


def test_a_long_value_is_shortened_in_the_message() -> None:
    (fault,) = faults(port="9" * 10_000)
    assert len(fault) < 200


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"uds": "/s", "fd": 3}, ["uds and fd exclude each other"]),
        ({"ssl_keyfile": "k"}, ["ssl_keyfile needs ssl_certfile"]),
        ({"ssl_keyfile_password": "p"}, ["ssl_keyfile_password needs ssl_certfile"]),
        ({"ssl_ca_certs": "c"}, ["ssl_ca_certs needs ssl_certfile"]),
        ({"ssl_ciphers": "c"}, ["ssl_ciphers needs ssl_certfile"]),
        ({"ssl_sni_certs": ["a=b"]}, ["ssl_sni_certs needs ssl_certfile"]),
        (
            {"ssl_keyfile": "k", "ssl_cert_reqs": "optional"},
            ["ssl_keyfile needs ssl_certfile", "ssl_cert_reqs needs ssl_certfile"],
        ),
        (
            {"ssl_certfile": "c", "ssl_cert_reqs": "required"},
            ["ssl_cert_reqs required needs ssl_ca_certs"],
        ),
        (
            {"ssl_certfile": "c", "ssl_cert_reqs": 1},
            ["ssl_cert_reqs optional needs ssl_ca_certs"],
        ),
    ],
)
def test_options_that_contradict_each_other_are_faults(
    values: dict[str, Any], expected: list[str]
) -> None:
    assert faults(**values) == expected


@pytest.mark.parametrize(
    "values",
    [
        {"ssl_certfile": "c"},
        {"ssl_certfile": "c", "ssl_keyfile": "k", "ssl_ca_certs": "a"},
        {"ssl_certfile": "c", "ssl_ca_certs": "a", "ssl_cert_reqs": "required"},
        {"uds": "/s", "port": 1},
        {"reload": True, "workers": 4},
    ],
)
def test_options_that_go_together_are_taken(values: dict[str, Any]) -> None:
    config = ServerConfig(**values)
    assert config.is_tls is ("ssl_certfile" in values)


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("host", "[::1]", "::1"),
        ("host", " localhost ", "localhost"),
        ("host", "fe80::1%eth0", "fe80::1%eth0"),
        ("root_path", "/", ""),
        ("root_path", "/api/", "/api"),
        ("log_level", "WARN", "warning"),
        ("app_dir", Path("src"), "src"),
        ("timeout_keep_alive", "30s", 30.0),
        ("timeout_keep_alive", 30, 30.0),
        ("limit_request_head", "16KiB", 16384),
        ("reload_dirs", ["a", Path("b")], ("a", "b")),
        ("headers", {"X-A": "1"}, (("X-A", "1"),)),
        ("forwarded_allow_ips", " ::1 , UNIX,10.0.0.1/8", "::1,unix,10.0.0.1/8"),
        ("forwarded_allow_ips", "", ""),
        ("forwarded_allow_ips", "*", "*"),
        ("uds", "", None),
    ],
)
def test_values_are_brought_to_their_normal_form(name: str, given: Any, expected: object) -> None:
    value = getattr(ServerConfig(**{name: given}), name)
    assert value == expected
    assert type(value) is type(expected)


def everything_set() -> ServerConfig:
    values: dict[str, Any] = {
        name: text for name, text in NOT_DEFAULT.items() if name not in CONTRADICTING
    }
    return ServerConfig(**values)


def test_configuration_survives_pickling() -> None:
    config = everything_set()
    assert pickle.loads(pickle.dumps(config)) == config
    assert hash(pickle.loads(pickle.dumps(config))) == hash(config)


def test_replace_makes_a_checked_copy() -> None:
    config = everything_set()
    changed = dataclasses.replace(config, port=1234, timeout_write="2m")  # type: ignore[arg-type]
    assert (changed.port, changed.timeout_write) == (1234, 120.0)
    assert dataclasses.replace(changed, port=8001, timeout_write=6.0) == config
    with pytest.raises(ConfigError, match="exclude each other"):
        dataclasses.replace(config, fd=3)


def test_configuration_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ServerConfig().port = 1  # type: ignore[misc]
    with pytest.raises(AttributeError):
        object.__setattr__(ServerConfig(), "prot", 1)


def test_secrets_are_in_no_text_that_is_made_of_the_configuration() -> None:
    config = everything_set()
    secrets = [name for name, option in OPTIONS.items() if option.secret]
    assert secrets == ["ssl_keyfile_password"]
    redacted = config.redacted()
    assert redacted["ssl_keyfile_password"] == "***"
    assert redacted["ssl_keyfile"] == "key.pem"
    assert list(redacted) == list(OPTIONS)
    assert "open sesame" not in repr(config) + repr(redacted)
    assert ServerConfig().redacted()["ssl_keyfile_password"] is None
    (fault,) = faults(ssl_certfile="c", ssl_keyfile_password=12345678)
    assert fault == "ssl_keyfile_password: expected text"


def test_workers_auto_is_the_number_of_available_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pounce.config.server_config, "available_cpus", lambda: 5)
    assert ServerConfig(workers="auto").resolve_workers() == 5
    assert ServerConfig(workers=3).resolve_workers() == 3


def test_load_logs_a_variable_that_names_no_option(
    caplog: pytest.LogCaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.WARNING, "pounce"):
        config = ServerConfig.load({"port": 1}, env={"POUNCE_PROT": "2", "POUNCE_BACKLOG": "3"})
    assert (config.port, config.backlog) == (1, 3)
    assert caplog.messages == ["POUNCE_PROT names no option; did you mean POUNCE_PORT?"]


@pytest.mark.parametrize(
    "name", ["max_rss", "max_rss_growth", "max_error_rate", "max_open_fds", "max_stuck_threads"]
)
def test_limits_of_health_need_a_master(name: str) -> None:
    assert not ServerConfig().is_supervised
    assert ServerConfig(**{name: 1}).is_supervised  # type: ignore[arg-type]


def test_stuck_threads_have_to_be_looked_for() -> None:
    assert faults(max_stuck_threads=1, thread_stall_timeout=0) == [
        "max_stuck_threads needs thread_stall_timeout"
    ]


@pytest.mark.parametrize("name", ["http2", "http2_cleartext"])
def test_http2_names_the_packages_that_it_misses(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pounce.config.server_config.is_installed", lambda package: False)
    with pytest.raises(ConfigError, match=rf"^{name} needs more packages: pip install .*\[h2\]"):
        ServerConfig(**{name: True})  # type: ignore[arg-type]
    assert not ServerConfig(ssl_certfile="cert.pem").offers_http2


def test_http2_is_offered_over_tls_where_it_is_installed() -> None:
    assert ServerConfig(ssl_certfile="cert.pem").offers_http2
    assert not ServerConfig(ssl_certfile="cert.pem", http2=False).offers_http2
    assert not ServerConfig().offers_http2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("http2_connection_window", 65534),
        ("http2_connection_window", 2**31),
        ("http2_stream_window", 2**31),
        ("http2_max_frame_size", 16383),
        ("http2_max_frame_size", 2**24),
    ],
)
def test_http2_sizes_are_those_of_the_protocol(name: str, value: int) -> None:
    with pytest.raises(ConfigError, match=name):
        ServerConfig(**{name: value})  # type: ignore[arg-type]


def test_websockets_that_must_be_need_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ServerConfig(ws="on").serves_websockets
    assert not ServerConfig(ws="none").serves_websockets
    monkeypatch.setattr("pounce.config.server_config.is_installed", lambda package: False)
    assert not ServerConfig().serves_websockets
    with pytest.raises(ConfigError, match=r"pip install 'pounce\[ws\]'"):
        ServerConfig(ws="on")
