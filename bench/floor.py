"""The limit: uvloop answers a fixed string to each read, without looking at the request.

What a server costs above this is its own work; below it no Python server on uvloop can get.
Run by the benchmark as the server ``floor``: ``python floor.py PORT``.
"""

import asyncio
import sys

import uvloop

BODY = b"Hello, World!"
ANSWER = (
    b"HTTP/1.1 200 OK\r\n"
    b"content-type: text/plain\r\n"
    b"content-length: %d\r\n"
    b"date: Thu, 01 Jan 1970 00:00:00 GMT\r\n"
    b"server: floor\r\n\r\n%b" % (len(BODY), BODY)
)


class Floor(asyncio.Protocol):
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.write = transport.write

    def data_received(self, data: bytes) -> None:
        self.write(ANSWER)


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Floor, "127.0.0.1", port, backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    try:
        uvloop.run(serve(int(sys.argv[1])))
    except KeyboardInterrupt:
        sys.exit(0)
