"""One collector gets the events of all workers, in the main process."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.pool_process import APP, Pool
from tests.integration.server_process import ServerProcess
from tests.waiting import wait_until

SCRIPT = """
import os
import sys
from pounce import Server, ServerConfig


class Collector:
    def record(self, event):
        if {fails}:
            raise RuntimeError("broken collector")
        with open("events", "a") as file:
            kind = type(event).__name__
            print(os.getpid(), event.worker_id, kind, event.connection_id, file=file)


if __name__ == "__main__":
    config = ServerConfig.load({{"control_socket": os.path.abspath("control"), **{options}}})
    Server(config, {app}, app_path={path}, lifecycle_collector=Collector()).run()
"""


@contextmanager
def serving(folder: Path) -> Iterator[Pool]:
    """Runs `serve.py`, until all workers serve."""
    with ServerProcess("serve.py", cwd=folder) as server:
        yield Pool(server, folder)


def events(folder: Path) -> list[tuple[int, int, str, int]]:
    path = folder / "events"
    if not path.exists():
        return []
    return [
        (int(pid), int(worker), kind, int(connection))
        for pid, worker, kind, connection in map(str.split, path.read_text().splitlines())
    ]


@pytest.mark.parametrize(
    ("app", "path", "options"),
    [
        ("None", '"app:app"', {"workers": 2}),
        ('__import__("app").app', "None", {"workers": 2}),
        ("None", '"app:app"', {"workers": 2, "worker_mode": "thread"}),
    ],
    ids=["spawned", "forked", "threads"],
)
def test_a_collector_is_told_of_all_workers(
    app: str, path: str, options: dict[str, object], short_tmp_path: Path
) -> None:
    (short_tmp_path / "serve.py").write_text(
        SCRIPT.format(fails=False, options=options, app=app, path=path)
    )
    (short_tmp_path / "app.py").write_text(APP)
    with serving(short_tmp_path) as pool:
        for _ in range(20):
            pool.body()
        ids = {worker["worker_id"] for worker in pool.workers()}
        wait_until(
            lambda: (
                sum(kind == "ConnectionCompleted" for _, _, kind, _ in events(short_tmp_path)) == 20
            ),
            "the events of 20 connections",
        )
        found = events(short_tmp_path)
        assert {pid for pid, *_ in found} == {pool.server.pid}
        assert {worker for _, worker, *_ in found} <= ids
        for worker in ids:
            kinds = [kind for _, each, kind, _ in found if each == worker]
            # Each connection of a worker has its events in their order.
            assert kinds.count("RequestStarted") == kinds.count("ResponseCompleted")
        assert len(found) == 80
        victim = pool.workers()[0]
        if options.get("worker_mode") != "thread":
            os.kill(victim["pid"], signal.SIGKILL)
            pool.wait_for_workers(2, without={victim["pid"]})
        pool.body()
    # What came last is not lost at the end.
    assert sum(kind == "ConnectionCompleted" for _, _, kind, _ in events(short_tmp_path)) == 21


def test_a_collector_that_fails_hurts_nobody(short_tmp_path: Path) -> None:
    (short_tmp_path / "serve.py").write_text(
        SCRIPT.format(fails=True, options={"workers": 2}, app="None", path='"app:app"')
    )
    (short_tmp_path / "app.py").write_text(APP)
    with serving(short_tmp_path) as pool:
        for _ in range(5):
            pool.body()
        pool.wait_for_log("broken collector")
        assert pool.body()
