"""The application behind `bench.churn`: slow to import, and says which process has answered."""

import os
import time
from typing import Any

time.sleep(float(os.environ.get("CHURN_IMPORT_SLEEP", "0")))
_END = time.process_time() + float(os.environ.get("CHURN_IMPORT_BURN", "0"))
while time.process_time() < _END:
    pass

_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-length", b"2"), (b"x-worker", b"%d" % os.getpid())],
}


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send(_START)
    await send({"type": "http.response.body", "body": b"ok"})
