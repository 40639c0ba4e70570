"""USR1 while requests go on: every process opens its log files anew, and no line is lost."""

from __future__ import annotations

import contextlib
import itertools
import re
import signal
from pathlib import Path

import pytest

from tests.integration.endpoint import Connection, get
from tests.integration.pool_process import APP, Pool, serving_pool
from tests.waiting import wait_until

LOUD = APP.replace(
    "    body = str(worker())\n",
    """\
    import logging
    logging.getLogger("pounce.error").warning("app %d %s", os.getpid(), scope["path"])
    body = str(worker())
""",
)
assert LOUD != APP

LOGGING = """\
version = 1
[formatters.plain]
format = "%(process)d %(message)s"
[handlers.errors]
class = "logging.FileHandler"
filename = "errors.log"
formatter = "plain"
[handlers.stderr]
class = "logging.StreamHandler"
[handlers.access]
class = "logging.FileHandler"
filename = "access.log"
[loggers.pounce]
level = "INFO"
handlers = ["errors", "stderr"]
[loggers."pounce.access"]
handlers = ["access"]
propagate = false
"""


def lines(folder: Path, name: str) -> str:
    """Of the file and of those that it was renamed to."""
    return "".join(path.read_text() for path in sorted(folder.glob(f"{name}*")))


def writers(folder: Path) -> set[int]:
    """The processes that have written to the new file."""
    path = folder / "errors.log"
    return (
        {int(line.split()[0]) for line in path.read_text().splitlines()} if path.exists() else set()
    )


def connections_to_all(pool: Pool, stack: contextlib.ExitStack) -> dict[int, Connection]:
    """A kept connection to each worker."""
    found: dict[int, Connection] = {}

    def enough() -> bool:
        connection = stack.enter_context(pool.connect())
        found.setdefault(int(connection.ask(get("/find")).body), connection)
        return len(found) == len(pool.workers())

    wait_until(enough, "every worker has answered")
    return found


@pytest.fixture
def log_config(tmp_path: Path) -> str:
    path = tmp_path / "logging.toml"
    path.write_text(LOGGING)
    return str(path)


@pytest.mark.parametrize("access", ["option", "configuration"])
def test_every_process_opens_its_files_anew_and_loses_nothing(access: str, log_config: str) -> None:
    option = ("--access-log-file", "access.log") if access == "option" else ()
    with (
        serving_pool("--log-config", log_config, *option, workers=3, app=LOUD) as pool,
        contextlib.ExitStack() as stack,
    ):
        folder = pool.folder
        kept = connections_to_all(pool, stack)
        numbers = itertools.count()

        def reached() -> bool:
            """Whether all write to the new files. The requests do not wait for that: some lines go
            to the old ones."""
            for connection in kept.values():
                connection.ask(get(f"/line/{next(numbers)}"))
            return writers(folder) >= set(kept) and (folder / "access.log").exists()

        for turn in range(3):
            for name in ("errors.log", "access.log"):
                (folder / name).rename(folder / f"{name}.{turn}")
            pool.signal(signal.SIGUSR1)
            wait_until(reached, "all workers write to the new files")
            pool.signal(signal.SIGUSR1)
            wait_until(
                lambda: pool.server.pid in writers(folder), "the master writes to the new file"
            )
        stack.close()
        pool.signal(signal.SIGTERM)
        assert pool.server.wait() == 0
        number = next(numbers)
        written = re.findall(r"GET /line/(\d+) HTTP", lines(folder, "access.log"))
        assert sorted(map(int, written)) == list(range(number))
        told = re.findall(r"app \d+ /line/(\d+)$", lines(folder, "errors.log"), re.MULTILINE)
        assert sorted(map(int, told)) == list(range(number))
        assert f"GET /line/{number - 1} " in (folder / "access.log").read_text()
