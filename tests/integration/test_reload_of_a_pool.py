"""HUP: configuration and code are read again, and all workers are replaced, or none."""

from __future__ import annotations

import concurrent.futures
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.integration.endpoint import get
from tests.integration.pool_process import APP, GRACEFUL, Pool, serving_pool
from tests.waiting import PATIENCE, wait_until

BROKEN = "def app(:\n"


def changed(version: str) -> str:
    return APP.replace('"one"', f'"{version}"')


def outcome(pool: Pool) -> dict[str, Any]:
    """Of the last reload, once there was one."""
    found: dict[str, Any] = wait_until(lambda: pool.status()["last_reload"], "a reload ended")
    return found


@pytest.mark.parametrize("via", ["tcp", "unix"])
def test_changed_code_runs(via: str) -> None:
    with serving_pool(*GRACEFUL, via=via) as pool:
        first = pool.pids()
        with pool.hold("a") as busy:
            pool.write_app(changed("two"))
            pool.signal(signal.SIGHUP)
            assert outcome(pool)["result"] == "succeeded"
            # Who leaves accepts for a moment longer.
            wait_until(
                lambda: all(pool.body("/version") == "two" for _ in range(5)), "the new code serves"
            )
            assert not pool.pids() & first
            # What is in flight is finished by the old code.
            pool.go("a")
            assert int(busy.receive()[0].body) in first
        pool.wait_for_workers(2, without=first)
        assert {worker["generation"] for worker in pool.workers()} == {2}


@pytest.mark.parametrize(
    ("source", "said"),
    [
        pytest.param(BROKEN, "SyntaxError", id="syntax error"),
        pytest.param("raise RuntimeError('no luck')\n", "no luck", id="error at import"),
        pytest.param("other = None\n", "app", id="no application"),
        pytest.param(
            APP.replace('await send({"type": kind + ".complete"})', "raise ValueError('no db')"),
            "no db",
            id="failed startup",
        ),
        pytest.param("import os\nos._exit(7)\n", "exited with code 7", id="dies"),
    ],
)
def test_code_that_does_not_start_changes_nothing(source: str, said: str) -> None:
    with serving_pool() as pool:
        first = pool.pids()
        pool.write_app(source)
        pool.signal(signal.SIGHUP)
        last = outcome(pool)
        assert last["result"] == "failed"
        assert said in last["reason"]
        pool.wait_for_log(said)
        assert pool.wait_for_workers(2) == first == pool.served_by(2)
        assert pool.status()["generation"] == 1

        pool.write_app(changed("mended"))
        pool.signal(signal.SIGHUP)
        pool.wait_for_workers(2, without=first)
        assert pool.body("/version") == "mended"
        assert outcome(pool)["result"] == "succeeded"


def test_code_that_does_not_start_in_time_changes_nothing() -> None:
    with serving_pool("--timeout-worker-boot", "20s") as pool:
        first = pool.pids()
        pool.write_app("import time\ntime.sleep(600)\n")
        pool.signal(signal.SIGHUP)
        last = outcome(pool)
        assert (last["result"], "within 20 s" in last["reason"]) == ("failed", True)
        assert pool.wait_for_workers(2) == first == pool.served_by(2)


def test_the_configuration_file_is_read_again() -> None:
    with serving_pool() as pool:
        first = pool.pids()
        file = pool.folder / "pounce.toml"
        file.write_text('headers = ["x-generation:two"]\nroot_path = "/under"\n')
        pool.signal(signal.SIGHUP)
        pool.wait_for_workers(2, without=first)
        response = pool.ask(get("/root"))
        assert response.body == b"/under"
        assert (b"x-generation", b"two") in response.headers


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("pounce.toml", "root_path = [", "pounce.toml"),
        ("pounce.toml", 'nonsense = "x"\n', "nonsense"),
        ("pounce.toml", 'log_config = "missing.json"\n', "missing.json"),
        ("pounce.toml", b"\xff\xfe", "pounce.toml"),
    ],
)
def test_a_configuration_that_cannot_be_used_changes_nothing(
    name: str, text: str | bytes, said: str
) -> None:
    with serving_pool() as pool:
        first = pool.pids()
        file = pool.folder / name
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        pool.signal(signal.SIGHUP)
        last = outcome(pool)
        assert last["result"] == "failed"
        assert said in last["reason"]
        assert pool.wait_for_workers(2) == first == pool.served_by(2)
        file.unlink()
        pool.signal(signal.SIGHUP)
        pool.wait_for_workers(2, without=first)


def gated(version: str) -> str:
    """An application that imports only when there is a file `gate-<version>`."""
    gate = (
        "import time as t, pathlib as p\n"
        f"with p.Path(__file__).with_name('at-{version}').open('a') as f: print(0, file=f)\n"
        f"while not p.Path(__file__).with_name('gate-{version}').exists():\n    t.sleep(0.01)\n"
    )
    return gate + changed(version)


