"""Echo load over WebSockets, from a process of its own:
``python ws_load.py PORT PATH SIZE CONNECTIONS SECONDS``.

Each connection has one message on the way at a time. Frames are made and masked once, and sent as
they are, so that the client costs a fraction of what any server does. Prints a result line as
load.lua does, with messages for requests.
"""

import json
import os
import select
import socket
import sys
import time

TIMEOUT = 10.0
BUFFER = 1 << 18


def open_websocket(port: int, path: str) -> socket.socket:
    """Open one connection and its WebSocket, or raise ConnectionError."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(
        b"GET %b HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        % path.encode()
    )
    answer = b""
    while b"\r\n\r\n" not in answer:
        part = connection.recv(4096)
        if not part:
            raise ConnectionError(f"closed after {answer!r}")
        answer += part
    if not answer.startswith(b"HTTP/1.1 101 "):
        raise ConnectionError(f"refused: {answer!r}")
    return connection


def _head(size: int, mask: int) -> bytes:
    if size < 126:
        return bytes((0x82, mask | size))
    if size < 65536:
        return bytes((0x82, mask | 126)) + size.to_bytes(2, "big")
    return bytes((0x82, mask | 127)) + size.to_bytes(8, "big")


def masked_frame(payload: bytes) -> bytes:
    mask = os.urandom(4)
    key = mask * (len(payload) // 4 + 1)
    masked = bytes(a ^ b for a, b in zip(payload, key, strict=False))
    return _head(len(payload), 0x80) + mask + masked


def echo_once(connection: socket.socket, payload: bytes) -> None:
    """Exchange one binary message, or raise ConnectionError where it does not come back."""
    connection.sendall(masked_frame(payload))
    expected = _head(len(payload), 0) + payload
    answer = b""
    while len(answer) < len(expected):
        part = connection.recv(BUFFER)
        if not part:
            break
        answer += part
    if answer != expected:
        raise ConnectionError(f"wrong echo: {answer[:80]!r}, {len(answer)} bytes")


def run(connections: list[socket.socket], size: int, seconds: float) -> dict[str, int]:
    """Echo until the time is over; what was counted, times in microseconds."""
    frame = masked_frame(b"x" * size)
    expected = len(_head(size, 0)) + size
    epoll = select.epoll()
    # File descriptors are small numbers: lists are faster than dicts.
    room = max(c.fileno() for c in connections) + 1
    left = [expected] * room
    since = [0.0] * room
    by_descriptor = {c.fileno(): c for c in connections}
    receive = [by_descriptor[fd].recv_into if fd in by_descriptor else None for fd in range(room)]
    send = [by_descriptor[fd].sendall if fd in by_descriptor else None for fd in range(room)]
    times: list[float] = []
    buffer = memoryview(bytearray(BUFFER))
    now = time.perf_counter
    begin = now()
    end = begin + seconds
    for connection in connections:
        epoll.register(connection, select.EPOLLIN)
        since[connection.fileno()] = now()
        connection.sendall(frame)
    moment = begin
    while moment < end:
        events = epoll.poll(TIMEOUT)
        if not events:
            raise TimeoutError("no echo in time")
        for descriptor, _ in events:
            taken = receive[descriptor](buffer)  # type: ignore[misc]
            if not taken:
                raise ConnectionError("closed by the server")
            remaining = left[descriptor] - taken
            if remaining > 0:
                left[descriptor] = remaining
                continue
            if remaining < 0:
                raise ConnectionError("more came back than was sent")
            moment = now()
            times.append(moment - since[descriptor])
            left[descriptor] = expected
            since[descriptor] = moment
            send[descriptor](frame)  # type: ignore[misc]
    times.sort()
    return {
        "requests": len(times),
        "duration_us": round((moment - begin) * 1e6),
        "p50_us": round(times[len(times) // 2] * 1e6),
        "p99_us": round(times[len(times) * 99 // 100] * 1e6),
        "connect_errors": 0,
        "read_errors": 0,
        "write_errors": 0,
        "timeouts": 0,
        "bad_status": 0,
    }


def main() -> None:
    port, path, size, count = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    connections = [open_websocket(port, path) for _ in range(count)]
    print("@result " + json.dumps(run(connections, size, float(sys.argv[5]))), flush=True)


if __name__ == "__main__":
    main()
