"""Workers come and go under load: no stream is lost that a client may not send again."""

from __future__ import annotations

import contextlib
import signal
import ssl
import threading

import pytest

from tests.integration.h2_socket import H2Socket
from tests.integration.pool_process import Pool, serving_pool
from tests.waiting import PATIENCE, wait_until

REFUSED_STREAM = 7
STREAMS = 8


class Load:
    """A client that sends again only what RFC 9113 section 8.7 lets it: streams that were refused,
    and those behind the last one that a GOAWAY says."""

    def __init__(self, pool: Pool, context: ssl.SSLContext | None) -> None:
        self.pool = pool
        self.context = context
        self.done = 0
        self.again = 0
        self.lost: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(PATIENCE)

    def _run(self) -> None:
        while not self._stop.is_set():
            # A connection that ends before its handshake does has taken no request.
            with (
                contextlib.suppress(ConnectionError, ssl.SSLError),
                H2Socket(self.pool.server.connect(), self.context) as h2,
            ):
                self._use(h2)

    def _use(self, h2: H2Socket) -> None:
        client = h2.client
        while not self._stop.is_set() and not client.goodbyes and not h2.ended:
            ids = [client.request(b"/") for _ in range(STREAMS)]
            h2.finish(ids)
            last = min([last for last, _ in client.goodbyes], default=2**31 - 1)
            for stream_id in ids:
                stream = client.streams.pop(stream_id)
                if stream.complete and stream.status == 200:
                    self.done += 1
                elif stream.reset == REFUSED_STREAM or stream_id > last:
                    self.again += 1
                else:
                    self.lost.append(f"{stream_id} {stream} {client.goodbyes}")


@pytest.mark.parametrize("via", ["tcp", "tls"])
def test_a_reload_under_load_loses_no_stream(via: str) -> None:
    options = ["--http2-cleartext"] if via == "tcp" else []
    with serving_pool("--no-access-log", *options, via=via) as pool:
        first = pool.pids()
        context = pool.ssl_context
        with Load(pool, context) as one, Load(pool, context) as other:
            wait_until(lambda: one.done and other.done, "both are served")
            pool.signal(signal.SIGHUP)
            pool.wait_for_workers(2, without=first)
            before = one.done + other.done
            pool.command("status")
            wait_until(lambda: one.done + other.done >= before + 50, "they are served on")
        assert one.lost + other.lost == []


def test_recycling_under_load_loses_no_stream() -> None:
    options = ["--http2-cleartext", "--no-access-log", "--max-requests", "400"]
    with serving_pool(*options) as pool:
        first = pool.pids()
        with Load(pool, None) as one, Load(pool, None) as other:
            wait_until(lambda: not first & pool.pids(), "all were replaced")
        assert one.lost + other.lost == []
        assert one.done + other.done > 400
