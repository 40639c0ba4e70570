"""The Date of responses (RFC 9110 section 6.6.1)."""

from __future__ import annotations

import asyncio
import time
from email.utils import parsedate_to_datetime

import pytest

from tests.worker.virtual_time import run
from tests.worker.wire import Journal, Wire, make_worker

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize("started_at", [0.0, 0.35, 0.95])
def test_the_date_changes_when_the_second_does(
    monkeypatch: pytest.MonkeyPatch, started_at: float
) -> None:
    """Whatever part of a second had passed when the worker started."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        epoch = 1_700_000_000 + started_at - loop.time()
        monkeypatch.setattr(time, "time", lambda: epoch + loop.time())
        wire = Wire(make_worker(Journal()))
        late = 0
        for _ in range(300):
            await wire.exchange(GET)
            date = wire.responses(["GET"])[0].value(b"date").decode("ascii")
            late = max(late, int(time.time() - 0.01) - int(parsedate_to_datetime(date).timestamp()))
            wire.transport.sent = b""
            await asyncio.sleep(0.01)
        assert late == 0

    run(main())