def test_a_hup_during_a_reload_is_done_afterwards() -> None:
    with serving_pool() as pool:
        pool.write_app(gated("two"))
        pool.signal(signal.SIGHUP)
        pool.wait_for_file("at-two")
        pool.signal(signal.SIGHUP)
        pool.wait_for_log("this one follows")
        assert pool.body("/version") == "one"
        pool.write_app(changed("three"))
        (pool.folder / "gate-two").touch()
        wait_until(lambda: pool.status()["generation"] == 3, "both reloads are done")
        wait_until(lambda: pool.body("/version") == "three", "the last code serves")


def test_a_command_waits_for_the_reload_that_it_asked_for() -> None:
    with (
        serving_pool("--max-concurrent-replacements", "2") as pool,
        concurrent.futures.ThreadPoolExecutor() as executor,
    ):

        def reload() -> concurrent.futures.Future[dict[str, Any]]:
            return executor.submit(pool.reload_and_wait)

        pool.write_app(gated("two"))
        first = reload()
        pool.wait_for_file("at-two")
        second = reload()
        pool.wait_for_log("this one follows")

        # A third one that fails at once says nothing about the others.
        file = pool.folder / "pounce.toml"
        file.write_text("nonsense = 1\n")
        failed = reload().result(PATIENCE)
        assert (failed["result"], "nonsense" in failed["reason"]) == ("failed", True)
        file.unlink()
        assert not first.done()
        assert not second.done()

        wait_until(lambda: len(pool.noted("at-two")) == 2, "both candidates have the code")
        pool.write_app(gated("three"))
        (pool.folder / "gate-two").touch()
        assert first.result(PATIENCE) == {"result": "succeeded", "reason": None, "generation": 2}
        pool.wait_for_file("at-three")
        assert not second.done()
        (pool.folder / "gate-three").touch()
        assert second.result(PATIENCE) == {"result": "succeeded", "reason": None, "generation": 3}


@pytest.mark.parametrize("number", [signal.SIGWINCH, signal.SIGTERM])
def test_a_command_is_told_that_its_reload_was_given_up(number: signal.Signals) -> None:
    with (
        serving_pool() as pool,
        concurrent.futures.ThreadPoolExecutor() as executor,
        pool.hold("a"),
    ):
        pool.write_app(gated("two"))
        first = executor.submit(pool.reload_and_wait)
        pool.wait_for_file("at-two")
        second = executor.submit(pool.reload_and_wait)
        pool.wait_for_log("this one follows")
        pool.signal(number)
        for each in (first, second):
            assert each.result(PATIENCE)["result"] == "failed"
        pool.go("a")
        if number == signal.SIGTERM:
            assert pool.server.wait() == 0


def test_a_candidate_that_says_much_is_heard() -> None:
    with serving_pool() as pool:
        pool.write_app("raise RuntimeError('\N{GRINNING FACE}é' * 40_000 + 'the point')\n")
        pool.signal(signal.SIGHUP)
        assert "the point" in outcome(pool)["reason"]


def test_certificates_that_cannot_be_used_change_nothing() -> None:
    with serving_pool(via="tls") as pool:
        first = pool.pids()
        certificate: Path = pool.folder / "server.pem"
        good = certificate.read_bytes()
        certificate.write_bytes(b"nonsense")
        pool.signal(signal.SIGHUP)
        last = outcome(pool)
        assert (last["result"], "server.pem" in last["reason"]) == ("failed", True)
        assert pool.wait_for_workers(2) == first == pool.served_by(2)
        certificate.write_bytes(good)
        pool.signal(signal.SIGHUP)
        pool.wait_for_workers(2, without=first)


LOGGING = """\
version = 1
[formatters.plain]
format = "{name} %(levelname)s: %(message)s"
[handlers.stderr]
class = "logging.StreamHandler"
formatter = "plain"
[loggers.pounce]
level = "INFO"
handlers = ["stderr"]
"""


@pytest.mark.parametrize("fault", ["code", "logging"])
def test_a_reload_that_fails_leaves_the_logging_as_it_was(fault: str) -> None:
    with serving_pool() as pool:
        first = pool.pids()
        logging = pool.folder / "logging.toml"
        logging.write_text(LOGGING.replace("{name}", "first"))
        (pool.folder / "pounce.toml").write_text('log_config = "logging.toml"\n')
        assert pool.reload_and_wait()["result"] == "succeeded"
        second = pool.wait_for_workers(2, without=first)
        pool.wait_for_log("first INFO: reload: generation 2 serves")

        broken = LOGGING.replace("{name}", "second")
        if fault == "code":
            pool.write_app(BROKEN)
        else:
            broken = broken.replace("StreamHandler", "NoSuchHandler")
        logging.write_text(broken)
        assert pool.reload_and_wait()["result"] == "failed"
        pool.wait_for_log("first ERROR: reload")
        pool.signal(signal.SIGUSR1)
        pool.wait_for_log("first INFO: received SIGUSR1")
        assert "second " not in pool.server.stderr_text()
        assert pool.pids() == second

        pool.write_app(APP)
        logging.write_text(LOGGING.replace("{name}", "third"))
        assert pool.reload_and_wait()["result"] == "succeeded"
        pool.wait_for_workers(2, without=second)
        pool.signal(signal.SIGUSR1)
        pool.wait_for_log("third INFO: received SIGUSR1")
