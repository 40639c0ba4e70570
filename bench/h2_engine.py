"""What an HTTP/2 engine costs a request, without sockets: CPU microseconds.

    python -m bench.h2_engine [--engine native] [--rounds 2000]

A client's requests of many streams arrive in one read, are answered at once, and leave in one
write. `hpack` makes the requests, so that the first read fills the dynamic table and the later ones
refer to it, as with real clients.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator

from hpack import Encoder

from pounce.protocol.h2 import frames
from pounce.protocol.h2.interface import Engine, Engines, H2Limits, RequestReceived

Pair = tuple[bytes, bytes]

BROWSER: list[Pair] = [
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":authority", b"example.com"),
    (b":path", b"/"),
    (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
    (b"accept", b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    (b"accept-language", b"en-US,en;q=0.5"),
    (b"accept-encoding", b"gzip, deflate, br, zstd"),
    (b"cookie", b"session=0123456789abcdef"),
    (b"sec-fetch-dest", b"document"),
    (b"sec-fetch-mode", b"navigate"),
    (b"priority", b"u=0, i"),
]
FIELDS: list[Pair] = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"13")]
BODY = b"Hello, World!"


def native(limits: H2Limits) -> Engines:
    from pounce.protocol.h2.native import NativeEngines

    return NativeEngines(limits)


def library(limits: H2Limits) -> Engines:
    from pounce.protocol.h2.library import LibraryEngines

    return LibraryEngines(limits)


ENGINES: dict[str, Callable[[H2Limits], Engines]] = {"native": native, "library": library}


class Client:
    """Makes reads of whole requests."""

    def __init__(self) -> None:
        self._encoder = Encoder()
        self._stream_id = -1
        self._paths = 0

    def greeting(self) -> bytes:
        window = frames.GREATEST_WINDOW - frames.DEFAULT_WINDOW
        return (
            frames.PREFACE
            + frames.settings([(frames.INITIAL_WINDOW_SIZE, 2**24)])
            + frames.window_update(0, window)
        )

    def read(self, streams: int, kind: str) -> bytes:
        """Requests on so many streams: `repeated` heads, `paths` that are new each time but not
        indexed, as of nghttp2 and browsers, or `indexed` ones, as of Python's clients."""
        return b"".join([self._request(kind) for _ in range(streams)])

    def _request(self, kind: str) -> bytes:
        self._stream_id += 2
        fields = list(BROWSER)
        path = b""
        if kind != "repeated":
            self._paths += 1
            path = b"/articles/%d?page=2" % self._paths
        if kind == "indexed":
            fields[3] = (b":path", path)
        elif kind == "paths":
            del fields[3]
        block = self._encoder.encode(fields)
        if kind == "paths":  # a literal without indexing, behind :scheme
            at = 2
            block = block[:at] + b"\x04" + bytes([len(path)]) + path + block[at:]
        flags = frames.END_STREAM | frames.END_HEADERS
        return frames.frame(frames.HEADERS, flags, self._stream_id, block)


def reads(kind: str, streams: int, rounds: int) -> tuple[bytes, list[bytes]]:
    client = Client()
    greeting = client.greeting() + b"".join([client.read(1, kind) for _ in range(4)])
    return greeting, [client.read(streams, kind) for _ in range(rounds)]


def serve(engine: Engine, data: bytes, body: bytes) -> Iterator[int]:
    """Answers what one read has brought; yields the bytes of each write."""
    for event in engine.receive(data, 0.0):
        if isinstance(event, RequestReceived):
            engine.respond(event.stream_id, 200, FIELDS, body)
    while engine.has_output:
        yield len(engine.output(262144))


def measure(engines: Engines, kind: str, streams: int, rounds: int, body: bytes) -> float:
    """CPU microseconds for each request."""
    greeting, data = reads(kind, streams, rounds)
    engine = engines.connect()
    for _ in serve(engine, greeting, body):
        pass
    begin = time.process_time()
    for piece in data:
        for _ in serve(engine, piece, body):
            pass
    spent = time.process_time() - begin
    assert engine.open_streams == 0, engine
    assert engine.last_stream_id == 2 * (streams * rounds + 4) - 1
    return spent / (streams * rounds) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=ENGINES, action="append")
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    cases = [
        ("repeated", 32, BODY, 1),
        ("repeated", 1, BODY, 32),
        ("paths", 32, BODY, 1 / 8),
        ("indexed", 32, BODY, 1 / 8),
        ("repeated", 8, bytes(65536), 1 / 20),
        ("repeated", 1, bytes(1048576), 1 / 20),
    ]
    for name in args.engine or ["native"]:
        for kind, streams, body, share in cases:
            engines = ENGINES[name](H2Limits())
            engines.set_default_fields(b"Thu, 01 Jan 1970 00:00:00 GMT", b"pounce", ())
            rounds = max(1, int(args.rounds * share))
            best = min(measure(engines, kind, streams, rounds, body) for _ in range(args.runs))
            print(
                f"{name:8} {kind:9} {streams:3} streams a read, {len(body):8,} bytes of content:"
                f" {best:8.2f} us a request"
            )


if __name__ == "__main__":
    main()
