"""The master answers, whatever a worker does or leaves undone."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import Any

from tests.integration.endpoint import get
from tests.integration.pool_process import APP, GRACEFUL, Pool, serving_pool
from tests.waiting import wait_until

STREAM = APP.replace(
    "    body = body.encode()\n",
    """\
    if scope["path"] == "/stream":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not (HERE / "end").exists():
            await send({"type": "http.response.body", "body": b"tick", "more_body": True})
            await asyncio.sleep(0.02)
        await send({"type": "http.response.body", "body": b"end"})
        return
    body = body.encode()
""",
)
HANGS = "from pathlib import Path\nimport time\nPath('boots').touch()\ntime.sleep(600)\n"


def ctl_status(pool: Pool) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "pounce", "ctl", "--socket", str(pool.control), "status", "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    status: dict[str, Any] = json.loads(done.stdout)
    return status


def in_flight(workers: list[dict[str, Any]]) -> list[int]:
    return [worker["in_flight"] for worker in workers]


def test_while_a_worker_drains() -> None:
    # A connection whose worker leaves may ask once more when its response has ended.
    options = (*GRACEFUL, "--timeout-keep-alive", "1s")
    with serving_pool(*options, app=STREAM) as pool, pool.connect() as stream:
        first = pool.pids()
        stream.send(get("/stream"))
        stream.sock.recv(65536)
        pool.signal(signal.SIGHUP)
        pool.wait_for_log("is replaced by", 2)
        second = pool.pids()
        assert not second & first
        wait_until(lambda: in_flight(pool.workers("draining")) == [1], "one is left that is busy")
        for _ in range(20):
            [draining] = pool.workers("draining")
            assert draining["pid"] in first
            assert b"tick" in stream.sock.recv(65536)
        assert {worker["pid"] for worker in ctl_status(pool)["workers"]} > second
        # Meanwhile all else goes on.
        pool.command("scale", workers=3)
        wait_until(lambda: len(pool.pids()) == 3, "there is one more")
        assert pool.reload_and_wait()["result"] == "succeeded"
        assert b"tick" in stream.sock.recv(65536)
        (pool.folder / "end").touch()
        assert stream.rest().endswith(b"3\r\nend\r\n0\r\n\r\n")
        pool.wait_for_workers(3, without=first | second)


def test_while_the_whole_pool_drains_to_stop() -> None:
    with serving_pool(*GRACEFUL, app=STREAM) as pool, pool.connect() as stream:
        stream.send(get("/stream"))
        stream.sock.recv(65536)
        pool.signal(signal.SIGTERM)
        wait_until(lambda: in_flight(pool.workers(None)) == [1], "only the busy one is left")
        assert [worker["state"] for worker in ctl_status(pool)["workers"]] == ["draining"]
        (pool.folder / "end").touch()
        assert stream.rest().endswith(b"0\r\n\r\n")
        assert pool.server.wait() == 0


def test_while_a_worker_hangs_at_its_boot_and_a_reload_is_under_way() -> None:
    with serving_pool() as pool:
        first = pool.pids()
        pool.write_app(HANGS)
        pool.signal(signal.SIGHUP)
        pool.wait_for_file("boots")
        for _ in range(20):
            assert pool.pids() == first
            assert len(pool.workers("starting")) == 1
        status = ctl_status(pool)
        assert [worker["state"] for worker in status["workers"]] == ["ready", "starting", "ready"]
        assert status["last_reload"] is None
        # A crash is answered by the generation that serves, which hangs as well now.
        pool.command("scale", workers=1)
        wait_until(lambda: len(pool.pids()) == 1, "the pool has shrunk")
        pool.signal(signal.SIGTERM)
        assert pool.server.wait() == 0
