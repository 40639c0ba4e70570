"""What the master's own address answers: metrics, and whether the server is well."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from pounce.metrics.exposition import Exposition
from pounce.metrics.interceptor import (
    ALLOWED_METHODS,
    Answer,
    allow_field,
    joined,
    page_answer,
    plain_answer,
)

_NO_STORE: Final = (b"cache-control", b"no-store")
_JSON: Final = (b"content-type", b"application/json")


class AdminPages:
    """The pages, by path:

    | path | answer |
    | --- | --- |
    | `/metrics` | the metrics of all workers |
    | `/healthz` | 200 whenever there is an answer at all: the master lives |
    | `/readyz` | 200 while requests are served and more are wanted, else 503 |
    | `/status` | what `pounce ctl status --json` says |

    Args:
        exposition: The metrics as the master knows them.
        is_ready: Whether at least one worker is ready and the pool is not about to end.
        status: The status of the pool, ready for JSON.
    """

    def __init__(
        self,
        exposition: Exposition,
        *,
        is_ready: Callable[[], bool],
        status: Callable[[], Mapping[str, Any]],
    ) -> None:
        self._exposition = exposition
        self._is_ready = is_ready
        self._status = status

    def answer(self, method: str, target: str, fields: Sequence[tuple[bytes, bytes]]) -> Answer:
        """The response to a request.

        Args:
            method: As on the wire.
            target: The request target; its query is ignored.
            fields: With names in lower case.

        Raises:
            SharedMemoryError: The arena is damaged.
        """
        page = self._pages.get(target.partition("?")[0])
        if page is None:
            return plain_answer(404, "there is /metrics, /healthz, /readyz and /status", _NO_STORE)
        if method not in ALLOWED_METHODS:
            return plain_answer(405, "this can only be read", allow_field())
        return page(self, fields)

    def _metrics(self, fields: Sequence[tuple[bytes, bytes]]) -> Answer:
        return page_answer(
            self._exposition, joined(fields, b"accept"), joined(fields, b"accept-encoding")
        )

    def _healthz(self, _: object) -> Answer:
        return plain_answer(200, "ok", _NO_STORE)

    def _readyz(self, _: object) -> Answer:
        if self._is_ready():
            return plain_answer(200, "ready", _NO_STORE)
        return plain_answer(503, "not ready", _NO_STORE)

    def _show_status(self, _: object) -> Answer:
        content = json.dumps(self._status()).encode() + b"\n"
        length = (b"content-length", b"%d" % len(content))
        return Answer(200, (_JSON, length, _NO_STORE), content)

    _pages: Final = {
        "/metrics": _metrics,
        "/healthz": _healthz,
        "/readyz": _readyz,
        "/status": _show_status,
    }
