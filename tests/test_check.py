"""`pounce check`: what it tries, what it tells and what it leaves behind (nothing)."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from pounce.cli import main
from pounce.config import OPTIONS


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with an application; logging and imports as they were before, afterwards."""
    (tmp_path / "site_of_check.py").write_text(
        "async def app(scope, receive, send): ...\n"
        "class Application:\n"
        "    async def __call__(self, scope, receive, send): ...\n"
        "instance = Application()\n"
    )
    (tmp_path / "broken_of_check.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("POUNCE_") or name in ("WEB_CONCURRENCY", "FORWARDED_ALLOW_IPS"):
            monkeypatch.delenv(name)
    logger = logging.getLogger("pounce")
    handlers, level, propagate = logger.handlers[:], logger.level, logger.propagate
    path = sys.path[:]
    yield tmp_path
    logger.handlers[:], logger.propagate = handlers, propagate
    logger.setLevel(level)
    sys.path[:] = path
    for name in ("site_of_check", "broken_of_check"):
        sys.modules.pop(name, None)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A socket that listens on a free port of the loopback interface."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


@pytest.fixture
def certificate(project: Path) -> list[str]:
    """The flags of a certificate that fits its key."""
    issued = trustme.CA().issue_cert("localhost")
    issued.private_key_pem.write_to_path(project / "key.pem")
    for blob in issued.cert_chain_pems:
        blob.write_to_path(project / "cert.pem", append=True)
    return ["--ssl-certfile", "cert.pem", "--ssl-keyfile", "key.pem"]


class Outcome:
    def __init__(self, status: int, out: str, err: str) -> None:
        self.status = status
        configuration, _, findings = out.partition("\n\n")
        self.configuration = configuration.splitlines()
        self.findings = findings.splitlines()
        self.faults = err.splitlines()

    def line(self, name: str) -> list[str]:
        (line,) = [line for line in self.configuration if line.split()[:1] == [name]]
        return line.split(maxsplit=1)[1:]


def check(
    capsys: pytest.CaptureFixture[str], *arguments: str, app: str = "site_of_check:app"
) -> Outcome:
    status = main(["check", app, "--port", "0", *arguments])
    captured = capsys.readouterr()
    return Outcome(status, captured.out, captured.err)


def test_sound_set_up_is_told_part_by_part(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = check(capsys, "--loop", "asyncio", "--workers", "2")
    assert (outcome.status, outcome.faults) == (0, [])
    workers, application, address = outcome.findings
    assert workers.startswith("workers: 2 (")
    assert workers.endswith("event loop asyncio")
    assert application == "application: site_of_check:app is loaded (app)"
    assert address.startswith("address: 127.0.0.1 port ")
    assert address.endswith(" can be listened on")


def test_kind_of_an_application_object_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = check(capsys, app="site_of_check:instance")
    assert "application: site_of_check:instance is loaded (Application)" in outcome.findings


def test_configuration_is_shown_with_what_set_it(
    capsys: pytest.CaptureFixture[str], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "pounce.toml").write_text("limit_request_body = '16MiB'\nworkers = 2\n")
    monkeypatch.setenv("POUNCE_TIMEOUT_KEEP_ALIVE", "90")
    monkeypatch.setenv("POUNCE_HEADERS", "X-A: 1\nX-B: 2")
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    outcome = check(capsys)
    assert outcome.status == 0
    shown = [line.split()[0] for line in outcome.configuration if line.startswith("  ")]
    assert sorted(shown) == sorted(OPTIONS)
    assert outcome.line("port")[0].split() == ["0", "(--port)"]
    assert outcome.line("timeout_keep_alive")[0].split() == ["1m30s", "(POUNCE_TIMEOUT_KEEP_ALIVE)"]
    assert outcome.line("limit_request_body")[0].split() == ["16MiB", "(pounce.toml)"]
    assert outcome.line("forwarded_allow_ips")[0].split() == ["*", "(FORWARDED_ALLOW_IPS)"]
    assert outcome.line("headers")[0].startswith("X-A: 1; X-B: 2")
    assert outcome.line("host") == ["127.0.0.1"]
    assert outcome.line("uds") == ["not set"]


def test_secrets_are_not_shown(
    capsys: pytest.CaptureFixture[str], certificate: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POUNCE_SSL_KEYFILE_PASSWORD", "open sesame")
    outcome = check(capsys, *certificate)
    everything = outcome.configuration + outcome.findings + outcome.faults
    assert not [line for line in everything if "sesame" in line]
    assert outcome.line("ssl_keyfile_password")[0].split()[0] == "***"


def test_certificate_is_loaded(capsys: pytest.CaptureFixture[str], certificate: list[str]) -> None:
    outcome = check(capsys, *certificate)
    assert outcome.status == 0
    assert "TLS: cert.pem is in order" in outcome.findings


def test_certificate_that_does_not_fit_its_key_is_a_fault(
    capsys: pytest.CaptureFixture[str], certificate: list[str], project: Path
) -> None:
    other = trustme.CA().issue_cert("localhost")
    other.private_key_pem.write_to_path(project / "key.pem")
    outcome = check(capsys, *certificate)
    assert outcome.status == 1
    (fault,) = outcome.faults
    assert fault.startswith("pounce: error: ")
    assert "key.pem" in fault


def test_port_in_use_is_a_fault(
    capsys: pytest.CaptureFixture[str], listener: socket.socket
) -> None:
    port = listener.getsockname()[1]
    outcome = check(capsys, "--port", str(port))
    assert outcome.status == 1
    (fault,) = outcome.faults
    assert str(port) in fault


def test_port_is_free_again_afterwards(
    capsys: pytest.CaptureFixture[str], listener: socket.socket
) -> None:
    port = listener.getsockname()[1]
    listener.close()
    for _ in range(2):
        assert check(capsys, "--port", str(port)).status == 0
    socket.create_server(("127.0.0.1", port)).close()


def test_file_of_a_unix_socket_is_not_left_behind(
    capsys: pytest.CaptureFixture[str], short_tmp_path: Path
) -> None:
    path = short_tmp_path / "s"
    outcome = check(capsys, "--uds", str(path))
    assert outcome.status == 0
    assert f"address: {path} can be listened on" in outcome.findings
    assert not path.exists()


def test_unix_socket_of_a_running_server_is_left_alone(
    capsys: pytest.CaptureFixture[str], short_tmp_path: Path
) -> None:
    path = str(short_tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(path)
        server.listen()
        outcome = check(capsys, "--uds", path)
        assert outcome.status == 1
        assert len(outcome.faults) == 1
        client.connect(path)


def test_polling_is_noted_where_watchfiles_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for installed in (True, False):
        monkeypatch.setattr(
            "importlib.util.find_spec", lambda name, package=None, found=installed: found or None
        )
        outcome = check(capsys, "--reload", "--loop", "asyncio")
        assert outcome.status == 0
        assert any("pounce[reload]" in line for line in outcome.findings) is not installed


def test_loop_that_is_not_installed_is_a_fault(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    outcome = check(capsys, "--loop", "uvloop")
    assert (outcome.status, outcome.faults) == (2, ["pounce: error: loop: uvloop is not installed"])
    assert check(capsys).status == 0


def test_access_log_that_cannot_be_written_is_a_fault_and_no_file_is_made(
    capsys: pytest.CaptureFixture[str], project: Path
) -> None:
    outcome = check(capsys, "--access-log-file", "gone/access.log")
    assert (outcome.status, len(outcome.faults)) == (2, 1)
    assert "gone/access.log" in outcome.faults[0]
    assert check(capsys, "--access-log-file", "gone/access.log", "--no-access-log").status == 0
    assert check(capsys, "--access-log-file", "access.log").status == 0
    assert not (project / "access.log").exists()


def test_log_config_is_tried(capsys: pytest.CaptureFixture[str], project: Path) -> None:
    (project / "log.json").write_text('{"version": 1, "disable_existing_loggers": false}')
    outcome = check(capsys, "--log-config", "log.json")
    assert outcome.status == 0
    assert "log_config: log.json is in order" in outcome.findings
    (project / "log.json").write_text("{")
    outcome = check(capsys, "--log-config", "log.json")
    assert outcome.status == 2
    assert "log.json" in outcome.faults[0]


def test_error_of_the_application_is_shown_and_the_rest_is_still_tried(
    capsys: pytest.CaptureFixture[str], project: Path
) -> None:
    outcome = check(capsys, "--reload", app="broken_of_check:app")
    assert outcome.status == 1
    assert outcome.faults[1] == f'  File "{project}/broken_of_check.py", line 1, in <module>'
    assert "ZeroDivisionError: division by zero" in outcome.faults
    assert outcome.faults[-1] == (
        'pounce: error: application "broken_of_check:app" could not be loaded, see above'
    )
    assert any(line.startswith("address: ") for line in outcome.findings)


def test_every_fault_is_told_and_the_first_gives_the_status(
    capsys: pytest.CaptureFixture[str], listener: socket.socket
) -> None:
    port = str(listener.getsockname()[1])
    outcome = check(
        capsys, "--port", port, "--ssl-certfile", "gone.pem", "--log-config", "gone.json",
        app="nowhere:app",
    )  # fmt: skip
    assert outcome.status == 2
    log_config, application, tls, address = outcome.faults
    assert "gone.json" in log_config
    assert application.startswith('pounce: error: module "nowhere" was not found')
    assert "gone.pem" in tls
    assert port in address


def test_fault_of_the_configuration_leaves_nothing_to_check(
    capsys: pytest.CaptureFixture[str],
) -> None:
    outcome = check(capsys, "--backlog", "0")
    assert (outcome.status, outcome.configuration) == (2, [])
    assert outcome.faults == ["pounce: error: --backlog: expected a whole number from 1, got '0'"]
